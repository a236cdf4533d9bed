"""Gradients for criteria: against a closed form, finite differences, and PyTorch's own modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import prunegraph as pg
from prunegraph.errors import DataError, TrainingError, UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime import session
from prunegraph.selection.criteria.base import Context, score
from prunegraph.training.gradients import TaskGradients
from prunegraph.training.losses import cross_entropy, own_labels
from prunegraph.training.module import GraphModule
from tests.builders import Builder
from tests.selection.test_criteria import LinearGradients

Array = np.ndarray


def network(seed: int = 0) -> Graph:
    """A residual network with BatchNormalization, a depthwise convolution, and a head; smooth, for differences."""
    b = Builder(seed)
    x = b.input("n", 3, 6, 6)
    y = b.op("Tanh", b.bn(b.conv(x, 3, 6, name="stem"), 6))
    z = b.op("Tanh", b.conv(y, 6, 6, group=6, name="depthwise"))
    z = b.op("Add", y, b.conv(z, 6, 6, k=1, name="point"))
    return b.graph(b.head(z, 6))


def samples(count: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((count, 3, 6, 6)).astype(np.float32),
        "labels": rng.integers(0, 5, count),
    }


def reference_loss(graph: Graph, data: dict[str, Array]) -> Array:
    """Cross entropy of every sample, from ONNX Runtime's logits."""
    (logits,) = session.run(session.session(graph, threads=1), {"x": data["x"]})
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(logits, data["labels"][:, None], 1)[:, 0]
    return np.log(np.exp(logits).sum(axis=1)) - chosen


def scaled(graph: Graph, weight: str, axis: int, index: int, factor: float) -> Graph:
    values = graph.weights[weight].read().astype(np.float64)
    np.moveaxis(values, axis, 0)[index] *= factor
    revision = Revision(graph)
    revision.set(weight, values)
    return revision.apply()


def test_closed_form() -> None:
    rng = np.random.default_rng(0)
    b = Builder()
    y = b.op(
        "MatMul",
        b.op("MatMul", b.input("n", 5), b.weight(5, 7), name="first"),
        b.weight(7, 3),
        name="second",
    )
    graph = b.graph(y)
    x, t = rng.standard_normal((24, 5)).astype(np.float32), rng.standard_normal((24, 3))
    wanted = LinearGradients(graph, x.astype(np.float64), t, size=6)

    def loss(outputs: object, batch: object) -> object:
        return (outputs[0] - batch["labels"]).square().sum(1).mean() / 2

    result = TaskGradients(GraphModule(graph), {"x": x, "labels": t}, loss, batch=6)
    for name in wanted.names:
        for axis in (0, 1):
            for kind in ("batches", "samples", "squares"):
                got, want = (
                    getattr(result, kind)(name, axis),
                    getattr(wanted, kind)(name, axis),
                )
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert score("taylor", Context(pg.analyze(graph), gradients=result)).keys()


@pytest.mark.parametrize("layer", ["stem", "depthwise", "point", "head"])
def test_finite_differences(layer: str) -> None:
    graph, data = network(), samples(5)
    result = TaskGradients(GraphModule(graph), data, cross_entropy(), batch=5)
    weight, step = graph.node(layer).inputs[1], 1e-2
    for axis in (0, 1):
        slopes = [
            (
                reference_loss(scaled(graph, weight, axis, i, 1 + step), data)
                - reference_loss(scaled(graph, weight, axis, i, 1 - step), data)
            )
            / (2 * step)
            for i in range(graph.weights[weight].shape[axis])
        ]
        by_sample = np.stack(slopes, axis=1)
        np.testing.assert_allclose(
            result.samples(weight, axis), by_sample, rtol=1e-2, atol=2e-4
        )
        np.testing.assert_allclose(
            result.batches(weight, axis)[0], by_sample.mean(axis=0), rtol=1e-2, atol=2e-4
        )


def test_batches_are_means_of_samples_and_squares_do_not_cancel() -> None:
    graph = network()
    result = TaskGradients(GraphModule(graph), samples(10), cross_entropy(), batch=4)
    weight = graph.node("stem").inputs[1]
    by_sample, by_batch = result.samples(weight, 0), result.batches(weight, 0)
    assert by_sample.shape == (10, 6) and by_batch.shape == (3, 6)
    parts = [by_sample[:4].mean(0), by_sample[4:8].mean(0), by_sample[8:].mean(0)]
    np.testing.assert_allclose(by_batch, parts, rtol=1e-4, atol=1e-7)
    assert (result.squares(weight, 0) > 0).all()
    np.testing.assert_allclose(
        result.squares(weight, 0).sum(), result.squares(weight, 1).sum()
    )


@pytest.mark.parametrize("algorithm", ["taylor", "fisher", "fisher:diagonal"])
def test_pruning_by_gradients(algorithm: str) -> None:
    graph = network()
    gradients = TaskGradients(GraphModule(graph), samples(12), cross_entropy(), batch=4)
    result = pg.prune(
        graph,
        algorithm=algorithm,
        gradients=gradients,
        budget=pg.Budget(ratio=0.4),
        round_to=1,
    )
    assert result.proof is not None and result.after.params < result.before.params


