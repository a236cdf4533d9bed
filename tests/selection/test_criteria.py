"""Criteria against their definitions, and what must hold for each of them on any network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.coupling.groups import Group
from prunegraph.coupling.places import makers, places, readers
from prunegraph.errors import BudgetError, DataError
from prunegraph.graph.model import Graph, Node
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run_values
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.criteria import chip as chip_module
from prunegraph.selection.criteria import obs as obs_module
from prunegraph.selection.criteria.base import CRITERIA, Context, score
from tests.builders import Builder
from tests.training.mixed import NETWORKS, chain, inputs, inverted_residual, residual_net

GRADIENTS = ("taylor", "fisher")
#: For networks with gates alone; tests/training/test_gfr.py and tests/selection/test_existing_se.py.
GATES = ("existing_se", "gfr")
BY_DATA = ("apoz", "chip", "hrank", "obs", "thinet", "thinet:centred=true", "wanda")
BY_WEIGHTS = (
    "l1",
    "l2:producer",
    "l2:consumer",
    "l2",
    "lamp",
    "fpgm",
    "fpgm:all",
    "weight_stats",
    "weight_stats:paper",
)

Array = np.ndarray


class LinearGradients:
    """Closed form for y = W2 W1 x with the loss |y - t|^2 / 2 of every sample, in batches of `size`."""

    def __init__(self, graph: Graph, x: Array, t: Array, size: int):
        self.names = [graph.node(name).inputs[1] for name in ("first", "second")]
        w1, w2 = (graph.weights[name].read().astype(np.float64) for name in self.names)
        h = x @ w1
        error = h @ w2 - t
        self.weights = dict(zip(self.names, (w1, w2), strict=True))
        self.gradients = {
            self.names[0]: x[:, :, None] * (error @ w2.T)[:, None],
            self.names[1]: h[:, :, None] * error[:, None],
        }
        self.size = size

    def _products(self, gradient: Array, weight: str, axis: int) -> Array:
        return (gradient * self.weights[weight]).sum(axis=2 - axis)

    def samples(self, weight: str, axis: int) -> Array:
        return self._products(self.gradients[weight], weight, axis)

    def batches(self, weight: str, axis: int) -> Array:
        g = self.gradients[weight]
        return self._products(
            g.reshape(-1, self.size, *g.shape[1:]).mean(axis=1), weight, axis
        )

    def squares(self, weight: str, axis: int) -> Array:
        return (
            np.square(self.weights[weight]) * np.square(self.gradients[weight]).mean(axis=0)
        ).sum(axis=1 - axis)


def context(graph: Graph, x: Mapping[str, Array] | None = None, seed: int = 0) -> Context:
    return Context(
        pg.analyze(graph),
        seed,
        Statistics(graph, Data.of(x if x is not None else inputs(graph))),
    )


def group_of(graph: Graph, layer: str) -> Group:
    return next(group for group in pg.analyze(graph).groups if layer in group.layers)


def scored(
    graph: Graph, name: str, layer: str, x: Mapping[str, Array] | None = None
) -> Array:
    return score(name, context(graph, x))[group_of(graph, layer).id]


# -- what holds everywhere ------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", [*BY_WEIGHTS, *BY_DATA, "bn_scale", "random"])
def test_every_group_of_every_network_gets_scores(name: str, network: str) -> None:
    graph = NETWORKS[network](0)
    if (name, network) == ("apoz", "attention"):
        with pytest.raises(BudgetError, match=r"applies to none of the .* groups"):
            score(name, context(graph))
        return
    result = score(name, context(graph))
    assert len(result) == len(pg.analyze(graph).groups) > 0
    for group in pg.analyze(graph).groups:
        scores = result[group.id]
        assert scores.shape == (group.channels,)
        # A group is kept whole, or all of its channels have scores, and not all the same.
        assert np.isposinf(scores).all() or np.isfinite(scores).all()
        assert (scores >= 0).all()
        assert group.channels < 3 or np.isinf(scores[0]) or len(np.unique(scores)) > 1
    whole = sum(bool(np.isinf(scores[0])) for scores in result.values())
    assert whole == 0 or name == "apoz"


def permuted(graph: Graph, order: Array) -> Graph:
    """`chain` with the channels of its first convolution in another order."""
    weights = {name: graph.weights[name].read() for name in graph.weights}
    first, second = graph.node("conv0"), graph.node("conv1")
    for name, axis in ((first.inputs[1], 0), (first.inputs[2], 0), (second.inputs[1], 1)):
        weights[name] = np.take(weights[name], order, axis)
    model = type(graph.model)()
    model.CopyFrom(graph.model)
    for tensor in model.graph.initializer:
        tensor.raw_data = np.ascontiguousarray(weights[tensor.name]).tobytes()
    return pg.load(model)


@pytest.mark.parametrize("name", [*BY_WEIGHTS, *BY_DATA, "bn_scale"])
def test_scores_go_with_their_channels(name: str) -> None:
    graph, order = chain(), np.random.default_rng(1).permutation(8)
    before, after = (scored(g, name, "conv0") for g in (graph, permuted(graph, order)))
    # Of nearly equal costs either may come first where channels go one by one.
    np.testing.assert_allclose(after, before[order], rtol=2e-3)


@pytest.mark.parametrize("name", ["fpgm", "obs", "chip"])
def test_copies_are_the_first_to_go(name: str) -> None:
    rng = np.random.default_rng(0)
    b = Builder()
    weight = rng.standard_normal((8, 3, 3, 3)).astype(np.float32)
    weight[1:4] = weight[0]
    x = b.relu(
        b.op(
            "Conv", b.input("n", 3, 8, 8), b.const(weight), pads=[1, 1, 1, 1], name="conv0"
        )
    )
    graph = b.graph(b.head(b.relu(b.conv(x, 8, 6, name="conv1")), 6))
    scores = scored(graph, name, "conv0")
    lowest = set(np.argsort(scores)[:3])
    assert lowest < {0, 1, 2, 3}, scores
    if name == "fpgm":
        assert np.ptp(scores[:4]) < 1e-9


@pytest.mark.parametrize(("channels", "each", "others"), [(9, 1, 0), (12, 1, 5), (7, 3, 4)])
def test_obs_removes_what_costs_least_when_the_rest_is_fitted_again(
    channels: int, each: int, others: int
) -> None:
    """Each cost against a new regression on what is left, for channels of several rows between those of others."""
    rng = np.random.default_rng(channels)
    size = channels * each + others
    x = rng.standard_normal((400, size)) @ rng.standard_normal((size, size))
    y = x @ (w := rng.standard_normal((size, 4)))
    damping = np.sqrt(obs_module.DAMPING * np.square(x).sum() / size)
    # Damping is a row for each input that should be as it was.
    x, y = np.vstack([x, damping * np.eye(size)]), np.vstack([y, damping * w])
    rows = rng.permutation(size)[: channels * each].reshape(channels, each)
    reader = obs_module._Reader(x[:400].T @ x[:400], w, rows)
    alive, left = np.arange(channels), np.arange(size)

    def error(gone: Array) -> float:
        rest = np.setdiff1d(left, gone)
        fitted = x[:, rest] @ np.linalg.lstsq(x[:, rest], y, rcond=None)[0]
        return float(np.square(y - fitted).sum())

    before = 0.0
    while len(alive) > 1:
        costs = reader.costs(alive)
        wanted = [error(rows[channel]) - before for channel in alive]
        np.testing.assert_allclose(costs, wanted, rtol=1e-6, atol=1e-9 * np.square(y).sum())
        gone = alive[np.argsort(costs)[:2]][: len(alive) - 1]
        left, alive = np.setdiff1d(left, rows[gone]), np.setdiff1d(alive, gone)
        reader.remove(gone, alive)
        before = error(np.empty(0, int))


def test_obs_of_channels_that_hardly_vary() -> None:
    """Inputs with a mean a thousand times their deviation are scored as those without a mean."""
    rng = np.random.default_rng(0)
    b = Builder()
    hidden = b.op(
        "MatMul", b.input("n", 6), b.const(np.eye(6, 40), np.float32), name="first"
    )
    weights = rng.standard_normal((40, 3)).astype(np.float32)
    hidden = b.op("Mul", hidden, b.const(1 + rng.random(40), np.float32))
    far = b.op("Add", hidden, b.const(1000 * np.ones(40), np.float32))
    both = [b.op("MatMul", each, b.const(weights)) for each in (hidden, far)]
    x = {"x": rng.standard_normal((4096, 6)).astype(np.float32)}
    near, high = (
        obs_module._Reader(
            gram.covariance[0],
            obs_module._relative(weights.astype(np.float64), gram.centred[0]),
            np.arange(40)[:, None],
        )
        for graph in [b.graph(*both)]
        for value in (hidden, far)
        if (gram := Statistics(graph, Data.of(x)).gram(_reader_of(graph, value)))
        is not None
    )
    alive = np.arange(40)
    for _ in range(30):
        costs = near.costs(alive)
        np.testing.assert_allclose(high.costs(alive), costs, rtol=1e-2, atol=1e-4)
        gone, alive = alive[[np.argmin(costs)]], np.delete(alive, np.argmin(costs))
        for reader in (near, high):
            reader.remove(gone, alive)


def _reader_of(graph: Graph, value: str) -> Node:
    return next(node for node in graph.layers if node.inputs[0] == value)


def test_without_data_or_gradients() -> None:
    result = Context(pg.analyze(residual_net()))
    for name in BY_DATA:
        with pytest.raises(DataError, match=f"{name.partition(':')[0]}.* needs data"):
            score(name, result)
    for name in GRADIENTS:
        with pytest.raises(DataError, match=f"{name}.* needs gradients"):
            score(name, result)


# -- places ---------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_places_are_where_the_channels_are(network: str) -> None:
    coupling = pg.analyze(NETWORKS[network](0))
    seen = 0
    for group in coupling.groups:
        numbers = group.channel_numbers(np.arange(group.channels))
        for place in places(coupling)[group.id]:
            on_axis = coupling.channels.root(
                coupling.labels[place.value][place.axis]
            ).array()
            assert (on_axis[place.positions] == numbers[:, None]).all()
            assert np.isin(on_axis, numbers).sum() == place.positions.size
            seen += 1
        assert all(
            place in places(coupling)[group.id] for place in makers(coupling)[group.id]
        )
    assert seen > len(coupling.groups)


def test_makers_are_before_and_readers_behind_the_activation() -> None:
    graph = residual_net()
    match, group = pg.analyze(graph), group_of(graph, "block1")
    assert [place.value for place in makers(match)[group.id]] == [
        graph.node("block1").outputs[0]
    ]
    assert [place.value for place in readers(match)[group.id]] == [
        graph.node("block2").inputs[0]
    ]


# -- by weights -----------------------------------------------------------------------------


def test_members_of_magnitudes() -> None:
    graph = residual_net()
    output, read = (
        graph.weights[graph.node(n).inputs[1]].read() for n in ("block1", "block2")
    )
    out, into = np.square(output).sum((1, 2, 3)), np.square(read).sum((0, 2, 3))
    for members, squares in (("producer", out), ("consumer", into), ("all", out + into)):
        np.testing.assert_allclose(
            scored(graph, f"l2:{members}", "block1"), np.sqrt(squares), rtol=1e-6
        )
        rising = np.sort(squares)
        order = np.argsort(np.argsort(squares))
        shares = np.asarray([u / rising[i:].sum() for i, u in enumerate(rising)])
        np.testing.assert_allclose(
            scored(graph, f"lamp:members={members}", "block1"), shares[order], rtol=1e-6
        )
    np.testing.assert_allclose(
        scored(graph, "l1:producer", "block1"), abs(output).sum((1, 2, 3)), rtol=1e-6
    )


def test_lamp_does_not_see_the_scale_and_the_largest_is_one() -> None:
    graph = chain()
    for layer in ("conv0", "conv1"):
        assert scored(graph, "lamp", layer).max() == 1.0
    scaled = type(graph.model)()
    scaled.CopyFrom(graph.model)
    for tensor in scaled.graph.initializer:
        tensor.raw_data = (1000 * graph.weights[tensor.name].read()).tobytes()
    np.testing.assert_allclose(
        scored(pg.load(scaled), "lamp", "conv0"), scored(graph, "lamp", "conv0"), rtol=1e-5
    )


def test_fpgm_by_hand() -> None:
    graph = chain()
    w = (
        graph.weights[graph.node("conv0").inputs[1]]
        .read()
        .reshape(8, -1)
        .astype(np.float64)
    )
    expected = [sum(np.linalg.norm(a - b) for b in w) for a in w]
    np.testing.assert_allclose(scored(graph, "fpgm", "conv0"), expected, rtol=1e-9)


# -- BatchNormalization (F1, F3) ------------------------------------------------------------


def gamma(graph: Graph, layer: str) -> Array:
    node = next(n for n in graph.nodes if n.op == "BatchNormalization" and n.layer == layer)
    return np.abs(graph.weights[node.inputs[1]].read().astype(np.float64))


def test_scales_in_series_and_in_parallel() -> None:
    graph = inverted_residual()
    result = score("bn_scale", Context(pg.analyze(graph)))
    first, second = gamma(graph, "expand"), gamma(graph, "depthwise")
    series = second.mean() * np.minimum(first / first.mean(), second / second.mean())
    np.testing.assert_allclose(result[group_of(graph, "expand").id], series)
    parallel = np.hypot(gamma(graph, "stem"), gamma(graph, "project"))
    np.testing.assert_allclose(result[group_of(graph, "stem").id], parallel)


def test_a_scale_of_zero_kills_in_series_only() -> None:
    graph = inverted_residual()
    model = type(graph.model)()
    model.CopyFrom(graph.model)
    zeroed = {
        n.inputs[1]
        for n in graph.nodes
        if n.op == "BatchNormalization" and n.layer in ("expand", "stem")
    }
    for tensor in model.graph.initializer:
        if tensor.name in zeroed:
            values = graph.weights[tensor.name].read().copy()
            values[2] = 0
            tensor.raw_data = values.tobytes()
    graph = pg.load(model)
    result = score("bn_scale", Context(pg.analyze(graph)))
    assert result[group_of(graph, "expand").id][2] == 0
    assert result[group_of(graph, "stem").id][2] == gamma(graph, "project")[2] > 0


def test_scales_from_data_where_batch_normalization_is_folded() -> None:
    """F3: the deviation of a folded layer's output is |gamma| to 3 % at 10^4 positions."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((16, 3, 3, 3)).astype(np.float32)
    scale = rng.uniform(0.2, 2, 16).astype(np.float32) * rng.choice([-1, 1], 16).astype(
        np.float32
    )
    shift = rng.standard_normal(16).astype(np.float32)

    def net(weight: Array, bias: Array) -> Graph:
        b = Builder()
        y = b.op(
            "Conv", b.input("n", 3, 12, 12), b.const(weight), b.const(bias), name="conv"
        )
        return b.graph(b.head(b.relu(y), 16))

    plain = net(w, np.zeros(16, np.float32))
    training, fresh = (inputs(plain, 100, seed) for seed in (1, 2))
    y = run_values(plain, training, ["conv.out"])["conv.out"]
    mean, deviation = y.mean((0, 2, 3)), np.sqrt(y.var((0, 2, 3)) + 1e-5)
    folded = net(
        w * (scale / deviation)[:, None, None, None], shift - mean * scale / deviation
    )
    result = scored(folded, "bn_scale", "conv", fresh)
    np.testing.assert_allclose(result, abs(scale), rtol=0.03)


