"""Vega-Lite specifications, rendered to SVG without a browser: what the charts of a report share.

An SVG has no script and loads nothing. Its colours are variables of the page's style sheet, so that
one picture serves light and dark. What a mark shows is its `<title>`: browsers show it as a tooltip.
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

#: Width of a chart in CSS pixels, names included.
WIDTH = 1000

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


def frame(height: int) -> dict[str, Any]:
    """Size of a chart that is as wide as the page."""
    return {
        "width": WIDTH,
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": 2,
    }


def bar(color: str, encoding: dict[str, Any], only: str | None = None) -> dict[str, Any]:
    """Bars of the rows that an expression picks."""
    mark = {"type": "bar", "color": color, "aria": "description" in encoding}
    return {
        **({"transform": [{"filter": only}]} if only else {}),
        "mark": mark,
        "encoding": encoding,
    }


def line(only: str, mark: dict[str, Any], encoding: dict[str, Any]) -> dict[str, Any]:
    """A line through the rows that an expression picks."""
    return {
        "transform": [{"filter": only}],
        "mark": {"type": "line", "aria": False, **mark},
        "encoding": encoding,
    }


def dots(only: str, mark: dict[str, Any], encoding: dict[str, Any]) -> dict[str, Any]:
    """Dots of the rows that an expression picks; each has its `tip`."""
    return {
        "transform": [{"filter": only}],
        "mark": {"type": "point", "filled": True, "opacity": 1, **mark},
        "encoding": {**encoding, "description": {"field": "tip"}},
    }


def svg(spec: dict[str, Any], label: str, kind: str) -> str:
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
