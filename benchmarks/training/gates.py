"""Do gates rank channels better? Source 001 beside its parts: 20 epochs, then half of the MACs goes, nothing is tuned.

    python -m benchmarks.training gates [--epochs 20] [--images 2000] [--closing 1] [SEED ...]

For each seed 2,000 labelled training images are drawn. The network is trained towards labels and its own outputs: with
the relative penalty on scales alone (`sparse`), and with gates beside it that start neutral and are penalised, every
layer's mean alike (`gfr`). What is left at half of the MACs is refitted by least squares on 1,024 of the images, as are
the cuts of the network as it is, ranked by `bn_scale` and by `obs`. Top-1 of the 10,000 test images. One thread.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np
import torch

import prunegraph as pg
from benchmarks.scenes import table, told_epoch
from benchmarks.tasks import ROOT, fashion, fashion_accuracy
from prunegraph.graph.model import Graph
from prunegraph.ops.cost import cost
from prunegraph.runtime.data import Data
from prunegraph.selection.criteria.factors import read_factors
from prunegraph.training import GraphModule, TrainingConfig, TrainingOptions, train
from prunegraph.training.gfr import calibration
from prunegraph.training.tasks import LossContext, loss_of

SEEDS = (0, 1, 2)

BATCH, LR = 64, 0.01

MACS = 0.5

COLUMNS = ("seed", "trained", "ranked by", "factors", "uncut, %", "cut, %", "MACs left")


def drawn(count: int, seed: int) -> Data:
    """Training images with labels."""
    images, labels = fashion("train")
    chosen = np.random.default_rng(100 + seed).permutation(len(images))[:count]
    return Data.of({"image": images[chosen], "labels": labels[chosen].astype(np.int64)})


def trained(graph: Graph, method: str, data: Data, epochs: int, seed: int) -> Graph:
    losses = ["0.5*distill", "0.5*cross_entropy"]
    setting = TrainingOptions(
        data,
        BATCH,
        loss_of(losses, LossContext(graph, GraphModule(graph))),
        TrainingConfig(epochs=epochs, lr=LR, seed=seed),
        journal=told_epoch,
    )
    return train(graph, setting, method).model


def spread(graph: Graph) -> str:
    """Smallest and largest factor of a gate."""
    result = read_factors(graph)
    if result is None:
        return ""
    factors = np.concatenate(list(result.by_value.values()))
    return f"{factors.min():.3f} to {factors.max():.3f}"


def rows(given: argparse.Namespace, seed: int) -> Iterator[list[str]]:
    """Rows of the table for a seed."""
    graph = pg.load(ROOT / "fixtures" / "fashion_resnet.onnx")
    data = drawn(given.images, seed)
    gated = f"gfr:neutral=true,closing={given.closing}"
    sparse, gates = (
        trained(graph, method, data, given.epochs, seed) for method in ("sparse", gated)
    )
    seen = calibration(data, seed)
    for what, model, algorithm, allocation in (
        ("nothing", graph, "bn_scale", "global:mean"),
        ("nothing", graph, "obs", "auto"),
        ("scales", sparse, "bn_scale", "global:mean"),
        ("scales", sparse, "obs", "auto"),
        ("scales and gates", gates, "gfr", "global:mean"),
        ("scales and gates", gates, "gfr:p=0", "global:mean"),
        ("scales and gates", gates, "obs", "auto"),
    ):
        how = {} if allocation == "auto" else {"allocation": allocation}
        small = pg.prune(
            model,
            data=seen,
            algorithm=algorithm,
            repair="least-squares",
            budget=pg.Budget(macs=MACS),
            round_to=1,
            seed=seed,
            **how,
        ).model
        yield [
            *(str(seed), what, f"`{algorithm}`", spread(model)),
            *(f"{100 * fashion_accuracy(each):.2f}" for each in (model, small)),
            f"{cost(small).macs / cost(graph).macs:.1%}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", nargs="?", help="gates, where chosen by its name")
    parser.add_argument("seeds", nargs="*", type=int, default=SEEDS, help="of the images")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=2000, help="to train on")
    parser.add_argument("--closing", type=float, default=1.0, help="strength on the gates")
    given = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    lines = []
    for seed in given.seeds:
        for line in rows(given, seed):
            print(*line, sep=" | ", file=sys.stderr, flush=True)
            lines.append(line)
    table(COLUMNS, lines)


if __name__ == "__main__":
    main()