# -- by data --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def maps() -> tuple[Graph, Array]:
    """A network and the feature maps that its second convolution reads [samples, 8, 8, 8]."""
    graph = chain()
    value = graph.node("conv1").inputs[0]
    return graph, run_values(graph, inputs(graph), [value])[value].astype(np.float64)


def test_apoz_by_hand(maps: tuple[Graph, Array]) -> None:
    np.testing.assert_allclose(
        scored(maps[0], "apoz", "conv0"), (maps[1] > 0).mean((0, 2, 3))
    )


def test_apoz_keeps_what_no_relu_made() -> None:
    graph = inverted_residual()
    assert np.isinf(scored(graph, "apoz", "stem")).all()
    assert np.isfinite(scored(graph, "apoz", "expand")).all()


def test_hrank_by_hand(maps: tuple[Graph, Array]) -> None:
    ranks = np.linalg.matrix_rank(maps[1].astype(np.float32)).mean(axis=0)
    result = scored(maps[0], "hrank", "conv0")
    assert np.array_equal(np.round(result * 32), ranks * 32)
    assert len(np.unique(result)) == 8  # energy tells equal ranks apart


def test_chip_by_hand(maps: tuple[Graph, Array]) -> None:
    shares = []
    for a in maps[1].reshape(len(maps[1]), 8, -1)[: chip_module.SAMPLES]:
        whole = np.linalg.norm(a, "nuc")
        falls = np.asarray(
            [
                whole - np.linalg.norm(np.where(np.arange(8)[:, None] == c, 0, a), "nuc")
                for c in range(8)
            ]
        )
        shares.append(falls / falls.sum())
    np.testing.assert_allclose(
        scored(maps[0], "chip", "conv0"), np.mean(shares, axis=0), rtol=1e-6
    )


