"""Commands and whole feeds: every kind of input goes through all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

import prunegraph as pg
from prunegraph.errors import DataError
from prunegraph.runtime.data import Data, read_data
from prunegraph.runtime.session import run, run_values, session
from prunegraph.runtime.statistics import Statistics
from tests.builders import Builder
from tests.runtime.feeding import (
    CASES,
    RNG,
    Arrays,
    call,
    edges,
    normal,
    scalar,
    two_layers,
)
from tests.runtime.voice import voice, voice_graph, voice_samples

# -- commands --------------------------------------------------------------------------------


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


def feeds(count: int = 5) -> list[Arrays]:
    """Graphs of different sizes."""
    sizes = [3 + 4 * i for i in range(count)]
    return [{"x": normal(n, 7), "e": RNG.integers(0, n, 2 * n + 1)} for n in sizes]


# -- whole feeds -----------------------------------------------------------------------------


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
