"""BatchNormalization put back where it was folded: nothing changes, scales are deviations, and it folds again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.errors import DataError
from prunegraph.graph.model import Graph
from prunegraph.operators import is_batch_normalization
from prunegraph.rewriting.fold import fold
from prunegraph.runtime.data import Data
from prunegraph.training import (
    GraphModule,
    Sparsify,
    TrainingConfig,
    TrainingOptions,
    cross_entropy,
    train,
)
from prunegraph.training.unfold import EPSILON, unfold
from tests.builders import Builder, residual_net
from tests.oracle import outputs
from tests.paths import ROOT
from tests.random_graphs import draw_graph
from tests.training.mixed import chain
from tests.training.test_fit import accuracy, task

Array = np.ndarray


def normals(graph: Graph) -> list[str]:
    return [node.outputs[0] for node in graph.nodes if is_batch_normalization(node)]


def images(graph: Graph, count: int = 4) -> Data:
    """Random inputs of a graph's sizes."""
    rng = np.random.default_rng(5)
    sizes = {e.name: e.type.tensor_type.shape.dim for e in graph.model.graph.input}
    return Data.of(
        {
            name: rng.standard_normal([count, *(d.dim_value for d in dims[1:])]).astype(
                np.float32
            )
            for name, dims in sizes.items()
        }
    )


def close(mine: list[Array], theirs: list[Array], tolerance: float = 1e-4) -> None:
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(abs(b).max(), 1e-6))


@settings(max_examples=25, deadline=None)
@given(draw_graph(), st.integers(0, 2**16))
def test_nothing_changes(graph: Graph, seed: int) -> None:
    plain = fold(graph)
    unfolded = unfold(plain, images(plain))
    close(outputs(unfolded.graph, seed), outputs(plain, seed))
    assert set(normals(unfolded.graph)) == {*normals(plain), *unfolded.values}
    again = unfolded.folded(unfolded.graph)
    assert normals(again) == normals(plain)
    close(outputs(again, seed), outputs(plain, seed))


def test_scales_are_deviations_and_shifts_are_means() -> None:
    """Counted in numpy from what the layer makes."""
    plain = chain()
    data = images(plain, 40)
    unfolded = unfold(plain, data)
    assert len(unfolded.values) == 2 and "2 layers" in unfolded.note
    (x,) = (batch["x"] for batch in data.batches(plain, 40))
    for value in unfolded.values:
        made = GraphModule(plain).values([value], {"x": torch.from_numpy(x)})[value]
        rows = (
            made.detach()
            .numpy()
            .astype(np.float64)
            .swapaxes(0, 1)
            .reshape(len(made[0]), -1)
        )
        node = unfolded.graph.nodes[unfolded.graph.producer[value]]
        scale, shift, mean, variance = (
            unfolded.graph.weights[name].read() for name in node.inputs[1:]
        )
        np.testing.assert_allclose(scale, np.sqrt(rows.var(1) + EPSILON), rtol=1e-4)
        np.testing.assert_allclose(variance, rows.var(1), rtol=1e-4)
        np.testing.assert_allclose(mean, rows.mean(1), rtol=1e-4, atol=1e-5)
        assert (mean == shift).all()


def test_networks_that_have_scales_stay() -> None:
    for graph in (residual_net(), chain(widths=())):
        unfolded = unfold(graph, images(graph))
        assert unfolded.graph is graph and not unfolded.note
        assert unfolded.folded(graph) is graph


def test_a_gate_s_bottleneck_never_had_one() -> None:
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 12, name="first"))
    gate = b.relu(b.conv(b.op("GlobalAveragePool", x), 12, 8, 1, name="squeeze"))
    gate = b.op("Sigmoid", b.conv(gate, 8, 12, 1, name="expand"))
    graph = b.graph(b.head(b.relu(b.conv(b.op("Mul", x, gate), 12, 10, name="last")), 10))
    layers = {node.name: node.outputs[0] for node in graph.nodes if node.name}
    # The expanding layer makes channels of the first one's group, and has one place too.
    assert unfold(graph, images(graph)).values == (layers["last"],)


def options(**other: object) -> TrainingOptions:
    given: dict[str, object] = {
        "data": Data.of(task()),
        "batch": 24,
        "loss": cross_entropy(),
        "recipe": TrainingConfig(epochs=6, lr=0.1),
        "evaluate": accuracy,
        **other,
    }
    return TrainingOptions(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "method", ["sparse", "joint:quantize=none,min_channels=2,round_to=1", "gfr:round_to=1"]
)
def test_folded_networks_are_trained_and_come_back_folded(method: str) -> None:
    plain = fold(residual_net(width=16))
    assert not normals(plain)
    budget = None if method == "sparse" else pg.Budget(macs=0.5)
    done = train(plain, options(budget=budget), method)
    assert any("BatchNormalization was put behind" in note for note in done.notes)
    # `sparse` leaves them for `bn_scale`.
    assert bool(normals(done.model)) == (method == "sparse")
    assert accuracy(GraphModule(done.model).eval()) > 0.85
    if method == "sparse":
        gone = Sparsify(GraphModule(done.model)).gone()
        assert gone >= 0.3
        pg.prune(done.model, algorithm="bn_scale", budget=pg.Budget(ratio=0.3), round_to=1)


def test_trained_weights_fold_exactly() -> None:
    plain = fold(residual_net(width=8))
    unfolded = unfold(plain, Data.of(task()).without_labels())
    done = train(unfolded.graph, options(), "plain").model
    close(outputs(unfolded.folded(done)), outputs(done))


def test_layers_that_cannot_have_one_are_named_as_before() -> None:
    b = Builder()
    x = b.op("MatMul", b.input("n", 3, 8, 8), b.weight(8, 6))
    graph = b.graph(b.op("MatMul", b.relu(x), b.weight(6, 5)))
    with pytest.raises(DataError, match="no removable channel has a BatchNormalization"):
        train(graph, options(), "sparse")


@pytest.mark.slow
@pytest.mark.parametrize("folded", [False, True])
def test_defaults_take_a_third_of_the_scales(folded: bool) -> None:
    """What `prunegraph train --method sparse` does to the fixture in ten epochs on its 256 images, without labels."""
    from prunegraph.training import distillation

    graph = pg.load(ROOT / "fixtures" / "fashion_resnet.onnx")
    images = np.load(ROOT / "fixtures" / "fashion_calibration.npz")["image"]
    given = options(
        data=Data.of({"image": images}),
        batch=64,
        loss=distillation(GraphModule(graph)),
        recipe=TrainingConfig(epochs=10),
        evaluate=None,
    )
    done = train(fold(graph) if folded else graph, given, "sparse").model
    scales = [
        np.abs(done.weights[str(done.weight_behind(node.inputs[1]))].read())
        for node in done.nodes
        if is_batch_normalization(node)
    ]
    every, largest = np.concatenate(scales), max(scale.max() for scale in scales)
    assert (every < largest / 100).mean() >= 0.3