@pytest.mark.parametrize(
    "shape", [(4, 2, 30), (12, 1, 40), (10, 1, 6), (6, 2, 5), (6, 3, 18), (1, 1, 1)]
)
def test_nuclear_norms_of_wide_and_tall_maps(shape: tuple[int, int, int]) -> None:
    a = np.random.default_rng(0).standard_normal(shape)
    if shape[0] > 4:
        a[2], a[3] = 0, a[4]  # a dead channel and a copy
    flat = a.reshape(-1, shape[2])
    rows = np.arange(len(flat)).reshape(shape[:2])
    without = [
        np.where(np.isin(np.arange(len(flat)), mine)[:, None], 0, flat) for mine in rows
    ]
    falls = [np.linalg.norm(flat, "nuc") - np.linalg.norm(part, "nuc") for part in without]
    np.testing.assert_allclose(chip_module.independence(a), falls, rtol=1e-6, atol=1e-7)
    assert not chip_module.independence(np.zeros(shape)).any()


def test_wanda_by_hand(maps: tuple[Graph, Array]) -> None:
    graph, x = maps
    w = np.abs(graph.weights[graph.node("conv1").inputs[1]].read()).sum((0, 2, 3))
    np.testing.assert_allclose(
        scored(graph, "wanda", "conv0"),
        w * np.sqrt(np.square(x).mean((0, 2, 3))),
        rtol=1e-5,
    )


