"""Latency budgets: what is measured for a bound, and what rounding widths does for latency per MAC.

    python -m benchmarks.latency_budget [--latency 0.5] [--threads 1] [--fresh] [NAME ...]

"measured" is the figure the search ended with, "again" an independent measurement of the same
model afterwards in new sessions, both as shares of the original's latency, paired with it; "error" is
the standard error of the second. `--fresh` does not use
the cache of layer times and widths.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import prunegraph as pg
from benchmarks.zoo import ZOO
from fixtures.light_models import load
from prunegraph.errors import BudgetError
from prunegraph.latency.bench import PAIRS
from prunegraph.latency.cache import Cache
from prunegraph.latency.measured import select_by_measuring
from prunegraph.latency.rounding import Rounding
from prunegraph.measuring.latency import Stopwatch
from prunegraph.ops.cost import cost
from prunegraph.selection.options import SelectionOptions

MODELS = ("torchvision__resnet50", "torchvision__mobilenet_v2")


@dataclass(frozen=True)
class Row:
    """Shares of the original's latency and MACs, the second measurement's standard error, seconds of the search."""

    measured: float
    again: float
    error: float
    macs: float
    seconds: float
    rounding: Rounding | None

    def __str__(self) -> str:
        figures = (
            f"{self.measured:8.3f} {self.again:6.3f} {self.error:6.1%} {self.macs:6.3f} {self.again / self.macs:13.2f} "
            f"{self.seconds:8.1f}"
        )
        return f"{figures}  {self.rounding}" if self.rounding is not None else figures


def entry(
    graph: pg.Graph,
    timer: Stopwatch,
    cache: Cache,
    latency: float | str,
    round_to: int | str,
) -> Row:
    """One budget met and measured again. Raises BudgetError."""
    coupling = pg.analyze(graph)
    choice = SelectionOptions(
        pg.Budget(latency=latency), round_to=round_to, threads=timer.threads
    )
    start = time.perf_counter()
    chosen = select_by_measuring(coupling, choice, timer=timer, cache=cache)
    spent = time.perf_counter() - start
    pruned = pg.apply(graph, chosen.plan)
    again = timer.against(pruned, PAIRS)
    assert chosen.latency is not None
    macs = cost(pruned).macs / cost(graph).macs
    return Row(chosen.latency.kept, again.kept, again.error, macs, spent, chosen.rounding)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=MODELS)
    parser.add_argument("--latency", default="0.5")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true")
    args = parser.parse_args()
    print(
        f"{'model':30} round-to  bound measured  again  error   MACs  latency/MACs  seconds"
    )
    for name in args.names:
        graph = pg.load(load(ZOO / f"{name}.light.xz"))
        timer = Stopwatch(graph, threads=args.threads)
        cache = Cache() if args.fresh else Cache.here(timer.runtime)
        for round_to in (1, 8, "auto"):
            try:
                line = str(entry(graph, timer, cache, args.latency, round_to))
            except BudgetError as error:
                line = str(error)
            print(f"{name:30} {round_to!s:>8} {args.latency:>6} {line}", flush=True)


if __name__ == "__main__":
    main()
