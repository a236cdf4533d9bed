"""Layers by themselves: their time before and after, where a latency budget measured it, and the work they do in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunegraph.coupling.survivors import Survivors
from prunegraph.graph.layer_names import shown
from prunegraph.latency.cache import Cache
from prunegraph.latency.layers import LayerTable
from prunegraph.report.text import clean, exact
from prunegraph.report.vega import INK, SOFT, frame, svg
from prunegraph.runtime.runtimes import find
from prunegraph.selection.plan import survivors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunegraph.pipeline import PruneResult


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of a layer by itself, its MACs, and the bytes that it reads and writes, weights included."""

    ms: float
    macs: int
    moved: int

    @property
    def intensity(self) -> float:
        """MACs for each byte."""
        return self.macs / self.moved

    @property
    def speed(self) -> float:
        """Billions of MACs a second."""
        return self.macs / self.ms / 1e6

    @property
    def traffic(self) -> float:
        """Billions of bytes a second."""
        return self.moved / self.ms / 1e6


@dataclass(frozen=True)
class TimedLayer:
    """One layer of the original; `after` is None where it is gone. `name` is that in the framework."""

    layer: str
    name: str
    before: LayerTime
    after: LayerTime | None

    @property
    def times(self) -> tuple[float, float]:
        """Milliseconds before and after."""
        return self.before.ms, self.after.ms if self.after is not None else 0.0


def timed_layers(result: PruneResult) -> list[TimedLayer]:
    """Layers that were timed for this result's latency, in topological order.

    Those that became several of low rank are left out: what was timed is the layer in one piece.
    """
    if result.latency is None:
        return []
    measured = result.latency
    runtime = find(measured.runtime, measured.provider, measured.threads)
    table = LayerTable(result.coupling, None, Cache.here(runtime))
    whole = Survivors(result.coupling, {})
    remaining = survivors(result.coupling, result.plan)
    split = result.decomposed.layers if result.decomposed is not None else ()
    in_parts = {row.name for row in split}
    timed = []
    for node in table.layers:
        before = _time(table, node, whole)
        is_gone = node.index in remaining.gone
        after = None if is_gone else _time(table, node, remaining)
        if (
            node.name not in in_parts
            and before is not None
            and (is_gone or after is not None)
        ):
            name = shown(result.original, node.name)
            timed.append(TimedLayer(node.name, name, before, after))
    return timed


def _time(table: LayerTable, node: Any, remaining: Survivors) -> LayerTime | None:
    ms = table.cache.layers.get(table.key(node, remaining))
    macs, moved = table.work(node, remaining)
    return LayerTime(ms, macs, moved) if ms and macs and moved else None


# -- charts --------------------------------------------------------------------------------

BEFORE, AFTER = "var(--before)", "var(--after)"


def columns(layers: Sequence[TimedLayer]) -> str:
    """Time of each layer before and after, two columns side by side, in the order of the graph."""
    values = [
        {"index": index, "which": which, "ms": time.ms, "tip": _tip(layer, time, which)}
        for index, layer in enumerate(layers)
        for which, time in _both(layer)
    ]
    spec = {
        **frame(190),
        "data": {"values": values},
        "mark": {"type": "bar"},
        "encoding": {
            "x": {
                "field": "index",
                "type": "ordinal",
                "title": "layers, from input to output",
                "scale": {"paddingInner": 0.2, "paddingOuter": 0},
                "axis": {"labels": False},
            },
            "xOffset": {"field": "which", "type": "ordinal", "sort": ["before", "after"]},
            "y": {"field": "ms", "type": "quantitative", "title": "ms"},
            "color": _COLOR,
            "description": {"field": "tip"},
        },
    }
    return svg(
        spec, f"Time of {len(layers)} layers by themselves before and after", "times"
    )


def roofline(layers: Sequence[TimedLayer]) -> str:
    """Speed of each layer over its MACs for each byte, before and after, below the best that any of them reached."""
    points = [
        {
            "index": index,
            "which": which,
            "intensity": time.intensity,
            "speed": time.speed,
            "tip": _tip(layer, time, which),
        }
        for index, layer in enumerate(layers)
        for which, time in _both(layer)
    ]
    x = _axis("intensity", "MACs for each byte read or written")
    y = _axis("speed", "billions of MACs a second")
    spec = {
        **frame(300),
        "layer": [
            {
                "data": {"values": _roof(layers)},
                "mark": {
                    "type": "line",
                    "color": SOFT,
                    "strokeDash": [5, 4],
                    "strokeWidth": 1.25,
                    "aria": False,
                },
                "encoding": {"x": x, "y": y},
            },
            {
                "data": {"values": points},
                "mark": {"type": "line", "color": BEFORE, "aria": False, "strokeWidth": 1},
                "encoding": {"x": x, "y": y, "detail": {"field": "index"}},
            },
            {
                "data": {"values": points},
                "mark": {
                    "type": "point",
                    "filled": True,
                    "opacity": 1,
                    "size": 52,
                    "stroke": INK,
                    "strokeWidth": 0.6,
                },
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": _COLOR,
                    "description": {"field": "tip"},
                },
            },
        ],
    }
    return svg(
        spec, f"Speed of {len(layers)} layers over their MACs for each byte", "roofline"
    )


_COLOR = {
    "field": "which",
    "type": "nominal",
    "legend": None,
    "scale": {"domain": ["before", "after"], "range": [BEFORE, AFTER]},
}


def _axis(field: str, title: str) -> dict[str, Any]:
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"type": "log", "nice": False, "padding": 14},
        "axis": {"tickCount": 6, "format": "~g", "grid": False, "domain": True},
    }


def _roof(layers: Sequence[TimedLayer]) -> list[dict[str, float]]:
    """Corners of the least roof that no layer is above: the most bytes a second, then the most MACs a second."""
    times = [time for layer in layers for _, time in _both(layer)]
    traffic, speed = (
        max(time.traffic for time in times),
        max(time.speed for time in times),
    )
    low, high = (
        min(time.intensity for time in times),
        max(time.intensity for time in times),
    )
    corners = sorted({low, min(max(speed / traffic, low), high), high})
    return [{"intensity": at, "speed": min(at * traffic, speed)} for at in corners]


def _both(layer: TimedLayer) -> Iterator[tuple[str, LayerTime]]:
    yield "before", layer.before
    if layer.after is not None:
        yield "after", layer.after


def _tip(layer: TimedLayer, time: LayerTime, which: str) -> str:
    return (
        f"{clean(layer.name)}, {which}: {time.ms:.3g} ms, {exact(time.macs)} MACs, {exact(time.moved)} bytes, "
        f"{time.speed:.3g} billion MACs a second"
    )
