"""The HTML report: what is on the page, and that nothing in a model can break out of it."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import prunegraph as pg
from prunegraph import cli
from prunegraph.api import apply_plan
from prunegraph.errors import MissingExtraError, ModelError
from prunegraph.measuring.latency import Latency
from prunegraph.report import html
from prunegraph.report.layers import layer_rows
from prunegraph.selection.plan import make_plan
from tests.builders import Builder, residual_net
from tests.paths import FIXTURES
from tests.report.page import COMMAND, HOSTILE, Page, chain, curve_content, palettes, prune

MODEL = str(FIXTURES / "fashion_resnet.onnx")


def test_every_section(result: pg.PruneResult) -> None:
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
    assert pg.Graph is type(result.model) and result.original.sha256 in page.text(
        inside="repeat"
    )
    assert "Repair none" in page.text(inside="repeat")


def test_the_page_is_sound(result: pg.PruneResult) -> None:
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
    assert len(page.attributes("caption")) == len(page.attributes("table")) == 5
    assert all("scope" in a for a in page.attributes("th"))
    charts = [a for a in page.attributes("svg") if a.get("role") == "img"]
    assert len(charts) == 2 and all(a["aria-label"] for a in charts)
    assert page.attributes("html")[0]["lang"] == "en"


def assert_loads_nothing(page: Page) -> None:
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {
        tag for tag, _ in page.elements
    }
    for tag, attributes in page.elements:
        if tag == "img":  # a picture that is in the page itself
            assert set(attributes) == {"src", "alt"}
            assert attributes["src"].startswith("data:image/png;base64,")
            continue
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


def test_nothing_is_loaded(result: pg.PruneResult) -> None:
    text = html.render(result, command=COMMAND, sensitivity=curve_content(result))
    assert_loads_nothing(Page(text))
    assert "://" not in text


def test_hostile_names() -> None:
    graph = chain(len(HOSTILE) + 1, HOSTILE)
    graph.source = f"folder/{HOSTILE[1]}.onnx"
    result = prune(graph, verify=False)
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


def test_the_plan_makes_the_same_cut(result: pg.PruneResult) -> None:
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
    again = pg.apply(result.original, pg.Plan.from_json(content))
    assert again.model.SerializeToString(
        deterministic=True
    ) == result.model.model.SerializeToString(deterministic=True)


def test_a_plan_that_is_too_large_is_not_in_the_page(
    result: pg.PruneResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(html.plan_text(result.plan))
    monkeypatch.setattr(html, "PLAN", size)
    assert Page(html.render(result)).text(inside="details")
    monkeypatch.setattr(html, "PLAN", size - 1)
    page = Page(html.render(result))
    assert not page.text(inside="details") and "download" not in page.source
    assert f"The plan has {size} B" in page.text(inside="repeat")


@pytest.mark.parametrize("layers", [5, 300])
def test_few_and_many_layers(layers: int) -> None:
    result = prune(
        chain(layers, ("/a/very/long/prefix/of/a/module/path/that/goes/on/block.",)),
        verify=False,
    )
    page = Page(html.render(result))
    network, *kinds = [a["class"] for a in page.attributes("svg")]
    assert network == "network"
    assert kinds == (["chart widths"] if layers == 5 else ["chart profile", "chart widths"])
    chart = page.attributes("svg")[-1]
    assert (
        int(chart["width"]) == 1000
        and 20 * layers < int(chart["height"]) < 20 * layers + 50
    )
    table = page.text(inside="layers")
    for i in range(layers):
        assert (
            f" {i + 1} a.very.long.prefix.of.a.module.path.that.goes.on/block.{i} Conv "
            in table
        )
    labels = [
        t
        for tags, ids, t in page.texts
        if tags[-1:] == ("text",) and "widths" in ids and t.startswith("…")
    ]
    assert len(labels) == layers and max(map(len, labels)) == 44
    assert labels[-1].endswith(f"block.{layers - 1}")
    assert len(page.source) < 40_000 + 4_000 * layers


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


def test_no_proof_left_out_groups_repair_latency(result: pg.PruneResult) -> None:
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


def test_branches_that_went() -> None:
    graph = residual_net()
    coupling = pg.analyze(graph)
    plan = make_plan(coupling, {coupling.branches[0].id: (0,)})
    text = Page(html.render(apply_plan(graph, plan))).text(inside="totals")
    assert f"by the sums they ended in: {coupling.branches[0].name}." in text


def test_a_model_without_layers() -> None:
    b = Builder()
    page = Page(html.render(prune(b.graph(b.relu(b.input("n", 3))), 0.0)))
    assert "no layer with a width" in page.text(inside="widths")
    assert "every layer's channels can be pruned" in page.text(inside="fixed")


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


def test_command_line_with_sensitivity(result: pg.PruneResult, tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    pg.save(result.original, model)
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
    result: pg.PruneResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    pg.save(result.original, "good.onnx")
    code, said = invoke(
        "prune", "good.onnx", "-o", "out.onnx", "--ratio", "0.5", *options.split()
    )
    assert code == 2 and message in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["good.onnx"]


@pytest.mark.parametrize("package", html.PACKAGES)
def test_missing_extra(
    result: pg.PruneResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
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


def test_a_failed_write_leaves_nothing(result: pg.PruneResult, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written"):
        html.write(result, tmp_path / "missing" / "report.html")
    assert not list(tmp_path.iterdir())
