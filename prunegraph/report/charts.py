"""Charts of a report: widths, sensitivities, noise, times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prunegraph.report.curves import SensitivityCurves
from prunegraph.report.layers import LayerRow
from prunegraph.report.text import clean, exact, shorten
from prunegraph.report.vega import TEXT, WIDTH, bar, dots, frame, line, svg

if TYPE_CHECKING:
    from prunegraph.quantization.report import LayerReport

#: Height of a row, characters of a layer's name beside it, and pixels of one of them.
ROW = 20
NAME = 44
LETTER = 7

#: Curves with a colour and a dash of their own; the others are grey.
HIGHLIGHTS = 6
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [5, 5], [12, 3])


def widths(rows: Sequence[LayerRow]) -> str:
    """Bars of every layer's width: what is left over what was. Rows without a width are left out."""
    values = _width_values(rows)
    largest = max(max(value["before"], value["after"]) for value in values)
    room = round(LETTER * max(len(value["label"]) for value in values)) + 10
    spec = {
        # Names are marks in the same font as the rest: labels of an axis take five times as long to lay out.
        "width": WIDTH - room - 2,
        "height": ROW * len(values),
        "autosize": "none",
        "padding": {"left": room, "top": 24, "right": 2, "bottom": 2},
        "data": {"values": values},
        "encoding": {
            "y": {
                "field": "index",
                "type": "ordinal",
                "axis": None,
                "scale": {"paddingInner": 0.3, "paddingOuter": 0.3},
            },
        },
        "layer": [
            bar(
                "var(--before)",
                {"x": _channels(largest, "top"), "description": {"field": "tip"}},
            ),
            bar(
                "var(--after)",
                {"x": {"field": "after", "type": "quantitative"}},
                "datum.changed",
            ),
            bar(
                "var(--same)",
                {"x": {"field": "after", "type": "quantitative"}},
                "!datum.changed",
            ),
            {
                "mark": {**TEXT, "align": "left", "dx": 7},
                "encoding": {
                    "x": {"field": "before", "type": "quantitative"},
                    "text": {"field": "text"},
                },
            },
            {
                "name": "names",
                "mark": {**TEXT, "align": "right", "dx": -8},
                "encoding": {"x": {"value": 0}, "text": {"field": "label"}},
            },
        ],
    }
    return svg(
        spec, f"Width of {len(values)} layers before and after, in channels", "widths"
    )


#: One thin column a layer.
_LAYERS = {
    "field": "index",
    "type": "ordinal",
    "title": "layers, from input to output",
    "scale": {"paddingInner": 0.15, "paddingOuter": 0},
    "axis": {"labels": False},
}


def profile(rows: Sequence[LayerRow]) -> str:
    """The same widths at a glance: one thin column a layer, in the order of the graph."""
    values = _width_values(rows)
    spec = {
        **frame(170),
        "data": {"values": values},
        "encoding": {"x": _LAYERS},
        "layer": [
            bar(
                "var(--before)",
                {
                    "y": {**_channels(None, "left"), "title": "channels"},
                    "description": {"field": "tip"},
                },
            ),
            bar(
                "var(--after)",
                {"y": {"field": "after", "type": "quantitative"}},
                "datum.changed",
            ),
            bar(
                "var(--same)",
                {"y": {"field": "after", "type": "quantitative"}},
                "!datum.changed",
            ),
        ],
    }
    return svg(
        spec, f"Profile of the widths of {len(values)} layers before and after", "profile"
    )


