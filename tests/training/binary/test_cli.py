"""`prunegraph binarize`: in this process, because each of its own would load PyTorch again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.runtime import session
from tests.commands import in_process as cli
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


def test_what_is_wrong_is_one_line(folder: Path) -> None:
    for words, text in (
        ("--data data.npz --keep secnd", "unknown layer 'secnd'"),
        ("--data data.npz --min-inputs 9999", "no layer can become binary"),
        ("--data none.npz", "none.npz"),
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
