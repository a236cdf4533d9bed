"""Names of classes and characters that a model file holds."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from hypothesis import given

import prunegraph as pg
from prunegraph.data.opening import open_data
from prunegraph.report import html
from prunegraph.report.class_names import MAX_NAME, class_names, read_text
from prunegraph.report.examples import examples
from prunegraph.report.written import WrittenReport, write
from prunegraph.runtime.data import Data
from tests.builders import Builder, residual_net
from tests.report.page import HOSTILE, Page, prune
from tests.report.test_examples import Objects, answering
from tests.report.test_report import assert_loads_nothing


def noted(graph: pg.Graph, **notes: str) -> pg.Graph:
    model = graph.to_model()
    onnx.helper.set_model_props(model, notes)
    return pg.load(model)


@pytest.mark.parametrize(
    ("notes", "names"),
    [
        ({"names": "{0: 'person', 1: 'traffic light'}"}, {0: "person", 1: "traffic light"}),
        ({"id2label": '{"0": "cat", "4": "dog"}'}, {0: "cat", 4: "dog"}),
        ({"names": "['a', 'b']"}, {0: "a", 1: "b"}),
        ({"names": "['a', 'b', 'c', 'd', 'e', 'f']"}, {}),  # a class more than there are
        (
            {"character": "0\n90\n180\n270\n360"},
            dict(enumerate(["0", "90", "180", "270", "360"])),
        ),
        ({"character": "0\n90\n180"}, {}),
        ({"names": "{0: 3}"}, {}),
        ({"names": "{-1: 'a'}"}, {}),
        ({"names": "{'1' * 9: 'a'}"}, {}),
        ({"names": '{"99999999": "a"}'}, {}),
        ({"names": "__import__('os').getcwd()"}, {}),
        ({"names": "[" * 5000}, {}),
        ({"names": "text"}, {}),
        ({"names": repr(["x" * 99])}, {0: "x" * MAX_NAME}),
        ({}, {}),
    ],
)
def test_names_of_five_classes(notes: dict[str, str], names: dict[int, str]) -> None:
    assert class_names(noted(residual_net(), **notes), 5) == names


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_text_is_the_best_path_without_repeats_and_blanks(path: list[int]) -> None:
    graph = noted(residual_net(), character="a\nb\n\u2028")
    scores = np.eye(5)[path][None]
    merged = [each for each, _ in itertools.groupby(path)]
    expected = "".join(" ab\u2028 "[each] for each in merged if each)
    assert read_text(graph, scores) == [expected]
    assert read_text(graph, scores[:, :, :3]) is None
    assert read_text(residual_net(), scores) is None


def test_the_page_shows_names() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    graph = noted(residual_net(), id2label=json.dumps(dict(enumerate(HOSTILE[:5]))))
    page = Page(html.render(prune(graph), samples=Data.of({"x": x})))
    assert_loads_nothing(page)
    text = page.text(inside="examples")
    assert "alert(1)" in text
    assert "by number" not in text
    bare = Page(html.render(prune(residual_net()), samples=Data.of({"x": x})))
    assert "by number" in bare.text(inside="examples")


def test_the_page_shows_text() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 8, 8), 3, 6, name="one")
    x = b.conv(x, 6, 4, name="two")
    flat = b.op("Reshape", x, b.const([0, 4, 64], np.int64))
    graph = noted(b.graph(b.op("Transpose", flat, perm=[0, 2, 1])), character="\u7597\nb")
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    result = pg.prune(graph, budget=pg.Budget(ratio=0.4), round_to=1)
    shown = examples(result, Data.of({"x": images}))
    assert all(each.texts and set(each.texts[0]) <= set("\u7597b ") for each in shown)
    assert any(each.texts and each.texts[0] for each in shown)
    page = Page(html.render(result, samples=Data.of({"x": images})))
    assert f"before \u201c{shown[0].texts[0]}\u201d" in page.source  # type: ignore[index]
    assert "the text that is read" in page.text(inside="examples")


def test_boxes_are_named(tmp_path: Path) -> None:
    objects = [Objects((0, 7), (3, 1), (0.9, 0.6)).outputs("finished")] * 2
    result = answering(*objects)
    named = dataclasses.replace(result, original=noted(result.original, names="{3: 'car'}"))
    images = {"x": np.random.default_rng(0).random((2, 3, 64, 96)).astype(np.float32)}
    shown = examples(named, Data.of(images))
    assert shown and shown[0].views
    assert [shown[0].named(box.named) for box in shown[0].views[0].boxes] == ["car", "1"]
    assert shown[0].views[0].said(shown[0].names) == "car (90%), class 1 (60%)"
    report = WrittenReport(
        named.original, named.model, "Boxes", "", [], [], samples=Data.of(images)
    )
    write(report, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert {"car, 90.0%", "class 1, 60.0%"} <= set(page.titles())
    assert "with the name of their class" in page.text(inside="examples")


@pytest.mark.parametrize(
    ("place", "content", "names"),
    [
        ("config.json", {"id2label": {"0": "cat", "4": "dog"}}, {0: "cat", 4: "dog"}),
        ("../config.json", {"id2label": {"0": "cat", "4": "dog"}}, {0: "cat", 4: "dog"}),
        ("config.json", {"id2label": {"0": "cat", "5": "dog"}}, {}),  # of more classes
        ("config.json", {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, {}),
        ("config.json", {"id2label": ["cat"]}, {}),
        ("config.json", {"id2label": {"0": 1}}, {}),
        ("config.json", ["id2label"], {}),
        ("config.json", "{" * 9000, {}),
    ],
)
@pytest.mark.parametrize("large", [1 << 40, 0], ids=["weights held", "weights on disk"])
def test_names_of_a_configuration_beside_the_file(
    place: str,
    content: object,
    names: dict[int, str],
    large: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prunegraph.graph.spilling.LARGE", large)
    folder = tmp_path / "onnx"
    folder.mkdir()
    pg.save(residual_net(), folder / "model.onnx")
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / place).write_text(text)
    graph = pg.load(folder / "model.onnx")
    assert class_names(graph, 5) == names
    assert class_names(noted(graph, names="['a']"), 5) == {0: "a"}  # the file's own first


def test_names_of_the_folders_of_the_data(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="pip install pillow")
    graph = residual_net()
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "cat", "dog", "elk"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        image.fromarray(pixels).save(tmp_path / "photos" / name / "1.png")
    data = open_data(str(tmp_path / "photos"), graph)
    shown = examples(prune(graph), data)
    assert len(shown) == 5
    assert all(each.named(1) == "bee" for each in shown)
    assert "bee" in Page(html.render(prune(graph), samples=data)).text(inside="examples")
    assert class_names(graph, 5, data.classes[:4]) == {}
    assert class_names(graph, None, data.classes)[4] == "elk"
    assert data.without_labels().head(2).classes == data.classes
