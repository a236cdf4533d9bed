"""Input data: along which axes samples lie, whole feeds, text, indices; from files, functions and memory."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import prunegraph as pg
from prunegraph.errors import DataError
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from prunegraph.measuring.compare import compare
from prunegraph.runtime.data import Data, random_inputs, read_data
from prunegraph.runtime.session import run, run_values, session
from prunegraph.runtime.statistics import Statistics
from tests.builders import Builder
from tests.commands import in_process
from tests.runtime.voice import voice, voice_graph, voice_samples

Arrays = dict[str, np.ndarray]
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def call(command: str, code: int = 0) -> Result:
    """A command that ends with this code."""
    done = in_process(*command.split())
    assert done.exit_code == code, (done.output, done.exception)
    return done


# -- small graphs, each with an input of its kind; the value "hidden" is what statistics are of --------


def two_layers(b: Builder, x: str, width: int = 12) -> str:
    return b.linear(b.op("Relu", x, name="hidden"), width, 5)


def scalar(*shape: int | str) -> Graph:
    """The first layer times an input of that shape."""
    b = Builder()
    x = b.linear(b.input("N", 7), 7, 12)
    return b.graph(two_layers(b, b.op("Mul", x, b.input(*shape, name="s"))))


def state(*shape: int | str, axis: int = 0) -> Graph:
    """The first layer plus a state with an axis of size 1."""
    b = Builder()
    x = b.linear(b.input("N", 7), 7, 12)
    s = b.op("Squeeze", b.input(*shape, name="s"), b.const([axis], np.int64))
    return b.graph(two_layers(b, b.op("Add", x, s)))


def text() -> Graph:
    """A second input of text, handed out as it is."""
    b = Builder()
    s = b.input("N", name="s", kind=TensorProto.STRING)
    model = b.model(two_layers(b, b.linear(b.input("N", 7), 7, 12)), b.op("Identity", s))
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.STRING
    return from_model(model)


def edges(*shape: int | str, seed: int = 0) -> Graph:
    """Rows of the first layer taken by indices."""
    b = Builder(seed)
    x = b.linear(b.input("V", 7), 7, 12)
    e = b.input(*shape, name="e", kind=TensorProto.INT64)
    for _ in range(len(shape) - 1):
        e = b.op("Gather", e, b.const(0, np.int64), axis=0)
    return b.graph(two_layers(b, b.op("Gather", x, e, axis=0)))


CASES: dict[str, tuple[Callable[[], Graph], Callable[[int], Arrays]]] = {
    "scalar": (lambda: scalar(), lambda n: {"x": normal(n, 7), "s": np.float32(0.5)}),
    "one number": (lambda: scalar(1), lambda n: {"x": normal(n, 7), "s": normal(1)}),
    "one number, any length": (
        lambda: scalar("K"),
        lambda n: {"x": normal(n, 7), "s": normal(1)},
    ),
    "one for all": (
        lambda: scalar(1, 12),
        lambda n: {"x": normal(n, 7), "s": normal(1, 12)},
    ),
    "one each": (lambda: scalar("M", 1), lambda n: {"x": normal(n, 7), "s": normal(n, 1)}),
    "state": (
        lambda: state(1, "N", 12),
        lambda n: {"x": normal(n, 7), "s": normal(1, n, 12)},
    ),
    "state, other name": (
        lambda: state(1, "M", 12),
        lambda n: {"x": normal(n, 7), "s": normal(1, n, 12)},
    ),
    "state, no name": (
        lambda: state(1, None, 12),
        lambda n: {"x": normal(n, 7), "s": normal(1, n, 12)},
    ),
    "state, last axis": (
        lambda: state("N", 12, 1, axis=2),
        lambda n: {"x": normal(n, 7), "s": normal(n, 12, 1)},
    ),
    "text": (
        text,
        lambda n: {
            "x": normal(n, 7),
            "s": np.array([f"t{i}" for i in range(n)], dtype=object),
        },
    ),
    "text of numpy": (
        text,
        lambda n: {"x": normal(n, 7), "s": np.array([f"t{i}" for i in range(n)])},
    ),
    "voice": (voice_graph, lambda n: voice_samples(n)),
}


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


# -- commands --------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [*CASES, "edges", "edges [2, E]"])
def test_pruned_refitted_quantized_compared(name: str, files: Path) -> None:
    if name in CASES:
        graph, arrays = CASES[name][0](), CASES[name][1](40)
    else:
        graph = edges("E") if name == "edges" else edges(2, "E")
        count = (50,) if name == "edges" else (2, 50)
        arrays = {"x": normal(32, 7), "e": RNG.integers(0, 32, count)}
    arrays = {
        n: a.astype(str) if np.asarray(a).dtype.kind == "O" else a
        for n, a in arrays.items()
    }
    pg.save(graph, "net.onnx")
    np.savez("data.npz", **arrays)
    call("prune net.onnx -o random.onnx --ratio 0.5 --round-to 1")
    call("prune net.onnx -o small.onnx --ratio 0.5 --round-to 1 --data data.npz")
    call("quantize net.onnx -o whole.onnx --data data.npz --rounding nearest")
    call("compare net.onnx small.onnx --data data.npz --runs 2")
    # The refitted network, run by itself on all samples, is nearer to the original than the one that is only cut.
    given = {
        n: a.astype(object) if np.asarray(a).dtype.kind == "U" else np.asarray(a)
        for n, a in arrays.items()
    }
    wanted, plain, fitted = (
        run(session(pg.load(f)), given)[0]
        for f in ("net.onnx", "random.onnx", "small.onnx")
    )
    assert np.square(fitted - wanted).mean() <= np.square(plain - wanted).mean() * 1.001
    integers = run(session(pg.load("whole.onnx")), given)[0]
    assert np.square(integers - wanted).mean() < 0.01 * np.square(wanted).mean()


def test_a_voice_detector_goes_through_every_command_that_takes_data(files: Path) -> None:
    Path("net.onnx").write_bytes(voice().SerializeToString())
    np.savez("data.npz", **voice_samples(48))
    np.savez("eval.npz", **voice_samples(24, seed=1, rate=8000))
    call(
        "sensitivity net.onnx --json curves.json --data data.npz --ratios 0.25,0.5 --jobs 1"
    )
    call(
        "search net.onnx -o found.onnx --data data.npz --eval eval.npz --tolerance 0.5 --metric error --jobs 1"
    )
    call("quantize net.onnx -o integer.onnx --data data.npz --tolerance 0.5 --metric error")
    call("decompose net.onnx -o parts.onnx --data data.npz --rank ratio:0.5")
    call("compress net.onnx -o both.onnx --data data.npz --macs 0.9")
    graph = pg.load("net.onnx")
    given = voice_samples(9, seed=2)
    for name in ("found", "integer", "parts", "both"):
        created = run(session(pg.load(f"{name}.onnx")), given)
        assert [y.shape for y in created] == [y.shape for y in run(session(graph), given)]


# -- whole feeds -----------------------------------------------------------------------------


def feeds(count: int = 5) -> list[Arrays]:
    """Graphs of different sizes."""
    sizes = [3 + 4 * i for i in range(count)]
    return [{"x": normal(n, 7), "e": RNG.integers(0, n, 2 * n + 1)} for n in sizes]


def test_a_folder_of_archives_holds_whole_feeds(files: Path) -> None:
    graph, given = edges("E"), feeds()
    Path("feeds").mkdir()
    for index, feed in enumerate(given):
        np.savez(f"feeds/{index:02}.npz", **feed)
    data = read_data("feeds").fit(graph)
    assert data.samples == 5 and data.is_whole
    batches = list(data.batches(graph, 64))
    assert len(batches) == 5
    for batch, feed in zip(batches, given, strict=True):
        assert batch.keys() == feed.keys() and all(
            np.array_equal(batch[n], feed[n]) for n in feed
        )
    rows = np.concatenate(
        [run_values(graph, feed, ["hidden.out"])["hidden.out"] for feed in given]
    )
    (moments,) = Statistics(graph, data).moments([("hidden.out", 1)])
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-4, atol=1e-6)
    pg.save(graph, "net.onnx")
    call("prune net.onnx -o small.onnx --ratio 0.5 --round-to 1 --data feeds")
    call("quantize net.onnx -o whole.onnx --data feeds")
    call("compare net.onnx small.onnx --data feeds --runs 2")
    assert [len(part["x"]) for part in data.where(lambda n: n % 2 == 1).chunks()] == [7, 15]
    assert data.head(2).samples == 2


def test_indices_into_the_samples_make_arrays_one_feed() -> None:
    arrays = {
        "x": normal(32, 7),
        "e": RNG.integers(0, 32, 32),
    }  # as many edges as vertices, by chance
    data = Data.of(arrays).fit(edges("E"))
    assert data.is_whole and data.samples == 1
    (batch,) = data.batches(edges("E"), 4)
    assert np.array_equal(batch["e"], arrays["e"])


def test_indices_into_a_table_are_samples() -> None:
    b = Builder()
    x = b.op("Gather", b.weight(9, 7), b.input("N", name="e", kind=TensorProto.INT64))
    graph = b.graph(
        two_layers(b, b.op("Add", b.linear(x, 7, 12), b.linear(b.input("N", 7), 7, 12)))
    )
    data = Data.of({"x": normal(30, 7), "e": RNG.integers(0, 9, 30)}).fit(graph)
    assert not data.is_whole and [len(batch["e"]) for batch in data.batches(graph, 20)] == [
        20,
        10,
    ]


def test_what_samples_share_may_change_from_batch_to_batch() -> None:
    graph = scalar()
    given = [{"x": normal(5, 7), "s": np.float32(s)} for s in (1, 1, 2)]
    data = Data.of(given).fit(graph)
    batches = list(data.batches(graph, 8))
    assert [(len(batch["x"]), float(batch["s"])) for batch in batches] == [
        (8, 1),
        (2, 1),
        (5, 2),
    ]
    assert data.samples == 15
    with pytest.raises(DataError, match="share"):
        data.in_memory()


def test_labels_go_with_samples_wherever_those_lie() -> None:
    graph = voice_graph()
    arrays = {**voice_samples(50), "labels": np.arange(50)}
    data = Data.of(arrays).fit(graph)
    batches = list(data.batches(graph, 20, labels=True))
    assert np.concatenate([batch["labels"] for batch in batches]).tolist() == list(
        range(50)
    )
    half = data.where(lambda numbers: numbers % 2 == 0).in_memory().parts[0]
    assert half["labels"].tolist() == list(range(0, 50, 2))
    assert np.array_equal(half["state"], arrays["state"][:, ::2])


def test_a_fixed_batch_counts_along_the_axis_of_samples() -> None:
    graph = scalar(1)  # an input of shape [1] is no batch of 1
    assert [
        len(b["x"])
        for b in Data.of({"x": normal(6, 7), "s": normal(1)}).fit(graph).batches(graph, 4)
    ] == [4, 2]
    b = Builder()
    s = b.op("Squeeze", b.input(1, 4, 12, name="s"), b.const([0], np.int64))
    fixed = b.graph(two_layers(b, b.op("Add", b.linear(b.input(4, 7), 7, 12), s)))
    arrays = {"x": normal(10, 7), "s": normal(1, 10, 12)}
    batches = list(Data.of(arrays).fit(fixed).batches(fixed, 64))
    assert [batch["s"].shape for batch in batches] == [(1, 4, 12)] * 2
    assert np.array_equal(batches[1]["s"], arrays["s"][:, 4:8])


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


# -- what is refused -------------------------------------------------------------------------


def packed(**members: bytes) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    stream = BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


ROWS = npy(np.ones((4, 7), np.float32))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x": ROWS, "s": npy(np.array(["a"] * 4, object), pickled=True)}, "dtype=str"),
        ({"x": ROWS, "s": npy(np.arange(4))}, "input 's' wants text"),
        ({"x": ROWS}, "no array for model input 's'"),
        ({"x": ROWS, "s": npy(np.array(["a"] * 3))}, "one length"),
        (
            {"x": npy(np.ones((4, 6), np.float32)), "s": npy(np.array(["a"] * 4))},
            "wants shape",
        ),
        ({"x": ROWS, "s": npy(np.array([["a"]] * 4))}, "wants shape"),
        ({"x": header((10**12, 7)), "s": npy(np.array(["a"]))}, "not as long as its shape"),
        ({"x": header((4, 2**62)), "s": npy(np.array(["a"]))}, "not as long as its shape"),
        ({"x": header((-4, 7)), "s": npy(np.array(["a"]))}, "not as long as its shape"),
        (
            {"x": npy(np.zeros((2**25, 1), np.float32)), "s": npy(np.array(["a"]))},
            "unpacks from",
        ),
        ({"x": ROWS[:-1], "s": npy(np.array(["a"] * 4))}, "not as long as its shape"),
        ({"x": b"\x93NUMPY\x01\x00\xff\xff{(", "s": ROWS}, "not an .npz file of arrays"),
    ],
)
def test_archives_that_are_refused(
    files: Path, members: dict[str, bytes], message: str
) -> None:
    pg.save(text(), "net.onnx")
    Path("data.npz").write_bytes(packed(**members))
    done = call("prune net.onnx -o small.onnx --ratio 0.5 --data data.npz", code=2)
    assert (
        message in done.stderr
        and done.stderr.startswith("error: data.npz")
        and done.stderr.count("\n") == 1
    )
    assert not Path("small.onnx").exists()


def test_a_folder_of_pickled_arrays_is_refused(files: Path) -> None:
    Path("data").mkdir()
    np.save("data/x.npy", np.array([object]), allow_pickle=True)
    with pytest.raises(DataError, match="dtype=str"):
        read_data("data").fit(scalar())


def test_feeds_and_arrays_do_not_mix(files: Path) -> None:
    Path("data").mkdir()
    np.savez("data/a.npz", x=normal(2, 7))
    np.save("data/x.npy", normal(2, 7))
    with pytest.raises(DataError, match="one kind"):
        read_data("data")


def test_feeds_have_the_same_arrays(files: Path) -> None:
    Path("data").mkdir()
    np.savez("data/a.npz", x=normal(2, 7), e=np.array([0]))
    np.savez("data/b.npz", x=normal(2, 7))
    with pytest.raises(
        DataError, match=r"b\.npz: every feed needs the same arrays, and e differs"
    ):
        list(read_data("data").fit(edges("E")).batches(edges("E")))


def test_objects_that_are_no_text_are_refused() -> None:
    with pytest.raises(DataError, match="other objects"):
        Data.of({"x": normal(2, 7), "s": np.array([1, None], object)}).fit(text())


def test_the_digest_is_of_the_text_not_of_where_it_lies() -> None:
    one, two = (
        Data.of({"x": np.ones((2, 7)), "s": np.array(t, object)}).digest
        for t in (["a", "b"], ["ab", ""])
    )
    again = Data.of(
        {"x": np.ones((2, 7)), "s": np.array(["".join("a"), "b"], object)}
    ).digest
    assert one == again != two


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
        graph, from_model(model), data=Data.of(arrays), runs=1, threads=1, seed=0
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
