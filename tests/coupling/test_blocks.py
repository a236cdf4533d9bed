"""Heads and groups of convolutions that choose channels of their own, equally many each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Own, Survivors
from prunegraph.errors import ExactnessError, PlanError
from prunegraph.graph.model import Graph
from prunegraph.runtime.session import run, session
from prunegraph.selection.plan import Plan, make_plan
from tests.builders import Builder
from tests.oracle import random_plan

FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)


def attention(
    *,
    heads: int = 2,
    size: int = 4,
    keys: int = 0,
    packed: bool = False,
    in_batch: str = "",
    batch: int | str = 3,
    gain: str = "",
    norm: bool = False,
    table: bool = False,
    seed: int = 0,
) -> Graph:
    """Attention of single operators, [n, 5, 6] to [n, 5, 6].

    Args:
        heads: of the query.
        size: of a head.
        keys: heads of keys and values, each for several of the query; 0 for as many.
        packed: whether query, key and value come from one matrix.
        in_batch: whether heads are merged with the batch, as old exporters do: behind it ("inner") or before it
            ("outer"); "" for neither.
        batch: size of the batch, or a name for any.
        gain: an operator with a parameter for each channel of each head, behind the query.
        norm: whether the query is divided by its length.
        table: whether the query is multiplied by a table that all heads share.
        seed: of the weights.
    """
    b = Builder(seed, opset=18)
    x = b.input(batch, 5, 6)
    width, keys = heads * size, keys or heads

    def linear(value: str, rows: int, columns: int, name: str) -> str:
        product = b.op("MatMul", value, b.weight(rows, columns, scale=0.7), name=name)
        return b.op("Add", product, b.weight(columns))

    def split(value: str, count: int) -> str:
        shaped = b.op("Reshape", value, b.const([-1, 5, count, size], np.int64))
        return b.op("Transpose", shaped, perm=[0, 2, 1, 3])

    if packed:
        rows = b.op(
            "Reshape",
            linear(x, 6, 3 * width, "qkv"),
            b.const([-1, 5, 3, heads, size], np.int64),
        )
        turned = b.op("Transpose", rows, perm=[2, 0, 3, 1, 4])
        q, k, v = (b.op("Gather", turned, b.const(i, np.int64), axis=0) for i in range(3))
    else:
        q = split(linear(x, 6, width, "q"), heads)
        k = split(linear(x, 6, keys * size, "k"), keys)
        v = split(b.op("Exp", linear(x, 6, keys * size, "v")), keys)
    if gain:
        q = b.op(gain, q, b.weight(heads, 1, size))
    if norm:
        q = b.op("Div", q, b.op("ReduceL2", q, b.const([3], np.int64), keepdims=1))
    if table:
        q = b.op("Mul", q, b.weight(5, size, scale=1.0))
    if keys != heads:
        k, v = (_repeated(b, each, keys, heads // keys, size) for each in (k, v))
    k = b.op("Transpose", k, perm=[0, 1, 3, 2])
    if in_batch == "outer":
        q, k, v = (b.op("Transpose", y, perm=[1, 0, 2, 3]) for y in (q, k, v))
    if in_batch:
        q, v = (b.op("Reshape", y, b.const([-1, 5, size], np.int64)) for y in (q, v))
        k = b.op("Reshape", k, b.const([-1, size, 5], np.int64))
    mixed = b.op("MatMul", b.op("Softmax", b.op("MatMul", q, k), axis=-1), v)
    if in_batch:
        shape = [heads, -1, 5, size] if in_batch == "outer" else [-1, heads, 5, size]
        mixed = b.op("Reshape", mixed, b.const(shape, np.int64))
    y = b.op("Transpose", mixed, perm=[1, 2, 0, 3] if in_batch == "outer" else [0, 2, 1, 3])
    y = b.op("Reshape", y, b.const([-1, 5, width], np.int64))
    return b.graph(linear(y, width, 6, "out"))


def _repeated(b: Builder, value: str, keys: int, times: int, size: int) -> str:
    """Key heads, each handed to several query heads."""
    spread = b.op(
        "Expand",
        b.op("Unsqueeze", value, b.const([2], np.int64)),
        b.const([1, keys, times, 5, size], np.int64),
    )
    return b.op("Reshape", spread, b.const([-1, keys * times, 5, size], np.int64))


def convolutions(
    *,
    groups: tuple[int, ...] = (2,),
    width: int = 12,
    shuffle: int = 0,
    transposed: bool = False,
    residual: bool = False,
    seed: int = 0,
) -> Graph:
    """Convolutions in groups, one behind the other.

    Args:
        groups: of each of them.
        width: channels between them.
        shuffle: into how many parts channels are shuffled before the last one; 0 for none.
        transposed: whether they are transposed convolutions.
        residual: whether the input of the last one is added to its output.
        seed: of the weights.
    """
    b = Builder(seed)
    y = b.op("Sigmoid", b.conv(b.input(2, 3, 6, 6), 3, width, 1, name="first"))
    for index, count in enumerate(groups):
        before = y
        if shuffle and index == len(groups) - 1:
            shape = [0, shuffle, width // shuffle, 6, 6]
            rows = b.op("Reshape", y, b.const(shape, np.int64))
            turned = b.op("Transpose", rows, perm=[0, 2, 1, 3, 4])
            before = y = b.op("Reshape", turned, b.const([0, width, 6, 6], np.int64))
        if transposed:
            y = b.op(
                "ConvTranspose",
                y,
                b.weight(width, width // count, 3, 3, scale=0.3),
                b.weight(width),
                group=count,
                pads=[1] * 4,
                name=f"grouped{index}",
            )
        else:
            y = b.conv(y, width, width, group=count, name=f"grouped{index}")
        y = b.op("Softplus", y)
    if residual:
        y = b.op("Add", y, before)
    return b.graph(b.op("GlobalAveragePool", b.conv(y, width, 4, name="last")))


def cells(coupling: Coupling) -> dict[str, tuple[int, ...]]:
    """Cells of the groups that have any, by the first layer that makes their channels."""
    return {
        group.layers[0]: group.cells.shape
        for group in coupling.groups
        if group.cells is not None
    }


def prove(graph: Graph, seed: int, ratio: float, blocks: str = "own") -> None:
    coupling = pg.analyze(graph, attention="head_dim", blocks=blocks)
    plan = random_plan(coupling, seed, ratio)
    pruned = pg.apply(graph, plan)
    pg.verify(graph, plan, pruned, seed=seed)
    assert Plan.from_json(plan.to_json()) == plan


@FEW
@given(
    heads=st.integers(2, 4),
    size=st.integers(2, 6),
    packed=st.booleans(),
    in_batch=st.sampled_from(["", "inner", "outer"]),
    batch=st.sampled_from([3, "n"]),
    gain=st.sampled_from(["", "Add", "Mul", "PRelu"]),
    norm=st.booleans(),
    table=st.booleans(),
    seed=st.integers(0, 999),
    ratio=st.sampled_from([0.3, 0.5, 0.8]),
    blocks=st.sampled_from(["own", "both"]),
)
def test_heads_of_random_attention(
    seed: int, ratio: float, blocks: str, **options: int | bool | str
) -> None:
    prove(attention(seed=seed, **options), seed, ratio, blocks)  # type: ignore[arg-type]


@FEW
@given(
    groups=st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3),
    width=st.sampled_from([12, 24]),
    shuffle=st.sampled_from([0, 0, 2, 3, 4]),
    transposed=st.booleans(),
    residual=st.booleans(),
    seed=st.integers(0, 999),
    ratio=st.sampled_from([0.3, 0.5, 0.8]),
    blocks=st.sampled_from(["own", "both"]),
)
def test_random_convolutions_in_groups(
    groups: list[int], seed: int, ratio: float, blocks: str, **options: int | bool
) -> None:
    graph = convolutions(groups=tuple(groups), seed=seed, **options)  # type: ignore[arg-type]
    prove(graph, seed, ratio, blocks)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"q": (2, 4), "v": (2, 4)}),
        ({"heads": 3, "size": 5}, {"q": (3, 5), "v": (3, 5)}),
        ({"packed": True}, {"qkv": (2, 4)}),
        ({"in_batch": "inner"}, {"q": (2, 4), "v": (2, 4)}),
        ({"in_batch": "outer", "batch": "n"}, {"q": (2, 4), "v": (2, 4)}),
        ({"packed": True, "in_batch": "inner", "batch": "n"}, {"qkv": (2, 4)}),
        ({"gain": "Mul"}, {"q": (2, 4), "v": (2, 4)}),
        ({"norm": True}, {"q": (2, 4), "v": (2, 4)}),
        ({"table": True}, {"v": (2, 4)}),
        ({"heads": 4, "keys": 2}, {"q": (2, 4), "v": (2, 4)}),
    ],
)
def test_each_head_has_its_own(
    options: dict[str, object], expected: dict[str, tuple[int, ...]]
) -> None:
    graph = attention(**options)  # type: ignore[arg-type]
    coupling = pg.analyze(graph, attention="head_dim", blocks="own")
    assert cells(coupling) == expected
    assert not cells(pg.analyze(graph, attention="head_dim"))
    if "in_batch" not in options:
        assert not cells(pg.analyze(graph, attention="heads", blocks="own"))
    prove(graph, 1, 0.5)


@pytest.mark.parametrize("in_batch", ["inner", "outer"])
@pytest.mark.parametrize("batch", [3, "n"])
def test_heads_that_share_an_axis_with_the_batch_lose_what_others_do(
    in_batch: str, batch: int | str
) -> None:
    """As the same network does that keeps heads and batch apart, whatever the batch."""
    merged, apart = attention(in_batch=in_batch, batch=batch), attention(batch=batch)
    coupling = pg.analyze(merged, attention="head_dim", blocks="own")
    plan = random_plan(coupling, seed=1)
    for group in coupling.groups:
        one, other = np.sort(plan.remove[group.id]).reshape(2, 2) % 4
        assert (one != other).any()
    pruned = pg.apply(merged, plan)
    data = {"x": np.random.default_rng(0).standard_normal((3, 5, 6)).astype(np.float32)}
    proof = pg.verify(merged, plan, pruned, data=[data])
    assert proof.runs == (3 if batch == 3 else 4)
    twin = make_plan(pg.analyze(apart, attention="head_dim", blocks="own"), plan.remove)
    expected = run(session(pg.apply(apart, twin)), data)
    np.testing.assert_allclose(run(session(pruned), data)[0], expected[0], atol=1e-5)
    assert np.abs(expected[0] - run(session(apart), data)[0]).max() > 0.01


def test_query_heads_that_share_a_key_head_choose_with_it() -> None:
    coupling = pg.analyze(attention(heads=4, keys=2), attention="head_dim", blocks="own")
    query, key = (
        next(m for m in coupling.groups[0].members if m.layer == name and m.role == "out")
        for name in ("q", "k")
    )
    channel = 5  # the second of the second key head
    assert key.positions[channel].tolist() == [5]
    assert query.positions[channel].tolist() == [2 * 4 + 1, 3 * 4 + 1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"first": (2, 6), "grouped0": (2, 6)}),
        ({"groups": (2, 2)}, {"first": (2, 6), "grouped0": (2, 6), "grouped1": (2, 6)}),
        ({"groups": (2, 3)}, {"first": (2, 6), "grouped1": (3, 4)}),
        (
            {"groups": (2, 2), "shuffle": 2},
            {"first": (2, 6), "grouped0": (4, 3), "grouped1": (2, 6)},
        ),
        ({"transposed": True}, {"first": (2, 6), "grouped0": (2, 6)}),
    ],
)
def test_each_group_of_a_convolution_has_its_own(
    options: dict[str, object], expected: dict[str, tuple[int, ...]]
) -> None:
    graph = convolutions(**options)  # type: ignore[arg-type]
    assert cells(pg.analyze(graph, blocks="own")) == expected
    prove(graph, 1, 0.5)


def test_whole_blocks_go_beside_channels_of_the_others() -> None:
    graph = attention(heads=3, size=4)
    coupling = pg.analyze(graph, attention="head_dim", blocks="both")
    heads = next(group for group in coupling.groups if group.channels == 3)
    assert heads.layers == ("q", "k", "v") and heads.cells is None
    queries = next(group for group in coupling.groups if group.layers == ("q", "k"))
    plan = make_plan(coupling, {heads.id: [1], queries.id: [0, 1, 4, 5, 8, 11]})
    pruned = pg.apply(graph, plan)
    pg.verify(graph, plan, pruned)
    # Two of four channels of two of three heads; the values keep theirs.
    widths = [pruned.node(name).channels.outputs for name in ("q", "k", "v")]
    assert widths == [4, 4, 8]


def test_blocks_lose_different_channels_and_each_its_worst() -> None:
    graph = convolutions()
    coupling = pg.analyze(graph, blocks="own")
    result = pg.prune(
        graph, budget=pg.Budget(ratio=0.5), algorithm="l2", round_to=1, blocks="own"
    )
    group = coupling.groups[0]
    gone = np.asarray(result.plan.remove["g0"])
    assert group.cells is not None
    left, right = (np.flatnonzero(np.isin(cell, gone)) for cell in group.cells)
    assert len(left) == len(right) == 3
    assert left.tolist() != right.tolist()


def test_a_plan_that_takes_more_from_one_block_is_refused() -> None:
    coupling = pg.analyze(convolutions(), blocks="own")
    with pytest.raises(PlanError, match="2 blocks has to lose equally many"):
        make_plan(coupling, {"g0": [0, 1, 6]})
    make_plan(coupling, {"g0": [0, 1, 6, 9]})


def test_a_plan_says_what_each_block_loses() -> None:
    graph = convolutions()
    plan = make_plan(pg.analyze(graph, blocks="own"), {"g0": [0, 1, 6, 9]})
    content = plan.to_json()
    assert content["format"] == "prunegraph/plan@3"
    assert content["provenance"] == {"blocks": "own"}
    weight = next(
        cut for cut in content["cuts"] if cut["node"] == "grouped0" and cut["axis"] == 1
    )
    assert weight["over"] == 0 and "removed" not in weight
    assert weight["blocks"] == [[0, 1]] * 6 + [[0, 3]] * 6
    # A plan without blocks of its own stays as it was.
    alike = make_plan(pg.analyze(graph), {"g0": [0, 1]}).to_json()
    assert alike["format"] == "prunegraph/plan@2" and "blocks" not in alike["provenance"]


def test_a_pruned_weight_has_of_each_block_what_stays() -> None:
    graph = convolutions()
    plan = make_plan(pg.analyze(graph, blocks="own"), {"g0": [0, 1, 6, 9]})
    before = graph.weights[graph.node("grouped0").inputs[1]].read()
    pruned = pg.apply(graph, plan)
    after = pruned.weights[pruned.node("grouped0").inputs[1]].read()
    expected = np.concatenate([before[:6, [2, 3, 4, 5]], before[6:, [1, 2, 4, 5]]])
    np.testing.assert_array_equal(after, expected)


def _rolled(self: Own, values: np.ndarray, axis: int) -> np.ndarray:
    wrong = Own(self.over, np.roll(self.kept, len(self.kept) // 2, axis=0))
    return ORIGINAL(wrong, values, axis)


def _first(self: Own, values: np.ndarray, axis: int) -> np.ndarray:
    return np.take(values, self.kept[0], axis)


def _alike(self: Survivors, blocks: object) -> np.ndarray | None:
    table = LEFT(self, blocks)  # type: ignore[arg-type]
    return None if table is None else np.tile(table[:1], (len(table), 1))


ORIGINAL, LEFT = Own.of, Survivors._left


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [(Own, "of", _rolled), (Own, "of", _first), (Survivors, "_left", _alike)],
)
def test_a_wrong_cut_of_blocks_is_noticed(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, wrong: Callable[..., object]
) -> None:
    graph = convolutions()
    plan = make_plan(pg.analyze(graph, blocks="own"), {"g0": [0, 1, 6, 9]})
    bare = make_plan(pg.analyze(graph, blocks="own"), {"g0": [0, 1, 6, 9]})
    monkeypatch.setattr(owner, name, wrong)
    pruned = pg.apply(graph, Plan(plan.model, plan.remove, (), plan.provenance))
    monkeypatch.undo()
    with pytest.raises(ExactnessError):
        pg.verify(graph, bare, pruned)


def test_blocks_with_unequally_many_channels_of_a_kind_stay_alike() -> None:
    """Of the two groups of the last layer one reads 4 channels of the first branch, the other 2."""
    b = Builder()
    x = b.input(2, 3, 6, 6)
    both = b.op("Concat", b.conv(x, 3, 6, name="a"), b.conv(x, 3, 2, name="b"), axis=1)
    graph = b.graph(b.conv(both, 8, 4, group=2, name="grouped"))
    coupling = pg.analyze(graph, blocks="own")
    assert not cells(coupling)
    assert coupling.groups == () or [g.id for g in coupling.groups] == [
        g.id for g in pg.analyze(graph).groups
    ]


def test_inspect_shows_the_blocks() -> None:
    from prunegraph.coupling.outline import outline

    content = outline(pg.analyze(convolutions(), blocks="own"))
    assert content["model"]["blocks"] == "own"
    group = content["groups"][0]
    assert group["cells"] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    member = next(m for m in group["members"] if m["layer"] == "grouped0")
    assert member["over"] == 0 and member["rows"][7] == [6, 7, 8, 9, 10, 11]
    assert "blocks" not in outline(pg.analyze(convolutions()))["model"]


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    graph = attention()
    result = pg.prune(graph, budget=pg.Budget(ratio=0.5), round_to=1, blocks="own")
    result.plan.save(tmp_path / "plan.json")
    again = pg.apply(graph, Plan.load(tmp_path / "plan.json"))
    assert again.sha256 == result.model.sha256
