"""The network as a graph: what is drawn, where it stands, what a click tells."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import prunegraph as pg
from prunegraph.api import apply_plan
from prunegraph.report import html, inspected
from prunegraph.report.layers import layer_rows
from prunegraph.report.model_explorer import FIXED, node_data
from prunegraph.report.network.diagram import diagram
from prunegraph.report.network.layout import BESIDE, Arrangement, Size, gutter, layout
from prunegraph.report.remarks import group_rows
from prunegraph.selection.plan import make_plan
from tests.builders import Builder, residual_net
from tests.coupling.control_networks import branching, finished, recurrent
from tests.paths import FIXTURES
from tests.report.page import COMMAND, HOSTILE, Page, chain, prune


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Size], list[tuple[int, int]]]:
    """Sizes of vertices, and edges from earlier to later ones, near and far."""
    sizes = draw(
        st.lists(
            st.builds(Size, st.floats(10, 200), st.floats(10, 120)), min_size=1, max_size=40
        )
    )
    pairs = [(a, b) for b in range(len(sizes)) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return sizes, edges


def drawn_edges(result: Arrangement, count: int) -> set[tuple[int, int]]:
    """Edges between vertices that the picture has, followed through the points of long ones."""
    edges = set()
    for source in range(count):
        queue = list(result.elements[source].below)
        while queue:
            element = result.elements[queue.pop()]
            if element.vertex is not None:
                edges.add((source, element.vertex))
            else:
                queue += element.below
    return edges


@given(graphs())
def test_every_edge_goes_down_and_nothing_overlaps(
    graph: tuple[list[Size], list[tuple[int, int]]],
) -> None:
    sizes, edges = graph
    result = layout(sizes, edges)
    assert [e.vertex for e in result.elements[: len(sizes)]] == list(range(len(sizes)))
    left_out = set(result.left_out)
    assert drawn_edges(result, len(sizes)) | left_out == set(edges)
    for element in result.elements:
        assert all(result.elements[each].row == element.row + 1 for each in element.below)
        assert element.vertex is not None or len(element.above) == 1
    rows: dict[int, list[tuple[float, float, float]]] = {}
    for e in result.elements:
        half = e.size.width / 2
        rows.setdefault(e.row, []).append((e.x - half, e.x + half, e.size.width))
        column = result.columns[result.column(e.row)]
        assert column.start - 1e-6 <= e.x - half
        assert e.x + half <= column.start + column.width + 1e-6
        assert e.top >= 0 and e.bottom <= column.height + 1e-6
    for row in rows.values():
        for (_, end, _), (start, _, _) in itertools.pairwise(sorted(row)):
            assert start - end >= BESIDE - 1e-6
    spans = [(c.first, c.last) for c in result.columns]
    assert spans[0][0] == 0 and all(b[0] == a[1] + 1 for a, b in itertools.pairwise(spans))
    for a, b in itertools.pairwise(result.columns):
        assert b.start >= a.start + a.width + gutter(1) - 1e-6


def test_edges_beyond_all_measure_are_counted() -> None:
    """Two thousand vertices in a row, each read by the last ones too: what is not drawn is said."""
    count = 400
    edges = [(i, i + 1) for i in range(count - 1)]
    edges += [(i, count - 1) for i in range(count - 2)]
    result = layout([Size(20, 20)] * count, edges)
    assert 0 < len(result.left_out) < len(edges)
    assert drawn_edges(result, count) | set(result.left_out) == set(edges)
    assert not set(result.left_out) & {(i, i + 1) for i in range(count - 1)}


def names(graph: pg.Graph) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    result = diagram(graph)
    vertices = [(v.role, v.op or v.name) for v in result.vertices]
    return vertices, [(vertices[a][1], vertices[b][1]) for a, b in result.edges]


def test_layers_and_joins() -> None:
    """Activations are part of edges; a value that meets what is made of it alone is no join, sizes are no data."""
    b = Builder()
    x = b.input("n", 3, 8, 8)
    stem = b.conv(x, 3, 8, name="stem")
    gelu = b.op("Mul", stem, b.op("Sigmoid", stem))
    y = b.conv(gelu, 8, 8, name="inner")
    total = b.op("Add", gelu, y, name="sum")
    shape = b.op("Shape", y)
    out = b.op("Reshape", total, shape)
    vertices, edges = names(b.graph(b.conv(out, 8, 4, name="head")))
    roles = Counter(role for role, _ in vertices)
    assert roles == {"input": 1, "layer": 3, "join": 1, "output": 1}
    assert ("join", "Add") in vertices
    assert len(edges) == 6 and edges.count(("Conv", "Add")) == 2


@pytest.mark.parametrize("build", [branching, recurrent])
def test_layers_of_subgraphs_are_drawn_where_values_go_through(
    build: Callable[[], Builder],
) -> None:
    graph = finished(build())
    result = diagram(graph)
    layers = {v.name for v in result.vertices if v.role == "layer"}
    assert layers == {node.name for node in graph.layers}
    fed = {target for _, target in result.edges}
    assert all(i in fed for i, v in enumerate(result.vertices) if v.role != "input")


def boxes(page: Page) -> list[dict[str, str]]:
    return [a for a in page.attributes("a") if "layer" in a.get("class", "").split()]


def test_boxes_notes_and_colours() -> None:
    result = prune(residual_net())
    page = Page(html.render(result, command=COMMAND))
    rows = layer_rows(result)
    links = [a["href"][1:] for a in boxes(page)]
    assert sorted(links) == sorted(f"why-{i}" for i in range(len(rows)))
    for i, row in enumerate(rows):
        note = page.text(inside=f"why-{i}")
        assert row.name in note and f"operator {row.op}" in note
        before, after = row.outputs
        change = f"{before} → {after}" if before != after else f"{before}"
        assert f"channels {change} " in note
        for group in row.groups:
            assert f"{group}: " in note
    together = {g.layers for g in result.coupling.groups if len(g.layers) > 1}
    assert together
    for layers in together:
        colors = {
            next(c for c in box["class"].split() if c[0] == "k")
            for box, row in zip(sorted_boxes(page), rows, strict=True)
            if row.layer in layers
        }
        assert len(colors) == 1 and colors != {"k0"}
    assert "5 of 5 channels are fixed: graph output" in page.text(inside="network")
    assert all(a.get("id") != "shut" or tag == "span" for tag, a in page.elements)


def sorted_boxes(page: Page) -> list[dict[str, str]]:
    return sorted(boxes(page), key=lambda a: int(a["href"].removeprefix("#why-")))


def test_a_branch_that_went_is_struck_out() -> None:
    graph = residual_net()
    coupling = pg.analyze(graph)
    plan = make_plan(coupling, {coupling.branches[0].id: (0,)})
    result = apply_plan(graph, plan)
    page = Page(html.render(result))
    gone = [
        row.layer
        for box, row in zip(sorted_boxes(page), layer_rows(result), strict=True)
        if "gone" in box["class"].split()
    ]
    assert gone == list(coupling.branches[0].layers)
    assert "gone, with its branch" in page.text(inside="network")


def test_why_a_group_has_its_width() -> None:
    """Scores of what went lie below those of what stays; the damage is read off the measured curve."""
    result = prune(residual_net())
    assert result.grounds is not None
    for row in group_rows(result):
        assert row.gone_score is not None and row.kept_score is not None
        assert row.gone_score <= row.kept_score
        gone = result.plan.remove[row.id]
        scores = result.grounds.scores[row.id]
        assert row.gone_score == pytest.approx(max(scores[i] for i in gone))
        assert row.of - row.kept == len(gone) and row.damage is None
    name = result.coupling.groups[0].id
    curves = {name: [(0.25, 0.1), (0.75, 0.3)]}
    grounds = dataclasses.replace(result.grounds, curves=curves)
    known = dataclasses.replace(result, grounds=grounds)
    assert group_rows(known)[0].damage == pytest.approx(0.2)
    text = Page(html.render(known)).text(inside="groups")
    assert "Damage" in text and " 0.2 " in f"{text} "
    plain = Page(html.render(dataclasses.replace(result, grounds=None)))
    assert "Gone, up to" not in plain.text(inside="groups")


def test_layers_of_low_rank_have_their_width() -> None:
    graph = pg.load(FIXTURES / "fashion_resnet.onnx")
    data = {"image": np.load(FIXTURES / "fashion_calibration.npz")["image"][:16]}
    result = pg.prune(graph, data=data, budget=pg.Budget(macs=0.5), ranks="auto")
    assert result.decomposed is not None
    low = [row for row in layer_rows(result) if row.ranks]
    assert {row.layer for row in low} == {row.name for row in result.decomposed.layers}
    assert all(not row.is_gone and row.outputs[1] for row in low)
    text = Page(html.render(result)).text(inside="network")
    ranks = " x ".join(map(str, low[0].ranks))
    assert f"low rank {ranks}" in text


def test_quantization_noise_by_layer() -> None:
    graph = pg.load(FIXTURES / "fashion_resnet.onnx")
    data = {"image": np.load(FIXTURES / "fashion_calibration.npz")["image"][:16]}
    budget = pg.Budget(macs=0.5)
    result = pg.prune(graph, data=data, budget=budget, quantize="int8", ranks="never")
    assert result.quantized is not None
    page = Page(html.render(result))
    for layer in result.quantized.layers:
        assert layer.sqnr is not None
        assert f"{layer.weights} {layer.activations}" in page.text(inside="noise")
        assert f"output SQNR {layer.sqnr:.1f} dB" in page.text(inside="network")
    assert len([a for a in page.attributes("svg") if a["class"] == "chart noise"]) == 1


def sections(page: Page) -> set[str]:
    return {a["id"] for tag, a in page.elements if tag == "section"}


def test_the_page_of_a_model() -> None:
    coupling = pg.analyze(residual_net())
    page = Page(inspected.render(coupling, command=COMMAND))
    assert sections(page) == {
        "totals",
        "network",
        "groups",
        "branches",
        "fixed",
        "repeat",
    }
    assert len(boxes(page)) == len(coupling.graph.layers)
    for group in coupling.groups:
        assert f"{group.id} {', '.join(group.layers)} {group.channels} " in page.text(
            inside="groups"
        )
    assert "stay" not in page.text(inside="network")
    assert COMMAND in page.text(inside="repeat")


def test_pages_of_hostile_names_and_of_models_without_layers() -> None:
    page = Page(inspected.render(pg.analyze(chain(len(HOSTILE), HOSTILE))))
    assert not {"script", "iframe", "img"} & {tag for tag, _ in page.elements}
    assert "http" not in page.source.replace("http-equiv", "")
    b = Builder()
    page = Page(inspected.render(pg.analyze(b.graph(b.relu(b.input("n", 3))))))
    assert "network" not in sections(page)


def test_node_data_for_model_explorer() -> None:
    """By graph and node name: a number, and one colour for layers of a group, another for fixed ones."""
    coupling = pg.analyze(residual_net())
    graph = coupling.graph
    [(name, content)] = node_data(coupling).items()
    assert name == graph.model.graph.name
    results = content["results"]
    assert set(results) == {node.name for node in graph.layers}
    assert sum(each["value"] for each in results.values()) == pytest.approx(100, abs=0.1)
    for group in coupling.groups:
        assert len({results[layer]["bgColor"] for layer in group.layers}) == 1
    assert results["head"]["bgColor"] == FIXED
    assert all(set(each) == {"value", "bgColor", "textColor"} for each in results.values())


@pytest.mark.slow
def test_model_explorer_reads_the_node_data() -> None:
    builder = pytest.importorskip(
        "model_explorer.node_data_builder", reason="pip install ai-edge-model-explorer"
    )
    content = node_data(pg.analyze(residual_net()))
    for each in content.values():
        results = {k: builder.NodeDataResult(**v) for k, v in each["results"].items()}
        data = builder.GraphNodeData(results=results, name=each["name"])
        again = json.loads(builder.ModelNodeData({"g": data}).to_json_string())
        assert again["g"]["results"] == each["results"]
