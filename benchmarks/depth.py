"""Depth and width in one budget: a residual network of 20 blocks, by width alone, by depth alone, and by both.

    python -m benchmarks.depth [--latency 0.5 | --macs 0.5] [--draws 3] [--images 256] [--model FILE]

The network (`fixtures/train_deep_fashion.py`) is trained first where FILE is missing: some ten minutes.
Nothing is trained after that. Each draw takes other unlabelled training images; top-1 is on the 10,000 test images.
Needs Debian's `dataset-fashion-mnist` (see `benchmarks.tasks`).
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

import prunegraph as pg
from benchmarks.tasks import FASHION, ROOT, fashion_accuracy, fashion_calibration
from fixtures import train_deep_fashion
from prunegraph.errors import BudgetError
from prunegraph.measuring.latency import Stopwatch

#: Where the network is kept; not in the repository.
MODEL = ROOT / "fixtures" / "packages" / "fashion_deep.onnx"

#: What `depth` is called in the table.
MODES = {"never": "width alone", "only": "depth alone", "auto": "both"}

#: Pairs of sessions for a latency.
PAIRS = 4


def row(
    graph: pg.Graph, budget: pg.Budget, mode: str, images: int, draw: int, multiple: int
) -> tuple[float, float] | None:
    """Print one result; returns its latency (share of the original's) and top-1, None where there is none."""
    start = time.perf_counter()
    try:
        result = pg.prune(
            graph,
            budget=budget,
            depth=mode,
            data=fashion_calibration(images, draw),
            round_to=multiple,
        )
    except BudgetError as error:
        print(f"{MODES[mode]:12} {draw:4}  {error}", flush=True)
        return None
    seconds = time.perf_counter() - start
    kept = Stopwatch(graph).against(result.model, PAIRS).kept
    top1 = fashion_accuracy(result.model)
    print(
        f"{MODES[mode]:12} {draw:4} {kept:8.3f} {result.after.macs / result.before.macs:6.3f} "
        f"{result.after.params / result.before.params:7.3f} {len(result.plan.branches):9} {top1:7.2%} {seconds:8.0f}",
        flush=True,
    )
    return kept, top1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bound = parser.add_mutually_exclusive_group()
    bound.add_argument("--latency", type=float, default=0.5)
    bound.add_argument("--macs", type=float)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--round-to", type=int, default=8)
    parser.add_argument("--model", type=Path, default=MODEL)
    args = parser.parse_args()
    if not args.model.exists():
        args.model.parent.mkdir(parents=True, exist_ok=True)
        train_deep_fashion.make(args.model, FASHION)
    budget = (
        pg.Budget(macs=args.macs)
        if args.macs is not None
        else pg.Budget(latency=args.latency)
    )
    graph = pg.load(args.model)
    branches = len(pg.analyze(graph).branches)
    print(
        f"{branches} of the 20 blocks may go as a whole; top-1 of the original: {fashion_accuracy(graph):.2%}"
    )
    print(
        f"bound: {budget.kind} {args.macs or args.latency:g}, widths in multiples of {args.round_to}; "
        f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    print(
        f"{'':12} {'draw':>4} {'latency':>8} {'MACs':>6} {'params':>7} {'branches':>9} {'top-1':>7} {'seconds':>8}"
    )
    figures: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    for draw in range(args.draws):
        for mode in MODES:
            result = row(graph, budget, mode, args.images, draw, args.round_to)
            if result is not None:
                figures[mode].append(result)
    for mode, results in figures.items():
        if results:
            kept, top1 = np.mean(results, axis=0)
            print(f"{MODES[mode]:12} mean {kept:8.3f} {'':24} {top1:7.2%}")


if __name__ == "__main__":
    main()
