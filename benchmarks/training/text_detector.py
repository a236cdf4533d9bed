"""The PP-OCRv4 detector after 30 % of its MACs are pruned, tuned towards the unpruned one, without labels.

    python fixtures/packages.py && python -m benchmarks.training text_detector [--seed 0] [--pages 64] [--epochs 6]

Pruned by default options, then trained as `prunegraph train --original` does where data have no labels: by its distance
from the original's map. Rendered pages of 288 x 288 pixels; lines that are found on 36 other pages of 672 x 672, as in
`benchmarks.accuracy` but of another seed, and how far the map is from the original's on 12 further pages of 288 x 288:
squared error by the map's variance. One thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

import prunegraph as pg
from benchmarks.scenes import table, told, told_epoch
from benchmarks.tasks import TASKS, enlarged, lines_found, outputs, page
from prunegraph.graph.model import Graph
from prunegraph.ops.cost import cost
from prunegraph.runtime.data import Data
from prunegraph.selection.budget import Budget
from prunegraph.training import GraphModule, TrainingConfig, TrainingOptions, train
from prunegraph.training.tasks import LossContext, loss_of

#: Side of the pages that are trained on, before they are enlarged to a multiple of 32, which the detector needs.
SIDE = 192

#: Share of the MACs that is left.
MACS = 0.7

RECIPE = TrainingConfig(epochs=1, lr=1e-4, optimizer="adamw", warmup=0.05, clip=1.0)

#: Pages by which the result is judged, their seed, and pages on which maps are compared.
JUDGED, SEED, COMPARED = 36, 21, 12

COLUMNS = (
    *("seed", "lines", "found by the original", "pruned", "tuned"),
    *("distance of the map: pruned", "tuned", "MACs left", "params left", "minutes"),
)


def pages(count: int, seed: int) -> Data:
    """Pages without labels, as the detector reads them; others than those it is measured on."""
    rng = np.random.default_rng([seed, 7])
    return Data.of({"x": np.stack([enlarged(page(rng, SIDE)[0]) for _ in range(count)])})


def distances(original: Graph, graphs: Sequence[Graph], seed: int) -> list[float]:
    """Squared error of each graph's map on pages without labels, by the variance of the original's."""
    images = next(pages(COMPARED, 1000 + seed).chunks())["x"]
    wanted = outputs(original, images, 4)
    return [
        float(((outputs(each, images, 4) - wanted) ** 2).mean() / wanted.var())
        for each in graphs
    ]


def row(given: argparse.Namespace) -> list[str]:
    """The row of the table."""
    start = time.time()
    graph = next(task for task in TASKS if task.name == "detector").load()
    data = pages(given.pages, given.seed)
    pruned = pg.prune(
        graph, data=data.head(32), budget=Budget(macs=MACS), seed=given.seed
    ).model
    how = TrainingOptions(
        data=data,
        batch=4,
        loss=loss_of(["distill"], LossContext(pruned, GraphModule(graph))),
        recipe=replace(RECIPE, epochs=given.epochs, lr=given.lr, seed=given.seed),
        progress=told("text detector"),
        journal=told_epoch,
    )
    done = train(pruned, how)
    print(*done.notes, sep="\n", file=sys.stderr, flush=True)
    networks = (graph, pruned, done.model)
    found = [lines_found(each, JUDGED, SEED) for each in networks]
    apart = distances(graph, networks[1:], given.seed)
    whole, left = cost(graph), cost(done.model)
    return [
        *(str(given.seed), str(found[0][1]), *(str(lines) for lines, _ in found)),
        *(f"{each:.4f}" for each in apart),
        f"{left.macs / whole.macs:.1%}",
        f"{left.params / whole.params:.1%}",
        f"{(time.time() - start) / 60:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", nargs="?", help="text_detector, by its name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pages", type=int, default=64, help="to train on")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=RECIPE.lr, help="learning rate")
    given = parser.parse_args()
    torch.set_num_threads(1)
    table(COLUMNS, [row(given)])


if __name__ == "__main__":
    main()
