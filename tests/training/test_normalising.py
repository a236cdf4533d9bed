"""Statistics of BatchNormalization while a network is trained: the batch's, unless they would undo what it has."""

from __future__ import annotations

import numpy as np
import torch

from prunegraph.graph.model import Graph
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run, session
from prunegraph.training import (
    Batches,
    GraphModule,
    TrainingConfig,
    TrainingOptions,
    distillation,
    train,
)
from prunegraph.training.normalising import keep_statistics
from tests.builders import Builder


def net() -> Graph:
    """A map of the input, behind two normalised convolutions."""
    b = Builder()
    x = b.input("N", 3, 8, 8)
    for _ in range(2):
        x = b.relu(b.bn(b.conv(x, 3 if x == "x" else 6, 6, pads=[1] * 4), 6))
    return b.graph(b.conv(x, 6, 2, 1))


def nearly(graph: Graph, share: float = 0.01) -> Graph:
    """The network with kernels that are off by a share: what a repair leaves."""
    revision, rng = Revision(graph), np.random.default_rng(1)
    for node in graph.layers:
        values = graph.weights[node.inputs[1]].read()
        noise = rng.standard_normal(values.shape).astype(np.float32)
        revision.set(node.inputs[1], values * (1 + np.float32(share) * noise))
    return revision.apply()


def images(count: int, level: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": (level + rng.standard_normal((count, 3, 8, 8))).astype(np.float32)}


def distance(graph: Graph, other: Graph, data: dict[str, np.ndarray]) -> float:
    (a,), (b,) = (run(session(each), data) for each in (graph, other))
    return float(((a - b) ** 2).mean() / b.var())


def test_what_a_network_has_is_not_lost_to_statistics_of_batches() -> None:
    """A network that is close to the original, on data unlike those that its statistics are of."""
    original = net()
    start, data = nearly(original), images(64, 2.0)
    setting = TrainingOptions(
        Data.of(data),
        4,
        distillation(GraphModule(original)),
        TrainingConfig(epochs=2, lr=1e-4),
    )
    done = train(start, setting)
    before = distance(start, original, data)
    assert before < 0.01
    assert distance(done.model, original, data) < before
    assert any("statistics of BatchNormalization stay" in note for note in done.notes)
    kept = [n.inputs[3:] for n in start.nodes if n.op == "BatchNormalization"]
    for name in (name for names in kept for name in names):
        now, was = (graph.weights[name].read() for graph in (done.model, start))
        assert np.array_equal(now, was)


def test_statistics_follow_batches_like_those_they_are_of() -> None:
    """Statistics of the same data: those of batches tell the same, and go on with training."""
    original = net()
    module = GraphModule(original)
    data = images(256, 0.0)
    with torch.no_grad():
        module.train()
        for _ in range(100):
            module(data)
    fitted = module.write_back()
    module = GraphModule(nearly(fitted))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    loss = distillation(GraphModule(fitted))
    assert keep_statistics(module, Batches(data, 128), loss) == ""
    assert not module.keeps_statistics
    assert all(torch.equal(before[n], value) for n, value in module.state_dict().items())


def test_kept_statistics_are_used_and_stay_in_train_mode() -> None:
    module = GraphModule(net())
    data = images(16, 2.0)
    expected = module.eval()(data)[0]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.train()
    assert not torch.allclose(module(data)[0], expected, atol=0.1)
    module.load_state_dict(before)
    module.keeps_statistics = True
    assert torch.allclose(module(data)[0], expected, atol=1e-5)
    assert all(torch.equal(before[n], value) for n, value in module.state_dict().items())
