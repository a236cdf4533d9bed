"""`apply`: a plan from anywhere, carried out with all that `prune` does after the choice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph import execution
from prunegraph.api import apply_plan
from prunegraph.errors import ExactnessError, PlanError
from prunegraph.frontends import mxnet
from tests.builders import residual_net
from tests.commands import FIXTURES, MODEL, files, in_process
from tests.frontends.mxnet import cases as cases

DATA = str(FIXTURES / "fashion_calibration.npz")
NET = str(cases.ROOT / "tiny" / "resnet_v1_basic_tiny" / "model-symbol.json")
SHAPE = ["--input-shape", "data=1,3,32,32"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small network, inputs for it, and a hand-written plan."""
    graph = residual_net()
    pg.save(graph, tmp_path / "net.onnx")
    plan = {
        "format": "prunegraph/plan@1",
        "model": {"sha256": graph.sha256},
        "remove": {"g0": [0, 3], "g1": [5]},
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    x = np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "options", [["--quantize", "int8"], ["--repair", "absorb"]], ids=lambda words: words[0]
)
def test_the_same_as_prune_by_the_same_plan(options: list[str], tmp_path: Path) -> None:
    """Refitted, proved on the data, quantized: from the plan alone, bit for bit what `prune` wrote."""
    words = ["--data", DATA, *options]
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    done = in_process(
        "prune",
        MODEL,
        "-o",
        first,
        "--macs",
        "0.5",
        "--algorithm",
        "l2",
        "--save-plan",
        tmp_path / "p.json",
        *words,
    )
    assert done.exit_code == 0, done.stderr
    content = json.loads((tmp_path / "p.json").read_text())
    bare = {key: content[key] for key in ("format", "model", "remove")}
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    again = in_process("apply", MODEL, tmp_path / "bare.json", "-o", second, *words)
    assert again.exit_code == 0, again.stderr
    assert first.read_bytes() == second.read_bytes()
    said = [
        line
        for line in done.stderr.splitlines()
        if line.startswith(("proof", "then repaired", "output"))
    ]
    assert said and all(line in again.stderr for line in said)


def test_report_and_plan_of_a_plan_by_hand(folder: Path) -> None:
    done = in_process(
        "apply",
        "net.onnx",
        "plan.json",
        "-o",
        "out.onnx",
        "--report",
        "page.html",
        "--save-plan",
        "whole.json",
        "--save-recipe",
        "again.toml",
    )
    assert done.exit_code == 0, done.stderr
    assert "proof: max |difference|" in done.stderr
    page = (folder / "page.html").read_text()
    assert "stem" in page and "block1" in page
    whole = pg.Plan.load("whole.json")
    assert whole.remove == {"g0": (0, 3), "g1": (5,)} and whole.cuts
    assert pg.apply(pg.load("net.onnx"), whole).sha256 == pg.load("out.onnx").sha256
    before = (folder / "out.onnx").read_bytes()
    assert in_process("run", "again.toml").exit_code == 0
    assert (folder / "out.onnx").read_bytes() == before


def test_no_verify(folder: Path) -> None:
    done = in_process("apply", "net.onnx", "plan.json", "-o", "out.onnx", "--no-verify")
    assert done.exit_code == 0 and "proof: skipped" in done.stderr