def sensitivity(result: SensitivityCurves) -> str:
    """Error over the share of channels removed, a curve a group; the most sensitive ones are coloured."""
    values = [
        {
            "rank": rank,
            "ratio": point.ratio,
            "error": point.error,
            "tip": f"{clean(curve.group)}: error {point.error:.3g} with {point.ratio:.0%} removed, "
            f"{exact(point.macs)} MACs left",
        }
        for rank, curve in enumerate(result.curves)
        for point in curve.points
    ]
    first = list(range(min(HIGHLIGHTS, len(result.curves))))
    rank = {"field": "rank", "type": "ordinal", "legend": None}
    color = {**rank, "scale": {"domain": first, "range": [curve_color(i) for i in first]}}
    dash = {**rank, "scale": {"domain": first, "range": [DASHES[i] for i in first]}}
    x = {
        "field": "ratio",
        "type": "quantitative",
        "title": "share of the group's channels removed",
        "axis": {"format": "~%", "tickCount": 10, "grid": False},
        "scale": {"nice": False, "zero": True},
    }
    y = {
        "field": "error",
        "type": "quantitative",
        "title": shorten(result.metric, 60),
        "axis": {"tickCount": 6},
    }
    top, rest = f"datum.rank < {HIGHLIGHTS}", f"datum.rank >= {HIGHLIGHTS}"
    spec = {
        **frame(380),
        "data": {"values": values},
        "encoding": {"x": x, "y": y, "detail": {"field": "rank"}},
        "layer": [
            line(rest, {"color": "var(--faint)", "strokeWidth": 1.25}, {}),
            line(top, {"strokeWidth": 2.25}, {"color": color, "strokeDash": dash}),
            dots(rest, {"color": "var(--faint)", "size": 14}, {}),
            dots(top, {"size": 34}, {"color": color}),
        ],
    }
    return svg(
        spec,
        f"Sensitivity of {len(result.curves)} groups: error over share of channels removed",
        "curves",
    )


def noise(rows: Sequence[tuple[str, LayerReport]]) -> str | None:
    """SQNR of what layers make, a bar each, in the order of the graph; None without any."""
    values = [
        {
            "index": index,
            "sqnr": layer.sqnr,
            "changed": bool(layer.reason),
            "tip": f"{clean(name)}: {layer.sqnr:.1f} dB, {layer.weights} weights"
            + (f", in float: {clean(layer.reason)}" if layer.reason else ""),
        }
        for index, (name, layer) in enumerate(rows)
        if layer.sqnr is not None
    ]
    if not values:
        return None
    y = {"field": "sqnr", "type": "quantitative", "title": "dB"}
    spec = {
        **frame(190),
        "data": {"values": values},
        "encoding": {"x": _LAYERS},
        "layer": [
            bar(color, {"y": y, "description": {"field": "tip"}}, only)
            for color, only in (
                ("var(--after)", "!datum.changed"),
                ("var(--same)", "datum.changed"),
            )
        ],
    }
    return svg(spec, f"Signal to quantization noise of {len(values)} layers", "noise")


def curve_color(rank: int) -> str:
    """The colour of the curve of that rank, as the style sheet names it."""
    return f"var(--c{rank + 1})" if rank < HIGHLIGHTS else "var(--faint)"


def has_width(row: LayerRow) -> bool:
    return row.outputs[0] is not None and row.outputs[1] is not None


def _width_values(rows: Sequence[LayerRow]) -> list[dict[str, Any]]:
    values = []
    for index, row in enumerate(row for row in rows if has_width(row)):
        before, after = row.outputs
        change = (
            f"{exact(before)} \u2192 {exact(after)}" if before != after else exact(before)
        )
        values.append(
            {
                "index": index,
                "before": before,
                "after": after,
                "changed": before != after,
                "text": change,
                "label": shorten(row.name, NAME),
                "tip": f"{clean(row.name)}: {change} channels",
            }
        )
    return values


def _channels(largest: int | None, orient: str) -> dict[str, Any]:
    """The axis of widths; `largest` leaves room for the text behind the longest bar."""
    axis = {"orient": orient, "tickCount": 6, "format": ",d", "tickMinStep": 1}
    scale = {"nice": False, "domainMax": largest * 1.16} if largest else {}
    return {
        "field": "before",
        "type": "quantitative",
        "title": None,
        "axis": axis,
        "scale": scale,
    }
