"""Batch axes that are fixed, or not there: freed where that is proved, else samples run one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import prunegraph as pg
from prunegraph.errors import DataError
from prunegraph.graph.model import Graph
from prunegraph.runtime import session
from prunegraph.runtime.data import Data
from prunegraph.training import (
    Batches,
    GraphModule,
    TrainingConfig,
    TrainingOptions,
    cross_entropy,
    distillation,
    fit,
    train,
)
from prunegraph.training.batching import batching, feeds_of, rows_of
from tests.builders import Builder, residual_net
from tests.training.test_fit import task

Array = np.ndarray


def fixed(graph: Graph, size: int = 1) -> Graph:
    """The same graph with a fixed batch."""
    model = onnx.ModelProto.FromString(graph.model.SerializeToString())
    for entry in model.graph.input:
        entry.type.tensor_type.shape.dim[0].dim_value = size
    return pg.load(model)


def reshaping(size: int, target: tuple[int, ...]) -> Graph:
    """A convolution whose result is flattened by a shape that holds the batch as a number."""
    b = Builder()
    x = b.relu(b.bn(b.conv(b.input(size, 3, 4, 4), 3, 6), 6))
    y = b.op("Reshape", x, b.const(target, np.int64))
    return b.graph(b.linear(y, 96, 5))


def attention(size: int) -> Graph:
    """Positions first: the batch is on axis 1, and merged with the heads."""
    b = Builder()
    x = b.op("Transpose", b.input(size, 6, 8), perm=[1, 0, 2])
    q = b.op(
        "Reshape", b.op("MatMul", x, b.weight(8, 8)), b.const([6, 2 * size, 4], np.int64)
    )
    q = b.op("Transpose", q, perm=[1, 0, 2])
    scores = b.op(
        "Softmax", b.op("MatMul", q, b.op("Transpose", q, perm=[0, 2, 1])), axis=-1
    )
    y = b.op("Transpose", b.op("MatMul", scores, q), perm=[1, 0, 2])
    y = b.op(
        "Transpose", b.op("Reshape", y, b.const([6, size, 8], np.int64)), perm=[1, 0, 2]
    )
    return b.graph(b.linear(b.op("Reshape", y, b.const([size, 48], np.int64)), 48, 5))


def tokens() -> Graph:
    """A class token of the file in front of the positions."""
    b = Builder()
    x = b.op("Concat", b.weight(1, 1, 8), b.input(1, 6, 8), axis=1)
    return b.graph(b.linear(b.op("Reshape", x, b.const([1, -1], np.int64)), 56, 5))


def resized() -> Graph:
    """Sizes of a Resize that hold the batch."""
    b = Builder()
    x = b.conv(b.input(1, 3, 4, 4), 3, 4)
    x = b.op("Resize", x, "", "", b.const([1, 4, 8, 8], np.int64), mode="nearest")
    return b.graph(b.conv(x, 4, 5))


def recurrent(state: float) -> Graph:
    """Initial states of the file, for one sample."""
    b = Builder()
    x = b.op("Transpose", b.input(1, 6, 8), perm=[1, 0, 2])
    start = b.const(np.full((1, 1, 4), state), np.float32)
    y = b.op(
        "GRU",
        x,
        b.weight(1, 12, 8),
        b.weight(1, 12, 4),
        "",
        "",
        start,
        outputs=2,
        hidden_size=4,
    )
    return b.graph(
        b.linear(b.op("Squeeze", y.replace(".out0", ".out1"), b.const([0], np.int64)), 4, 5)
    )


FREED = {
    "plain": lambda: fixed(residual_net()),
    "of four": lambda: fixed(residual_net(), 4),
    "reshape": lambda: reshaping(1, (1, 96)),
    "reshape with -1": lambda: reshaping(1, (1, -1)),
    "reshape of three": lambda: reshaping(3, (3, 96)),
    "reshape of three with -1": lambda: reshaping(3, (3, -1)),
    "attention": lambda: attention(1),
    "attention of two": lambda: attention(2),
    "token": tokens,
    "resize": resized,
    "zero state": lambda: recurrent(0),
    "state": lambda: recurrent(0.5),
}


def alone(graph: Graph, x: Array) -> list[Array]:
    """Outputs for as many samples as there are, at the graph's own batch."""
    size = graph.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    opened = session.session(graph)
    parts = [session.run(opened, {"x": x[i : i + size]}) for i in range(0, len(x), size)]
    return [np.concatenate(each) for each in zip(*parts, strict=True)]


