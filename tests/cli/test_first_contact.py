"""What a new user meets first: a model without a command, a preview, a recipe from a few answers."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

import prunegraph as pg
from prunegraph.cli import main
from prunegraph.ops.cost import cost
from prunegraph.overview import overview
from prunegraph.preview import preview
from prunegraph.runtime.data import Data
from tests.builders import Builder, residual_net
from tests.commands import cli
from tests.latency.counting import count_instead_of_time
from tests.paths import FIXTURES

MODEL = str(FIXTURES / "fashion_resnet.onnx")


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEGRAPH_CACHE", str(tmp_path / "cache"))


# -- prunegraph MODEL -------------------------------------------------------------------------


def test_a_model_without_a_command() -> None:
    done = cli(MODEL)
    assert done.returncode == 0, done.stderr
    assert "20.18 M MACs" in done.stderr
    assert "9 groups of channels" in done.stderr
    assert "graph output logits" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "-> " in line]) == 3
    assert invoke(MODEL, "--json").stdout == invoke("overview", MODEL, "--json").stdout


def test_nothing_is_suggested_where_nothing_would_change(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])],
    )
    assert overview(pg.load(onnx.helper.make_model(graph))).suggestions == ()


@pytest.mark.parametrize("word", ["none.onnx", "folder/none", "module:function"])
def test_what_names_a_model_is_read_as_one(word: str) -> None:
    done = invoke(word)
    assert done.exit_code == 2
    assert "No such command" not in done.output


def test_a_plain_word_is_a_mistyped_command() -> None:
    assert "No such command 'inspct'" in invoke("inspct").output


def test_suggestions_are_what_the_commands_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures of the overview, against the files that its commands write."""
    monkeypatch.chdir(tmp_path)
    content = json.loads(invoke(MODEL, "--json").stdout)
    assert content["cost"] == vars(cost(pg.load(MODEL)))
    assert len(content["suggestions"]) == 3
    data = str(FIXTURES / "fashion_calibration.npz")
    for suggestion in content["suggestions"]:
        program, *words = suggestion["command"].split()
        assert program == "prunegraph"
        assert Path(words[words.index("-o") + 1]).parent == Path()
        words = [data if word == "DATA" else word for word in words]
        if words[0] == "prune":
            # The overview has channels chosen without data, and so must the file.
            words += ["--algorithm", "l2", "--allocation", "uniform", "--repair", "none"]
        assert invoke(*words).exit_code == 0
        after = cost(pg.load(words[words.index("-o") + 1]))
        assert after.macs == pytest.approx(suggestion["macs"] * content["cost"]["macs"])
        # Scales, zero points and QuantizeLinear's constants are not in the figure.
        low = suggestion["bytes"] * content["cost"]["bytes"]
        assert 0.99 * low <= after.bytes <= low + 0.07 * content["cost"]["bytes"]


def test_nothing_to_prune_is_said(tmp_path: Path) -> None:
    b = Builder()
    pg.save(b.graph(b.linear(b.input("n", 4), 4, 2)), tmp_path / "m.onnx")
    done = invoke(tmp_path / "m.onnx")
    assert done.exit_code == 0
    assert "can be pruned: nothing" in done.output
    assert "prune " not in done.output.replace("can be pruned", "")


def test_the_least_is_reached_by_every_channel_that_can_go() -> None:
    graph = residual_net()
    result = overview(graph)
    widest = pg.select(graph, budget=pg.Budget(ratio=0.99), min_channels=1)
    assert result.least == cost(pg.apply(graph, widest))


# -- prune --dry-run --------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"ratio": 0.3}, {"bytes": 0.6}])
def test_a_preview_is_what_pruning_does(budget: dict[str, float]) -> None:
    graph = pg.load(MODEL)
    options = {"budget": pg.Budget(**budget), "round_to": 1, "keep": ["stages.5"]}
    result = preview(graph, **options)
    real = pg.prune(graph, **options)
    assert result.plan.remove == real.plan.remove
    assert (result.before, result.after) == (real.before, real.after)
    changed = {
        node.name: (node.channels.outputs, real.model.node(node.name).channels.outputs)
        for node in graph.layers
        if node.channels.outputs != real.model.node(node.name).channels.outputs
    }
    assert {each.layer: (each.before, each.after) for each in result.widths} == changed


