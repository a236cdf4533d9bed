"""`prunegraph quantize`, and what other commands say of quantized models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import prunegraph as pg
from tests.commands import FIXTURES, MODEL, cli

DATA = str(FIXTURES / "fashion_calibration.npz")
EVAL = str(FIXTURES / "fashion_eval.npz")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in int8, with ranges beside it."""
    out = tmp_path_factory.mktemp("quantized") / "int8.onnx"
    done = cli(
        "quantize", MODEL, "-o", out, "--data", DATA, "--json", out.with_suffix(".json")
    )
    assert done.returncode == 0, done.stderr
    assert (
        "16 layers: int8 weights, uint8 activations" in done.stderr
        and "output logits: SQNR" in done.stderr
    )
    assert not done.stdout
    return out


def test_the_file_is_valid_and_a_quarter_of_the_float_one(small: Path) -> None:
    onnx.checker.check_model(onnx.load(small), full_check=True)
    assert small.stat().st_size <= 0.27 * Path(MODEL).stat().st_size


def test_accuracy_holds(small: Path) -> None:
    result = pg.compare(pg.load(MODEL), pg.load(small), data=pg_data(), runs=2)
    assert result.accuracy is not None
    first, second = result.accuracy
    assert second >= first - 0.005, "a thousand images: half a point is five of them"
    assert result.sqnr["logits"] > 30


def pg_data() -> object:
    from prunegraph.runtime.data import read_data

    return read_data(EVAL)


def test_a_compact_file_is_smaller_and_compares_by_outputs(
    small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "compact.onnx"
    assert cli("quantize", MODEL, "-o", out, "--data", DATA, "--compact").returncode == 0
    assert out.stat().st_size < small.stat().st_size
    result = pg.compare(pg.load(small), pg.load(out), data=pg_data(), runs=1)
    assert result.accuracy is not None and result.accuracy[0] == result.accuracy[1]


def test_ranges_that_were_written_are_read_again(small: Path, tmp_path: Path) -> None:
    ranges = json.loads(small.with_suffix(".json").read_text())
    assert ranges["format"] == "prunegraph/quantized@1" and len(ranges["layers"]) == 16
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps(ranges["ranges"]))
    outs = []
    for source in (small.with_suffix(".json"), plain):
        outs.append(tmp_path / f"{source.stem}-again.onnx")
        done = cli(
            "quantize", MODEL, "-o", outs[-1], "--ranges", source, "--no-bias-correction"
        )
        assert done.returncode == 0, done.stderr
    assert outs[0].read_bytes() == outs[1].read_bytes()
    inputs = {"image": np.load(EVAL)["image"][:64]}
    from prunegraph.runtime.session import run, session

    first, second = (run(session(pg.load(path)), inputs)[0] for path in (small, outs[0]))
    assert np.abs(first - second).max() < 0.1 * np.abs(first).max()


def test_compare_and_inspect_speak_of_integers(small: Path) -> None:
    done = cli("compare", MODEL, small, "--runs", 2, "--data", EVAL, "--json")
    assert done.returncode == 0, done.stderr
    assert "signal to quantization noise" in done.stderr
    assert json.loads(done.stdout)["sqnr"]["logits"] > 30
    done = cli("inspect", small)
    assert done.returncode == 0, done.stderr
    assert "int8" in done.stderr and "uint8" in done.stderr


def test_options_reach_the_work(tmp_path: Path) -> None:
    out = tmp_path / "w.onnx"
    done = cli(
        "quantize",
        MODEL,
        "-o",
        out,
        "--activations",
        "none",
        "--weights",
        "int4",
        "--float",
        "last",
        "--json",
        "-",
    )
    assert done.returncode == 0, done.stderr
    layers = json.loads(done.stdout)["layers"]
    assert [layer["weights"] for layer in layers] == ["int4"] * 15 + ["float32"]
    assert out.stat().st_size < 0.2 * Path(MODEL).stat().st_size


def test_prune_and_quantize(tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    fast = ("--algorithm", "l2", "--repair", "none", "--data", DATA)
    done = cli("prune", MODEL, "-o", out, "--macs", "0.5", *fast, "--quantize", "int8")
    assert done.returncode == 0, done.stderr
    assert "proof: max |difference|" in done.stderr and "int8 weights" in done.stderr
    assert out.stat().st_size < 0.16 * Path(MODEL).stat().st_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "needs data"),
        (("--data", "nowhere.npz"), "no such data file"),
        (("--data", DATA, "--float", "stemm"), "unknown layer 'stemm'"),
        (("--data", DATA, "--ranges", MODEL), "not a JSON file of ranges"),
        (
            ("--data", DATA, "--target", "tensorrt", "--activations", "uint8"),
            "does not take activations",
        ),
        (("--data", DATA, "--tolerance", "1", "--metric", "top1"), "needs labels"),
        (
            ("--data", DATA, "--method", "percentile", "--percentile", "3"),
            "percentile must be",
        ),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(
    options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = cli("quantize", MODEL, "-o", tmp_path / "no.onnx", *options)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_ranges_of_the_wrong_form(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    path.write_text("[1, 2]")
    done = cli(
        "quantize", MODEL, "-o", tmp_path / "no.onnx", "--data", DATA, "--ranges", path
    )
    assert done.returncode == 2 and "not ranges" in done.stderr
