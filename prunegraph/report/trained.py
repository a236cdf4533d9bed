"""The HTML page of a training: loss and metric of every epoch, while it goes on and when it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunegraph.ops.cost import cost
from prunegraph.report import html
from prunegraph.report.live import LivePage, Standing
from prunegraph.report.tables import amount, share
from prunegraph.report.text import clean, exact
from prunegraph.report.vega import SOFT, frame, svg

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph
    from prunegraph.training.methods import TrainResult
    from prunegraph.training.outcome import Outcome

#: An epoch of a stage, or what else changed the network; see `prunegraph.training.methods.TrainResult`.
Record = Mapping[str, object]

LOSS, METRIC = "var(--c2)", "var(--after)"

#: Epochs that have a dot each; more of them are lines alone.
DOTS = 60


@dataclass
class TrainingPage:
    """The page of a training; a journal that is told every epoch as it ends.

    Args:
        page: what writes it.
        graph: the network before the training.
        metric: what is measured after every epoch, by name; "" where nothing is.
        command: the command line, quoted for a shell.
        records: epochs so far.
    """

    page: LivePage
    graph: Graph
    metric: str
    command: str | None
    records: list[Record] = field(default_factory=list)

    @classmethod
    def at(cls, path: str, graph: Graph, metric: str, command: str | None) -> TrainingPage:
        """A page at a path. Raises MissingExtraError where the extra `report` is not installed."""
        html.require()
        return cls(LivePage(Path(path)), graph, metric, command)

    def __call__(self, record: Record) -> None:
        """Show one more epoch."""
        self.records.append(record)
        self.page.show(partial(self._rendered, tuple(self.records), None, None))

    def measured(self, result: TrainResult, outcome: Outcome) -> None:
        """Show a training that is through, and what came of it. Nothing says yet that it is kept."""
        self.page.show(partial(self._rendered, result.history, result, outcome))

    def finished(self, result: TrainResult, outcome: Outcome) -> None:
        """Show a training that is done. Raises ModelError where the page cannot be written."""
        self.page.finish(partial(self._rendered, result.history, result, outcome))

    def _rendered(
        self,
        records: Sequence[Record],
        result: TrainResult | None,
        outcome: Outcome | None,
        standing: Standing,
    ) -> str:
        return html.filled(
            "trained.html",
            partial(html.layer_path, self.graph),
            kind="Training",
            name=Path(self.graph.source).name,
            graph=self.graph,
            command=self.command,
            standing=standing,
            metric=self.metric,
            records=[_row(record) for record in records],
            has_metric=any("metric" in record for record in records),
            has_cost=any("macs" in record for record in records),
            chart=chart(records, self.metric),
            figures=list(_figures(self.graph, result, outcome)),
            notes=result.notes if result is not None else (),
        )


def _row(record: Record) -> dict[str, str]:
    """A record as texts of the table's cells."""
    loss, metric, macs, params = (
        record.get(name) for name in ("loss", "metric", "macs", "params")
    )
    return {
        "stage": str(record["stage"]),
        "epoch": str(record.get("epoch", "")),
        "loss": "" if loss is None else f"{_value(loss):.4g}",
        # What falls is told as a negative number, so that larger is better.
        "metric": "" if metric is None else f"{abs(_value(metric)):.4g}",
        "macs": "" if macs is None else exact(int(_value(macs))),
        "params": "" if params is None else exact(int(_value(params))),
    }


def _value(given: object) -> float:
    return float(given) if isinstance(given, (int, float)) else float(str(given))


def _figures(
    graph: Graph, result: TrainResult | None, outcome: Outcome | None
) -> Iterator[tuple[str, str, str]]:
    """Label, value and note of the cards: none while the training goes on."""
    if result is None or outcome is None:
        return
    if outcome.metric is not None:
        unit = f" {outcome.metric.unit}".rstrip()
        yield (
            outcome.metric.name,
            f"{outcome.after:.4g}{unit}",
            f"before: {outcome.before:.4g}{unit}",
        )
    same = f"{outcome.same:.2f} % of the classes are the same" if outcome.same else ""
    yield (
        "Relative error of the outputs",
        f"{outcome.difference:.3g}",
        same or "to the start",
    )
    before, after = cost(graph), cost(result.model)
    for label, a, b in (
        ("Multiply-accumulates", before.macs, after.macs),
        ("Parameters", before.params, after.params),
    ):
        if a != b and a:
            yield label, amount(b), f"{share(b, a)} of {amount(a)}"