def test_a_preview_with_data_meets_the_budget() -> None:
    with np.load(FIXTURES / "fashion_calibration.npz") as arrays:
        data = Data.of({"image": arrays["image"][:64]})
    result = preview(
        pg.load(MODEL),
        data=data,
        budget=pg.Budget(macs=0.6),
        algorithm="obs",
        allocation="isomorphic",
    )
    assert result.samples == 16
    assert result.after.macs <= 0.6 * result.before.macs
    assert result.plan.provenance["algorithm"] == "obs"


def test_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(
        "prune",
        MODEL,
        "--macs",
        "0.5",
        "--dry-run",
        "-o",
        "o.onnx",
        "--save-plan",
        "p.json",
    )
    assert done.exit_code == 0, done.output
    assert "stages.5.conv1" in done.output
    assert "no layers of this model were timed" in done.output
    assert not list(tmp_path.iterdir())


def test_without_dry_run_an_output_is_needed() -> None:
    done = invoke("prune", MODEL, "--macs", "0.5")
    assert done.exit_code == 2
    assert "Missing option '-o'" in done.output


def test_latency_is_estimated_from_layers_that_were_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_instead_of_time(monkeypatch)
    graph = residual_net()
    before = preview(graph, budget=pg.Budget(macs=0.5), round_to=1)
    assert before.latency is None
    pg.select(graph, budget=pg.Budget(latency=0.9), round_to=1)
    result = preview(graph, budget=pg.Budget(macs=0.5), round_to=1).latency
    assert result is not None
    assert 0 < result.after < result.before
    assert 0 <= result.guessed <= result.layers


# -- prunegraph init --------------------------------------------------------------------------


def test_a_recipe_from_flags_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pg.save(residual_net(), "m.onnx")
    shape = onnx.load("m.onnx").graph.input[0].type.tensor_type.shape.dim
    sizes = [each.dim_value or 1 for each in shape][1:]
    x = np.random.default_rng(0).standard_normal((32, *sizes)).astype(np.float32)
    np.savez("d.npz", x=x)
    words = "init m.onnx --goal cheaper --share 0.6 --data d.npz --target cpu"
    assert invoke(*words.split()).exit_code == 0
    done = invoke("run", "m.toml")
    assert done.exit_code == 0, done.output
    small = cost(pg.load("m-pruned.onnx"))
    assert small.macs <= 0.6 * cost(pg.load("m.onnx")).macs
    assert any(n.op == "QuantizeLinear" for n in pg.load("m-cpu.onnx").nodes)


def test_a_share_that_widths_do_not_allow_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(
        "init", MODEL, "--goal", "cheaper", "--share", "0.03", "-o", "r.toml", "--json"
    )
    assert done.exit_code == 0, done.output
    bound = json.loads(done.stdout)["steps"][0]["options"]["macs"]
    assert 0.03 < bound < 0.5
    assert "widths allow no less" in done.stderr
    shown = invoke("run", "r.toml", "--dry-run")
    assert f"--macs={bound:g}" in shown.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target", "openvino"), "need data to calibrate on"),
        (("--data", "none.npz"), "no such data file"),
        (("--share", "1.5"), "1.5"),
        (("-o", "missing/r.toml"), "does not exist"),
    ],
)
def test_what_init_refuses(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("init", MODEL, *words)
    assert done.exit_code == 2
    assert message in done.output
    assert not list(tmp_path.glob("*.toml"))


def test_answers_of_a_terminal(tmp_path: Path) -> None:
    pg.save(residual_net(), tmp_path / "m.onnx")
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-m", "prunegraph", "init", "m.onnx"])
    text, until = "", time.monotonic() + 120
    answers = {"goal": "smaller\n", "data": "\n", "target": "\n", "share": "0.7\n"}
    try:
        while "carries it out" not in text:
            assert time.monotonic() < until, text
            if select.select([terminal], [], [], 1)[0]:
                text += os.read(terminal, 65536).decode(errors="replace")
            plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)
            last = re.split(r"[\r\n]", plain)[-1]
            asked = next((name for name in answers if last.startswith(name)), None)
            if asked is not None and last.rstrip().endswith(":"):
                os.write(terminal, answers.pop(asked).encode())
    finally:
        os.close(terminal)
        os.waitpid(process, 0)
    assert not answers
    recipe = (tmp_path / "m.toml").read_text()
    assert "bytes = 0.7" in recipe
    assert "quantize" not in recipe


def test_a_graph_through_a_pipe_is_not_asked(tmp_path: Path) -> None:
    pg.save(residual_net(), tmp_path / "m.onnx")
    command = [sys.executable, "-m", "prunegraph", "init", "m.onnx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, input="")
    assert done.returncode == 0, done.stderr
    assert "macs = 0.5" in (tmp_path / "m.toml").read_text()
