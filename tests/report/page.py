"""A page as a browser's parser sees it, and results to show."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import prunegraph as pg
from prunegraph.report import html
from tests.builders import Builder

COMMAND = "prunegraph prune 'my model.onnx' -o half.onnx --ratio 0.5 --report report.html"


#: What a name in a model file may be.
HOSTILE = (
    "</title><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "</style></svg><iframe src=//example.com>",
    "a\x00b\x1b[31m\u202ec",
    "]]>&lt;&#60;b&#62;",
)


VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


class Page(HTMLParser):
    """A parsed page: elements with their attributes, and text by the elements it is in."""

    def __init__(self, text: str):
        super().__init__()
        self.source = text
        self.open: list[tuple[str, dict[str, str]]] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[tuple[str, ...], tuple[str, ...], str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        result = {key: value or "" for key, value in attrs}
        self.elements.append((tag, result))
        if tag not in VOID:
            self.open.append((tag, result))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        if tag in ("td", "th", "dt"):
            self.handle_data(" ")
        self.open.pop()

    def handle_data(self, data: str) -> None:
        tags, ids = (
            tuple(tag for tag, _ in self.open),
            tuple(a["id"] for _, a in self.open if "id" in a),
        )
        self.texts.append((tags, ids, data))

    def text(self, *, inside: str) -> str:
        """All text inside an element or the section of an id, spaces made single."""
        result = "".join(
            text
            for tags, ids, text in self.texts
            if inside in (*tags, *ids) and "style" not in tags
        )
        return " ".join(result.split())

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def titles(self) -> list[str]:
        """Tooltips of the marks of all charts."""
        return [
            text
            for tags, _, text in self.texts
            if tags[-1:] == ("title",) and "svg" in tags
        ]


def prune(graph: pg.Graph, ratio: float = 0.5, **options: Any) -> pg.PruneResult:
    return pg.prune(graph, budget=pg.Budget(ratio=ratio), round_to=1, **options)


def chain(layers: int, names: tuple[str, ...] = ()) -> pg.Graph:
    """Convolutions in a row, named in turn by `names`."""
    b = Builder()
    x = b.input("n", 3, 4, 4)
    for i in range(layers):
        x = b.conv(
            x,
            4 if i else 3,
            4,
            k=1,
            name=f"{names[i % len(names)]}{i}" if names else f"/block.{i}/conv/Conv",
        )
    return b.graph(x)


def curve_content(result: pg.PruneResult, **changes: Any) -> dict[str, Any]:
    groups = [
        {
            "id": group.id,
            "layers": list(group.layers),
            "points": [
                {"ratio": r / 10, "macs": 1000 - 100 * r, "error": 0.01 * r * (i + 1)}
                for r in (5, 2, 8)
            ],
        }
        for i, group in enumerate(result.coupling.groups)
    ]
    content = {
        "format": "prunegraph/sensitivity@1",
        "metric": "relative error of the output",
        "groups": groups,
    }
    return content | changes


def palettes() -> list[dict[str, str]]:
    """Colours of the light and the dark theme by name."""
    style = (Path(html.__file__).parent / "page" / "page.css").read_text()
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    result = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part.split("}")[0]))
        for part in (light, dark)
    ]
    assert result[0].keys() == result[1].keys() and result[0] != result[1]
    return result
