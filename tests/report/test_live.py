"""Pages that are written anew while work goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import BudgetError, ModelError
from prunegraph.report import html, live
from prunegraph.report.live import LivePage
from prunegraph.report.studied import StudyPage
from prunegraph.tuning.search import SearchProgress
from prunegraph.tuning.sensitivity import Sensitivity
from tests.builders import residual_net
from tests.commands import cli
from tests.report.page import Page
from tests.report.test_report import assert_loads_nothing


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_pages_keep_their_distance_and_the_last_is_written(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "page.html"
    page = LivePage(path, 2.0, clock)
    page.show(lambda standing: f"one {standing.is_done}")
    assert path.read_text() == "one False"
    clock.now += 1.9
    page.show(lambda standing: pytest.fail("too soon"))
    assert path.read_text() == "one False"
    clock.now += 0.2
    page.show(lambda standing: f"two {standing.is_done}")
    assert path.read_text() == "two False"
    page.finish(lambda standing: f"three {standing.is_done}")
    assert path.read_text() == "three True"
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


def test_a_page_is_never_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong while a page is written leaves the one before, and no other file."""
    path = tmp_path / "page.html"
    page = LivePage(path, 0.0)
    page.show(lambda standing: "whole")

    def broken(path: Path, pieces: list[bytes]) -> None:
        raise ModelError("the disk is full")

    monkeypatch.setattr(live, "write_whole", broken)
    page.show(lambda standing: "other")
    assert path.read_text() == "whole"
    with pytest.raises(ModelError, match="full"):
        page.finish(lambda standing: "last")
    assert path.read_text() == "whole"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (BudgetError("nothing fits"), "nothing fits"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_a_failure_is_on_the_last_page(
    tmp_path: Path, error: BaseException, text: str
) -> None:
    clock, path = Clock(), tmp_path / "page.html"
    page = LivePage(path, 2.0, clock)
    page.show(lambda standing: "first")
    page.show(lambda standing: f"second, {standing.failure}")
    with pytest.raises(type(error)), page.watching():
        raise error
    assert path.read_text() == f"second, {text}"
    with pytest.raises(type(error)), LivePage(tmp_path / "none.html").watching():
        raise error
    assert not (tmp_path / "none.html").exists(), "there was nothing to show"


# -- searches and sensitivities -------------------------------------------------------------


@pytest.fixture
def data() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32)}


def cells(page: Page, inside: str) -> Iterator[str]:
    """Texts of the cells of a section's table."""
    for tags, ids, text in page.texts:
        if inside in ids and {"td", "th"} & set(tags) and "tbody" in tags and text.strip():
            yield text.strip()


def test_a_search_streams_its_candidates(
    tmp_path: Path, data: dict[str, np.ndarray]
) -> None:
    graph, path = residual_net(width=16), tmp_path / "page.html"
    study = StudyPage(LivePage(path, 0.0), graph, "prunegraph search")
    seen: list[tuple[SearchProgress, Page]] = []

    def watch(progress: SearchProgress) -> None:
        study.search(progress)
        seen.append((progress, Page(path.read_text())))

    done = pg.search(
        graph,
        data=data,
        tolerance=0.2,
        metric="error",
        method="bisection",
        round_to=1,
        jobs=1,
        watch=watch,
    )
    assert [len(progress.candidates) for progress, _ in seen] == list(
        range(1, 1 + len(done.trace.candidates))
    )
    assert seen[-1][0].candidates == done.trace.candidates
    for progress, page in seen:
        assert "Not finished" in page.text(inside="header")
        rows = [
            [f"{each.strength / 100:.2f}", f"{each.value:.4g}", f"{each.loss:.4g}"]
            for each in progress.candidates
            if each.value is not None
        ]
        texts = list(cells(page, "search"))
        assert all(set(row) <= set(texts) for row in rows)
        tips = [tip for tip in page.titles() if tip.startswith("strength")]
        assert len(tips) == len(rows)
        assert_loads_nothing(page)
    whole = Page(html.render(done.result, search=done.trace))
    assert list(cells(whole, "search")).count("best") == 1
    ringed = [a for a in whole.attributes("svg") if a.get("class") == "chart search"]
    assert len(ringed) == 1 and "Not finished" not in whole.text(inside="header")
    kept = done.result.after.macs / done.result.before.macs
    assert f"{kept:.1%} of the MACs" in " ".join(whole.titles())


def test_a_sensitivity_streams_its_points(
    tmp_path: Path, data: dict[str, np.ndarray]
) -> None:
    graph, path = residual_net(width=16), tmp_path / "page.html"
    study = StudyPage(LivePage(path, 0.0), graph, None)
    seen: list[tuple[Sensitivity, Page]] = []

    def watch(so_far: Sensitivity) -> None:
        study.sensitivity(so_far)
        seen.append((so_far, Page(path.read_text())))

    result = pg.sensitivity(graph, data=data, ratios=[0.25, 0.5], jobs=1, watch=watch)
    counts = [sum(len(c.points) for c in so_far.curves) for so_far, _ in seen]
    assert counts == list(range(1, 1 + len(counts))) and len(counts) > 2
    assert seen[-1][0] == result
    for so_far, page in seen:
        errors = {f"{p.error:.2g}" for c in so_far.curves for p in c.points}
        assert errors <= set(cells(page, "sensitivity"))
        assert "Not finished" in page.text(inside="header")
        assert "In the plan" not in page.text(inside="sensitivity")
    study.finished(result)
    assert "Not finished" not in Page(path.read_text()).text(inside="header")


def test_the_commands_write_them(tmp_path: Path, data: dict[str, np.ndarray]) -> None:
    pg.save(residual_net(width=16), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **data)
    common = ["net.onnx", "--data", "data.npz", "--jobs", 1, "--report", "page.html"]
    done = cli("sensitivity", *common, "--ratios", "0.5", cwd=tmp_path)
    assert done.returncode == 0 and "wrote page.html" in done.stderr, done.stderr
    page = Page((tmp_path / "page.html").read_text())
    assert "Not finished" not in page.text(inside="header")
    assert "prunegraph sensitivity net.onnx" in page.text(inside="repeat")
    search = ["search", *common, "-o", "o.onnx", "--metric", "error", "--round-to", 1]
    done = cli(*search, "--method", "bisection", "--tolerance", 0.3, cwd=tmp_path)
    assert done.returncode == 0 and "wrote page.html" in done.stderr, done.stderr
    page = Page((tmp_path / "page.html").read_text())
    assert "Proved." in page.text(inside="header")
    assert "best" in list(cells(page, "search"))
    # A search that finds nothing says so on its page.
    done = cli(*search, "--method", "bisection", "--tolerance", 0, cwd=tmp_path)
    assert done.returncode != 0
    stopped = Page((tmp_path / "page.html").read_text()).text(inside="header")
    assert "Stopped." in stopped and "no cut stays within the tolerance" in stopped
    done = cli(*search, "--tolerance", 1, "--json", "page.html", cwd=tmp_path)
    assert done.returncode != 0 and re.search(
        "page.html.*same|same.*page.html", done.stderr
    )


def test_a_page_does_not_change_what_is_found(data: dict[str, np.ndarray]) -> None:
    graph = residual_net(width=16)
    options = {"data": data, "tolerance": 0.2, "metric": "error", "round_to": 1, "jobs": 1}
    with_page = pg.search(graph, **options, watch=lambda progress: None)
    assert with_page.trace == pg.search(graph, **options).trace