def chart(records: Sequence[Record], metric: str) -> str | None:
    """Loss (scale at the left) and metric (at the right) over the epochs of all stages; None without an epoch.

    A dashed line stands where a stage begins; what changed the network between epochs is a dot.
    """
    points = list(_points(records, metric))
    if not any("loss" in each for each in points):
        return None
    starts = [each for each in points if each["begins"] and each["at"] > 1]
    with_metric = [each for each in points if "metric" in each]
    x = {
        "field": "at",
        "type": "quantitative",
        "title": "epochs",
        "axis": {"tickMinStep": 1, "format": "d", "grid": False},
        "scale": {"zero": False, "nice": False, "padding": 10},
    }
    by_loss = _scale("loss", "loss", "left", LOSS)
    by_metric = _scale("metric", clean(metric) or "metric", "right", METRIC)
    layers = [*_curve([p for p in points if "loss" in p], x, by_loss, LOSS)]
    if with_metric:
        layers += _curve(with_metric, x, by_metric, METRIC)
    stages: dict[str, Any] = {
        "data": {"values": starts},
        "mark": {"type": "rule", "color": SOFT, "strokeDash": [3, 4], "aria": False},
        "encoding": {"x": {**x, "field": "border"}},
    }
    spec = {
        **frame(280),
        "layer": [
            *([stages] if starts else []),
            {"layer": layers[:2]},
            *([{"layer": layers[2:]}] if with_metric else []),
        ],
        "resolve": {"scale": {"y": "independent"}},
    }
    return svg(spec, f"Loss of {sum('loss' in p for p in points)} epochs", "training")


def _points(records: Sequence[Record], metric: str) -> Iterator[dict[str, Any]]:
    """Records with their place on the axis: epochs count through all stages, what is between them stands between."""
    epochs, stage = 0, None
    for record in records:
        is_epoch = "epoch" in record
        epochs += is_epoch
        row = _row(record)
        at = epochs if is_epoch else epochs + 0.5
        said = ", ".join(
            text
            for text in (
                f"epoch {row['epoch']}" if is_epoch else "",
                f"loss {row['loss']}" if row["loss"] else "",
                f"{clean(metric) or 'metric'} {row['metric']}" if row["metric"] else "",
                f"{row['macs']} MACs" if row["macs"] else "",
            )
            if text
        )
        point: dict[str, Any] = {
            "at": at,
            "border": at - 0.5,
            "begins": is_epoch and record["stage"] != stage,
            "is_epoch": is_epoch,
            "tip": f"{clean(row['stage'])}: {said}",
        }
        if row["loss"]:
            point["loss"] = _value(record["loss"])
        if row["metric"]:
            point["metric"] = abs(_value(record["metric"]))
        stage = record["stage"] if is_epoch else stage
        yield point


def _scale(field: str, title: str, orient: str, color: str) -> dict[str, Any]:
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "axis": {
            "orient": orient,
            "tickCount": 6,
            "titleColor": color,
            "grid": orient == "left",
        },
        "scale": {"zero": False},
    }


def _curve(
    points: Sequence[Mapping[str, Any]],
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    color: str,
) -> list[dict[str, Any]]:
    """A line through the points, and their dots."""
    size = 44 if len(points) <= DOTS else 12
    return [
        {
            "data": {"values": points},
            "mark": {"type": "line", "color": color, "strokeWidth": 2, "aria": False},
            "encoding": {"x": x, "y": y},
        },
        {
            "data": {"values": points},
            "mark": {
                "type": "point",
                "filled": True,
                "opacity": 1,
                "color": color,
                "size": size,
            },
            "encoding": {"x": x, "y": y, "description": {"field": "tip"}},
        },
    ]
