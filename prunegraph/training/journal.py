"""Records of epochs as they end: for a terminal, a CSV file, TensorBoard, MLflow or Weights & Biases."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from prunegraph.errors import MissingExtraError, OptionError, TrainingError
from prunegraph.training.run import Callback, Run

#: Is told every epoch's record: `stage`, `epoch`, `loss`, `metric` if measured, `lr` and `seconds`.
Journal = Callable[[Mapping[str, object]], None]

#: Columns of a CSV file.
COLUMNS = ("stage", "epoch", "loss", "metric", "lr", "seconds")


class EpochRecords(Callback):
    """Tells a journal of every epoch of one stage. What it tells has no part in what is learnt."""

    def __init__(self, stage: str, journal: Journal):
        self.stage, self.journal, self.since = stage, journal, time.monotonic()

    def on_epoch(self, run: Run) -> None:
        now = time.monotonic()
        record = {
            "stage": self.stage,
            **run.history[-1],
            "lr": max(group["lr"] for group in run.optimizer.param_groups),
            "seconds": round(now - self.since, 3),
        }
        self.since = now
        self.journal(record)


def together(*journals: Journal | None) -> Journal | None:
    """One journal that tells all of them; None of none."""
    every = [journal for journal in journals if journal is not None]
    if not every:
        return None

    def tell(record: Mapping[str, object]) -> None:
        for journal in every:
            journal(record)

    return tell


def journal_of(where: str) -> Journal:
    """A journal that is spelt `FILE.csv`, `tensorboard:FOLDER`, `mlflow:EXPERIMENT` or `wandb:PROJECT`.

    Raises:
        OptionError: it is none of these.
        MissingExtraError: the package for it is not installed.
        TrainingError: the file cannot be written.
    """
    kind, _, place = where.partition(":")
    if where.endswith(".csv"):
        return _csv(Path(where))
    if kind == "tensorboard" and place:
        return _tensorboard(place)
    if kind == "mlflow" and place:
        return _mlflow(place)
    if kind == "wandb" and place:
        return _wandb(place)
    raise OptionError(
        f"a log is FILE.csv, tensorboard:FOLDER, mlflow:EXPERIMENT or wandb:PROJECT, not {where!r}"
    )


def _csv(path: Path) -> Journal:
    """A file with a row for each epoch, written anew; whole after every row."""

    def write(rows: list[Mapping[str, object]]) -> None:
        try:
            with path.open("w", newline="") as file:
                table = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
                table.writeheader()
                table.writerows(rows)
        except OSError as error:
            raise TrainingError(f"{path}: {error.strerror or error}") from error

    rows: list[Mapping[str, object]] = []
    write(rows)

    def tell(record: Mapping[str, object]) -> None:
        rows.append(record)
        write(rows)

    return tell


def _numbers(record: Mapping[str, object]) -> dict[str, float]:
    """Numbers of a record by `stage/name`."""
    return {
        f"{record['stage']}/{name}": float(value)
        for name, value in record.items()
        if name not in ("stage", "epoch") and isinstance(value, (int, float))
    }


def _tensorboard(folder: str) -> Journal:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            "--log tensorboard", "tensorboard", "tensorboard"
        ) from error
    writer = SummaryWriter(folder)

    def tell(record: Mapping[str, object]) -> None:
        for name, value in _numbers(record).items():
            writer.add_scalar(name, value, record["epoch"])
        writer.flush()

    return tell


def _mlflow(experiment: str) -> Journal:
    try:
        import mlflow
    except ImportError as error:
        raise MissingExtraError("--log mlflow", "mlflow", "mlflow") from error
    mlflow.set_experiment(experiment)
    run = mlflow.start_run()
    client = mlflow.MlflowClient()

    def tell(record: Mapping[str, object]) -> None:
        for name, value in _numbers(record).items():
            client.log_metric(run.info.run_id, name, value, step=int(str(record["epoch"])))

    return tell


def _wandb(project: str) -> Journal:
    """A run of a project. Its steps are the records; charts of a stage are drawn over that stage's epochs."""
    try:
        import wandb
    except ImportError as error:
        raise MissingExtraError("--log wandb", "wandb", "wandb") from error
    run = wandb.init(project=project)
    stages: set[object] = set()

    def tell(record: Mapping[str, object]) -> None:
        stage = record["stage"]
        if stage not in stages:
            stages.add(stage)
            run.define_metric(f"{stage}/*", step_metric=f"{stage}/epoch")
        run.log({**_numbers(record), f"{stage}/epoch": record["epoch"]})

    return tell
