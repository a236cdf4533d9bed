"""Constants and means of removed channels, absorbed (ALGORITHMS F2, tests 1.7.3)."""

from __future__ import annotations

import math

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import DataError, OptionError
from prunegraph.graph import linear
from prunegraph.graph.model import Graph
from prunegraph.recovery.absorb import repair
from prunegraph.recovery.synthetic import samples
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run, session
from prunegraph.selection.plan import survivors
from tests.builders import Builder, residual_net
from tests.training.mixed import attention, inputs

Array = np.ndarray
DEAD = (1, 4, 5)


def with_dead_channels(pad: int, size: int | str = 9, group: int = 1) -> Graph:
    """Conv, BatchNormalization with gamma = 0 for some channels, ReLU, Conv whose map is the output."""
    b = Builder()
    x = b.conv(b.input("n", 3, size, size), 3, 8, name="first")
    rng = b.rng
    scale = rng.uniform(0.5, 1.5, 8).astype(np.float32)
    scale[list(DEAD)] = 0
    shift = rng.uniform(0.5, 2, 8).astype(np.float32)
    mean, variance = (
        rng.standard_normal(8).astype(np.float32),
        rng.uniform(0.5, 1.5, 8).astype(np.float32),
    )
    x = b.relu(
        b.op("BatchNormalization", x, *(b.const(v) for v in (scale, shift, mean, variance)))
    )
    return b.graph(b.conv(x, 8, 6, group=group, name="second", pads=[pad] * 4))


def pruned(
    graph: Graph, layer: str = "first", channels: tuple[int, ...] = DEAD
) -> tuple[pg.Plan, Graph]:
    group = next(g for g in pg.analyze(graph).groups if layer in g.layers)
    plan = pg.Plan(graph.sha256, {group.id: channels})
    return plan, pg.apply(graph, plan)


def fixed(
    graph: Graph, form: str, data: dict[str, Array] | None = None, layer: str = "first"
) -> Graph:
    plan, reduced = pruned(graph, layer)
    given = Data.of(data) if data is not None else None
    return repair(survivors(pg.analyze(graph), plan), reduced, given, form=form)  # type: ignore[arg-type]


def error(first: Graph, second: Graph, x: dict[str, Array]) -> Array:
    """Absolute difference of the outputs, relative to the largest."""
    a, b = (run(session(graph), x)[0] for graph in (first, second))
    return np.abs(a - b) / np.abs(a).max()


@pytest.mark.parametrize("with_data", [False, True])
def test_constant_channels(with_data: bool) -> None:
    """With padding: interior is exact inside and wrong on the border ring, a map is exact, a mean never hurts."""
    graph = with_dead_channels(pad=1)
    x = inputs(graph)
    data = inputs(graph, seed=1) if with_data else None
    interior, mapped, mean = (
        error(graph, fixed(graph, form, data), x) for form in ("interior", "map", "mean")
    )
    cut = error(graph, pruned(graph)[1], x)
    assert interior[:, :, 1:-1, 1:-1].max() < 1e-6
    ring = np.ones(interior.shape[2:], bool)
    ring[1:-1, 1:-1] = False
    assert interior[:, :, ring].max() > 0.05
    assert mapped.max() < 1e-6
    assert np.square(mean).mean() < np.square(interior).mean() < np.square(cut).mean()


@pytest.mark.parametrize("form", ["interior", "mean", "map"])
def test_without_padding_every_form_is_exact(form: str) -> None:
    graph = with_dead_channels(pad=0)
    x = inputs(graph)
    assert error(graph, pruned(graph)[1], x).max() > 0.1
    assert error(graph, fixed(graph, form), x).max() < 1e-6


@pytest.mark.parametrize("form", ["interior", "mean", "map"])
def test_grouped_convolutions(form: str) -> None:
    graph = with_dead_channels(pad=0, group=2)
    group = next(g for g in pg.analyze(graph).groups if "first" in g.layers)
    # A channel is one index of each group of the convolution: let both be constant.
    node = next(n for n in graph.nodes if n.op == "BatchNormalization")
    values = graph.weights[node.inputs[1]].read().copy()
    values[[1, 5]], values[[0, 2, 3, 4, 6, 7]] = 0, 1
    for tensor in graph.model.graph.initializer:
        if tensor.name == node.inputs[1]:
            tensor.raw_data = values.tobytes()
    graph = pg.load(graph.model)
    assert group.channels == 4
    plan, reduced = pruned(graph, channels=(1,))
    x = inputs(graph)
    assert error(graph, reduced, x).max() > 0.05
    result = repair(survivors(pg.analyze(graph), plan), reduced, None, form=form)  # type: ignore[arg-type]
    assert error(graph, result, x).max() < 1e-6


