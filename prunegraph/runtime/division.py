"""Samples apart: what is fitted to, and what is measured on."""

from __future__ import annotations

from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data
from prunegraph.runtime.statistics import Statistics

#: Every so many-th sample is kept for measuring, where there are few, and where that leaves `FEW` for it.
HELD, RARELY, FEW = 4, 8, 16

#: Samples that are measured on at most.
MEASURED = 64


def divided(statistics: Statistics) -> tuple[Statistics, Data]:
    """Statistics without the samples that damage is measured on, and these samples.

    The same for everybody who asks: what scores channels, what measures them and what makes up for them share one
    pass over the data.
    """

    def divide() -> tuple[Statistics, Data]:
        fitted, held = parts(statistics.graph, statistics.data, MEASURED)
        if fitted is statistics.data:
            return statistics, held
        return statistics.of(fitted), held

    return statistics.once("divided", divide)


def parts(graph: Graph, data: Data, most: int | None = None) -> tuple[Data, Data]:
    """What is fitted to, and what is measured on.

    That is every fourth sample; where not more than `most` are needed, every eighth or less, if that is enough.
    Both are all of the data where they would not fill a batch.
    """
    fitted = data.fit(graph)
    every = HELD
    if most is not None and fitted.samples >= RARELY * FEW:
        every = max(RARELY, -(-fitted.samples // most))
    if fitted.samples // every < max(fitted.fixed(graph), 2):
        return data, data
    return (
        fitted.where(lambda index: index % every != every - 1),
        fitted.where(lambda index: index % every == every - 1),
    )