@pytest.mark.parametrize("centred", [False, True])
def test_thinet_scores_are_errors_of_the_next_layer(
    maps: tuple[Graph, Array], centred: bool
) -> None:
    """Greedily grown: the k lowest channels' score is the mean squared error without them, by masking."""
    graph, x = maps
    node = graph.node("conv1")
    w = graph.weights[node.inputs[1]].read()
    b = Builder()
    alone = b.graph(
        b.op("Conv", b.input("n", 8, 8, 8), b.const(w), pads=[1, 1, 1, 1], name="conv1")
    )
    scores = scored(graph, f"thinet:{centred}", "conv0")

    def energy(gone: Array) -> float:
        part = np.where(np.isin(np.arange(8), gone)[:, None, None], x, 0).astype(np.float32)
        y = run_values(alone, {"x": part}, ["conv1.out"])["conv1.out"].astype(np.float64)
        return float(
            np.square(y - (y.mean((0, 2, 3), keepdims=True) if centred else 0)).mean()
        )

    order = np.argsort(scores)
    for count in range(1, 9):
        errors = [energy(np.append(order[: count - 1], c)) for c in order[count - 1 :]]
        assert errors[0] <= min(errors) * (1 + 1e-3)
        if count == 1 or scores[order[count - 1]] > 1.001 * scores[order[count - 2]]:
            np.testing.assert_allclose(
                scores[order[count - 1]], errors[0] / energy(np.arange(8)), rtol=1e-3
            )


