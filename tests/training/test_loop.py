"""The loop's options: optimizers by name, averages of weights, gradients that are added up, what is kept of epochs."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import prunegraph as pg
from prunegraph.cli import main
from prunegraph.errors import (
    MissingExtraError,
    OptionError,
    TrainingError,
    UnknownNameError,
)
from prunegraph.training.batches import Batches
from prunegraph.training.fit import Callback, Run, TrainingConfig, fit
from prunegraph.training.journal import EpochRecords, journal_of, together
from prunegraph.training.losses import cross_entropy
from prunegraph.training.module import GraphModule
from prunegraph.training.optimizers import OPTIMIZERS
from prunegraph.training.sparse import Sparsify
from tests.builders import Builder, residual_net
from tests.training.test_fit import accuracy, task, weights


def plain(seed: int = 0) -> GraphModule:
    """No BatchNormalization: a batch gives what its halves give."""
    b = Builder(seed)
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8))
    return GraphModule(b.graph(b.head(x, 8)))


@pytest.mark.parametrize(("name", "lr"), [("sgd", 0.1), ("adamw", 0.01)])
def test_optimizers_learn(name: str, lr: float) -> None:
    module = GraphModule(residual_net())
    recipe = TrainingConfig(epochs=6, lr=lr, optimizer=name)
    fit(module, Batches(task(), 24), recipe)
    assert accuracy(module.eval()) > 0.9
    assert name in OPTIMIZERS


def test_a_step_of_adamw_is_pytorch_s() -> None:
    """With its own update written out: one step from zero moments is lr * sign, and decay of matrices alone."""
    module = plain()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    batch = {n: torch.from_numpy(a[:24]) for n, a in task().items()}
    cross_entropy()(module({"x": batch["x"]}), batch).backward()
    slopes = {
        name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None
    }
    fit(
        module,
        [batch],
        TrainingConfig(epochs=1, lr=0.01, optimizer="adamw", weight_decay=0.5),
    )
    for name, p in module.named_parameters():
        kept = 1 - 0.01 * 0.5 if p.dim() > 1 else 1.0
        slope = slopes[name]
        wanted = before[name] * kept - 0.01 * slope / (slope.abs() + 1e-8)
        torch.testing.assert_close(p.detach(), wanted, rtol=1e-4, atol=1e-6)


def test_gradients_of_halves_are_that_of_the_whole() -> None:
    """Four batches of 12 in twos are two of 24."""
    data = {name: array[:48] for name, array in task().items()}
    wholes = list(Batches(data, 24, shuffle=False))
    halves = list(Batches(data, 12, shuffle=False))
    modules = [plain(), plain()]
    fit(modules[0], wholes, TrainingConfig(epochs=3, lr=0.1))
    run = fit(modules[1], halves, TrainingConfig(epochs=3, lr=0.1, accumulate=2))
    assert run.step == 6 and run.length == 2
    for mine, other in zip(modules[1].parameters(), modules[0].parameters(), strict=True):
        torch.testing.assert_close(mine.detach(), other.detach(), rtol=1e-4, atol=1e-6)
    # What is left over at an epoch's end is a step too.
    assert fit(plain(), halves, TrainingConfig(epochs=1, accumulate=3)).step == 2


class Kept(Callback):
    """All weights of a run, step by step."""

    def __init__(self) -> None:
        self.every: list[dict[str, torch.Tensor]] = []

    def after_step(self, run: Run) -> None:
        self.every.append({n: p.detach().clone() for n, p in run.module.named_parameters()})


def test_the_average_of_the_weights_is_what_is_measured_and_kept() -> None:
    module, kept = plain(), Kept()
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    measured = []

    def evaluate(module: torch.nn.Module) -> float:
        measured.append({name: p.detach().clone() for name, p in module.named_parameters()})
        return 0.0

    recipe = TrainingConfig(epochs=4, lr=0.1, ema=0.3)
    fit(module, Batches(task(96), 24), recipe, evaluate=evaluate, callbacks=[kept])
    average = start
    for step, last in enumerate(kept.every, 1):
        share = min(0.3, (1 + step) / (10 + step))
        average = {n: share * average[n] + (1 - share) * w for n, w in last.items()}
        if step % 4 == 0:
            for name, value in measured[step // 4 - 1].items():
                torch.testing.assert_close(value, average[name], rtol=1e-4, atol=1e-6)
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.detach(), average[name], rtol=1e-4, atol=1e-6)


def test_scales_that_are_gone_are_gone_in_the_average() -> None:
    module = GraphModule(residual_net(width=16))
    sparsify = Sparsify(module)
    fit(
        module,
        Batches(task(), 24),
        TrainingConfig(epochs=6, lr=0.1, ema=0.9),
        callbacks=[sparsify],
    )
    assert sparsify.gone() >= 0.3 and accuracy(module.eval()) > 0.8


def test_a_run_with_an_average_goes_on_exactly(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = TrainingConfig(epochs=4, lr=0.05, ema=0.9, optimizer="adamw", accumulate=2)
    whole = GraphModule(residual_net())
    fit(whole, Batches(task(), 24), recipe)

    class KilledError(Exception):
        pass

    def evaluate(module: torch.nn.Module) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KilledError
        return 0.0

    calls: list[int] = []
    with pytest.raises(KilledError):
        fit(
            GraphModule(residual_net()),
            Batches(task(), 24),
            recipe,
            evaluate=evaluate,
            checkpoint=tmp_path / "run.pt",
        )
    again = GraphModule(residual_net())
    told: list[object] = []
    fit(
        again,
        Batches(task(), 24),
        recipe,
        evaluate=evaluate,
        checkpoint=tmp_path / "run.pt",
        watchers=[EpochRecords("plain", told.append)],
    )
    assert weights(again) == weights(whole) and len(told) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0.0),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("warmup", 1.0),
        ("clip", 0.0),
        ("mixup", -0.1),
        ("ema", 1.0),
        ("accumulate", 0),
    ],
)
def test_numbers_out_of_range(name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"{name} must be"):
        TrainingConfig(**{"epochs": 1, name: value})  # type: ignore[arg-type]


def test_an_optimizer_that_is_not_there() -> None:
    with pytest.raises(UnknownNameError, match="adamv"):
        fit(plain(), Batches(task(), 24), TrainingConfig(epochs=1, optimizer="adamv"))


def test_what_is_kept_of_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pg.save(residual_net(), "net.onnx")
    np.savez("train.npz", **task(72))
    words = ["train", "net.onnx", "-o", "out.onnx", "--data", "train.npz", "--epochs", "3"]
    words += ["--batch", "24", "--optimizer", "adamw", "--lr", "0.003", "--ema", "0.5"]
    words += ["--accumulate", "2", "--warmup", "0.1", "--clip", "5", "--momentum", "0.8"]
    done = CliRunner().invoke(
        main,
        [
            *words,
            "--weight-decay",
            "0.01",
            "--eval",
            "train.npz",
            "--log",
            "log.csv",
            "--force",
        ],
    )
    assert done.exit_code == 0, done.output
    lines = [line for line in done.output.splitlines() if line.startswith("plain: epoch")]
    with Path("log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(lines) == len(rows) == 3
    for line, row in zip(lines, rows, strict=True):
        assert f"{float(row['loss']):.4g}" in line and f"{float(row['metric']):.4g}" in line
        assert (
            row["stage"] == "plain" and float(row["seconds"]) > 0 and float(row["lr"]) > 0
        )
    for more, text in (
        (["--log", "log.txt"], "FILE.csv"),
        (["--log", "no/such/log.csv"], "log.csv"),
        (["--optimizer", "magic"], "magic"),
        (["--ema", "2"], "ema must be"),
    ):
        done = CliRunner().invoke(main, [*words, *more])
        assert done.exit_code and text in done.output and "Traceback" not in done.output


def test_journals_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert together(None, None) is None
    for name in ("mlflow", "torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    for spelling in ("mlflow:mine", f"tensorboard:{tmp_path}", "wandb:mine"):
        with pytest.raises(MissingExtraError, match="pip install"):
            journal_of(spelling)
    with pytest.raises(TrainingError):
        journal_of(str(tmp_path / "none" / "log.csv"))


def test_tensorboard_is_given_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package, which is an extra: what is written, under which name."""
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str):
            self.folder = folder

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None:
            written.append(("flush", 0, 0))

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    journal_of("tensorboard:runs")(
        {"stage": "tune", "epoch": 2, "loss": 0.5, "metric": 91.0}
    )
    assert written == [("tune/loss", 0.5, 2), ("tune/metric", 91.0, 2), ("flush", 0, 0)]