@pytest.mark.parametrize("name", FREED)
def test_a_freed_batch_gives_what_single_runs_give(name: str) -> None:
    graph = FREED[name]()
    shape = [d.dim_value for d in graph.model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(3).standard_normal((12, *shape[1:])).astype(np.float32)
    how = batching(graph)
    assert how.kind == "free" and "free during training" in how.note
    with torch.no_grad():
        together = GraphModule(how.graph).eval()(torch.from_numpy(x))
        # The graph as it is takes more samples too: one after the other.
        apart = GraphModule(graph).eval()(torch.from_numpy(x))
    for ours, others, wanted in zip(together, apart, alone(graph, x), strict=True):
        np.testing.assert_allclose(ours.numpy(), wanted, atol=2e-5)
        np.testing.assert_allclose(others.numpy(), wanted, atol=2e-5)
    back = how.restored(how.graph)
    assert [
        d.dim_value for d in back.model.graph.input[0].type.tensor_type.shape.dim
    ] == shape
    for ours, wanted in zip(alone(back, x), alone(graph, x), strict=True):
        np.testing.assert_array_equal(ours, wanted)


def mixing() -> Graph:
    """Softmax over the batch: no batch but the graph's own computes the same."""
    b = Builder()
    x = b.relu(b.bn(b.conv(b.input(2, 3, 4, 4), 3, 6), 6))
    return b.graph(b.op("Softmax", b.op("Flatten", x), axis=0))


def no_batch() -> Graph:
    """An image [3, 8, 8], and scores [5]."""
    b = Builder()
    x = b.op("Unsqueeze", b.input(3, 8, 8), b.const([0], np.int64))
    y = b.head(b.relu(b.bn(b.conv(x, 3, 8), 8)), 8)
    return b.graph(b.op("Squeeze", y, b.const([0], np.int64)))


def test_what_cannot_be_freed_stays() -> None:
    mixed, image = batching(mixing()), batching(no_batch())
    assert (
        mixed.kind == "fixed"
        and mixed.graph is mixed.original
        and "stays fixed at 2" in mixed.note
    )
    assert mixed.batch(5) == 6
    assert image.kind == "none" and "axis 0 of the inputs is no batch" in image.note
    with pytest.raises(DataError, match="which 3 samples do not fill"):
        GraphModule(mixing())(torch.zeros(3, 3, 4, 4))


def test_feeds_of_a_graph_without_a_batch_stay_whole() -> None:
    graph, x = no_batch(), task(6)["x"]
    stacked, rows = (
        Data.of({"x": x, "labels": np.arange(6)}),
        Data.of({"x": x.reshape(18, 8, 8)}),
    )
    for data in (stacked, rows):
        feeds = np.concatenate([chunk["x"] for chunk in feeds_of(data, graph).chunks()])
        np.testing.assert_array_equal(feeds, x)
        parts = np.concatenate([chunk["x"] for chunk in rows_of(data, graph).chunks()])
        np.testing.assert_array_equal(parts, x.reshape(18, 8, 8))
    images = {image.tobytes() for image in x}
    for batch in Batches(feeds_of(rows, graph), 2):
        assert all(image.numpy().tobytes() in images for image in batch["x"])
    module = GraphModule(graph).eval()
    with torch.no_grad():
        (together,) = module(torch.from_numpy(x))
    wanted = [session.run(session.session(graph), {"x": image})[0] for image in x]
    np.testing.assert_allclose(together.numpy(), np.stack(wanted), atol=1e-5)


def right(graph: Graph) -> float:
    data, opened = task(200, seed=1), session.session(graph)
    single = graph.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    out = [
        session.run(opened, {"x": x if single else x[None]})[0].reshape(-1)
        for x in data["x"]
    ]
    return float((np.stack(out).argmax(1) == data["labels"]).mean())


def learnt() -> Graph:
    module = GraphModule(residual_net())
    fit(module, Batches(task(), 24), TrainingConfig(epochs=6, lr=0.1))
    return module.write_back()


@pytest.mark.parametrize("method", ["plain", "sparse:strength=1e-5"])
def test_a_network_of_batch_one_survives_distillation_from_itself(method: str) -> None:
    graph = fixed(learnt())
    assert right(graph) > 0.9
    data = Data.of({"x": task()["x"]})
    setting = TrainingOptions(
        data, 24, distillation(GraphModule(graph)), TrainingConfig(epochs=1, lr=0.05)
    )
    done = train(graph, setting, method)
    assert right(done.model) > right(graph) - 0.03
    assert any("is free during training" in note for note in done.notes)
    # The result is the graph that was given, with other weights.
    assert [(n.op, n.inputs, n.outputs) for n in done.model.nodes] == [
        (n.op, n.inputs, n.outputs) for n in graph.nodes
    ]
    assert done.model.model.graph.input == graph.model.graph.input


def test_pruning_while_training_keeps_the_batch_of_the_graph() -> None:
    graph = reshaping(1, (1, 96))
    data = {"x": np.random.default_rng(0).standard_normal((48, 3, 4, 4)).astype(np.float32)}
    setting = TrainingOptions(
        Data.of(data),
        8,
        distillation(GraphModule(graph)),
        TrainingConfig(epochs=1, lr=0.01),
        budget=pg.Budget(ratio=0.5),
    )
    done = train(graph, setting, "cycles:steps=1,round_to=1")
    shape = [
        d.dim_value for d in done.model.model.graph.input[0].type.tensor_type.shape.dim
    ]
    assert shape == [1, 3, 4, 4] and done.model.weights["c1"].shape[0] == 3
    (ours,) = session.run(session.session(done.model), {"x": data["x"][:1]})
    assert ours.shape == (1, 5)


def test_a_graph_without_a_batch_learns() -> None:
    graph, data = no_batch(), task()
    setting = TrainingOptions(
        Data.of(data), 24, cross_entropy(graph=graph), TrainingConfig(epochs=12, lr=0.1)
    )
    done = train(graph, setting)
    assert right(done.model) > right(graph) + 0.2
    for name in ("mean", "variance"):
        held = next(
            n for n in graph.nodes if n.op == "BatchNormalization"
        ).channels.weights[name]
        np.testing.assert_array_equal(
            done.model.weights[held].read(), graph.weights[held].read()
        )


def statistics(module: GraphModule) -> dict[str, bytes]:
    names = {
        w
        for n in module.graph.nodes
        for r, w in n.channels.weights.items()
        if r in ("mean", "variance")
    }
    return {name: module.weight(name).numpy().tobytes() for name in names}


def test_a_single_sample_is_no_batch() -> None:
    """A batch of one, or a last one of one sample, is normalised by the running statistics, which stay."""
    module, x = GraphModule(residual_net()), torch.from_numpy(task(2)["x"])
    before = statistics(module)
    with torch.no_grad():
        torch.testing.assert_close(module.train()(x[:1]), module.eval()(x[:1]))
    assert statistics(module) == before
    module.train()(x)
    assert statistics(module) != before


def test_one_sample_at_a_time_is_said() -> None:
    setting = TrainingOptions(
        Data.of(task(6)), 1, cross_entropy(), TrainingConfig(epochs=1, lr=1e-4)
    )
    assert any("hold one sample" in note for note in train(residual_net(), setting).notes)


def test_a_fixed_teacher_sees_every_sample() -> None:
    """Reshape [1, -1] of a batch would make one row of all samples."""
    teacher, student = (
        GraphModule(reshaping(1, (1, -1))),
        GraphModule(batching(reshaping(1, (1, -1))).graph),
    )
    x = {"x": torch.randn(6, 3, 4, 4)}
    assert distillation(teacher)(student.eval()(x), x).item() == pytest.approx(0, abs=1e-6)


def test_a_batch_that_is_too_small_for_the_data_is_one_error(tmp_path: Path) -> None:
    setting = TrainingOptions(
        Data.of({"x": np.zeros((0, 3, 8, 8), np.float32)}),
        8,
        cross_entropy(),
        TrainingConfig(epochs=1),
    )
    with pytest.raises(DataError):
        train(residual_net(), setting)


def test_names_of_symbolic_sizes_stay_apart() -> None:
    b = Builder()
    y = b.op("Add", b.input(1, "batch", name="x"), b.input(1, "batch", name="z"))
    graph = b.graph(y)
    how = batching(graph)
    names = {
        d.dim_param
        for entry in how.graph.model.graph.input
        for d in entry.type.tensor_type.shape.dim
    }
    assert how.kind == "free" and len(names) == 2
    back = how.restored(Graph(how.graph.model)).model.graph.input
    assert [[d.dim_value for d in entry.type.tensor_type.shape.dim] for entry in back] == [
        [1, 0],
        [1, 0],
    ]
