"""The page in a real browser."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.ops.cost import cost
from prunegraph.report import binarized, html, inspected
from prunegraph.report import written as report
from prunegraph.report.binarized import BinaryReport
from prunegraph.report.decomposed import layers_table
from prunegraph.report.examples import examples
from prunegraph.report.live import LivePage
from prunegraph.report.studied import StudyPage
from prunegraph.report.trained import TrainingPage
from prunegraph.runtime.data import Data
from prunegraph.tuning.search import Goal, SearchTrace, Trial
from tests.report.page import COMMAND, chain, curve_content, palettes, prune
from tests.report.test_examples import Objects, answering
from tests.report.test_layer_times import LATENCY, timed
from tests.report.test_trained import RECORDS

#: Names under which systems install a browser of Chromium's family.
BROWSERS = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="no browser driver: pip install 'prunegraph[browser]'"
    )
    pytest.importorskip("PIL", reason="no Pillow: pip install 'prunegraph[browser]'")
    with sync_api.sync_playwright() as driver:
        own = driver.chromium.executable_path
        path = next(
            (result for name in BROWSERS if (result := shutil.which(name))),
            own if Path(own).exists() else None,
        )
        if path is None:
            pytest.skip(
                "no browser: install Debian's chromium-headless-shell, or run `playwright install chromium`"
            )
        opened = driver.chromium.launch(executable_path=path)
        yield opened
        opened.close()


def open_page(browser: Any, path: Path, scheme: str, width: int) -> tuple[Any, list[str]]:
    """The page without network, and all that went wrong or was asked for."""
    context = browser.new_context(
        color_scheme=scheme,
        viewport={"width": width, "height": 900},
        offline=True,
        reduced_motion="reduce",
    )
    page, events = context.new_page(), []
    page.on("console", lambda message: events.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: events.append(f"error: {error}"))
    page.on("dialog", lambda dialog: events.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: events.append(f"request: {request.url}"))
    page.goto(path.as_uri())
    page.wait_for_load_state("networkidle")
    return page, events


def test_browser_shows_light_and_dark(browser: Any, written: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    pictures = {}
    for scheme, colors in zip(("light", "dark"), palettes(), strict=True):
        page, events = open_page(browser, written, scheme, 1200)
        page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
        pictures[scheme] = np.asarray(Image.open(tmp_path / f"{scheme}.png").convert("RGB"))
        assert events == [f"request: {written.as_uri()}"]
        colours = pictures[scheme].astype(np.uint32)
        drawn = {
            f"#{color:06x}"
            for color in np.unique(
                colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
            )
        }
        assert {
            colors[name] for name in ("page", "panel", "after", "before", "same", "c1")
        } <= drawn
        assert len(drawn) > 100
        page.context.close()
    light, dark = pictures["light"], pictures["dark"]
    assert light.shape == dark.shape
    assert (light != dark).any(axis=2).mean() > 0.9
    assert light.mean() > 200 and dark.mean() < 60
    rows = light.std(axis=(1, 2)) > 0
    assert rows.mean() > 0.5, "most of the page has something on it"


@pytest.mark.parametrize("width", [390, 1200])
def test_browser_layout(browser: Any, written: Path, width: int) -> None:
    page, _ = open_page(browser, written, "light", width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for kind in ("profile", "widths", "curves"):
        box = page.locator(f"svg.{kind}").bounding_box()
        assert box["width"] >= 800 and box["height"] > 100, kind
    names = page.evaluate(
        "[...document.querySelectorAll('svg.widths .names_marks text')].map(t => t.getBoundingClientRect().x"
        " - t.ownerSVGElement.getBoundingClientRect().x)"
    )
    assert len(names) == 40 and min(names) >= 0, "no name is cut off at the left"
    page.context.close()


def test_browser_tells_the_reasons_of_a_layer(browser: Any, written: Path) -> None:
    """A click on a box opens its note over the page, where it is, and the cross closes it."""
    page, events = open_page(browser, written, "light", 1200)
    box, note = page.locator("svg.network a.layer").nth(1), page.locator("#why-1")
    assert not note.is_visible()
    page.evaluate("document.querySelector('#network').scrollIntoView()")
    before = page.evaluate("scrollY")
    box.click()
    assert note.is_visible() and page.locator(".why:visible").count() == 1
    assert page.evaluate("scrollY") == before, "the page stays where it is"
    place = note.bounding_box()
    assert place["x"] + place["width"] <= 1200 and place["y"] + place["height"] <= 900
    note.locator("a.close").click()
    assert not note.is_visible() and page.evaluate("scrollY") == before
    assert events == [f"request: {written.as_uri()}"]
    page.context.close()


def test_browser_saves_the_plan_and_selects_the_command(
    browser: Any, written: Path
) -> None:
    page, _ = open_page(browser, written, "light", 1200)
    with page.expect_download() as waiting:
        page.click("a[download]")
    content = json.loads(Path(waiting.value.path()).read_text())
    assert waiting.value.suggested_filename == "plan.json"
    assert content["format"] == "prunegraph/plan@2"
    page.click("pre.command >> nth=0")
    assert page.evaluate("getSelection().toString().trim()") == COMMAND
    assert not page.locator("pre.plan").is_visible()
    page.click("summary")
    assert page.locator("pre.plan").is_visible()
    page.context.close()


# -- for everybody --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Update:
    """What became of a layer that is binary now, as a page reads it."""

    layer: str
    error: tuple[float, float]
    flips: float
    loss: tuple[float, float]
    kept: bool
    tuned: float
    tuning_kept: bool


def trace(result: pg.PruneResult) -> SearchTrace:
    """A search that looked at two candidates."""
    whole, half = cost(result.original), cost(result.model)
    trials = Trial(5, (), whole, 90.0, 0.0, True), Trial(50, (0.1,), half, 88.0, 2.0, False)
    return SearchTrace(result.plan, trials[0], Goal(1.0), "top1", "%", 90.0, trials)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, written: Path) -> dict[str, Path]:
    """Pages with all sections there are, by name."""
    folder = tmp_path_factory.mktemp("pages")
    graph = chain(12)
    result = dataclasses.replace(prune(graph), latency=LATENCY)
    objects = [Objects((0, 7), (3, 1), (0.9, 0.6)).outputs("finished")] * 2
    images = {"x": np.random.default_rng(0).random((2, 3, 64, 96)).astype(np.float32)}
    shown = examples(answering(*objects), Data.of(images))
    search = trace(result)
    with pytest.MonkeyPatch.context() as patch:
        timed(result, folder, patch)
        patch.setattr(html, "examples", lambda *given: shown)
        html.write(result, folder / "all.html", latency=LATENCY, search=search)
    study = StudyPage(LivePage(folder / "search.html"), graph, COMMAND)
    study.search(search)  # type: ignore[arg-type]
    training = TrainingPage(LivePage(folder / "train.html", 0.0), graph, "top1", COMMAND)
    for record in RECORDS:
        training(record)
    inspected.write(pg.analyze(graph), folder / "inspected.html", command=COMMAND)
    updates = [
        Update(f"/block.{i}/conv/Conv", (0.5, 0.25), 0.01, (1.5, 1.25), i > 0, 1.2, i > 1)
        for i in (0, 1)
    ]
    binarized.write(
        BinaryReport(
            graph, (2000, 100), LATENCY, updates, {"stem": "the first layer"},
            {"start": 2.5, "end": 1.5}, ["Outputs differ."], COMMAND,
        ),
        folder / "binary.html",
    )  # fmt: skip
    low_rank = pg.decompose(graph, rank="ratio:0.5")
    cards = html.cards(low_rank.before, low_rank.after, LATENCY, (2000, 500))
    report.write(
        report.WrittenReport(
            graph, low_rank.model, "Report of low rank", COMMAND, cards, ["Outputs differ."],
            [layers_table(low_rank, graph)], pg.quantize(graph, {"x": images["x"][:, :, :4, :4]}),
        ),
        folder / "low-rank.html",
    )  # fmt: skip
    names = ("all", "search", "train", "inspected", "binary", "low-rank")
    return {"written": written, **{name: folder / f"{name}.html" for name in names}}


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name", ["written", "all", "search", "train", "inspected", "binary", "low-rank"]
)
def test_axe_finds_nothing(
    browser: Any, pages: dict[str, Path], name: str, scheme: str, width: int
) -> None:
    """Names, contrast, keyboard: what axe-core tests; and nothing is wider than the screen."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright",
        reason="no axe: pip install 'prunegraph[browser]'",
    )
    page, events = open_page(browser, pages[name], scheme, width)
    found = axe.Axe().run(page).response["violations"]
    assert not [(each["id"], [n["html"] for n in each["nodes"]]) for each in found]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert events == [f"request: {pages[name].as_uri()}"]
    page.context.close()


