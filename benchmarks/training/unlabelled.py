"""Tuned without labels: Fashion-MNIST's network at 30 % of its MACs, from 256 images and the network's own outputs.

    python -m benchmarks.training unlabelled [SEED ...] [compared] [lenet5]

For each seed 256 training images are drawn; with them the network is pruned and repaired (`prune --data`), then trained
towards the outputs of the whole network (`train --original`). How that is done is chosen by what can be known without
labels: the divergence from those outputs on 5,000 other training images. Top-1 is of the 10,000 test images. Each seed
takes 12 to 14 minutes of a core (AMD EPYC without AVX-512); with `compared` other settings are shown, too.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from click.testing import CliRunner

import prunegraph as pg
from benchmarks.scenes import table
from benchmarks.tasks import ROOT, fashion, fashion_accuracy, outputs
from prunegraph.cli import main as prunegraph
from prunegraph.graph.model import Graph

#: Networks, of which the first is taken where none is named.
NETWORKS = ("fashion_resnet", "lenet5")

SEEDS = (0, 1, 2)

COUNT, HELD_OUT = 256, 5000

#: What all settings but the defaults have, and options of `train`, one row each.
PLAIN = "--lr 0.01 --loss distill"
SETTINGS = (
    "--epochs 60 --augment none --mixup 0",
    "--epochs 60 --augment flip,shift",
    "--epochs 240 --augment flip,shift",
    "",
)


COLUMNS = ("seed", "tuned", "divergence", "classes as before", "top-1", "gain")


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images to work with, and others to choose by; none has a label."""
    images = fashion("train")[0]
    order = np.random.default_rng(1000 + seed).permutation(len(images))
    return images[order[:COUNT]], images[order[COUNT : COUNT + HELD_OUT]]


def shares(graph: Graph, images: np.ndarray) -> np.ndarray:
    """Probabilities of the classes [n, classes]."""
    logits = outputs(graph, images, 500)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def divergence(whole: Graph, graph: Graph, images: np.ndarray) -> tuple[float, float]:
    """Kullback-Leibler divergence from the whole network's outputs, and percent of the classes that are the same."""
    wanted, given = (shares(each, images) for each in (whole, graph))
    apart = (wanted * np.log((wanted + 1e-12) / (given + 1e-12))).sum(1).mean()
    return float(apart), 100 * float((wanted.argmax(1) == given.argmax(1)).mean())


def command(line: str) -> None:
    """Run a command line in this process."""
    done = CliRunner().invoke(prunegraph, line.split())
    if done.exit_code:
        raise SystemExit(f"{line}\n{done.output}")


def main() -> None:
    words = sys.argv[2:]
    chosen = next((word for word in words if word in NETWORKS), NETWORKS[0])
    model = ROOT / "fixtures" / f"{chosen}.onnx"
    whole = pg.load(model)
    print(f"{chosen}, top-1 {100 * fashion_accuracy(whole):.2f} %", file=sys.stderr)
    lines: list[list[str]] = []
    seeds = [int(word) for word in words if word.isdecimal()] or SEEDS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in seeds:
            images, others = drawn(seed)
            np.savez(folder / "images.npz", **{whole.inputs[0]: images})
            command(
                f"prune {model} -o {folder}/small.onnx --macs 0.3 --data {folder}/images.npz"
            )
            start = 100 * fashion_accuracy(pg.load(folder / "small.onnx"))
            rows = [("repaired only", "small")]
            settings = SETTINGS if "compared" in words else ("",)
            for number, options in enumerate(settings):
                more = f"{options} {PLAIN}" if options else ""
                command(
                    f"train {folder}/small.onnx -o {folder}/tuned{number}.onnx --data {folder}/images.npz "
                    f"--original {model} --seed {seed} --force {more}"
                )
                rows.append((options or "defaults", f"tuned{number}"))
            for what, file in rows:
                graph = pg.load(folder / f"{file}.onnx")
                apart, same = divergence(whole, graph, others)
                top1 = 100 * fashion_accuracy(graph)
                what = f"`{what}`" if what.startswith("-") else what
                row = [str(seed), what, f"{apart:.4f}", f"{same:.2f}%", f"{top1:.2f}"]
                row.append(f"{top1 - start:+.2f}")
                print(*row, sep=" | ", file=sys.stderr, flush=True)
                lines.append(row)
    table(COLUMNS, lines)
