"""Charts of a report: Vega-Lite specifications, rendered to SVG without a browser.

An SVG has no script and loads nothing. Its colours are variables of the page's style sheet, so that
one picture serves light and dark. What a mark shows is its `<title>`: browsers show it as a tooltip.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from prunegraph.report.curves import SensitivityCurves
from prunegraph.report.layers import LayerRow
from prunegraph.report.text import clean, exact, shorten

if TYPE_CHECKING:
    from prunegraph.quantization.report import LayerReport

#: Width of a chart in CSS pixels, names included.
WIDTH = 1000

#: Height of a row, characters of a layer's name beside it, and pixels of one of them.
ROW = 20
NAME = 44
LETTER = 7

#: Curves with a colour and a dash of their own; the others are grey.
HIGHLIGHTS = 6
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [5, 5], [12, 3])

INK, SOFT, GRID = "var(--ink)", "var(--soft)", "var(--line)"

TEXT = {"type": "text", "color": INK, "fontSize": 11.5, "aria": False}

#: The page's own fonts replace these; they decide how much room text is given.
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": SOFT,
        "titleColor": SOFT,
        "gridColor": GRID,
        "domain": False,
        "ticks": False,
        "labelFontSize": 11.5,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelPadding": 6,
        "titlePadding": 8,
        "labelFlush": False,
    },
}


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
            _bar(
                "var(--before)",
                {"x": _channels(largest, "top"), "description": {"field": "tip"}},
            ),
            _bar(
                "var(--after)",
                {"x": {"field": "after", "type": "quantitative"}},
                "datum.changed",
            ),
            _bar(
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
    return _svg(
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
        **_frame(170),
        "data": {"values": values},
        "encoding": {"x": _LAYERS},
        "layer": [
            _bar(
                "var(--before)",
                {
                    "y": {**_channels(None, "left"), "title": "channels"},
                    "description": {"field": "tip"},
                },
            ),
            _bar(
                "var(--after)",
                {"y": {"field": "after", "type": "quantitative"}},
                "datum.changed",
            ),
            _bar(
                "var(--same)",
                {"y": {"field": "after", "type": "quantitative"}},
                "!datum.changed",
            ),
        ],
    }
    return _svg(
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
        **_frame(380),
        "data": {"values": values},
        "encoding": {"x": x, "y": y, "detail": {"field": "rank"}},
        "layer": [
            _line(rest, {"color": "var(--faint)", "strokeWidth": 1.25}, {}),
            _line(top, {"strokeWidth": 2.25}, {"color": color, "strokeDash": dash}),
            _dots(rest, {"color": "var(--faint)", "size": 14}, {}),
            _dots(top, {"size": 34}, {"color": color}),
        ],
    }
    return _svg(
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
        **_frame(190),
        "data": {"values": values},
        "encoding": {"x": _LAYERS},
        "layer": [
            _bar(color, {"y": y, "description": {"field": "tip"}}, only)
            for color, only in (
                ("var(--after)", "!datum.changed"),
                ("var(--same)", "datum.changed"),
            )
        ],
    }
    return _svg(spec, f"Signal to quantization noise of {len(values)} layers", "noise")


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


def _frame(height: int) -> dict[str, Any]:
    return {
        "width": WIDTH,
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": 2,
    }


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


def _bar(color: str, encoding: dict[str, Any], only: str | None = None) -> dict[str, Any]:
    mark = {"type": "bar", "color": color, "aria": "description" in encoding}
    return {
        **({"transform": [{"filter": only}]} if only else {}),
        "mark": mark,
        "encoding": encoding,
    }


def _line(only: str, mark: dict[str, Any], encoding: dict[str, Any]) -> dict[str, Any]:
    return {
        "transform": [{"filter": only}],
        "mark": {"type": "line", "aria": False, **mark},
        "encoding": encoding,
    }


def _dots(only: str, mark: dict[str, Any], encoding: dict[str, Any]) -> dict[str, Any]:
    return {
        "transform": [{"filter": only}],
        "mark": {"type": "point", "filled": True, "opacity": 1, **mark},
        "encoding": {**encoding, "description": {"field": "tip"}},
    }


def _svg(spec: dict[str, Any], label: str, kind: str) -> str:
    """Render a chart; a picture with one label to a screen reader, which has the tables."""
    import vl_convert

    root = ElementTree.fromstring(
        vl_convert.vegalite_to_svg({**spec, "config": CONFIG}, allowed_base_urls=[])
    )
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        tip = element.get("aria-label")
        if tip is not None and element.tag == "path":
            ElementTree.SubElement(element, "title").text = tip
        if element.get("aria-hidden"):
            element.set("pointer-events", "none")  # what lies below has the tooltip
        for name in [
            n
            for n in element.attrib
            if n.startswith("aria-") or n in ("role", "version", "font-family")
        ]:
            del element.attrib[name]
        for name in element.attrib.keys() & {"d", "transform"}:
            element.set(
                name,
                re.sub(
                    r"\d+\.\d{3,}",
                    lambda number: f"{float(number[0]):.2f}",
                    element.attrib[name],
                ),
            )
    root.attrib.update({"class": f"chart {kind}", "role": "img", "aria-label": label})
    return ElementTree.tostring(root, encoding="unicode")
