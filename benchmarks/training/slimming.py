"""What sparse training is for: top-1 after pruning and before any fine-tuning.

    python -m benchmarks.training slimming

Network slimming (scales shrink in training, then `bn_scale` over all layers) beside `l2` of the network as it is: the
same budgets, the same repair, and the better of two allocations for `l2`. The sparse network is that of `joint`, which
is trained unless it is there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import prunegraph as pg
from benchmarks.tasks import fashion_accuracy, fashion_calibration
from benchmarks.training.joint import VGG, original, setting
from prunegraph.errors import PrunegraphError
from prunegraph.graph.model import Graph
from prunegraph.training import train

MACS = (0.7, 0.5, 0.4, 0.3)


def pruned(graph: Graph, macs: float, algorithm: str, allocation: str) -> float:
    """Top-1 of a pruned graph, in percent."""
    data = fashion_calibration(512, 0)
    try:
        small = pg.prune(graph, algorithm=algorithm, allocation=allocation, repair="bn", data=data, round_to=1,
                         min_channels=4, budget=pg.Budget(macs=macs), check=False).small  # fmt: skip
    except PrunegraphError as error:
        print(f"{algorithm}, {allocation}, {macs}: {error}", flush=True)
        return float("nan")
    return 100 * fashion_accuracy(small)


def main() -> None:
    torch.set_num_threads(1)
    graph = pg.load(original(VGG.name))
    chosen = setting(graph, VGG, 0)
    epochs = VGG.epochs[0]
    recipe = replace(chosen.recipe, epochs=epochs)
    sparse = train(graph, replace(chosen, recipe=recipe), f"sparse:strength={VGG.strength}").graph
    table = Table(title=f"top-1 before fine-tuning, after {epochs} epochs of sparse training, strength {VGG.strength}")
    for name in ("MACs left", "sparse + bn_scale", "l2, uniform", "l2, global", "difference"):
        table.add_column(name, justify="right")
    table.add_row("all", f"{100 * fashion_accuracy(sparse):.2f}", *[f"{100 * fashion_accuracy(graph):.2f}"] * 2, "")
    for macs in MACS:
        ours = pruned(sparse, macs, "bn_scale", "global")
        others = [pruned(graph, macs, "l2", allocation) for allocation in ("uniform", "global")]
        best = float(np.nanmax(others))
        table.add_row(f"{macs:.0%}", *(f"{value:.2f}" for value in (ours, *others)), f"{ours - best:+.2f}")
    Console(width=120).print(table)