RECORDS = (
    {"stage": "sparse", "epoch": 1, "loss": 0.9},
    {"stage": "tune", "epoch": 1, "loss": 0.7},
    {"stage": "tune", "epoch": 2, "loss": 0.5, "metric": 91.0},
)


def test_wandb_is_given_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package, which is an extra: epochs of a stage are its own axis."""
    written: list[object] = []

    class Run:
        def define_metric(self, name: str, step_metric: str) -> None:
            written.append((name, step_metric))

        def log(self, values: dict[str, float]) -> None:
            written.append(values)

    module = type(sys)("wandb")
    module.init = lambda project: written.append(project) or Run()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    tell = journal_of("wandb:mine")
    for record in RECORDS:
        tell(record)
    assert written == [
        "mine",
        ("sparse/*", "sparse/epoch"),
        {"sparse/loss": 0.9, "sparse/epoch": 1},
        ("tune/*", "tune/epoch"),
        {"tune/loss": 0.7, "tune/epoch": 1},
        {"tune/loss": 0.5, "tune/metric": 91.0, "tune/epoch": 2},
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package itself, without a network: a run's file is written, and its summary has the last numbers."""
    wandb = pytest.importorskip("wandb", reason="the extra [wandb] is not installed")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tell = journal_of("wandb:mine")
    run = wandb.run
    try:
        for record in RECORDS:
            tell(record)
        assert run.project == "mine"
        assert run.summary["tune/loss"] == 0.5 and run.summary["sparse/epoch"] == 1
    finally:
        wandb.finish()
    [written] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert written.stat().st_size > 0