def test_a_plan_that_does_not_hold_is_not_carried_out_in_part(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prune` leaves out what breaks the proof; what somebody else decided is not changed."""

    def fails(*args: object, **options: object) -> None:
        raise ExactnessError("node 'block1' differs")

    monkeypatch.setattr(execution, "verify", fails)
    before = files(folder)
    done = in_process(
        "apply", "net.onnx", "plan.json", "-o", "out.onnx", "--save-plan", "again.json"
    )
    assert done.exit_code == 1 and done.stderr == "error: node 'block1' differs\n"
    assert files(folder) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("net.onnx none.json -o out.onnx", "none.json: no such plan file"),
        ("net.onnx data.npz -o out.onnx", "data.npz: not a plan"),
        ("net.onnx plan.json -o net.onnx", "output and input are the same file"),
        (
            "net.onnx plan.json -o out.onnx --report out.onnx",
            "two outputs are the same file",
        ),
        (
            "net.onnx plan.json -o out.onnx --sensitivity s.json",
            "--sensitivity is shown in the report",
        ),
        ("net.onnx plan.json -o out.onnx --quantize int8", "quantization needs data"),
        ("net.onnx plan.json -o out.onnx --repair least-squares", "needs data"),
        ("net.onnx plan.json -o out.onnx --repair more", "unknown repair 'more'"),
        ("net.onnx plan.json -o out.onnx --data none.npz", "none.npz"),
        ("net.onnx plan.json -o x-symbol.json", "only a model from MXNet"),
    ],
)
def test_bad_input(folder: Path, words: str, message: str) -> None:
    before = files(folder)
    done = in_process("apply", *words.split())
    assert done.exit_code == 2 and message in " ".join(done.stderr.split()), done.stderr
    assert files(folder) == before


def test_from_python(folder: Path) -> None:
    graph, plan = pg.load("net.onnx"), pg.Plan.load("plan.json")
    data = dict(np.load("data.npz"))
    result = apply_plan(graph, plan, data=data)
    assert (
        result.proof is not None and result.repair == "least-squares" and result.plan.cuts
    )
    pruned = apply_plan(graph, plan, "out.onnx").model
    assert pruned.sha256 == pg.apply(graph, plan).sha256 == pg.load("out.onnx").sha256
    with pytest.raises(PlanError, match="another model"):
        apply_plan(residual_net(1), plan, "other.onnx")
    assert not Path("other.onnx").exists()


# -- MXNet files ------------------------------------------------------------------------------


def mxnet_plan(folder: Path) -> None:
    """A plan without cuts from the groups file, and data."""
    done = in_process("inspect", NET, "--json", "groups.json", *SHAPE)
    assert done.exit_code == 0, done.stderr
    content = json.loads((folder / "groups.json").read_text())
    remove = {
        group["id"]: list(range(group["channels"] // 2)) for group in content["groups"]
    }
    plan = {"format": "prunegraph/plan@2", "model": content["model"], "remove": remove}
    (folder / "plan.json").write_text(json.dumps(plan))
    x = np.random.default_rng(0).standard_normal((32, 3, 32, 32)).astype(np.float32)
    np.savez(folder / "data.npz", data=x)


@pytest.mark.parametrize(
    "words",
    [[], ["--data", "data.npz"], ["--repair", "bn"]],
    ids=lambda words: "".join(words),
)
def test_repaired_weights_go_into_mxnet_files(folder: Path, words: list[str]) -> None:
    """The files hold what the ONNX result holds, and convert to the same network."""
    mxnet_plan(folder)
    for out in ("out.onnx", "out-symbol.json"):
        done = in_process("apply", NET, "plan.json", "-o", out, *words, *SHAPE)
        assert done.exit_code == 0, done.stderr
    again = mxnet.load("out-symbol.json", input_shapes={"data": (1, 3, 32, 32)})
    given = {"data": np.load("data.npz")["data"][:1]}
    expected = cases.run(pg.load("out.onnx").model, given)
    assert cases.difference(cases.run(again, given), expected) <= 1e-6
    plain = pg.apply(
        pg.load(NET, input_shapes={"data": (1, 3, 32, 32)}), pg.Plan.load("plan.json")
    )
    changed = cases.difference(cases.run(plain.model, given), expected)
    assert changed > 1e-3 if words else changed <= 1e-6


def test_a_symbol_that_cannot_be_written(folder: Path) -> None:
    mxnet_plan(folder)
    before = files(folder)
    for words, message in (
        (
            ["-o", "out-symbol.json", "--data", "data.npz", "--quantize", "int8"],
            "a quantized model is written as ONNX",
        ),
        (
            ["-o", "out-symbol.json", "--dtype", "float16"],
            "one of 16-bit floats is written as ONNX",
        ),
        (
            ["-o", "out-symbol.json", "--save-plan", "out-0000.params"],
            "two outputs are the same file",
        ),
    ):
        done = in_process("apply", NET, "plan.json", *words, *SHAPE)
        assert done.exit_code == 2 and message in " ".join(done.stderr.split()), done.stderr
    assert files(folder) == before
