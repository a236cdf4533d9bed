"""`--eval` and `--metric` of `prune` and `apply`: what `compare` measures of the same two files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands import FIXTURES, MODEL, cli

EVAL = FIXTURES / "fashion_eval.npz"


@pytest.mark.parametrize("metric", ["", "error"])
def test_what_is_said_is_what_compare_finds(metric: str, tmp_path: Path) -> None:
    out, plan = tmp_path / "small.onnx", tmp_path / "plan.json"
    words = ("--eval", EVAL, *(("--metric", metric) if metric else ()))
    done = cli(
        *(
            "prune",
            MODEL,
            "-o",
            out,
            "--macs",
            "0.6",
            "--algorithm",
            "l2",
            "--repair",
            "bn",
        ),
        *("--save-plan", plan, *words, "--json", tmp_path / "pruned.json"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "pruned.json").read_text())["measured"]
    assert found["metric"] == (metric or "top1")
    assert (
        f"{found['metric']}: {found['first']:.4g} -> {found['second']:.4g}" in done.stderr
    )
    again = cli(
        *("compare", MODEL, out, "--data", EVAL, "--metric", metric or "top1"),
        *("--runs", "1", "--json", tmp_path / "compared.json"),
    )
    assert again.returncode == 0, again.stderr
    compared = json.loads((tmp_path / "compared.json").read_text())["measured"]
    assert compared["metric"] == found["metric"] and compared["unit"] == found["unit"]
    for which in ("first", "second"):
        assert compared[which] == pytest.approx(found[which], rel=1e-4)
    applied = cli(
        *("apply", MODEL, plan, "-o", tmp_path / "applied.onnx", "--repair", "bn", *words),
        *("--json", tmp_path / "applied.json"),
    )
    assert applied.returncode == 0, applied.stderr
    assert json.loads((tmp_path / "applied.json").read_text())["measured"] == found


def test_what_cannot_be_measured_is_told_before_the_work(tmp_path: Path) -> None:
    out, keep = tmp_path / "small.onnx", tmp_path / "keep.txt"
    keep.write_text("1\n2\n")
    images = np.zeros((11, 1, 28, 28), np.float32)
    np.savez(tmp_path / "narrow.npz", image=images[:, :, :14])
    np.savez(tmp_path / "more.npz", image=images, labels=np.arange(11))
    np.savez(tmp_path / "rows.npz", image=images, labels=np.zeros((11, 4), np.int64))
    for words, message in (
        (["--metric", "error"], "give --eval"),
        (["--eval", EVAL, "--metric", "nothing"], "unknown metric 'nothing'"),
        (["--eval", tmp_path / "none.npz"], "none.npz"),
        (["--eval", EVAL, "--allow-io", "past*"], "leave it out"),
        (["--eval", tmp_path / "narrow.npz"], "wants shape [batch, 1, 28, 28]"),
        (["--eval", tmp_path / "more.npz"], "labels run to 10, the output has 10 classes"),
        (["--eval", tmp_path / "rows.npz"], "needs one label for each class"),
        (["--eval", EVAL, "--metric", "map50"], "needs 'labels' [samples, boxes, 5]"),
    ):
        done = cli("prune", MODEL, "-o", out, "--macs", "0.6", *words)
        assert done.returncode == 2 and message in done.stderr, done.stderr
        assert not out.exists()
