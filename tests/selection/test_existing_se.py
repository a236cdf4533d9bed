"""`existing_se`: gates that a network has of its own, found, averaged over data, and pruned with their channels."""

from __future__ import annotations

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.coupling.groups import Group
from prunegraph.errors import BudgetError, DataError, OptionError
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run_values
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.criteria.base import Context, score
from prunegraph.selection.criteria.existing_se import squeeze_and_excitation
from tests.builders import Builder, residual_net

Array = np.ndarray


def hard_sigmoid(b: Builder, y: str) -> str:
    """As exporters write it out: relu6(y + 3) / 6."""
    y = b.op(
        "Clip",
        b.op("Add", y, b.const(3.0, np.float32)),
        b.const(0, np.float32),
        b.const(6, np.float32),
    )
    return b.op("Div", y, b.const(6.0, np.float32))


def se_net(form: str = "conv", bound: str = "Sigmoid") -> Graph:
    """Two convolutions with BatchNormalization; a squeeze-and-excitation block gates the first one's 12 channels."""
    b = Builder(3)
    u = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, 12, name="first"), 12, name="bn"))
    if form == "conv":
        z = b.op("GlobalAveragePool", u)
        y = b.conv(b.relu(b.conv(z, 12, 4, 1, name="squeeze")), 4, 12, 1, name="excite")
        gate = hard_sigmoid(b, y) if bound == "written out" else b.op(bound, y)
    else:
        z = b.op("ReduceMean", u, axes=[2, 3], keepdims=0)
        y = b.linear(b.relu(b.linear(z, 12, 4, name="squeeze")), 4, 12, name="excite")
        gate = b.op("Reshape", b.op(bound, y), b.const([0, 12, 1, 1], np.int64))
    v = b.op("Mul", *((gate, u) if form == "linear" else (u, gate)), name="product")
    v = b.relu(b.bn(b.conv(v, 12, 8, name="second"), 8))
    return b.graph(b.head(v, 8))


def images(count: int = 16) -> dict[str, Array]:
    return {
        "x": np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)
    }


def scores(graph: Graph, algorithm: str) -> dict[str, Array]:
    return score(
        algorithm, Context(pg.analyze(graph), 0, Statistics(graph, Data.of(images())))
    )


def group_of(graph: Graph, layer: str) -> Group:
    return next(group for group in pg.analyze(graph).groups if layer in group.layers)


def gate_means(graph: Graph) -> Array:
    (block,) = squeeze_and_excitation(graph, pg.analyze(graph).shape_info.shapes)
    return (
        next(iter(run_values(graph, images(), [block.gate]).values()))
        .mean(axis=0)
        .reshape(-1)
    )


FORMS = [
    ("conv", "Sigmoid"),
    ("conv", "HardSigmoid"),
    ("conv", "written out"),
    ("linear", "Sigmoid"),
]


@pytest.mark.parametrize(("form", "bound"), FORMS)
def test_the_score_is_scale_times_mean_gate(form: str, bound: str) -> None:
    graph = se_net(form, bound)
    first = group_of(graph, "first").id
    gamma = abs(graph.weights[graph.node("bn").inputs[1]].read().astype(np.float64))
    sr = gate_means(graph)
    assert sr.shape == (12,) and np.ptp(sr) > 0.01
    for exponents, expected in (
        ("", gamma * sr),
        (":p=0", sr),
        (":q=0", gamma),
        (":p=2,q=0.5", gamma**2 * sr**0.5),
    ):
        np.testing.assert_allclose(
            scores(graph, f"existing_se{exponents}")[first], expected, rtol=1e-4
        )


def test_groups_without_a_gate_go_by_their_scales() -> None:
    graph = se_net()
    second = group_of(graph, "second").id
    np.testing.assert_array_equal(
        scores(graph, "existing_se")[second], scores(graph, "bn_scale")[second]
    )
    assert np.isinf(scores(graph, "existing_se:p=0")[second]).all()


@pytest.mark.parametrize(("form", "bound"), FORMS)
def test_the_block_loses_the_channel_too(form: str, bound: str) -> None:
    """Channel c takes with it column c of W1, and row c of W2 with its bias; nothing is inserted or folded."""
    graph = se_net(form, bound)
    lowest = int(np.argmin(scores(graph, "existing_se")[group_of(graph, "first").id]))
    done = pg.prune(
        graph,
        data=images(),
        algorithm="existing_se",
        round_to=1,
        repair="none",
        budget=pg.Budget(ratio=1 / 12),
        keep=["second", "squeeze"],
    )
    assert done.plan.remove == {group_of(graph, "first").id: (lowest,)}
    squeeze, excite = graph.node("squeeze"), graph.node("excite")
    for name, axis in (
        (squeeze.inputs[1], 1),
        (excite.inputs[1], 0),
        (excite.inputs[2], 0),
    ):
        expected = np.delete(graph.weights[name].read(), lowest, axis)
        np.testing.assert_array_equal(done.model.weights[name].read(), expected)
    assert [node.op for node in done.model.nodes] == [node.op for node in graph.nodes]


def test_products_that_are_no_gate_of_channels() -> None:
    """A gate of positions, a product with other data, a gate that nothing bounds, a constant."""
    b = Builder(1)
    x = b.input("n", 3, 8, 8)
    u = b.relu(b.conv(x, 3, 6))
    pooled = b.op("GlobalAveragePool", u)
    u = b.op("Mul", u, b.op("Sigmoid", b.conv(u, 6, 1, 1)))
    u = b.op("Mul", u, b.op("Sigmoid", b.conv(x, 3, 6, 1)))
    u = b.op("Mul", u, b.conv(pooled, 6, 6, 1))
    u = b.op("Mul", u, b.const(np.ones((1, 6, 1, 1)), np.float32))
    graph = b.graph(b.head(u, 6))
    assert not list(squeeze_and_excitation(graph, pg.analyze(graph).shape_info.shapes))


def test_what_it_needs() -> None:
    with pytest.raises(BudgetError, match="needs squeeze-and-excitation blocks"):
        scores(residual_net(), "existing_se")
    with pytest.raises(DataError, match="existing_se"):
        score("existing_se", Context(pg.analyze(se_net())))
    with pytest.raises(OptionError, match="exponents p and q"):
        scores(se_net(), "existing_se:p=0,q=0")
