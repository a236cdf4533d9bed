"""Losses by name against numpy, and inner values that are learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import prunegraph as pg
from prunegraph.cli import main
from prunegraph.errors import (
    DataError,
    OptionError,
    PluginError,
    PrunegraphError,
    UnknownNameError,
)
from prunegraph.training import Batches, GraphModule, TrainingConfig, fit
from prunegraph.training.losses import cross_entropy, distillation, outputs_with
from prunegraph.training.matching import stage_ends
from prunegraph.training.tasks import LOSSES, LossContext, loss_of
from tests.builders import Builder, residual_net
from tests.training.test_fit import accuracy, task

Array = np.ndarray
T = torch.from_numpy
RNG = np.random.default_rng(0)


def value(name: str, output: Array, labels: Array, **context: object) -> float:
    known = LossContext(residual_net(), **context)  # type: ignore[arg-type]
    batch = {"x": torch.zeros(len(output), 1), "labels": T(labels)}
    return float(loss_of([name], known)([T(output)], batch))


def test_regression_losses_are_means() -> None:
    y, labels = RNG.standard_normal((2, 6, 3)).astype(np.float32)
    assert value("mse", y, labels) == pytest.approx(((y - labels) ** 2).mean(), rel=1e-5)
    assert value("l1", y, labels) == pytest.approx(abs(y - labels).mean(), rel=1e-5)
    # One number a sample, whether it has an axis of its own or not.
    assert value("l1", y[:, :1], labels[:, 0]) == pytest.approx(
        abs(y[:, 0] - labels[:, 0]).mean(), rel=1e-5
    )


def test_binary_cross_entropy_of_logits_and_of_probabilities() -> None:
    y = RNG.standard_normal((7, 4)).astype(np.float32)
    labels = (RNG.random((7, 4)) < 0.5).astype(np.int64)
    p = 1 / (1 + np.exp(-y.astype(np.float64)))
    wanted = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
    assert value("bce", y, labels) == pytest.approx(wanted, rel=1e-5)
    assert value("bce", p.astype(np.float32), labels, probabilities=True) == pytest.approx(
        wanted, rel=1e-5
    )


def test_dice_is_the_overlap_of_regions() -> None:
    y = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
    labels = RNG.integers(0, 3, (2, 4, 5))
    labels[0, 0, 0] = -100
    p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
    counted = labels != -100
    parts = []
    for c in range(3):
        mine, theirs = p[:, c][counted], (labels == c)[counted]
        parts.append(1 - (2 * (mine * theirs).sum() + 1) / (mine.sum() + theirs.sum() + 1))
    assert value("dice", y, labels) == pytest.approx(np.mean(parts), rel=1e-5)
    perfect = np.where(labels[:, None] == np.arange(3)[None, :, None, None], 50.0, -50.0)
    assert value("dice", perfect.astype(np.float32), labels) == pytest.approx(0, abs=1e-6)
    # One map of logits against a mask.
    mask = (labels == 1).astype(np.float32)[:, None]
    assert value("dice", (100 * mask - 50), mask) == pytest.approx(0, abs=1e-6)


def test_losses_are_added_with_their_weights() -> None:
    y, labels = RNG.standard_normal((6, 5)).astype(np.float32), RNG.integers(0, 5, 6)
    batch = {"x": torch.zeros(6, 1), "labels": T(labels)}
    known = LossContext(residual_net())
    both = loss_of(["cross_entropy", "0.25*cross_entropy:smoothing=0.1"], known)
    wanted = cross_entropy()([T(y)], batch) + 0.25 * cross_entropy(smoothing=0.1)(
        [T(y)], batch
    )
    assert float(both([T(y)], batch)) == pytest.approx(float(wanted), rel=1e-6)


def two_heads() -> pg.Graph:
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 6))
    return b.graph(b.conv(x, 6, 4, 1), b.conv(x, 6, 2, 3))


def test_outputs_may_count_by_their_size() -> None:
    teacher, student = (GraphModule(two_heads()) for _ in range(2))
    with torch.no_grad():
        for weight in student.parameters():
            weight.mul_(0.9)
    x = T(task(4)["x"])
    created = [y.detach() for y in student(x)]
    kinds = dict.fromkeys(teacher.graph.outputs, "values")
    every = [
        float(
            distillation(
                teacher,
                kinds={**kinds, teacher.graph.outputs[1 - i]: "left out"},  # type: ignore[dict-item]
            )(created, {"x": x})
        )
        for i in range(2)
    ]
    sizes = [y[0].numel() for y in created]
    by_size = distillation(teacher, kinds=kinds, by_size=True)(created, {"x": x})  # type: ignore[arg-type]
    assert float(by_size) == pytest.approx(np.average(every, weights=sizes), rel=1e-5)
    alike = distillation(teacher, kinds=kinds)(created, {"x": x})  # type: ignore[arg-type]
    assert float(alike) == pytest.approx(np.mean(every), rel=1e-5)


def test_inner_values_are_those_of_the_run() -> None:
    module = GraphModule(residual_net())
    x = T(task(4)["x"])
    (name,) = stage_ends(module.graph, module.graph)[-1:]
    module.eval()
    *outputs, inner = outputs_with(module, {"x": x}, [name])
    assert torch.equal(inner, module.values([name], {"x": x})[name])  # type: ignore[arg-type]
    assert torch.equal(outputs[0], module(x)[0]) and not module.observed


def test_features_are_learnt_where_channels_are_gone() -> None:
    """Maps of the pruned network come nearer to the original's; without an inner value this loss knows nothing."""
    original = residual_net(width=16)
    module = GraphModule(original)
    fit(module, Batches(task(), 24), TrainingConfig(epochs=6, lr=0.1))
    original = module.write_back()
    pruned = pg.prune(original, budget=pg.Budget(macs=0.4), round_to=1).model
    teacher, student = GraphModule(original), GraphModule(pruned)
    loss = loss_of(["features"], LossContext(pruned, teacher))
    assert len(loss.inner) >= 1 and loss.notes  # type: ignore[attr-defined]
    images = Batches({"x": task()["x"]}, 24)
    run = fit(student, images, TrainingConfig(epochs=5, lr=0.05), loss=loss)
    losses = [record["loss"] for record in run.history]
    assert losses[-1] < 0.5 * losses[0]
    both = loss_of(["distill", "features"], LossContext(pruned, teacher))
    fit(student, images, TrainingConfig(epochs=5, lr=0.05), loss=both)
    assert accuracy(student.eval()) > 0.9