@pytest.mark.parametrize("algorithm", ["thinet", "obs"])
def test_where_blocks_choose_their_own_equally_many_of_each_go(algorithm: str) -> None:
    """What a channel costs counts those that go with it, not more of a neighbour's than may go."""
    b = Builder()
    y = b.op("Conv", b.input("n", 3, 6, 6), b.weight(12, 3, 3, 3), name="first")
    y = b.op("Conv", b.op("Relu", y), b.weight(12, 4, 3, 3), group=3, name="second")
    graph = b.graph(y)
    coupling = pg.analyze(graph, blocks="own")
    (group,) = (g for g in coupling.groups if "first" in g.layers)
    assert group.cells is not None
    x = np.random.default_rng(0).standard_normal((16, 3, 6, 6), np.float32)
    context = Context(coupling, statistics=Statistics(graph, Data.of({"x": x})))
    order = np.argsort(score(algorithm, context)[group.id])
    cell = np.empty(group.channels, np.int64)
    cell[group.cells] = np.arange(len(group.cells))[:, None]
    for several in order.reshape(-1, len(group.cells)):
        assert sorted(cell[several]) == list(range(len(group.cells)))


# -- by gradients ---------------------------------------------------------------------------


def test_taylor_and_fisher_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    b = Builder()
    y = b.op(
        "MatMul",
        b.op("MatMul", b.input("n", 5), b.weight(5, 7), name="first"),
        b.weight(7, 3),
        name="second",
    )
    graph = b.graph(y)
    x, t = rng.standard_normal((24, 5)), rng.standard_normal((24, 3))
    gradients = LinearGradients(graph, x, t, size=6)
    w1, w2 = (gradients.weights[name] for name in gradients.names)
    hidden = x @ w1
    # dL/dmask of a hidden channel: the error's part through it.
    slopes = hidden * ((hidden @ w2 - t) @ w2.T)
    result = Context(pg.analyze(graph), gradients=gradients)
    batches = np.square(slopes.reshape(4, 6, 7).mean(axis=1)).mean(axis=0)
    name = pg.analyze(graph).groups[0].id
    np.testing.assert_allclose(score("taylor:producer", result)[name], batches)
    np.testing.assert_allclose(score("taylor:consumer", result)[name], batches)
    np.testing.assert_allclose(score("taylor", result)[name], 4 * batches)
    np.testing.assert_allclose(
        score("fisher:members=producer", result)[name], np.square(slopes).mean(axis=0)
    )
    np.testing.assert_allclose(
        score("fisher", result)[name], 4 * np.square(slopes).mean(axis=0)
    )
    diagonal = np.square(w1) * np.square(gradients.gradients[gradients.names[0]]).mean(
        axis=0
    )
    np.testing.assert_allclose(
        score("fisher:diagonal,members=producer", result)[name], diagonal.sum(axis=0) / 2
    )
    plan = pg.select(
        graph,
        algorithm="fisher",
        gradients=gradients,
        budget=pg.Budget(ratio=0.3),
        round_to=1,
    )
    assert plan.remove[name] == tuple(
        sorted(np.argsort(np.square(slopes).mean(axis=0))[:2])
    )


