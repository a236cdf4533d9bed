"""The rewrites that docs/rewrites.md shows, where rewriting is hard: subgraphs, graph outputs, names that are taken."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import prunegraph as pg
from prunegraph.graph.model import Graph
from prunegraph.runtime.session import run, session
from tests.builders import Builder
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "rewrites.md").read_text()

X = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32) * 8


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """Functions of the page by name."""
    [text] = re.findall(r"^```python title=.*?\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(text, names)
    return names


def branch(value: str, result: str, op: str) -> onnx.GraphProto:
    """A subgraph that reads a value of the outer graph."""
    output = helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(op, [value], [result])], op, [], [output])


def with_branches() -> Graph:
    """Copies of copies, read by a node, by a subgraph, and as a graph output."""
    b = Builder()
    x = b.op("Relu", b.input("n", 8), name="relu")
    copy = b.op("Identity", b.op("Identity", x, name="first"), name="second")
    condition = b.const(True, np.bool_)
    chosen = b.op(
        "If",
        condition,
        name="if",
        then_branch=branch(copy, "then.out", "Neg"),
        else_branch=branch(copy, "else.out", "Abs"),
    )
    total = b.op("Add", chosen, b.op("Mul", copy, copy), name="largest")
    return b.graph(total, b.op("Identity", copy, name="kept"))


def rewritten(change: Callable[[Graph], Graph]) -> tuple[Graph, list[np.ndarray]]:
    """The rewritten graph after a way through a file, and what it computes."""
    graph = with_branches()
    before = graph.model.SerializeToString()
    result = pg.load(onnx.load_from_string(change(graph).model.SerializeToString()))
    assert graph.model.SerializeToString() == before
    assert result.outputs == graph.outputs
    return result, run(session(result), {"x": X})


def test_identities_go_but_for_graph_outputs(shown: dict[str, Any]) -> None:
    graph, got = rewritten(shown["without_identities"])
    assert [node.name for node in graph.nodes if node.op == "Identity"] == ["kept"]
    for one, other in zip(got, run(session(with_branches()), {"x": X}), strict=True):
        np.testing.assert_array_equal(one, other)


def test_all_readers_see_the_bound(shown: dict[str, Any]) -> None:
    graph, (total, copy) = rewritten(shown["bounded"])
    y = np.clip(X, 0, 6)
    assert X.max() > 6
    np.testing.assert_array_equal(copy, y)
    np.testing.assert_allclose(total, y * y - y, rtol=1e-6)
    # The name that the bound wants is that of a node.
    assert "largest_" in graph.weights
    assert len({*graph.weights, *(node.name for node in graph.nodes)}) == len(
        graph.weights
    ) + len(graph.nodes)


def test_a_bound_that_nothing_reads_is_swept(shown: dict[str, Any]) -> None:
    b = Builder()
    graph = shown["bounded"](b.graph(b.op("Neg", b.input("n", 8))))
    assert not graph.weights