def test_what_is_wrong_is_one_line() -> None:
    graph = residual_net()
    teacher = GraphModule(graph)
    for names, context, error, text in (
        (["magic"], {}, UnknownNameError, "magic"),
        (["bce:sharp=1"], {}, UnknownNameError, "sharp"),
        (["mse:output=nowhere"], {}, UnknownNameError, "nowhere"),
        (["0*mse"], {}, OptionError, "above 0"),
        (["much*mse"], {}, OptionError, "above 0"),
        (["distill"], {}, DataError, "--original"),
        (["features"], {}, DataError, "--original"),
        (["distill:temperature=0"], {"original": teacher}, OptionError, "temperature"),
        (["features"], {"original": teacher, "match": ["no"]}, UnknownNameError, "no"),
        (["nothing.py:loss"], {}, PluginError, "nothing.py"),
    ):
        with pytest.raises(error, match=text):
            loss_of(names, LossContext(graph, **context))  # type: ignore[arg-type]
    y = torch.zeros(2, 5)
    for name in ("bce", "mse", "l1", "dice"):
        for labels in ({}, {"labels": torch.zeros(2, 4)}):
            with pytest.raises(DataError, match=f"{name}.*|labels.*"):
                loss_of([name], LossContext(graph))([y], {"x": y, **labels})
    with pytest.raises(DataError, match="from 0 to 1"):
        loss_of(["bce"], LossContext(graph))([y], {"labels": y + 2})
    assert set(LOSSES) >= {
        "cross_entropy",
        "bce",
        "mse",
        "l1",
        "dice",
        "distill",
        "features",
    }


OWN = """
def pull(outputs, batch):
    return (outputs[0] - 1).square().mean()

def broken(outputs, batch):
    return outputs[7]

def vector(outputs, batch):
    return outputs[0].mean(1)
"""


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pg.save(residual_net(), tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", x=task(48)["x"])
    Path("own.py").write_text(OWN)
    words = ["train", "net.onnx", "-o", "out.onnx", "--data", "x.npz", "--epochs", "3"]
    words += ["--batch", "24"]
    done = CliRunner().invoke(main, [*words, "--loss", "own.py:pull", "--lr", "0.05"])
    assert done.exit_code == 0, done.output
    x = T(task(48)["x"])
    means = [
        float((GraphModule(pg.load(name)).eval()(x)[0].detach() - 1).square().mean())
        for name in ("net.onnx", "out.onnx")
    ]
    assert means[1] < 0.7 * means[0]
    for more, text in (
        (["--loss", "own.py:broken"], "loss own.py:broken"),
        (["--loss", "own.py:vector"], "has to give one number"),
        (["--loss", "own.py:none"], "none"),
        ([], "--loss of your own"),
        (["--loss", "mse"], "needs `labels`"),
        (["--match", "y", "--loss", "mse"], "--loss features"),
    ):
        done = CliRunner().invoke(main, [*words, *more])
        assert done.exit_code and text in done.output and "Traceback" not in done.output
        assert issubclass(type(done.exception), (SystemExit, PrunegraphError))
