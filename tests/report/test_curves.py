"""Curves of sensitivity in a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import prunegraph as pg
from prunegraph.errors import DataError
from prunegraph.report import curves, html
from tests.builders import Builder
from tests.report.page import Page, curve_content, prune


def test_sensitivity(result: pg.PruneResult) -> None:
    assert "sensitivity" not in {a.get("id") for _, a in Page(html.render(result)).elements}
    page = Page(html.render(result, sensitivity=curve_content(result)))
    text = page.text(inside="sensitivity")
    assert "relative error of the output" in text
    assert "20% 50% 80%" in text
    last = result.coupling.groups[-1]
    removed = f"{len(result.plan.remove[last.id]) / last.channels:.1%}"
    rank = len(result.coupling.groups)
    row = f"{last.id} {last.layers[0]} {removed} {0.02 * rank:.2g} {0.05 * rank:.2g} {0.08 * rank:.2g}"
    assert row in text, "the most sensitive group, with points by rising ratio"
    assert text.index(row) < text.rindex(
        f"{result.coupling.groups[0].id} {result.coupling.groups[0].layers[0]} "
    )
    assert (
        f"{last.id}: error {0.08 * rank:.3g} with 80% removed, 200 MACs left"
        in page.titles()
    )


def test_many_curves_and_missing_points() -> None:
    b = Builder()
    x = b.input("n", 3, 4, 4)
    for i in range(9):
        x = b.relu(b.conv(x, 4 if i else 3, 4, name=f"c{i}"))
    result = prune(b.graph(x), verify=False)
    content = curve_content(result)
    content["groups"][0]["points"] = content["groups"][0]["points"][:1]
    content["groups"][1]["points"] = []
    text = Page(html.render(result, sensitivity=content)).text(inside="sensitivity")
    assert "1 other group" in text
    assert "g0 c0 50.0% \u2013 0.05 \u2013" in text
    assert "g1 c1" not in text
    assert "No group has a point." in Page(
        html.render(result, sensitivity=curve_content(result, groups=[]))
    ).text(inside="sensitivity")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "prunegraph/sensitivity@2"},
        {"groups": {"g0": 1}},
        {"groups": [{"id": "g0", "layers": ["stem"]}]},
        {
            "groups": [
                {"id": "g0", "layers": ["stem"], "points": [{"ratio": 0.5, "macs": 1}]}
            ]
        },
        {
            "groups": [
                {
                    "id": "g0",
                    "layers": ["stem"],
                    "points": [{"ratio": 0.5, "macs": 1, "error": float("nan")}],
                }
            ]
        },
        {
            "groups": [
                {
                    "id": "g77",
                    "layers": [],
                    "points": [{"ratio": 0.5, "macs": 1, "error": 1}],
                }
            ]
        },
    ],
)
def test_bad_sensitivity(
    result: pg.PruneResult, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match="sensitivity"):
        html.write(
            result, tmp_path / "report.html", sensitivity=curve_content(result, **changes)
        )
    assert not list(tmp_path.iterdir())


def test_sensitivity_files(result: pg.PruneResult, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such sensitivity file"):
        curves.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="not a sensitivity file"):
        curves.read(tmp_path / "bad.json")
    (tmp_path / "good.json").write_text(json.dumps(curve_content(result)))
    assert curves.read(tmp_path / "good.json") == curve_content(result)
