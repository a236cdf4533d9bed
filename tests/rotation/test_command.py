"""`prune --rotate`, and what `apply` and `verify` make of its plan."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from prunegraph.cli.app import main
from tests.rotation.networks import attention, random_inputs

PRUNE = ["--ratio", "0.5", "--round-to", "1", "--repair", "none"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    graph = attention(2, 1, 4, packed=True, bias=True, seed=0)
    onnx.save(graph.model, "model.onnx")
    np.savez("data.npz", **random_inputs(graph, 0, 16))
    return tmp_path


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_a_rotated_model_is_repeated_and_proved_by_its_plan(folder: Path) -> None:
    text = run(
        "prune", "model.onnx", "-o", "small.onnx", *PRUNE, "--data", "data.npz",
        "--save-plan", "plan.json",
    )  # fmt: skip
    assert "rotated: 4 spaces of channels, before the cut" in text
    text = run("apply", "model.onnx", "plan.json", "-o", "again.onnx")
    assert "rotated: 4 spaces" in text
    assert Path("again.onnx").read_bytes() == Path("small.onnx").read_bytes()
    assert "proof: max |difference|" in run(
        "verify", "model.onnx", "plan.json", "again.onnx"
    )


def test_rotation_is_asked_for_or_left_out(folder: Path) -> None:
    text = run("prune", "model.onnx", "-o", "small.onnx", *PRUNE)
    assert "rotated" not in text
    text = run("prune", "model.onnx", "-o", "small.onnx", *PRUNE, "--rotate", "always")
    assert "rotated: 4 spaces" in text
    options = ["--data", "data.npz", "--rotate", "never"]
    assert "rotated" not in run("prune", "model.onnx", "-o", "small.onnx", *PRUNE, *options)
    run("prune", "model.onnx", "-o", "small.onnx", *PRUNE, "--rotate", "maybe", code=2)


def test_compress_and_sensitivity_have_the_option_too(folder: Path) -> None:
    common = [
        "compress",
        "model.onnx",
        "-o",
        "small.onnx",
        "--macs",
        "0.7",
        "--round-to",
        "1",
    ]
    data = ["--data", "data.npz", "--repair", "none"]
    method = ["--method", "prune"]
    text = run(*common, *method, *data, "--json", "out.json", "--save-recipe", "again.toml")
    assert "rotated: 4 spaces of channels, before the cut; max |difference|" in text
    assert json.loads(Path("out.json").read_text())["rotated"] == 4
    first = Path("small.onnx").read_bytes()
    assert "rotated: 4 spaces" in run("run", "again.toml")
    assert Path("small.onnx").read_bytes() == first
    assert "rotated" not in run(*common, *method, *data, "--rotate", "never")
    text = run(*common, "--method", "decompose", "--rotate", "always", code=2)
    assert "method 'decompose' takes layers as they are: leave rotate 'always' out" in text
    common = ["sensitivity", "model.onnx", "--data", "data.npz", "--json", "curves.json"]
    assert "rotated: 4 spaces of channels, before each cut" in run(*common)
    assert json.loads(Path("curves.json").read_text())["rotated"] == 4
    assert "rotated" not in run(*common, "--rotate", "never")
    run(*common, "--rotate", "maybe", code=2)
