"""Input data: along which axes samples lie, text, indices; from files, functions and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from prunegraph.errors import DataError
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from prunegraph.measuring.compare import compare
from prunegraph.runtime.data import Data, random_inputs, read_data
from prunegraph.runtime.runtimes import find
from prunegraph.runtime.session import run, run_values, session
from prunegraph.runtime.statistics import Statistics
from tests.builders import Builder
from tests.runtime.feeding import CASES, Arrays, edges, normal, scalar
from tests.runtime.voice import voice, voice_graph, voice_samples


def hidden(graph: Graph) -> str:
    """A value behind the first layer, channels along axis 1."""
    return next(n.outputs[0] for n in graph.nodes if n.op == "Relu" and n.subgraph is None)


def one_by_one(
    graph: Graph, arrays: Mapping[str, np.ndarray], axes: Mapping[str, int | None]
) -> list[np.ndarray]:
    """The hidden value of each sample, run alone: what the samples are does not depend on `Data`."""
    count = len(next(iter(arrays.values())))
    rows = []
    for i in range(count):
        one = {
            n: a if axes[n] is None else np.take(a, [i], axes[n]) for n, a in arrays.items()
        }
        one = {
            n: a.astype(object) if np.asarray(a).dtype.kind == "U" else np.asarray(a)
            for n, a in one.items()
        }
        rows.append(run_values(graph, one, [hidden(graph)])[hidden(graph)])
    return rows


def axes_of(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, int | None]:
    """Where samples lie, by hand."""
    by_hand: dict[str, int | None] = {
        "scalar": None,
        "one number": None,
        "one number, any length": None,
        "one for all": None,
        "one each": 0,
        "state": 1,
        "state, other name": 1,
        "state, no name": 1,
        "state, last axis": 0,
        "text": 0,
        "text of numpy": 0,
    }
    if name == "voice":
        return {"frames": 0, "state": 1, "rate": None}
    return {"x": 0, "s": by_hand[name]}


# -- sources and statistics -----------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_statistics_are_those_of_the_samples_one_by_one(name: str) -> None:
    make, samples = CASES[name]
    graph, arrays = make(), samples(7)
    rows = np.concatenate(one_by_one(graph, arrays, axes_of(name, arrays)))
    rows = np.moveaxis(rows, 1, 0).reshape(rows.shape[1], -1)
    (moments,) = Statistics(graph, Data.of(arrays)).moments([(hidden(graph), 1)])
    np.testing.assert_allclose(moments.mean, rows.mean(axis=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        moments.energy, (rows.astype(np.float64) ** 2).mean(axis=1), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["npz", "npy", "py", "packed"])
def test_every_source_gives_the_same_batches(name: str, form: str, tmp_path: Path) -> None:
    make, samples = CASES[name]
    graph, arrays = make(), samples(150)  # more than are read at a time
    stored = {
        n: a.astype(str) if np.asarray(a).dtype.kind == "O" else a
        for n, a in arrays.items()
    }
    place = tmp_path / "data.npz"
    if form in ("npz", "packed"):
        (np.savez if form == "npz" else np.savez_compressed)(place, **stored)
    elif form == "npy":
        place = tmp_path / "data"
        place.mkdir()
        for each, array in stored.items():
            np.save(place / f"{each}.npy", array)
    else:
        np.savez(place, **stored)
        (tmp_path / "data.py").write_text(
            f"import numpy as np\ndef give():\n    yield dict(np.load({str(place)!r}))\n"
        )
    data = read_data(str(place) if form != "py" else f"{tmp_path / 'data.py'}:give").fit(
        graph
    )
    axes = axes_of(name, arrays)
    assert data.samples == 150 and bool(data)
    batches = list(data.batches(graph, 40))
    for each, array in arrays.items():
        axis = axes[each]
        if axis is None:
            assert all(np.array_equal(batch[each], array) for batch in batches)
        else:
            assert [batch[each].shape[axis] for batch in batches] == [40, 40, 40, 30]
            assert np.array_equal(
                np.concatenate([batch[each] for batch in batches], axis), array
            )
    assert (
        data.digest
        == Data.of({n: np.asarray(a) for n, a in arrays.items()}).fit(graph).digest
    )
    assert [batch.keys() for batch in data.head(45).batches(graph, 40)] == [
        arrays.keys()
    ] * 2


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[tuple[str, list[int | str], int | None]], int]:
    """Inputs (name, shape, axis of samples) of which the first has them along axis 0; and a number of samples."""
    inputs: list[tuple[str, list[int | str], int | None]] = [("i0", ["N", 3], 0)]
    for index in range(draw(st.integers(1, 3))):
        shape: list[int | str] = [
            draw(st.integers(2, 4)) for _ in range(draw(st.integers(0, 3)))
        ]
        axis = draw(st.none() | st.integers(0, len(shape)))
        if axis is not None:
            shape.insert(axis, "N")
        inputs.append((f"i{index + 1}", shape, axis))
    return inputs, draw(st.integers(5, 90))


@settings(max_examples=60, deadline=None)
@given(layouts(), st.integers(1, 40), st.integers(0, 2**16))
def test_samples_are_found_on_any_axis(
    drawn: tuple[list[tuple[str, list[int | str], int | None]], int], size: int, seed: int
) -> None:
    inputs, count = drawn
    rng = np.random.default_rng(seed)
    infos = [helper.make_tensor_value_info(name, 1, shape) for name, shape, _ in inputs]
    nodes = [helper.make_node("Identity", [name], [f"{name}_o"]) for name, _, _ in inputs]
    outs = [
        helper.make_tensor_value_info(f"{name}_o", 1, shape) for name, shape, _ in inputs
    ]
    graph = from_model(
        helper.make_model(
            helper.make_graph(nodes, "g", infos, outs),
            opset_imports=[helper.make_opsetid("", 17)],
        )
    )
    arrays = {
        name: rng.standard_normal([count if s == "N" else s for s in shape]).astype(
            np.float32
        )
        for name, shape, _ in inputs
    }
    data = Data.of(arrays).fit(graph)
    batches = list(data.batches(graph, size))
    assert data.samples == count
    chosen = np.sort(rng.permutation(count)[: count // 2])
    some = data.where(lambda numbers: np.isin(numbers, chosen)).in_memory()
    for name, _, axis in inputs:
        if axis is None:
            assert all(np.array_equal(batch[name], arrays[name]) for batch in batches)
        else:
            assert all(batch[name].shape[axis] <= size for batch in batches)
            assert np.array_equal(
                np.concatenate([batch[name] for batch in batches], axis), arrays[name]
            )
            assert np.array_equal(some.parts[0][name], np.take(arrays[name], chosen, axis))
    drawn_samples = data.draw(count // 2, seed)
    assert drawn_samples.samples == count // 2


# -- random inputs ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [("E",), (2, "E"), (7,), ("V",)])
@pytest.mark.parametrize("batch", [1, 3])
def test_random_indices_are_within_what_they_point_into(
    shape: tuple[int | str, ...], batch: int
) -> None:
    graph = edges(*shape)
    for seed in range(5):
        inputs = random_inputs(graph, seed=seed, batch=batch)
        assert inputs["e"].min() >= 0 and inputs["e"].max() < len(inputs["x"])
        run(session(graph), inputs)


def indexed(op: str) -> tuple[Graph, int]:
    """A graph in which an input indexes something of a known size, and the size."""
    b = Builder(opset=17)
    x = b.linear(b.input("N", 7), 7, 5)
    if op == "Cast":
        i = b.op("Cast", b.input(4, name="i", kind=TensorProto.INT32), to=TensorProto.INT64)
        return b.graph(b.op("Gather", x, i, axis=1)), 5
    i = b.input(1, name="i", kind=TensorProto.INT64)
    if op == "Reshape":
        return b.graph(
            b.op(
                "Gather",
                b.weight(3, 4),
                b.op("Reshape", i, b.const([1, 1], np.int64)),
                axis=0,
            ),
            x,
        ), 3
    if op == "GatherND":
        i = b.op("Reshape", i, b.const([1, 1], np.int64))
        return b.graph(b.op("GatherND", b.weight(3, 9), i), x), 3
    if op == "ScatterElements":
        return b.graph(
            b.op("ScatterElements", b.weight(6), i, b.const([1.0], np.float32)), x
        ), 6
    if op == "ScatterND":
        i = b.op("Reshape", i, b.const([1, 1], np.int64))
        return b.graph(b.op("ScatterND", b.weight(2, 5), i, b.weight(1, 5)), x), 2
    if op == "GatherElements":
        return b.graph(b.op("GatherElements", b.weight(4), i), x), 4
    raise AssertionError(op)


@pytest.mark.parametrize(
    "op", ["Cast", "Reshape", "GatherND", "ScatterElements", "ScatterND", "GatherElements"]
)
def test_indices_are_followed_to_where_they_are_used(op: str) -> None:
    graph, size = indexed(op)
    seen = {int(v) for seed in range(80) for v in random_inputs(graph, seed=seed)["i"]}
    assert seen == set(range(size))
    run(session(graph), random_inputs(graph))


def test_axes_of_one_name_are_one_size() -> None:
    for batch in (1, 3):
        inputs = random_inputs(voice_graph(), batch=batch)
        assert inputs["frames"].shape[0] == inputs["state"].shape[1] == batch


# -- digests and streams ------------------------------------------------------------------


def test_outputs_with_samples_on_another_axis_are_compared_batch_by_batch() -> None:
    graph = voice_graph()
    other = from_model(voice())
    tensor = next(t for t in other.model.graph.initializer if t.dims == [1, 4 * 6, 6])
    changed = numpy_helper.to_array(tensor) + np.float32(0.1)
    model = onnx.ModelProto.FromString(other.model.SerializeToString())
    for each in model.graph.initializer:
        if each.name == tensor.name:
            each.CopyFrom(numpy_helper.from_array(changed, each.name))
    arrays = voice_samples(100)
    wanted, output = (run(session(g), arrays) for g in (graph, from_model(model)))
    result = compare(
        graph, from_model(model), data=Data.of(arrays), runs=1, seed=0, runtime=find()
    )
    for name, a, b in zip(graph.outputs, wanted, output, strict=True):
        assert result.differences[name][0] == pytest.approx(np.abs(a - b).max(), rel=1e-4)
    assert result.samples == 100


def test_a_function_is_not_asked_again_and_again() -> None:
    calls = []

    def give() -> Iterator[Arrays]:
        calls.append(1)
        yield {"x": normal(20, 7), "s": np.float32(1)}

    graph = scalar()
    data = Data(give).fit(graph)
    calls.clear()
    for _ in range(5):
        assert data.fit(graph) is data and data.head(4).fit(graph).samples == 4
    assert len(calls) == 5  # once for each head
    other = scalar(1)
    with pytest.raises(DataError, match="wants shape"):
        data.fit(other)
