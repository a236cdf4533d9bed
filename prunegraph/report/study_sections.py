"""Sections of a page on searches and sensitivities: what their tables and charts show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from prunegraph.report import charts
from prunegraph.report.curves import ErrorCurve, ErrorPoint, SensitivityCurves
from prunegraph.report.tables import share
from prunegraph.report.text import clean
from prunegraph.report.vega import INK, SOFT, frame, svg

if TYPE_CHECKING:
    from prunegraph.ops.cost import Cost
    from prunegraph.tuning.search import Goal, Trial


class Searched(Protocol):
    """A search, on its way or done."""

    @property
    def goal(self) -> Goal: ...
    @property
    def metric(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def original(self) -> float: ...
    @property
    def candidates(self) -> tuple[Trial, ...]: ...


@dataclass(frozen=True)
class TrialRow:
    """A candidate in the table: what goes by its strength and stages, what stays, the metric, the verdict."""

    strength: str
    stages: str
    macs: str
    params: str
    value: str
    loss: str
    verdict: str


def search_content(
    search: Searched | None, original: Cost, best: Trial | None = None
) -> dict[str, Any]:
    """What the section of a search shows, with its `best` candidate once it is done; nothing where there was none."""
    if search is None:
        return {"search": None}
    return {
        "search": search,
        "has_best": best is not None,
        "trials": [_row(each, original, each == best) for each in search.candidates],
        "search_chart": search_chart(search, original, best),
    }


def _row(trial: Trial, original: Cost, is_best: bool) -> TrialRow:
    stages = " ".join(f"{offset:+g}" for offset in trial.offsets)
    strength = f"{trial.strength / 100:.2f}"
    if trial.cost is None:
        return TrialRow(strength, stages, "", "", "", "", "cannot be met")
    return TrialRow(
        strength,
        stages,
        share(trial.cost.macs, original.macs),
        share(trial.cost.params, original.params),
        "not a number" if trial.value is None else f"{trial.value:.4g}",
        "" if trial.value is None else f"{trial.loss:.4g}",
        "best" if is_best else "accepted" if trial.accepted else "too much",
    )


def search_chart(search: Searched, original: Cost, best: Trial | None = None) -> str | None:
    """How much worse each candidate is over the MACs it keeps, with the tolerance; None without candidates."""
    unit = f", {search.unit}" if search.unit else ""
    values = [
        {
            "kept": trial.cost.macs / original.macs,
            "loss": trial.loss,
            "verdict": "accepted" if trial.accepted else "refused",
            "best": trial == best,
            "tip": f"strength {trial.strength / 100:.2f}: {trial.cost.macs / original.macs:.1%} of the MACs, "
            f"{clean(search.metric)} {trial.value:.4g}, worse by {trial.loss:.4g}",
        }
        for trial in search.candidates
        if trial.cost is not None and trial.value is not None and original.macs
    ]
    if not values:
        return None
    x = {
        "field": "kept",
        "type": "quantitative",
        "title": "MACs kept",
        "axis": {"format": "~%", "tickCount": 10, "grid": False},
        "scale": {"domainMax": 1, "zero": False, "nice": False, "padding": 12},
    }
    y = {
        "field": "loss",
        "type": "quantitative",
        "title": f"{clean(search.metric)}: worse by{unit}",
        "axis": {"tickCount": 6},
    }
    color = {
        "field": "verdict",
        "type": "nominal",
        "legend": None,
        "scale": {
            "domain": ["accepted", "refused"],
            "range": ["var(--after)", "var(--before)"],
        },
    }
    dot = {"type": "point", "filled": True, "opacity": 1, "size": 70}
    spec = {
        **frame(280),
        "layer": [
            {
                "data": {"values": [{"at": search.goal.tolerance}]},
                "mark": {
                    "type": "rule",
                    "color": SOFT,
                    "strokeDash": [5, 4],
                    "aria": False,
                },
                "encoding": {"y": {"field": "at", "type": "quantitative"}},
            },
            {
                "data": {"values": values},
                "mark": {**dot, "stroke": INK, "strokeWidth": 0.6},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": color,
                    "description": {"field": "tip"},
                },
            },
            {
                "data": {"values": values},
                "transform": [{"filter": "datum.best"}],
                "mark": {
                    "type": "point",
                    "size": 190,
                    "color": INK,
                    "strokeWidth": 1.5,
                    "aria": False,
                },
                "encoding": {"x": x, "y": y},
            },
        ],
    }
    return svg(spec, f"{len(values)} candidates of the search", "search")


def sensitivity_content(result: SensitivityCurves | None) -> dict[str, Any]:
    """What the section of sensitivities shows; nothing where there are none."""
    return {
        "sensitivity": result,
        "heat": list(heat(result)) if result else [],
        "curve_chart": charts.sensitivity(result) if result and result.curves else None,
    }


def heat(
    result: SensitivityCurves,
) -> Iterator[tuple[ErrorCurve, Sequence[tuple[ErrorPoint | None, float]]]]:
    """The table of sensitivities: for every ratio a curve's point, and its share of the largest error."""
    worst = max(
        (point.error for curve in result.curves for point in curve.points), default=0.0
    )
    for curve in result.curves:
        points = {point.ratio: point for point in curve.points}
        cells = [points.get(ratio) for ratio in result.ratios]
        yield (
            curve,
            [(p, max(p.error, 0.0) / worst if p and worst > 0 else 0.0) for p in cells],
        )
