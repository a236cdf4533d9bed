"""Every method with its defaults on Fashion-MNIST's network: where it ends, beside where it starts.

    python -m benchmarks.training defaults [SEED ...] [METHOD ...]

`train` from the command line with 2,000 labelled training images and `--original`, the network itself; nothing else is
said but a budget of half of the MACs for methods that prune. They start from the network, and are compared as well with
what one has without any training: the network cut by the same rule to the same size and repaired with the same images
(sparse training, which cuts nothing, with a third of all channels gone). Top-1 of the 8,000 test images by which no
epoch was measured (`--eval` has the others).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner

import prunegraph as pg
from benchmarks.scenes import table
from benchmarks.tasks import ROOT, fashion, outputs
from prunegraph.cli import main as prunegraph
from prunegraph.graph.model import Graph
from prunegraph.operators import is_batch_normalization
from prunegraph.ops.cost import cost
from prunegraph.runtime.data import Data
from prunegraph.training.prune_stage import Pruning

MODEL = ROOT / "fixtures" / "fashion_resnet.onnx"

SEEDS = (0, 1, 2)

COUNT, JUDGED = 2000, 2000

#: Methods, and what each is told beside the defaults.
METHODS = {
    "plain": "",
    "sparse": "",
    "gfr": "--macs 0.5",
    "gfr:light=true": "--macs 0.5",
    "cycles": "--macs 0.5",
    "joint": "--macs 0.5",
}


#: How the network is cut by the same rule, to what the method left; None where nothing goes.
CUTS = {
    "plain": None,
    "sparse": Pruning("bn_scale", "uniform", round_to=1),
    "gfr": Pruning("bn_scale", "global:mean"),
    "gfr:light=true": Pruning("bn_scale", "global:mean"),
    "cycles": Pruning("l2"),
    "joint": Pruning("bn_scale", "global", min_channels=8),
}

COLUMNS = (
    *("seed", "method", "whole network", "cut and repaired, untrained", "end"),
    *("MACs left", "scales below a hundredth of the largest", "minutes of one core"),
)


def accuracy(graph: Graph) -> float:
    """Top-1 in percent of the test images by which no epoch was measured."""
    images, labels = (part[JUDGED:] for part in fashion("t10k"))
    return 100 * float((outputs(graph, images, 500).argmax(1) == labels).mean())


def command(line: str) -> None:
    """Run a command line in this process."""
    done = CliRunner().invoke(prunegraph, line.split())
    if done.exit_code:
        raise SystemExit(f"{line}\n{done.output}")


def untrained(folder: Path, method: str, left: float) -> str:
    """Top-1 of the network cut by a method's rule to a share of its MACs and repaired; "" where nothing goes."""
    how = CUTS[method]
    if how is None:
        return ""
    # The bound leaves room for the rounding of a quotient.
    bound = pg.Budget(ratio=1 / 3) if method == "sparse" else pg.Budget(macs=left + 1e-9)
    data = Data.of(dict(np.load(folder / "d.npz"))).without_labels()
    model = how(pg.load(MODEL), bound, data, None, 0).model
    return f"{accuracy(model):.2f}"


def small_scales(graph: Graph, trained: Path) -> str:
    """Share of all scales of BatchNormalization below a hundredth of the largest, of a sparse stage if there is one.

    Args:
        graph: the result, which has no BatchNormalization where a method folds it.
        trained: the checkpoint of a sparse stage before the cut, of the network's own scales.
    """
    if trained.exists():
        weights = torch.load(trained, weights_only=True)["module"]
        scales = [weights[name].numpy() for name in scale_names(pg.load(MODEL))]
    else:
        scales = [graph.weights[name].read() for name in scale_names(graph)]
    if not scales:
        return ""
    sizes = abs(np.concatenate(scales))
    return f"{(sizes < sizes.max() / 100).mean():.1%}"


def scale_names(graph: Graph) -> list[str]:
    return [node.inputs[1] for node in graph.nodes if is_batch_normalization(node)]


def main() -> None:
    images, labels = fashion("train")
    tests, answers = (part[:JUDGED] for part in fashion("t10k"))
    lines: list[list[str]] = []
    start = pg.load(MODEL)
    seeds = [int(word) for word in sys.argv[2:] if word.isdecimal()] or SEEDS
    wanted = [word for word in sys.argv[2:] if word in METHODS] or list(METHODS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "e.npz", image=tests, labels=answers.astype(np.int64))
        for seed in seeds:
            chosen = np.random.default_rng(100 + seed).permutation(len(images))[:COUNT]
            np.savez(
                folder / "d.npz",
                image=images[chosen],
                labels=labels[chosen].astype(np.int64),
            )
            for method in wanted:
                line = (
                    f"train {MODEL} -o {folder}/out.onnx --data {folder}/d.npz --original {MODEL} --seed {seed} "
                    f"--eval {folder}/e.npz --method {method} --force {METHODS[method]} "
                    f"--checkpoint {folder}/{seed}.pt"
                )
                for old in folder.glob("*.pt*"):
                    old.unlink()
                began = time.process_time()
                command(line)
                minutes = (time.process_time() - began) / 60
                graph = pg.load(folder / "out.onnx")
                left = cost(graph).macs / cost(start).macs
                row = [
                    *(str(seed), f"`{method}`", f"{accuracy(start):.2f}"),
                    *(untrained(folder, method, left), f"{accuracy(graph):.2f}"),
                    f"{left:.1%}",
                    *(small_scales(graph, folder / f"{seed}.pt.sparse"), f"{minutes:.0f}"),
                ]
                print(*row, sep=" | ", file=sys.stderr, flush=True)
                lines.append(row)
    table(COLUMNS, lines)
