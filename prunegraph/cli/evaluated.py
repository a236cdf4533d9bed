"""`--eval` and `--metric` of `prune` and `apply`: a metric of the original and of what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from prunegraph.cli.loading import load_data
from prunegraph.cli.options import METRICS, evaluation_option, metric_option, together

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from prunegraph.graph.model import Graph
    from prunegraph.runtime.data import Data

#: What makes a result take other inputs than the original.
OTHER_INPUTS = (
    "--eval feeds the original and the result the same; a result with a smaller vocabulary or narrower inputs takes "
    "others: leave it out"
)

evaluated_options = together(
    evaluation_option(
        "What a metric of the original and of the result is measured on, such as photos that were not fitted to."
    ),
    metric_option(
        f"With --eval: {METRICS} or file.py:function. Default: map50 with boxes, top1 with other labels, else "
        "agreement of the classes, else error.",
        default="",
    ),
)


def load_evaluation(
    source: str | None,
    metric: str,
    graph: Graph,
    progress: Callable[[str], None],
    *,
    is_same: bool,
) -> Data | None:
    """The samples of `--eval`; None where it is not given.

    Args:
        source: of `--eval`.
        metric: of `--metric`.
        graph: the original.
        progress: told what is read.
        is_same: whether the result will take the original's inputs.

    Raises:
        UsageError: a metric without samples, or samples that the result would not take.
        PrunegraphError: the samples cannot be read, there is no such metric, or it does not fit.
    """
    from prunegraph.measuring.compare import check_measurable
    from prunegraph.measuring.metrics import portable, resolve

    if source is None:
        if metric:
            raise click.UsageError("--metric is measured on samples: give --eval")
        return None
    if not is_same:
        raise click.UsageError(OTHER_INPUTS)
    if metric:
        resolve(portable(metric))
    seen = load_data(source, graph, progress, part="val")
    if seen is not None:
        progress("measure the original")
        check_measurable(graph, seen, metric)
    return seen


def show_evaluation(
    where: Console, original: Graph, pruned: Graph, seen: Data | None, metric: str
) -> dict[str, Any] | None:
    """Measure both models and say it; the same as plain JSON. None without samples. Raises DataError or PluginError."""
    from prunegraph.measuring.compare import measure_both
    from prunegraph.report import content, tables

    if seen is None:
        return None
    both = measure_both(original, pruned, seen, metric)
    where.print(f"{tables.measured_line(both)}, on {seen.fit(original).samples} samples")
    return content.measured(both)
