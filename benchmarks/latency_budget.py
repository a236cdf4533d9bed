"""Latency budgets: what is measured for a bound, and what rounding widths does for latency per MAC.

    python -m benchmarks.latency_budget [--latency 0.5] [--threads 1] [--fresh] [NAME ...]

"measured" is the figure the search ended with, "again" an independent measurement of the same
model afterwards, both as shares of the original's latency, paired with it. `--fresh` does not use
the cache of layer times and widths.
"""

from __future__ import annotations

import argparse
import time

import prunegraph as pg
from benchmarks.zoo import ZOO
from fixtures.light_models import load
from prunegraph.errors import BudgetError
from prunegraph.latency.cache import Cache
from prunegraph.latency.select import select
from prunegraph.ops.cost import cost
from prunegraph.runtime.latency import Stopwatch
from prunegraph.runtime.session import CPU
from prunegraph.selection.choice import Choice

MODELS = ("torchvision__resnet50", "torchvision__mobilenet_v2")


def row(graph: pg.Graph, timer: Stopwatch, cache: Cache, latency: str, round_to: int | str) -> str:
    """One budget met and measured again."""
    found = pg.analyze(graph)
    choice = Choice(pg.Budget(latency=latency), round_to=round_to, threads=timer.threads)
    start = time.perf_counter()
    try:
        chosen = select(found, choice, timer=timer, cache=cache)
    except BudgetError as error:
        return str(error)
    spent = time.perf_counter() - start
    small = pg.apply(graph, chosen.plan)
    again = timer.against(small)
    assert chosen.latency is not None
    macs = cost(small).macs / cost(graph).macs
    line = (
        f"{chosen.latency.kept:8.3f} {again.kept:6.3f} {again.error:6.1%} {macs:6.3f} {again.kept / macs:13.2f} "
        f"{spent:8.1f}"
    )
    return f"{line}  {chosen.rounding}" if chosen.rounding is not None else line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=MODELS)
    parser.add_argument("--latency", default="0.5")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true")
    args = parser.parse_args()
    print(f"{'model':30} round-to  bound measured  again  error   MACs  latency/MACs  seconds")
    for name in args.names:
        graph = pg.load(load(ZOO / f"{name}.light.xz"))
        timer = Stopwatch(graph, threads=args.threads)
        cache = Cache() if args.fresh else Cache.here(CPU, args.threads)
        for round_to in (1, 8, "auto"):
            line = row(graph, timer, cache, args.latency, round_to)
            print(f"{name:30} {round_to!s:>8} {args.latency:>6} {line}", flush=True)


if __name__ == "__main__":
    main()
