"""Files that describe a model, beside what has become of it: held against the shapes of the written weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from fixtures.light_models import load
from prunegraph.api import apply_plan
from prunegraph.errors import ModelError
from prunegraph.selection.plan import make_plan
from tests.commands import cli, files
from tests.paths import FIXTURES

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 99,
    "bos_token_id": 1,
    "eos_token_id": [2, 7],
    "rms_norm_eps": 1e-6,
}

GENAI = {
    "model": {
        "type": "llama",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "context_length": 64,
        "vocab_size": 99,
        "decoder": {
            "filename": "model.onnx",
            "head_size": 8,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_hidden_layers": 2,
            "inputs": {"input_ids": "input_ids"},
        },
    },
    "search": {"do_sample": False},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with the files that describe it, and a folder for results."""
    model = pg.load(load(FIXTURES / "zoo_transformers/hf__llama_gqa__dynamo.light.xz"))
    pg.save(model, tmp_path / "model.onnx")
    (tmp_path / "out").mkdir()
    for name, content in (("config.json", LLAMA), ("genai_config.json", GENAI)):
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def shapes(path: Path) -> set[tuple[int, ...]]:
    return {weight.shape for weight in pg.load(path).weights.values()}


@pytest.mark.parametrize("unit", ["heads", "head_dim"])
def test_sizes_are_those_of_the_weights(folder, unit):
    out = folder / "out/small.onnx"
    result = pg.prune(
        folder / "model.onnx",
        out,
        budget=pg.Budget(ratio=0.5),
        round_to=1,
        attention=unit,
    )
    config, genai = (
        read(folder / "out" / name) for name in ("config.json", "genai_config.json")
    )
    heads, keys, size = (2, 1, 8) if unit == "heads" else (4, 2, 4)
    assert {name: config[name] for name in config if config[name] != LLAMA.get(name)} == {
        "hidden_size": 16,
        "intermediate_size": 32,
        **(
            {"num_attention_heads": heads, "num_key_value_heads": keys}
            if unit == "heads"
            else {}
        ),
        **({"head_dim": size} if size != 16 // heads else {}),
    }
    expected = {(99, 16), (16, 32), (32, 16), (heads * size, 16), (16, keys * size)}
    assert expected <= shapes(out)
    decoder = genai["model"]["decoder"]
    assert decoder["filename"] == "small.onnx" and decoder["inputs"] == {
        "input_ids": "input_ids"
    }
    assert decoder["hidden_size"] == 16 and decoder["head_size"] == size
    assert (
        decoder["num_attention_heads"] == heads and decoder["num_key_value_heads"] == keys
    )
    assert result.configured is not None and not result.configured.notes
    assert files(folder) == {"model.onnx", "config.json", "genai_config.json", "out"}


def test_layers_of_different_widths_cannot_be_described(folder):
    model = pg.load(folder / "model.onnx")
    coupling = pg.analyze(model)
    mlp = next(group for group in coupling.groups if group.channels == 64)
    plan = make_plan(coupling, {mlp.id: range(10)})
    plan.save(folder / "plan.json")
    done = cli("apply", "model.onnx", "plan.json", "-o", "out/small.onnx", cwd=folder)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "intermediate_size differs between layers (54 to 64); --same-width" in said
    assert files(folder / "out") == {"small.onnx", "genai_config.json"}
    assert read(folder / "out/genai_config.json")["model"]["decoder"]["hidden_size"] == 32


def test_layers_that_are_gone(folder):
    """A layer is an attention and an MLP: both go, or no file can say it."""
    model = pg.load(folder / "model.onnx")
    coupling = pg.analyze(model)
    branches = [branch.name for branch in coupling.branches]
    assert len(branches) == 4
    content = {**LLAMA, "layer_types": ["full_attention", "sliding_attention"]}
    (folder / "config.json").write_text(json.dumps(content))
    for lost, message in ((branches[:2], None), (branches[1:2], "layer 0")):
        plan = make_plan(coupling, {f"branch:{name}": [0] for name in lost})
        result = apply_plan(model, plan, folder / "out/small.onnx")
        assert result.configured is not None
        if message is None:
            config = read(folder / "out/config.json")
            assert config["num_hidden_layers"] == 1
            assert config["layer_types"] == ["sliding_attention"]
            assert config["intermediate_size"] == 64
            decoder = read(folder / "out/genai_config.json")["model"]["decoder"]
            assert decoder["num_hidden_layers"] == 1
        else:
            assert all(message in note for note in result.configured.notes)
            assert len(result.configured.notes) == 2


def test_ids_are_numbered_anew(folder):
    keep = [0, 1, 2, 7, 50, 98]
    result = pg.prune(
        folder / "model.onnx",
        folder / "small.onnx",
        vocabulary=keep,
        budget=pg.Budget(ratio=0),
    )
    # In the original's folder, its own files stay.
    assert read(folder / "config.json") == LLAMA
    config, genai = (
        read(folder / f"small.{name}") for name in ("config.json", "genai_config.json")
    )
    assert config["vocab_size"] == genai["model"]["vocab_size"] == len(keep)
    assert config["bos_token_id"] == 1 and config["eos_token_id"] == [2, 3]
    assert genai["model"]["pad_token_id"] == 2
    assert result.configured is not None and len(result.configured.paths) == 2
    with pytest.raises(
        ModelError, match=r"config.json: eos_token_id is 7, which is not kept"
    ):
        pg.prune(
            folder / "model.onnx",
            folder / "x.onnx",
            vocabulary=keep[:3],
            budget=pg.Budget(ratio=0),
        )
    assert not (folder / "x.onnx").exists()


def test_sizes_that_do_not_fit_are_told(folder):
    """What a file says of a model that it does not describe, or in another form, stays and is named."""
    content = {**LLAMA, "vocab_size": 1000, "intermediate_size": [64, 64]}
    (folder / "config.json").write_text(json.dumps(content))
    result = pg.prune(
        folder / "model.onnx",
        folder / "out/small.onnx",
        vocabulary=[0, 1, 2, 7],
        budget=pg.Budget(ratio=0),
    )
    config = read(folder / "out/config.json")
    assert config["vocab_size"] == 1000 and config["intermediate_size"] == [64, 64]
    notes = " ".join(result.configured.notes)
    assert "vocab_size stays 1000: the table of tokens had 99 rows, and has 4" in notes
    assert "intermediate_size is no whole number: it stays [64, 64]" in notes


def test_with_old_ids_those_in_the_files_stay(folder):
    result = pg.prune(
        folder / "model.onnx",
        folder / "out/small.onnx",
        vocabulary=[0, 5, 6],
        old_ids=True,
        budget=pg.Budget(ratio=0),
    )
    config = read(folder / "out/config.json")
    assert config["vocab_size"] == 3 and config["eos_token_id"] == [2, 7]
    assert result.configured is not None
    assert any("ids of tokens are old ones" in note for note in result.configured.notes)


def test_files_that_describe_something_else_are_left_alone(folder):
    (folder / "genai_config.json").unlink()
    (folder / "config.json").write_text('{"hidden_size": 32}')
    pg.prune(folder / "model.onnx", folder / "out/a.onnx", budget=pg.Budget(ratio=0.5))
    assert files(folder / "out") == {"a.onnx"}
    # A file of another model in the folder of the result stays as it is.
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / "out/config.json").write_text('{"model_type": "bert"}')
    pg.prune(folder / "model.onnx", folder / "out/a.onnx", budget=pg.Budget(ratio=0.5))
    assert read(folder / "out/config.json") == {"model_type": "bert"}
    assert read(folder / "out/a.config.json")["hidden_size"] == 16


