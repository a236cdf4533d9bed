"""Channels that only pass what is linear may have any basis: rotated graphs compute what they computed before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunegraph.errors import PlanError
from prunegraph.graph.model import Graph
from prunegraph.rotation.choose import choose_rotation, prepare
from prunegraph.rotation.rotate import folded, key, rotate
from prunegraph.rotation.spaces import Space, find_spaces
from prunegraph.runtime.data import Data
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.rotation import Rotation, Turn
from tests.builders import Builder
from tests.coupling.control_networks import branching, finished
from tests.rotation.networks import (
    OBSTACLES,
    STEPS,
    attention,
    outputs,
    random_inputs,
    stream,
    tokens,
)


def any_matrix(space: Space, rng: np.random.Generator) -> np.ndarray:
    """An invertible matrix that is not orthogonal, unless it has to be."""
    first, second = (
        np.linalg.qr(rng.standard_normal((space.size, space.size)))[0] for _ in range(2)
    )
    scales = np.ones(space.size) if space.is_rigid else rng.uniform(0.5, 2, space.size)
    return np.asarray((first * scales) @ second, np.float32)


def difference(first: Graph, second: Graph, seed: int = 0) -> float:
    """The largest difference of the outputs, relative to the largest output."""
    inputs = random_inputs(first, seed)
    expected, result = outputs(first, inputs), outputs(second, inputs)
    return float(abs(expected - result).max() / abs(expected).max())


def turned(graph: Graph, seed: int = 0) -> tuple[Graph, tuple[Space, ...]]:
    """A graph with any matrix in each of its spaces."""
    rng = np.random.default_rng(seed)
    _, folded, spaces = prepare(graph)
    turns = tuple(Turn(*key(space), any_matrix(space, rng)) for space in spaces)
    return rotate(graph, Rotation(turns, folded)), spaces


@given(
    channels=st.integers(2, 6),
    steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=5),
    readers=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=25)
def test_streams_have_any_basis(
    channels: int, steps: list[str], readers: int, seed: int
) -> None:
    graph = stream(channels, steps, readers, seed)
    result, spaces = turned(graph, seed)
    assert [space.size for space in spaces] == [channels]
    assert difference(graph, result, seed) < 1e-4
    maker = graph.node("maker").inputs[1]
    names = {part.weight for part in spaces[0].weights}
    assert len([part for part in spaces[0].weights if part.reads]) >= readers + 1
    assert not np.allclose(graph.weights[maker].read(), _maker(result), atol=1e-3)
    assert len(names) == len(spaces[0].weights)


def _maker(graph: Graph) -> np.ndarray:
    return graph.weights[graph.node("maker").inputs[1]].read()


@given(
    obstacle=st.sampled_from(sorted(OBSTACLES)),
    before=st.lists(st.sampled_from(sorted(STEPS)), max_size=2),
    behind=st.lists(st.sampled_from(sorted(STEPS)), max_size=2),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=20)
def test_what_acts_on_single_channels_keeps_their_basis(
    obstacle: str, before: list[str], behind: list[str], seed: int
) -> None:
    graph = stream(5, [*before, obstacle, *behind], 1, seed)
    # Behind the obstacle a stream of its own may begin; what the maker makes is not part of one.
    names = [part.node.name for space in find_spaces(graph) for part in space.weights]
    assert "maker" not in names
    # A factor or shift directly behind a layer is folded into it.
    result, _ = turned(graph, seed)
    assert difference(graph, result, seed) < 1e-4


def test_channels_that_meet_in_another_order_are_mixed_with_their_like() -> None:
    """z + reversed(z) ties channel 0 with 4, and 1 with 3: only what is the same for both sides could stay."""
    graph = stream(5, ["reversed"], 1, 0)
    _, spaces = turned(graph)
    assert not spaces


@given(
    size=st.integers(2, 4),
    own=st.integers(1, 3),
    shared=st.integers(1, 3),
    packed=st.booleans(),
    bias=st.booleans(),
    tables=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=25)
def test_every_head_has_any_basis_for_queries_and_keys_and_for_values(
    size: int, own: int, shared: int, packed: bool, bias: bool, tables: bool, seed: int
) -> None:
    graph = attention(
        own * shared, shared, size, packed=packed, bias=bias, tables=tables, seed=seed
    )
    result, spaces = turned(graph, seed)
    assert difference(graph, result, seed) < 1e-4
    # One pair of spaces for each head of keys and values.
    assert [space.size for space in spaces] == [size] * (own if tables else 2 * own)
    pairs = [space for space in spaces if any(part.dual for part in space.weights)]
    assert len(pairs) == (0 if tables else own)


@given(
    channels=st.integers(2, 6),
    blocks=st.integers(0, 2),
    way=st.sampled_from(["mean", "sum", "sum of squares", "length"]),
    tables=st.integers(1, 2),
    tied=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=25)
def test_streams_between_rms_normalisations_have_orthogonal_bases(
    channels: int, blocks: int, way: str, tables: int, tied: bool, seed: int
) -> None:
    graph = tokens(channels, blocks, way, seed, tables=tables, tied=tied)
    result, (space,) = turned(graph, seed)
    assert space.size == channels
    assert space.is_rigid
    assert space.name == "table"
    assert difference(graph, result, seed) < 1e-4
    # The scales are in the layers behind them now.
    assert len(graph.nodes) - len(result.nodes) == blocks + 1


def test_a_layer_with_all_channels_of_a_slice_keeps_the_others_apart() -> None:
    """Squares of a part of the channels are summed: that part and the rest are two spaces at best."""
    net = Builder(1)
    net.input("n", 5, 6)
    z = net.op("MatMul", "x", net.weight(6, 4), name="maker")
    part = net.op(
        "Slice",
        z,
        net.const([0], np.int64),
        net.const([2], np.int64),
        net.const([2], np.int64),
    )
    z = net.op("Mul", z, net.op("ReduceSumSquare", part, axes=[2]))
    graph = net.graph(net.op("MatMul", z, net.weight(4, 3)))
    result, spaces = turned(graph)
    assert [(space.size, space.is_rigid) for space in spaces] == [(2, True), (2, False)]
    assert difference(graph, result) < 1e-4


def test_a_product_with_itself_keeps_only_orthogonal_bases() -> None:
    net = Builder(3)
    net.input("n", 5, 6)
    weight = net.weight(6, 4)
    z = net.op("MatMul", "x", weight)
    gram = net.op("MatMul", z, net.op("Transpose", z, perm=[0, 2, 1]))
    graph = net.graph(net.op("Tanh", gram))
    result, (space,) = turned(graph)
    assert space.is_rigid
    assert difference(graph, result) < 1e-4
    assert not np.allclose(
        graph.weights[weight].read(), result.weights[weight].read(), atol=1e-3
    )


def test_layers_that_share_a_weight_keep_it() -> None:
    net = Builder()
    net.input("n", 3, 6, 6)
    z = net.conv("x", 3, 4, k=1, bias=False)
    net.op("Conv", "x", net.nodes[0].input[1], name="twin")
    other = net.op("Relu", net.conv("twin.out", 4, 5))
    graph = net.graph(net.op("Add", net.op("Relu", net.conv(z, 4, 5)), other))
    assert find_spaces(graph) == ()


@pytest.mark.parametrize("with_data", [False, True])
def test_the_last_channels_carry_the_least(with_data: bool) -> None:
    """A stream that is of rank 3: of eight channels the last five are nothing."""
    net = Builder(1)
    net.input("n", 3, 6, 6)
    z = net.conv("x", 3, 8, k=1, bias=False, name="maker")
    graph = net.graph(net.op("Relu", net.conv(z, 8, 6, k=3)))
    statistics = Statistics(graph, Data.of(random_inputs(graph, 0, 16)))
    rotation = choose_rotation(graph, find_spaces(graph), statistics if with_data else None)
    result = rotate(graph, rotation)
    assert difference(graph, result) < 1e-4
    norms = np.linalg.norm(_maker(result).reshape(8, -1), axis=1)
    assert (norms[3:] < 0.05 * norms[0]).all()
    assert norms[2] > 0.05 * norms[0]


def test_a_rotation_is_the_same_from_its_json() -> None:
    graph = attention(2, 1, 3, packed=True, bias=True, seed=0)
    rotation = choose_rotation(graph, find_spaces(graph))
    again = Rotation.from_json(rotation.to_json())
    assert again.sha256 == rotation.sha256
    first, second = rotate(graph, rotation), rotate(graph, again)
    assert first.model.SerializeToString() == second.model.SerializeToString()


def test_damaged_rotations_are_told() -> None:
    graph = attention(2, 1, 3, packed=True, bias=True, seed=0)
    rotation = choose_rotation(graph, find_spaces(graph))
    content = rotation.to_json()
    for change in (
        {"sha256": "0" * 64},
        {"turns": content["turns"][1:]},
        {"turns": [{**content["turns"][0], "size": 4}]},
        {"turns": [{**content["turns"][0], "matrix": "no"}]},
        {"turns": 3},
    ):
        with pytest.raises(PlanError, match="the plan's rotation"):
            Rotation.from_json({**content, **change})


def test_a_rotation_is_for_its_own_graph() -> None:
    graph = attention(2, 1, 3, packed=True, bias=True, seed=0)
    rotation = choose_rotation(graph, find_spaces(graph))
    wrong = replace(rotation, turns=(replace(rotation.turns[0], first=1),))
    with pytest.raises(PlanError, match="rotates 3 channels of layer"):
        rotate(graph, wrong)


def test_where_there_are_subgraphs_too_nodes_are_folded() -> None:
    graph = finished(branching())
    assert any(not node.outputs for node in graph.nodes)
    first = graph.nodes[0].outputs[0]
    same = folded(graph, (first,))
    assert [node.name for node in same.nodes] == [node.name for node in graph.nodes]