def test_all_criteria_are_tested_here() -> None:
    mine = {
        name.partition(":")[0]
        for name in (*BY_WEIGHTS, *BY_DATA, *GRADIENTS, *GATES, "bn_scale", "random")
    }
    assert {name for name in CRITERIA if not name.startswith("test_")} == mine


def test_obs_of_layers_that_read_the_same_rows_is_the_sum_of_each() -> None:
    """Queries, keys and values are one reader; of more outputs than inputs as many are kept as there are inputs."""
    rng = np.random.default_rng(3)
    b = Builder(1)
    hidden = b.relu(b.linear(b.input("n", 6), 6, 12, name="first"))
    weights = [rng.standard_normal((12, n)) for n in (5, 20, 9)]
    graph = b.graph(
        *(b.op("MatMul", hidden, b.const(each, np.float32)) for each in weights)
    )
    data = Data.of({"x": rng.standard_normal((512, 6)).astype(np.float32)})
    coupling, statistics = pg.analyze(graph), Statistics(graph, data)
    (group,) = coupling.groups
    (together,) = obs_module._readers(group, coupling, statistics)
    assert together.reader.matrix.shape == (12, 1, 12)
    gram = statistics.gram(_reader_of(graph, hidden))
    apart = [
        obs_module._Reader(
            gram.covariance[0],
            obs_module._relative(each, gram.centred[0]),
            np.arange(12)[:, None],
        )
        for each in weights
    ]
    alive = np.arange(12)
    for _ in range(6):
        costs = together.costs(alive)
        np.testing.assert_allclose(costs, sum(r.costs(alive) for r in apart), rtol=1e-5)
        gone = alive[[np.argmin(costs)]]
        alive = np.setdiff1d(alive, gone)
        for reader in (together, *apart):
            reader.remove(gone, alive)