def test_a_module_of_pytorch_gives_the_same() -> None:
    class Net(torch.nn.Module):
        def __init__(self, graph: Graph) -> None:
            super().__init__()
            own = GraphModule(graph)
            for name, tensor in own.weights().items():
                self.register_parameter(name, torch.nn.Parameter(tensor.detach().clone()))
            self.names = [(n.inputs[1], n.input(2)) for n in graph.layers]

        def forward(self, x: object) -> object:
            (w, b), (v, c) = self.names
            hidden = torch.relu(
                torch.nn.functional.linear(x, getattr(self, w), getattr(self, b))
            )
            return torch.nn.functional.linear(hidden, getattr(self, v), getattr(self, c))

    b = Builder()
    graph = b.graph(b.linear(b.relu(b.linear(b.input("n", 4), 4, 6)), 6, 5))
    rng = np.random.default_rng(1)
    data = {
        "x": rng.standard_normal((8, 4)).astype(np.float32),
        "labels": rng.integers(0, 5, 8),
    }
    mine = TaskGradients(GraphModule(graph), data, cross_entropy(), batch=4)
    theirs = TaskGradients(Net(graph), data, cross_entropy(), graph=graph, batch=4)
    for node in graph.layers:
        for kind in ("batches", "samples", "squares"):
            a, c = (getattr(g, kind)(node.inputs[1], 0) for g in (mine, theirs))
            np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-7)
    with pytest.raises(DataError, match="give `graph=`"):
        TaskGradients(Net(graph), data, cross_entropy())


def test_own_labels_need_none_and_are_the_same_for_a_seed() -> None:
    graph, data = network(), samples(6)
    del data["labels"]
    weight = graph.node("point").inputs[1]
    first, again, other = (
        TaskGradients(GraphModule(graph), data, own_labels(seed=s)).samples(weight, 0)
        for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first).max() > 0 and not np.array_equal(first, other)


def test_the_module_is_as_it_was() -> None:
    module = GraphModule(network()).train()
    before = {name: tensor.clone() for name, tensor in module.weights().items()}
    flags = {name: tensor.requires_grad for name, tensor in module.weights().items()}
    TaskGradients(module, samples(4), cross_entropy()).batches("c1", 0)
    assert module.training and all(
        torch.equal(before[n], t) for n, t in module.weights().items()
    )
    assert flags == {
        name: tensor.requires_grad for name, tensor in module.weights().items()
    }
    assert all(tensor.grad is None for tensor in module.weights().values())


def test_shared_weights_sum_over_their_readers() -> None:
    """Two layers that read one bias have copies in the module; the graph's bias gets the sum."""
    b = Builder()
    bias = b.const(np.zeros(4), np.float32)
    y = b.op("Gemm", b.input("n", 4), b.weight(4, 4), bias, name="first", transB=1)
    graph = b.graph(b.op("Gemm", b.relu(y), b.weight(4, 4), bias, name="second", transB=1))
    rng = np.random.default_rng(0)
    module = GraphModule(graph)
    with torch.no_grad():
        for part in module.parts(bias):
            part.fill_(0.5)
    data = {
        "x": rng.standard_normal((6, 4)).astype(np.float32),
        "labels": rng.integers(0, 4, 6),
    }
    result = TaskGradients(module, data, cross_entropy(), graph=graph)
    parts = module.parts(bias)
    assert len(parts) == 2
    loss = cross_entropy()(module(data["x"]), {"labels": torch.from_numpy(data["labels"])})
    slopes = torch.autograd.grad(loss, parts)
    np.testing.assert_allclose(
        result.batches(bias, 0)[0], 0.5 * (slopes[0] + slopes[1]).numpy(), rtol=1e-5
    )


def test_what_is_wrong_is_said() -> None:
    graph, data = network(), samples(4)
    with pytest.raises(UnknownNameError, match="nothing"):
        TaskGradients(GraphModule(graph), data, cross_entropy()).batches("nothing", 0)
    with pytest.raises(DataError, match="labels"):
        TaskGradients(GraphModule(graph), {"x": data["x"]}, cross_entropy()).batches(
            "c1", 0
        )
    data["x"][0] = np.nan
    with pytest.raises(TrainingError, match="nan"):
        TaskGradients(GraphModule(graph), data, cross_entropy()).batches("c1", 0)
    b = Builder()
    fixed = b.graph(b.linear(b.input(4, 3), 3, 5, name="only"))
    x = {"x": np.ones((8, 3), np.float32), "labels": np.zeros(8, np.int64)}
    gradients = TaskGradients(GraphModule(fixed), x, cross_entropy())
    assert gradients.batches(fixed.node("only").inputs[1], 0).shape == (2, 5)
    with pytest.raises(DataError, match="fixed batch of 4"):
        gradients.samples(fixed.node("only").inputs[1], 0)
    b = Builder()
    soft = b.graph(b.op("Softmax", b.linear(b.input("n", 3), 3, 5)))
    with pytest.raises(DataError, match="probabilities=True"):
        TaskGradients(GraphModule(soft), x, cross_entropy()).batches("c1", 0)
    assert (
        TaskGradients(GraphModule(soft), x, cross_entropy(probabilities=True))
        .batches("c1", 0)
        .any()
    )