def test_a_head_size_that_a_file_has_no_entry_for(folder):
    """GPT-2's file says the width and the number of heads, and that is all."""
    (folder / "genai_config.json").unlink()
    gpt2 = {
        "model_type": "gpt2",
        "n_embd": 32,
        "n_head": 4,
        "n_inner": None,
        "n_layer": 2,
        "vocab_size": 99,
    }
    (folder / "config.json").write_text(json.dumps(gpt2))
    pg.save(
        pg.load(load(FIXTURES / "zoo_transformers/hf__gpt2__dynamo.light.xz")),
        folder / "model.onnx",
    )
    result = pg.prune(
        folder / "model.onnx",
        folder / "out/small.onnx",
        budget=pg.Budget(ratio=0.5),
        round_to=1,
        attention="heads",
    )
    config = read(folder / "out/config.json")
    assert (config["n_embd"], config["n_head"], config["n_inner"]) == (16, 2, 64)
    assert result.configured is not None and not result.configured.notes
    result = pg.prune(
        folder / "model.onnx",
        folder / "out/small.onnx",
        budget=pg.Budget(ratio=0.5),
        round_to=1,
        attention="heads",
        keep=["node_linear"],
    )
    assert result.configured is not None


@pytest.mark.slow
def test_transformers_makes_a_model_of_these_shapes(folder):
    """The library that the file is for builds a model whose parameters have the shapes of the written weights."""
    transformers = pytest.importorskip("transformers")
    out = folder / "out/small.onnx"
    pg.prune(
        folder / "model.onnx",
        out,
        budget=pg.Budget(ratio=0.5),
        round_to=1,
        attention="head_dim",
    )
    config = transformers.AutoConfig.from_pretrained(folder / "out")
    model = transformers.AutoModelForCausalLM.from_config(config)
    wanted = {tuple(sorted(p.shape)) for p in model.parameters() if p.ndim == 2}
    written = {
        tuple(sorted(shape)) for shape in shapes(out) if len(shape) == 2 and min(shape) > 2
    }
    assert wanted <= written
    assert np.prod([len(wanted), len(written)]) > 0
