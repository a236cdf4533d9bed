"""`prunegraph compress` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

import prunegraph as pg
from prunegraph.runtime.data import read_data
from tests.commands import FIXTURES, MODEL, cli


def test_one_command_meets_a_budget(tmp_path: Path) -> None:
    out, report, data = (
        tmp_path / "out.onnx",
        tmp_path / "layers.json",
        FIXTURES / "fashion_calibration.npz",
    )
    done = cli(
        "compress", MODEL, "-o", out, "--macs", "0.5", "--data", data, "--json", report
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    assert (
        "ways to the budget" in done.stderr
        and "chosen" in done.stderr
        and "repair: least-squares" in done.stderr
    )
    onnx.checker.check_model(onnx.load(out), full_check=True)
    written = json.loads(report.read_text())
    assert written["format"] == "prunegraph/compressed@1"
    assert written["after"]["macs"] <= 0.5 * written["before"]["macs"]
    assert len(written["layers"]) == 16 and len(written["mixes"]) == 6
    actions = {row["name"]: row["action"] for row in written["layers"]}
    assert actions["/classifier/Gemm"] == "keep"
    both = pg.compare(
        pg.load(MODEL),
        pg.load(out),
        data=read_data(str(FIXTURES / "fashion_eval.npz")),
        runs=2,
    )
    assert both.accuracy is not None and both.accuracy[1] >= both.accuracy[0] - 0.02


def test_source_004_and_int8(tmp_path: Path) -> None:
    out, data = tmp_path / "out.onnx", FIXTURES / "fashion_calibration.npz"
    lenet = FIXTURES / "lenet5.onnx"
    words = (
        "--method",
        "source-004",
        "--cluster",
        "paper",
        "--quantize",
        "int8",
        "--data",
        data,
    )
    done = cli("compress", lenet, "-o", out, *words)
    assert done.returncode == 0, done.stderr
    assert (
        "high dimension (500 x 800)" in done.stderr
        and "proof of the cut: max |difference|" in done.stderr
    )
    assert "ways to the budget" not in done.stderr
    assert out.stat().st_size < 0.2 * lenet.stat().st_size


def test_errors(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    for words, message in (
        ([], "give a budget"),
        (["--macs", "0.5", "--params", "0.5"], "not both"),
        (["--macs", "0.5", "--rank", "evbmf"], "source-004"),
        (["--macs", "0.0001"], "cannot fall"),
        (["--macs", "0.5", "--keep", "nothing"], "unknown layer"),
        (["--macs", "0.5", "--json", out], "two outputs"),
        (["--macs", "0.5", "--quantize", "int8"], "needs data"),
    ):
        done = cli("compress", MODEL, "-o", out, *words)
        assert (
            done.returncode == 2
            and message in done.stderr
            and "Traceback" not in done.stderr
        ), done.stderr
        assert not out.exists()
