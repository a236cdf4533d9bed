"""`prunegraph decompose` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

import prunegraph as pg
from tests.builders import Builder
from tests.commands import FIXTURES, MODEL, cli


def test_a_file_with_fewer_macs(tmp_path: Path) -> None:
    out, report = tmp_path / "out.onnx", tmp_path / "layers.json"
    keep = "/classifier/Gemm"
    done = cli(
        "decompose",
        MODEL,
        "-o",
        out,
        "--method",
        "auto",
        "--macs",
        "0.6",
        "--keep",
        keep,
        "--json",
        report,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    assert (
        "MACs: 20.18 M ->" in done.stderr and "left whole: classifier (kept)" in done.stderr
    )
    onnx.checker.check_model(onnx.load(out), full_check=True)
    written = json.loads(report.read_text())
    assert (
        written["format"] == "prunegraph/decomposed@1" and written["left"][keep] == "kept"
    )
    assert written["after"]["macs"] <= 0.6 * written["before"]["macs"]
    decomposed = pg.decompose(pg.load(MODEL), method="auto", macs=0.6, keep=[keep])
    assert [row["name"] for row in written["layers"]] == [
        row.name for row in decomposed.layers
    ]
    assert pg.load(out).sha256 == decomposed.model.sha256


def test_a_decomposed_network_still_recognises(tmp_path: Path) -> None:
    from prunegraph.runtime.data import read_data

    decomposed = pg.decompose(pg.load(MODEL), method="auto", macs=0.7, round_to=4)
    both = pg.compare(
        pg.load(MODEL),
        decomposed.model,
        data=read_data(str(FIXTURES / "fashion_eval.npz")),
        runs=2,
    )
    assert both.accuracy is not None and both.accuracy[1] >= both.accuracy[0] - 0.01


def test_a_latency_bound(tmp_path: Path) -> None:
    b = Builder()
    x = b.relu(b.conv(b.input(1, 192, 16, 16), 192, 192, name="a"))
    pg.save(b.graph(b.conv(x, 192, 192, name="b")), tmp_path / "in.onnx")
    done = cli(
        "decompose",
        tmp_path / "in.onnx",
        "-o",
        tmp_path / "out.onnx",
        "--latency",
        "0.9",
        "--fold",
    )
    assert done.returncode == 0, done.stderr
    assert "of the original, measured" in done.stderr and (tmp_path / "out.onnx").exists()


def test_errors(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    for words, message in (
        (["--rank", "evbmf", "--macs", "0.5"], "not both"),
        (["--rank", "most"], "energy:E"),
        (["--keep", "nothing"], "unknown layer"),
        (["--macs", "0.001"], "cannot fall"),
        (["--latency", "0.5", "--macs", "0.5"], "give one of latency and macs"),
        (["--latency", "12"], "latency must be a fraction"),
        (["--round-to", "0"], "round_to"),
    ):
        done = cli("decompose", MODEL, "-o", out, *words)
        assert (
            done.returncode == 2
            and message in done.stderr
            and "Traceback" not in done.stderr
        )
        assert not out.exists()