def test_what_is_drawn_on_pictures_is_seen(browser: Any, pages: dict[str, Path]) -> None:
    """The second view shows the picture of the first by reference, as large, and boxes over it."""
    page, _ = open_page(browser, pages["all"], "light", 1200)
    views = page.locator("svg.view")
    boxes = [views.nth(i).bounding_box() for i in (0, 1)]
    assert boxes[0]["width"] == boxes[1]["width"] > 150
    assert boxes[0]["y"] == boxes[1]["y"]
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg.view image, svg.view use')].map(e => e.getBoundingClientRect().width)"
    )
    assert len(sizes) == 4 and min(sizes) > 150
    assert views.nth(1).locator("rect.halo").count() == 2
    page.context.close()


@pytest.mark.slow
def test_a_thousand_layers(browser: Any, tmp_path: Path) -> None:
    """Everything that a page can have, of a thousand layers: it opens, at less than 5 MB, and scrolls on the inside."""
    result, path = prune(chain(1000)), tmp_path / "page.html"
    html.write(result, path, command=COMMAND, sensitivity=curve_content(result))
    assert path.stat().st_size < 5_000_000
    page, events = open_page(browser, path, "light", 1200)
    assert events == [f"request: {path.as_uri()}"]
    assert page.locator("svg.network a.layer").count() == 1000
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200
    page.context.close()
