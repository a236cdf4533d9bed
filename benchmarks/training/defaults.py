"""Every method with its defaults on Fashion-MNIST's network: where it ends, beside where it starts.

    python -m benchmarks.training defaults [SEED ...] [METHOD ...]

`train` from the command line with 2,000 labelled training images and `--original`, the network itself; nothing else is
said but a budget of half of the MACs for methods that prune. Those are compared with what they have behind the cut, and
sparse training with what it has when a third of the scales is gone; the others with the network. Top-1 of the first
2,000 test images, by which epochs are measured (`--eval`), and of the others.
"""

from __future__ import annotations

import json
import sys
import tempfile
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


COLUMNS = (
    *("seed", "method", "start", "behind the cut", "end", "end, 8,000 others"),
    "scales below a hundredth of the largest",
)


def accuracy(graph: Graph) -> float:
    """Top-1 in percent of the test images by which no epoch was measured."""
    images, labels = (part[JUDGED:] for part in fashion("t10k"))
    return 100 * float((outputs(graph, images, 500).argmax(1) == labels).mean())


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
                    f"--eval {folder}/e.npz --method {method} --json {folder}/run.json --force {METHODS[method]} "
                    f"--checkpoint {folder}/{seed}.pt"
                )
                for old in folder.glob("*.pt*"):
                    old.unlink()
                done = CliRunner().invoke(prunegraph, line.split())
                if done.exit_code:
                    raise SystemExit(f"{line}\n{done.output}")
                run = json.loads((folder / "run.json").read_text())
                cuts = [
                    f"{record['metric']:.2f}"
                    for record in run["history"]
                    if record["stage"].startswith("prune") or "faded" in record
                ]
                graph = pg.load(folder / "out.onnx")
                row = [
                    str(seed),
                    f"`{method}`",
                    f"{accuracy(start):.2f}",
                    cuts[-1] if cuts else "",
                ]
                row += [
                    f"{run['outcome']['after']:.2f}",
                    f"{accuracy(graph):.2f}",
                    small_scales(graph, folder / f"{seed}.pt.sparse"),
                ]
                print(*row, sep=" | ", file=sys.stderr, flush=True)
                lines.append(row)
    table(COLUMNS, lines)
