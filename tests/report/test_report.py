"""The HTML report: what is on the page, that nothing in a model can break out of it, and how a browser shows it."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import prunegraph as pg
from prunegraph import cli
from prunegraph.errors import DataError, MissingExtraError, ModelError
from prunegraph.measuring.latency import Latency
from prunegraph.report import curves, html
from prunegraph.report.layers import layer_rows
from tests.builders import Builder, residual_net
from tests.paths import FIXTURES

MODEL = str(FIXTURES / "fashion_resnet.onnx")

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


def prune(graph: pg.Graph, ratio: float = 0.5, **options: Any) -> pg.Result:
    return pg.prune(graph, budget=pg.Budget(ratio=ratio), round_to=1, **options)


@pytest.fixture(scope="module")
def result() -> pg.Result:
    return prune(residual_net())


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


def curve_content(result: pg.Result, **changes: Any) -> dict[str, Any]:
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


def test_every_section(result: pg.Result) -> None:
    page = Page(html.render(result, command=COMMAND))
    assert page.text(inside="h1") == "model"
    assert {"totals", "widths", "layers", "fixed", "proof", "repeat"} <= {
        a.get("id") for _, a in page.elements
    }
    for kind in ("macs", "params", "bytes"):
        before, after = getattr(result.before, kind), getattr(result.after, kind)
        assert f"{before:,} to {after:,}" in page.text(inside="totals")
    for name, old, new in (("stem", 8, 4), ("block1", 16, 8), ("block2", 8, 4)):
        assert f"{name}: {old} → {new} channels" in page.titles()
        assert re.search(
            rf"{name} Conv g\d+ \d+( → \d+)? {old} → {new} 50.0%",
            page.text(inside="layers"),
        )
    assert "head 5 of 5 graph output" in page.text(inside="fixed")
    assert result.proof is not None
    assert f"{result.proof.relative:.1e}" in page.text(inside="proof")
    assert COMMAND in page.text(inside="repeat")
    assert pg.Graph is type(result.small) and result.model.sha256 in page.text(
        inside="repeat"
    )
    assert "Repair none" in page.text(inside="repeat")


def test_the_page_is_sound(result: pg.Result) -> None:
    """Elements nest, ids are unique, links lead somewhere, headings do not skip a level, tables say what they are."""
    page = Page(html.render(result, command=COMMAND, sensitivity=curve_content(result)))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {
        a["href"][1:] for a in page.attributes("a") if a["href"].startswith("#")
    } <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert len(page.attributes("caption")) == len(page.attributes("table")) == 4
    assert all("scope" in a for a in page.attributes("th"))
    charts = [a for a in page.attributes("svg") if a.get("role") == "img"]
    assert len(charts) == 2 and all(a["aria-label"] for a in charts)
    assert page.attributes("html")[0]["lang"] == "en"


def assert_loads_nothing(page: Page) -> None:
    assert not {"script", "iframe", "object", "embed", "img", "base", "form"} & {
        tag for tag, _ in page.elements
    }
    for tag, attributes in page.elements:
        assert not [
            key
            for key in attributes
            if key.startswith("on") or key in ("src", "srcset", "xlink:href")
        ], tag
        assert attributes.get("href", "#").startswith(("#", "data:")), attributes
    style = "".join(text for tags, _, text in page.texts if tags[-1:] == ("style",))
    assert "url(" not in style and "@import" not in style
    policy = next(
        a["content"]
        for a in page.attributes("meta")
        if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy and "script" not in policy


def test_nothing_is_loaded(result: pg.Result) -> None:
    text = html.render(result, command=COMMAND, sensitivity=curve_content(result))
    assert_loads_nothing(Page(text))
    assert "://" not in text


def test_hostile_names() -> None:
    graph = chain(len(HOSTILE) + 1, HOSTILE)
    graph.source = f"folder/{HOSTILE[1]}.onnx"
    result = prune(graph, check=False)
    content = curve_content(result, metric=HOSTILE[0])
    page = Page(
        html.render(result, command=f"prunegraph {HOSTILE[0]}", sensitivity=content)
    )
    assert_loads_nothing(page)
    assert page.text(inside="h1") == f"{HOSTILE[1]}.onnx"
    assert page.text(inside="repeat").startswith(
        f"Repeat it Command line prunegraph {HOSTILE[0]}"
    )
    shown = [
        " ".join(re.sub("[\x00\x1b\u202e]", "\ufffd", f"{name}{i}").split())
        for i, name in enumerate(HOSTILE)
    ]
    for name in shown:
        assert name in page.text(inside="layers")
        assert [title for title in page.titles() if title.startswith(f"{name}: ")]
    assert not re.search("[\x00\x1b\u202e]", page.source)


def test_the_plan_makes_the_same_cut(result: pg.Result) -> None:
    page = Page(html.render(result))
    link = next(a["href"] for a in page.attributes("a") if a.get("download") == "plan.json")
    content = json.loads(
        base64.b64decode(link.removeprefix("data:application/json;base64,"))
    )
    assert content == json.loads(
        page.text(inside="details").removeprefix("The plan as JSON")
    )
    assert content == {
        key: value for key, value in result.plan.to_json().items() if key != "cuts"
    }
    again = pg.apply(result.model, pg.Plan.from_json(content))
    assert again.model.SerializeToString(
        deterministic=True
    ) == result.small.model.SerializeToString(deterministic=True)


def test_sensitivity(result: pg.Result) -> None:
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
    result = prune(b.graph(x), check=False)
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
    result: pg.Result, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match="sensitivity"):
        html.write(
            result, tmp_path / "report.html", sensitivity=curve_content(result, **changes)
        )
    assert not list(tmp_path.iterdir())


def test_sensitivity_files(result: pg.Result, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such sensitivity file"):
        curves.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="not a sensitivity file"):
        curves.read(tmp_path / "bad.json")
    (tmp_path / "good.json").write_text(json.dumps(curve_content(result)))
    assert curves.read(tmp_path / "good.json") == curve_content(result)


@pytest.mark.parametrize("layers", [5, 300])
def test_few_and_many_layers(layers: int) -> None:
    result = prune(
        chain(layers, ("/a/very/long/prefix/of/a/module/path/that/goes/on/block.",)),
        check=False,
    )
    page = Page(html.render(result))
    kinds = [a["class"] for a in page.attributes("svg")]
    assert kinds == (["chart widths"] if layers == 5 else ["chart profile", "chart widths"])
    chart = page.attributes("svg")[-1]
    assert (
        int(chart["width"]) == 1000
        and 20 * layers < int(chart["height"]) < 20 * layers + 50
    )
    table = page.text(inside="layers")
    for i in range(layers):
        assert (
            f" {i + 1} /a/very/long/prefix/of/a/module/path/that/goes/on/block.{i} Conv "
            in table
        )
    labels = [
        t for tags, _, t in page.texts if tags[-1:] == ("text",) and t.startswith("…")
    ]
    assert len(labels) == layers and max(map(len, labels)) == 44
    assert labels[-1].endswith(f"block.{layers - 1}")
    assert len(page.source) < 40_000 + 2_500 * layers


def test_widths_of_weights_that_come_through_other_nodes() -> None:
    b = Builder()
    y = b.op(
        "MatMul",
        b.input("n", 6),
        b.op("Transpose", b.weight(8, 6), perm=[1, 0]),
        name="first",
    )
    result = prune(b.graph(b.linear(b.relu(y), 8, 3, name="second")))
    first, second = layer_rows(result)
    assert first.outputs == (8, 4) and second.outputs == (3, 3)
    assert first.macs == (48, 24) and second.inputs == (8, 4)
    assert second.is_fixed and not first.is_fixed


def test_no_proof_left_out_groups_repair_latency(result: pg.Result) -> None:
    changed = dataclasses.replace(
        result, proof=None, left_out=("g1", "g2"), repair="least-squares"
    )
    page = Page(html.render(changed, latency=Latency(2.0, 0.5, 4.0, 30, 1)))
    assert "Not proved" in page.text(inside="header") and "Proved." not in page.text(
        inside="header"
    )
    assert "groups g1, g2" in page.text(inside="totals")
    assert "refitted by least squares" in page.text(inside="totals")
    assert (
        "Latency 25.0% left 2 ms → 0.5 ms batch 1, 1 thread, median of 30 runs"
        in page.text(inside="totals")
    )
    assert "Command line" not in page.text(inside="repeat")
    assert "Proved." in Page(html.render(result)).text(inside="header")


def test_a_model_without_layers() -> None:
    b = Builder()
    page = Page(html.render(prune(b.graph(b.relu(b.input("n", 3))), 0.0)))
    assert "no layer with a width" in page.text(inside="widths")
    assert "every layer's channels can be pruned" in page.text(inside="fixed")


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


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, from 1 to 21 (WCAG 2.2, relative luminance)."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_in_both_themes() -> None:
    for palette in palettes():
        for ground in ("page", "panel"):
            for text in ("ink", "soft", "link"):
                assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
        for verdict in ("good", "open"):
            for text in (verdict, "ink", "link"):
                assert contrast(palette[text], palette[f"{verdict}-panel"]) >= 4.5, (
                    text,
                    verdict,
                )
        for mark in ("after", "same", "c1", "c2", "c3", "c4", "c5", "c6"):
            assert contrast(palette[mark], palette["page"]) >= 3, mark


def invoke(*args: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli.main, list(map(str, args)))
    return done.exit_code, done.stderr


def test_command_line(tmp_path: Path) -> None:
    """The recorded command repeats the work, from names with spaces and quotes."""
    model = tmp_path / "it's a model.onnx"
    shutil.copy(MODEL, model)
    out, page = tmp_path / "half of it.onnx", tmp_path / "the report.html"
    code, said = invoke("prune", model, "-o", out, "--macs", "0.5", "--report", page)
    assert code == 0, said
    assert "report.html" in said.replace("\n", "")
    written, text = out.read_bytes(), page.read_text()
    command = re.search(
        r'<pre class="command"><code>(prunegraph prune .*?)</code>', text, re.DOTALL
    )
    assert command is not None
    words = shlex.split(Page(f"<p>{command[1]}</p>").text(inside="p"))
    assert words[:3] == ["prunegraph", "prune", str(model)]
    out.unlink()
    page.unlink()
    assert invoke(*words[1:])[0] == 0
    assert out.read_bytes() == written and page.exists()


def test_command_line_with_sensitivity(result: pg.Result, tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    pg.save(result.model, model)
    (tmp_path / "curves.json").write_text(json.dumps(curve_content(result)))
    args = (
        "prune",
        model,
        "-o",
        tmp_path / "o.onnx",
        "--ratio",
        0.5,
        "--sensitivity",
        tmp_path / "curves.json",
    )
    assert invoke(*args, "--report", tmp_path / "r.html")[0] == 0
    assert '<h2 id="sensitivity-h">' in (tmp_path / "r.html").read_text()
    code, said = invoke(*args)
    assert code == 2 and "--report" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--report missing/r.html", "does not exist"),
        ("--report .", "is a folder"),
        ("--report good.onnx", "same file"),
        ("--report out.onnx", "two outputs are the same file"),
        ("--report ./p.json --save-plan p.json", "two outputs are the same file"),
        ("--report r.html --sensitivity none.json", "no such sensitivity file"),
    ],
)
def test_bad_output_is_said_before_the_work(
    result: pg.Result,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    pg.save(result.model, "good.onnx")
    code, said = invoke(
        "prune", "good.onnx", "-o", "out.onnx", "--ratio", "0.5", *options.split()
    )
    assert code == 2 and message in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["good.onnx"]


@pytest.mark.parametrize("package", html.PACKAGES)
def test_missing_extra(
    result: pg.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    matches = html.importlib.util.find_spec
    monkeypatch.setattr(
        html.importlib.util,
        "find_spec",
        lambda name: None if name == package else matches(name),
    )
    with pytest.raises(
        MissingExtraError, match=f"{package}: pip install 'prunegraph\\[report\\]'"
    ):
        html.write(result, tmp_path / "report.html")
    code, said = invoke(
        "prune",
        MODEL,
        "-o",
        tmp_path / "o.onnx",
        "--ratio",
        "0.5",
        "--report",
        tmp_path / "r.html",
    )
    assert code == 2 and said.count("\n") == 1 and "prunegraph[report]" in said
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(result: pg.Result, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written"):
        html.write(result, tmp_path / "missing" / "report.html")
    assert not list(tmp_path.iterdir())


# -- a real browser ---------------------------------------------------------------------

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


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything in it, and hostile names."""
    graph = chain(40, ("/block/conv", *HOSTILE))
    result = prune(graph, check=True)
    path = tmp_path_factory.mktemp("report") / "report.html"
    html.write(result, path, command=COMMAND, sensitivity=curve_content(result))
    return path


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
