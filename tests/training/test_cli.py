"""`prunegraph train`: the command in this process, because each of its own would load PyTorch again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import DataError
from prunegraph.rewriting.fold import fold
from prunegraph.runtime import session
from prunegraph.training import TrainingOptions
from tests.builders import Builder, residual_net
from tests.commands import in_process as cli
from tests.training.test_fit import task


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pg.save(residual_net(), tmp_path / "net.onnx")
    np.savez(tmp_path / "train.npz", **task())
    np.savez(tmp_path / "test.npz", **task(200, seed=1))
    np.savez(tmp_path / "unlabelled.npz", x=task()["x"])
    return tmp_path


def right(path: Path) -> float:
    data = task(200, seed=1)
    (logits,) = session.run(session.session(path), {"x": data["x"]})
    return float((logits.argmax(1) == data["labels"]).mean())


def test_train_prune_and_tune_without_labels(folder: Path) -> None:
    done = cli(
        "train",
        "net.onnx",
        "-o",
        "trained.onnx",
        "--data",
        "train.npz",
        "--eval",
        "test.npz",
        "--epochs",
        8,
        "--lr",
        0.1,
        "--batch",
        24,
        "--checkpoint",
        "run.pt",
    )
    assert done.exit_code == 0, done.stderr
    assert (
        "epoch   8" in done.stderr
        and (folder / "run.pt.plain").exists()
        and done.stdout == ""
    )
    trained = right(folder / "trained.onnx")
    assert trained > 0.9 and f"metric {100 * trained:.4g}" in done.stderr
    pg.prune(
        folder / "trained.onnx",
        folder / "small.onnx",
        budget=pg.Budget(ratio=0.5),
        round_to=1,
    )
    done = cli(
        "train",
        "small.onnx",
        "-o",
        "tuned.onnx",
        "--data",
        "unlabelled.npz",
        "--original",
        "trained.onnx",
        "--epochs",
        8,
        "--lr",
        0.1,
        "--batch",
        24,
        "--method",
        "sparse:1e-4",
    )
    assert done.exit_code == 0, done.stderr
    assert right(folder / "tuned.onnx") > max(0.8, right(folder / "small.onnx"))


def test_joint_on_the_command_line(folder: Path) -> None:
    method = "joint:strength=1e-2,params=0.5,round_to=1,min_channels=2,qat_epochs=1"
    words = "train net.onnx -o int8.onnx --data train.npz --eval test.npz --epochs 4 --lr 0.1 --batch 24 --macs 0.6"
    done = cli(*words.split(), "--method", method)
    assert done.exit_code == 0, done.stderr
    assert (
        "prune: macs " in done.stderr
        and "  params " in done.stderr
        and "int8: metric " in done.stderr
    )
    assert any(node.op == "QuantizeLinear" for node in pg.load("int8.onnx").nodes)
    assert right(folder / "int8.onnx") > 0.7
    failed = cli(
        "train", "net.onnx", "-o", "none.onnx", "--data", "train.npz", "--method", "joint"
    )
    assert failed.exit_code == 2 and "give --macs, --params or --ratio" in failed.stderr
    assert not (folder / "none.onnx").exists()


def test_what_is_wrong_is_one_line(folder: Path) -> None:
    b = Builder()
    pg.save(
        b.graph(b.op("Bernoulli", b.head(b.input("n", 3, 8, 8), 3), name="dice")),
        folder / "dice.onnx",
    )
    for words, text in (
        ("net.onnx --data unlabelled.npz", "give --original"),
        ("net.onnx --data train.npz --batch 1000", "do not fill a batch"),
        ("net.onnx --data train.npz --patience 2", "patience needs a metric"),
        (
            "net.onnx --data train.npz --lr 1e9 --epochs 5 --batch 24",
            "lower the learning rate",
        ),
        (
            "net.onnx --data train.npz --eval test.npz --metric best",
            "unknown metric 'best'",
        ),
        ("dice.onnx --data train.npz", "operator Bernoulli of node 'dice'"),
        ("net.onnx --data train.npz --checkpoint out.onnx", "out.onnx"),
    ):
        done = cli("train", *words.split(), "-o", "out.onnx")
        assert (
            done.exit_code == 2
            and done.stderr.startswith("error: ")
            and text in done.stderr
        ), done.stderr
        assert done.stderr.count("\n") == 1 and not (folder / "out.onnx").exists()


MOVED = "flip=0.5,shift=0.1,affine=0.5"


@pytest.mark.parametrize(
    ("words", "epochs", "lr", "mixup", "augment", "inner"),
    [
        ("--batch 24", 192, 0.02, 1.0, MOVED, True),
        ("--batch 2", 16, 0.02, 1.0, MOVED, True),
        ("--batch 24 --epochs 2 --mixup 0 --augment none", 2, 0.02, 0.0, "None", True),
        ("--batch 24 --augment color --lr 0.1", 192, 0.1, 1.0, "color=0.2", True),
        ("--batch 24 --optimizer adamw", 192, 0.01, 1.0, MOVED, True),
        ("--batch 24 --loss distill", 192, 0.02, 1.0, MOVED, False),
        ("--batch 24 --loss distill --loss mse", 10, 0.01, 0.0, "None", False),
        ("--batch 24 --method sparse", 96, 0.01, 1.0, "flip=0.5,shift=0.1", False),
        ("--batch 24 --data train.npz", 10, 0.01, 0.0, "None", False),
    ],
)
def test_without_labels_there_are_more_steps_and_other_pictures(
    words: str,
    epochs: int,
    lr: float,
    mixup: float,
    augment: str,
    inner: bool,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Classes of images are learnt from an original alone in 1,920 steps at least: with 24 in a batch 10 a pass."""
    seen = []

    def train(graph: object, setting: TrainingOptions, method: str) -> None:
        seen.append((setting.recipe, setting.augment, getattr(setting.loss, "inner", ())))
        raise DataError("seen")

    monkeypatch.setattr("prunegraph.training.train", train)
    pg.save(fold(pg.load("net.onnx")), "folded.onnx")
    given = ["--data", "unlabelled.npz", "--original", "net.onnx", *words.split()]
    for model in ("net.onnx", "folded.onnx"):
        done = cli("train", model, "-o", "trained.onnx", *given)
        assert done.exit_code == 2 and done.stderr.endswith("error: seen\n")
    found, folded = (
        (recipe.epochs, recipe.lr, recipe.mixup, str(moves), bool(matched))
        for recipe, moves, matched in seen
    )
    assert found == (epochs, lr, mixup, augment, inner)
    # Without BatchNormalization the usual rate is not that high.
    assert folded == (epochs, 0.01 if lr == 0.02 else lr, mixup, augment, inner)
