"""`prunegraph binarize`: in this process, because each of its own would load PyTorch again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.runtime import session
from tests.builders import Builder
from tests.commands import in_process as cli
from tests.report.page import Page
from tests.training.binary.networks import plain_net, task


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pg.save(plain_net(width=24), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **task())
    return tmp_path


def test_a_network_is_trained_and_made_binary(folder: Path) -> None:
    done = cli(
        "train",
        "net.onnx",
        "-o",
        "trained.onnx",
        "--data",
        "data.npz",
        "--epochs",
        6,
        "--lr",
        0.1,
        "--batch",
        25,
    )
    assert done.exit_code == 0, done.stderr
    done = cli(
        "binarize",
        "trained.onnx",
        "-o",
        "binary.onnx",
        "--data",
        "data.npz",
        "--eval",
        "data.npz",
        "--last",
        "binary",
        "--min-inputs",
        16,
        "--epochs",
        1,
    )
    assert done.exit_code == 0, done.stderr
    text = done.stderr
    assert (
        "not binary: first (the first layer)" in text
        and "head" in text
        and "metric: " in text
        and not done.stdout
    )
    before, after = (
        (folder / name).stat().st_size for name in ("trained.onnx", "binary.onnx")
    )
    assert f"{before / after:.2f} times smaller" in text and before / after > 5
    (logits,) = session.run(session.session(folder / "binary.onnx"), {"x": task()["x"]})
    share = (logits.argmax(1) == task()["labels"]).mean()
    assert f"-> {100 * share:.4g}" in text and share > 0.8


def test_one_command_from_a_float_file_to_a_page(folder: Path) -> None:
    """Unlabelled data alone: what is printed of layers, file and latency is on the page too."""
    np.savez(folder / "inputs.npz", x=task()["x"])
    done = cli(
        *("binarize", "net.onnx", "-o", "binary.onnx", "--data", "inputs.npz"),
        *("--report", "page.html", "--last", "int8", "--samples", 60),
    )
    assert done.exit_code == 0, done.stderr
    page = Page((folder / "page.html").read_text())
    assert page.text(inside="h1") == "net.onnx"
    before, after = ((folder / name).stat().st_size for name in ("net.onnx", "binary.onnx"))
    for text in (f"{before:,} B", f"{after:,} B", f"{before / after:.2f} times smaller"):
        assert text in page.text(inside="totals")
    assert "Latency" in page.text(inside="totals") and "latency: " in done.stderr
    assert "Loss on held-out samples, update" in page.text(inside="totals")
    rows = page.text(inside="layers")
    assert "second" in rows and "third" in rows and ("kept" in rows or "undone" in rows)
    assert "first the first layer" in page.text(inside="skipped")
    assert "--report page.html" in page.text(inside="repeat")
    ops = {node.op for node in pg.load(folder / "binary.onnx").nodes}
    assert {"QLinearConv", "DequantizeLinear"} <= ops


def test_tuning_is_shown_layer_by_layer(folder: Path) -> None:
    done = cli(
        *("binarize", "net.onnx", "-o", "binary.onnx", "--data", "data.npz", "--shifts"),
        *("--tune", "1.5", "--epochs", 2, "--activations-first", "--batch", 25),
        *("--report", "page.html", "--json", "binary.json"),
    )
    assert done.exit_code == 0, done.stderr
    assert "after tuning" in done.stderr and "training " in done.stderr
    known = json.loads((folder / "binary.json").read_text())
    rows = Page((folder / "page.html").read_text()).text(inside="layers")
    assert "Loss after tuning" in rows and len(known["layers"]) == 2
    for layer in known["layers"]:
        assert f"{layer['tuned']:.4f}" in rows and isinstance(layer["tuning_kept"], bool)
    assert known["losses"]["training"] <= known["losses"]["update"]


def test_scales_of_groups_and_shifted_rectifiers(folder: Path) -> None:
    sizes = {}
    for words in ("", "--scales 4", "--scales 4 --rprelu --epochs 1"):
        done = cli(
            *(
                "binarize",
                "net.onnx",
                "-o",
                "out.onnx",
                "--data",
                "data.npz",
                "--batch",
                25,
            ),
            *("--samples", 60, *words.split()),
        )
        assert done.exit_code == 0, done.stderr
        sizes[words] = (folder / "out.onnx").stat().st_size
    # 96 filters with 4 scales, a byte each, and a few nodes; then weights of a rectifier of 48 channels.
    few, some, most = sizes.values()
    assert 384 <= some - few < 1300 and 3 * 48 * 4 <= most - some < 1300
    assert "PRelu" in {node.op for node in pg.load(folder / "out.onnx").nodes}


@pytest.mark.parametrize(
    ("words", "ops"),
    [
        ("--runtime integers", {"QLinearConv"}),
        ("--runtime packed", {"Conv", "Gather"}),
        ("--runtime float", {"Conv"}),
        ("--form thresholds", {"Conv", "Gather", "Greater"}),
    ],
)
def test_how_layers_multiply(folder: Path, words: str, ops: set[str]) -> None:
    done = cli(
        *("binarize", "net.onnx", "-o", "out.onnx", "--data", "data.npz", "--no-update"),
        *("--samples", 60, *words.split()),
    )
    assert done.exit_code == 0, done.stderr
    result = {node.op for node in pg.load(folder / "out.onnx").nodes}
    assert ops <= result
    assert result & {"QLinearConv", "Gather", "Greater"} - {"Gather", "Greater"} <= ops


def test_what_is_wrong_is_one_line(folder: Path) -> None:
    for words, text in (
        ("--data data.npz --keep secnd", "unknown layer 'secnd'"),
        ("--data data.npz --min-inputs 9999", "no layer can become binary"),
        ("--data none.npz", "none.npz"),
        ("--data data.npz --runtime integers --form thresholds", "thresholds are for"),
        ("--data data.npz --report out.onnx", "out.onnx"),
        ("--data data.npz --tune 1 --no-update", "leave the update on"),
        ("--data data.npz --rprelu", "come from training"),
        ("--data data.npz --epochs 2 --lr 1e9", "lower the learning rate"),
        ("--data data.npz --eval data.npz --checkpoint out.onnx", "out.onnx"),
    ):
        done = cli("binarize", "net.onnx", "-o", "out.onnx", *words.split())
        assert (
            done.exit_code == 2
            and done.stderr.startswith("error: ")
            and text in done.stderr
        ), done.stderr
        assert done.stderr.count("\n") == 1 and not (folder / "out.onnx").exists()


def test_data_on_which_nothing_reaches_the_last_layer(folder: Path) -> None:
    """A dead last layer has no products to fit its weights to: what is left of it is its bias."""
    b = Builder()
    x = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, 16, bias=False), 16))
    x = b.relu(b.bn(b.conv(x, 16, 16, bias=False), 16))
    x = b.op("Mul", x, b.op("ReduceMax", b.op("Abs", "x"), axes=[1, 2, 3]))
    pg.save(b.graph(b.head(x, 16, 5)), folder / "net.onnx")
    np.savez(folder / "data.npz", x=np.zeros((30, 3, 8, 8), np.float32))
    done = cli("binarize", "net.onnx", "-o", "out.onnx", "--data", "data.npz")
    assert done.exit_code == 0, done.output
    (logits,) = session.run(session.session(folder / "out.onnx"), {"x": task(3)["x"]})
    assert np.isfinite(logits).all()
