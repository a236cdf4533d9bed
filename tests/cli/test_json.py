"""What every command writes with `--json` is what the published schema says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

import prunegraph as pg
from prunegraph.cli import main
from prunegraph.cli.options import WrittenFile
from tests.builders import residual_net
from tests.paths import ROOT

SCHEMA = json.loads((ROOT / "docs" / "output.schema.json").read_text())

#: Commands whose output is for shells.
WITHOUT = {"completion"}

#: Commands that train need PyTorch.
WITH_TORCH = {"train", "binarize"}

RECIPE = """format = "prunegraph/recipe@1"
[[step]]
command = "prune"
model = "m.onnx"
output = "r.onnx"
ratio = 0.5
"""

#: A command line of each format, in a folder with what `folder` puts there.
COMMANDS = {
    "overview": "m.onnx --json",
    "groups": "inspect m.onnx --data d.npz --json",
    "nodes": "inspect m.onnx --nodes -",
    "preview": "prune m.onnx --macs 0.5 --round-to 1 --dry-run --json",
    "pruned": "prune m.onnx -o o.onnx --macs 0.5 --round-to 1 --data d.npz --quantize int8 --json",
    "proof": "verify m.onnx p.json small.onnx --json",
    "compared": "compare m.onnx small.onnx --data d.npz --runs 1 --json",
    "sensitivity": "sensitivity m.onnx --data d.npz --ratios 0.5 --jobs 1 --json",
    "search": "search m.onnx -o o.onnx --data d.npz --tolerance 9 --method bisection --jobs 1 --json",
    "quantized": "quantize m.onnx -o o.onnx --data d.npz --json",
    "decomposed": "decompose m.onnx -o o.onnx --rank ratio:0.5 --round-to 1 --json",
    "compressed": "compress m.onnx -o o.onnx --params 0.7 --round-to 1 --data d.npz --json",
    "trained": "train m.onnx -o o.onnx --original m.onnx --data d.npz --epochs 1 --batch 16 --force --json",
    "binarized": "binarize m.onnx -o o.onnx --data d.npz --min-inputs 1 --samples 16 --json",
    "converted": "convert m.onnx -o o.onnx --json",
    "algorithms": "algorithms --json",
    "run": "run r.toml --dry-run --json",
    "data": "data d.npz --model m.onnx --json",
    "init": "init m.onnx --goal smaller --share 0.7 --data d.npz -o new.toml --json",
}


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(
        {"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("json")
    graph = residual_net()
    shape = graph.model.graph.input[0].type.tensor_type.shape.dim
    sizes = [each.dim_value or 1 for each in shape][1:]
    samples = np.random.default_rng(0).standard_normal((32, *sizes)).astype(np.float32)
    pg.save(graph, folder / "m.onnx")
    np.savez(folder / "d.npz", **{graph.inputs[0]: samples})
    plan = pg.select(pg.load(folder / "m.onnx"), budget=pg.Budget(ratio=0.5), round_to=1)
    plan.save(folder / "p.json")
    pg.save(pg.apply(pg.load(folder / "m.onnx"), plan), folder / "small.onnx")
    (folder / "r.toml").write_text(RECIPE)
    return folder


def written(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a command writes to stdout, as JSON and nothing else."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PRUNEGRAPH_CACHE", str(folder / "cache"))
    done = CliRunner().invoke(main, command.split())
    assert done.exit_code == 0, done.output
    content: dict[str, Any] = json.loads(done.stdout, parse_constant=pytest.fail)
    return content


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    formats = [each["$ref"].removeprefix("#/$defs/") for each in SCHEMA["oneOf"]]
    assert len(formats) == len(set(formats))
    assert set(formats) == set(COMMANDS)
    for name in formats:
        constant = SCHEMA["$defs"][name]["properties"]["format"]["const"]
        assert constant == f"prunegraph/{name}@1"
        assert "format" in SCHEMA["$defs"][name]["required"]


def test_every_command_has_the_option() -> None:
    lacking = {
        name
        for name, command in main.commands.items()
        if not any("--json" in each.opts for each in command.params)
    }
    assert lacking == WITHOUT
    first = {line.split()[0] for line in COMMANDS.values()} - {"m.onnx"}
    assert first | {"overview", "apply"} | WITHOUT == set(main.commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_output_is_what_the_schema_says(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if COMMANDS[name].split()[0] in WITH_TORCH:
        pytest.importorskip("torch", reason="the extra [torch] is not installed")
    content = written(COMMANDS[name], folder, monkeypatch)
    validator(name).validate(content)
    jsonschema.Draft202012Validator(SCHEMA).validate(content)
    assert content["format"] == f"prunegraph/{name}@1"


def test_apply_writes_what_prune_writes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = written("apply m.onnx p.json -o o.onnx --json", folder, monkeypatch)
    validator("pruned").validate(content)


@pytest.mark.parametrize("name", ["pruned", "preview", "overview", "compared"])
def test_the_schema_notices(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = written(COMMANDS[name], folder, monkeypatch)
    check = validator(name)
    for key in content:
        assert not check.is_valid({k: v for k, v in content.items() if k != key}), key
        assert not check.is_valid({**content, key: object()}), key
    assert not check.is_valid({**content, "another": 1})


def test_figures_in_json_are_those_of_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = written(
        "prune m.onnx -o o.onnx --ratio 0.5 --round-to 1 --json", folder, monkeypatch
    )
    before, after = pg.load(folder / "m.onnx"), pg.load(folder / "o.onnx")
    widths = {each["layer"]: (each["before"], each["after"]) for each in content["layers"]}
    assert widths == {
        node.name: (node.channels.outputs, after.node(node.name).channels.outputs)
        for node in before.layers
        if node.channels.outputs != after.node(node.name).channels.outputs
    }
    assert content["after"]["params"] < content["before"]["params"]
    assert content["proof"]["runs"] >= 2


def test_a_file_instead_of_stdout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(
        main, ["convert", "m.onnx", "-o", "o.onnx", "--json", "c.json"]
    )
    assert (done.exit_code, done.stdout) == (0, "")
    validator("converted").validate(json.loads((folder / "c.json").read_text()))


def test_json_never_takes_the_place_of_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    content = (folder / "m.onnx").read_bytes()
    for words in (
        "inspect --json m.onnx",
        "inspect m.onnx --json m.onnx",
        "prune --json m.onnx",
    ):
        assert CliRunner().invoke(main, words.split()).exit_code == 2
        assert (folder / "m.onnx").read_bytes() == content


def test_a_recipe_keeps_an_option_without_its_value(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    words = (
        "quantize m.onnx -o o.onnx --data d.npz --reduce-range --save-recipe q.toml --json"
    )
    assert CliRunner().invoke(main, words.split()).exit_code == 0
    text = (folder / "q.toml").read_text()
    assert 'reduce-range = "yes"' in text
    assert 'json = "-"' in text


def test_no_two_options_write_where_json_goes() -> None:
    for command in main.commands.values():
        option = next((e for e in command.params if "--json" in e.opts), None)
        if option is not None:
            assert isinstance(option, click.Option)
            assert isinstance(option.type, WrittenFile)
            assert option.flag_value == "-"