def test_a_map_needs_a_fixed_size() -> None:
    graph = with_dead_channels(pad=1, size="s")
    with pytest.raises(OptionError, match="fixed size"):
        fixed(graph, "map")
    x = {"x": np.random.default_rng(0).standard_normal((2, 3, 7, 7)).astype(np.float32)}
    assert error(graph, fixed(graph, "interior"), x)[:, :, 1:-1, 1:-1].max() < 1e-6


def test_batches_of_different_sizes() -> None:
    graph = with_dead_channels(pad=0, size="s")
    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((4, 3, s, s)).astype(np.float32)} for s in (7, 9)]
    plan, reduced = pruned(graph)
    data = Data.of([*batches])
    data.batches = lambda model, size=4: iter(batches)  # type: ignore[method-assign, assignment]
    result = repair(survivors(pg.analyze(graph), plan), reduced, data)
    assert error(graph, result, batches[1]).max() < 1e-6


@pytest.mark.parametrize("network", [residual_net, attention])
def test_means_of_a_linear_layers_outputs_come_back(network: object) -> None:
    """The layer in front of the output: what it lost is back on average, also where its bias is an Add behind it."""
    graph: Graph = network()  # type: ignore[operator]
    x = inputs(graph, 64)
    coupling = pg.analyze(graph)
    layer = {"residual_net": "stem", "attention": "fc1"}[network.__name__]  # type: ignore[attr-defined]
    group = next(g for g in coupling.groups if layer in g.layers)
    plan = pg.Plan(graph.sha256, {group.id: (0, 3, 4)})
    pruned = pg.apply(graph, plan)
    result = repair(survivors(coupling, plan), pruned, Data.of(x))
    assert result is not pruned
    expected, cut, absorbed = (
        run(session(g), x)[0].mean(axis=0) for g in (graph, pruned, result)
    )
    if network is attention:  # fc2, a sum and a mean are all that follows: linear
        np.testing.assert_allclose(absorbed, expected, atol=1e-5)
    assert np.abs(absorbed - expected).max() < np.abs(cut - expected).max()


def test_a_bias_behind_a_matmul_is_its_own_only() -> None:
    graph = attention()
    assert linear.bias_behind(graph, graph.node("fc1")) is not None
    assert linear.bias_behind(residual_net(), residual_net().node("stem")) is None


# -- values that follow from BatchNormalization ------------------------------------------------


def test_means_behind_a_relu_are_the_closed_form() -> None:
    b = Builder()
    y = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, 20, name="conv"), 20))
    graph = b.graph(b.head(y, 20))
    node = next(n for n in graph.nodes if n.op == "BatchNormalization")
    scale, shift = (
        graph.weights[name].read().astype(np.float64) for name in node.inputs[1:3]
    )
    shift = shift - 1
    for tensor in graph.model.graph.initializer:
        if tensor.name == node.inputs[2]:
            tensor.raw_data = shift.astype(np.float32).tobytes()
    graph = pg.load(graph.model)
    z = shift / scale
    normal = np.asarray([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in z])
    closed = scale * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) + shift * normal
    result = samples(graph, pg.analyze(graph).shape_info)
    np.testing.assert_allclose(result[y].mean(axis=(0, 2, 3)), closed, rtol=5e-3)
    pooled = next(n for n in graph.nodes if n.op == "Flatten").outputs[0]
    np.testing.assert_allclose(result[pooled].mean(axis=0), closed, rtol=5e-3)
    assert graph.node("conv").outputs[0] not in result


def test_sums_of_branches_add_means_and_variances() -> None:
    graph = residual_net()
    result = samples(graph, pg.analyze(graph).shape_info)
    add = next(n for n in graph.nodes if n.op == "Add")
    branch, shortcut, total = (
        result[v] for v in (add.inputs[1], add.inputs[0], add.outputs[0])
    )
    np.testing.assert_allclose(
        total.mean(axis=0), branch.mean(axis=0) + shortcut.mean(axis=0), atol=1e-5
    )
    np.testing.assert_allclose(
        total.var(axis=0), branch.var(axis=0) + shortcut.var(axis=0), rtol=0.2
    )


def test_nothing_to_go_by() -> None:
    b = Builder()
    graph = b.graph(b.head(b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8, name="first")), 8))
    with pytest.raises(DataError, match="no BatchNormalization to go by: give --data"):
        fixed(graph, "mean")
    with pytest.raises(DataError, match="no BatchNormalization to go by: give --data"):
        pg.prune(graph, budget=pg.Budget(ratio=0.5), round_to=1, repair="bn")
