"""New weights and biases for a graph, and names for what is added to one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from prunegraph.graph.model import Graph
from prunegraph.graph.names import Names
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime.session import run, session
from tests.builders import Builder


def layers() -> Iterator[Graph]:
    """One layer each, with the places that a layer can have for what it adds."""
    for bias in ([], [5]):
        b = Builder()
        yield b.graph(
            b.op(
                "Conv",
                b.input("n", 3, 4, 4),
                b.weight(5, 3, 1, 1),
                *map(b.weight, bias),
                name="layer",
            )
        )
        b = Builder()
        yield b.graph(
            b.op(
                "Gemm",
                b.input("n", 3),
                b.weight(3, 5),
                *map(b.weight, bias),
                name="layer",
                beta=2.0,
            )
        )
    b = Builder()
    yield b.graph(
        b.bn(b.op("Conv", b.input("n", 3, 4, 4), b.weight(5, 3, 1, 1), name="layer"), 5)
    )
    b = Builder()
    yield b.graph(
        b.op(
            "Add",
            b.op("MatMul", b.input("n", 3), b.weight(3, 5), name="layer"),
            b.weight(5),
        )
    )


@pytest.mark.parametrize("graph", list(layers()))
def test_an_intercept_is_added_to_as_often_as_wanted(graph: Graph) -> None:
    x = {
        graph.inputs[0]: np.ones(
            (2, 3, 4, 4)[: 4 if graph.node("layer").op == "Conv" else 2], np.float32
        )
    }
    added = [np.arange(5.0), np.ones(5)]
    (once,), (twice,) = (
        run(session(more(graph, parts)), x) for parts in ([sum(added)], added)
    )
    np.testing.assert_array_equal(twice, once)
    (before,) = run(session(graph), x)
    assert (once != before).all()
    if not any(node.op == "BatchNormalization" for node in graph.nodes):
        moved = (once - before).reshape(2, 5, -1)
        np.testing.assert_allclose(
            moved, np.broadcast_to(sum(added)[:, None], moved.shape), rtol=1e-4
        )


def more(graph: Graph, parts: Sequence[np.ndarray]) -> Graph:
    """The graph with what is added to the layer's outputs, in parts."""
    node, revision = graph.node("layer"), Revision(graph)
    for part in parts:
        revision.set_intercept(node, revision.intercept(node) + part)
    return revision.apply()


def test_operands_of_one_node_are_told_apart() -> None:
    b = Builder()
    x = b.input("n", 3)
    graph = b.graph(b.op("Add", b.op("Relu", x), b.op("Tanh", x)))
    revision = Revision(graph)
    add = graph.nodes[-1]
    constants = [np.full((1, 3), value, np.float32) for value in (1, 10)]
    for slot, values in enumerate(constants):
        revision.set_operand(add, slot, values)
    [result] = run(session(revision.apply()), {x: np.zeros((2, 3), np.float32)})
    np.testing.assert_array_equal(result, np.full(result.shape, 11))


def test_names_are_given_once() -> None:
    b = Builder()
    x = b.input("n", 3, name="x")
    graph = b.graph(b.op("Relu", b.op("Relu", x, name="0"), name="first"))
    names = Names(graph)
    assert [names.new("x"), names.new("x"), names.new("y"), names.new("first")] == [
        "x_",
        "x__",
        "y",
        "first_",
    ]
    assert [names.numbered("y") for _ in range(2)] == ["y1", "y2"]
    names = Names(graph)
    assert [names.short() for _ in range(35)] == [
        *"123456789abcdefghijklmnopqrstuvwyz",
        "10",
    ]
