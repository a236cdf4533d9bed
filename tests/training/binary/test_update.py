"""Layer-wise updates: moments and statistics, the guard, and what they give without training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunegraph.errors import DataError, OptionError
from prunegraph.graph.model import Graph
from prunegraph.training import Batches, GraphModule, TrainingConfig, cross_entropy, fit
from prunegraph.training.binary import (
    BinarizeOptions,
    SampleSplit,
    alternate_update,
    binarize,
    estimate_statistics,
    lower,
    to_binary,
    trainable,
)
from prunegraph.training.binary.network import binary_layers, normals_below
from prunegraph.training.binary.statistics import LayerMoments, places
from prunegraph.training.binary.update import mean_loss
from tests.builders import Builder, residual_net
from tests.training.binary.networks import plain_net, task

Array = np.ndarray


@pytest.fixture(scope="module")
def teacher() -> Graph:
    """A network in full precision that has learnt its task."""
    graph = plain_net(width=12)
    binary, _ = to_binary(graph)
    module = GraphModule(graph, trainable=sorted(trainable(binary) & graph.weights.keys()))
    fit(module, Batches(task(), 25), TrainingConfig(8, lr=0.1), progress=False)
    return module.write_back()


def right(graph: Graph) -> float:
    data = task(1000, seed=1)
    with torch.no_grad():
        logits = GraphModule(graph).eval()(torch.from_numpy(data["x"]))[0]
    return float((logits.argmax(1).numpy() == data["labels"]).mean())


def student(teacher: Graph) -> GraphModule:
    binary, _ = to_binary(teacher)
    return GraphModule(binary, trainable=trainable(binary))


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((3, 3), {"pads": [1] * 4}),
        ((3, 2), {"pads": [0, 1, 2, 0], "strides": [2, 1]}),
        ((2, 3), {"dilations": [2, 1]}),
    ],
)
def test_patches_give_a_convolution(
    kernel: tuple[int, int], attributes: dict[str, list[int]]
) -> None:
    b = Builder(0)
    b.op("Conv", b.input(2, 4, 9, 8), b.weight(6, 4, *kernel), name="conv", **attributes)
    graph = b.graph("conv.out")
    x = torch.randn(2, 4, 9, 8)
    y = GraphModule(graph)(x)[0].detach()
    weight = torch.from_numpy(
        graph.weights[graph.node("conv").inputs[1]].read().copy()
    ).reshape(6, -1)
    for rows, (columns,) in places(graph.node("conv"), kernel, x, [y]):
        np.testing.assert_allclose(rows @ weight.T, columns, atol=1e-5)


def test_moments_in_parts_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 7)) + 3, rng.standard_normal((2, 50, 4)) + 1
    result = LayerMoments.empty(7, 4, 2)
    for part in (slice(0, 20), slice(20, 50)):
        result.add(torch.from_numpy(x[part]), [torch.from_numpy(each[part]) for each in y])
    np.testing.assert_allclose(result.gram, x.T @ x)
    plain, central = x - x.mean(0), y - y.mean(1, keepdims=True)
    centred = result.centred()
    np.testing.assert_allclose(centred.gram, plain.T @ plain, atol=1e-9)
    cross, energy = centred.target([1.0, -0.5])
    wanted = central[0] - 0.5 * central[1]
    np.testing.assert_allclose(cross, plain.T @ wanted, atol=1e-9)
    np.testing.assert_allclose(energy, (wanted**2).sum(0), atol=1e-9)


def test_statistics_are_those_of_the_data_and_nothing_else_changes(teacher: Graph) -> None:
    module = student(teacher).eval()
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    batch = {"x": torch.from_numpy(task()["x"])}
    estimate_statistics(module, [batch])
    normals = normals_below(module.graph)
    assert len(normals) == 2, "the first normalisation has nothing binary above it"
    for node in normals:
        values = module.values([node.inputs[0]], batch)[node.inputs[0]].detach()
        np.testing.assert_allclose(
            module.weight(node.inputs[3]), values.mean((0, 2, 3)), atol=1e-5
        )
        np.testing.assert_allclose(
            module.weight(node.inputs[4]), values.var((0, 2, 3), correction=0), rtol=1e-4
        )
    changed = {
        name
        for name, tensor in module.state_dict().items()
        if not torch.equal(tensor, weights[name])
    }
    assert changed == {module.key(name) for node in normals for name in node.inputs[3:5]}


@pytest.mark.parametrize("scales", [1, 4])
def test_update_without_training_recovers_most(teacher: Graph, scales: int) -> None:
    binary, _ = to_binary(teacher, scales=scales)
    module = GraphModule(binary, trainable=trainable(binary))
    samples = SampleSplit.of(task(), teacher, size=50)
    estimate_statistics(module, samples.fit)
    before = right(module.write_back())
    records = alternate_update(module, samples, teacher=GraphModule(teacher))
    assert [record.layer for record in records] == ["second", "third"]
    assert all(
        record.error[1] < record.error[0] and 0 < record.flips < 0.5 for record in records
    )
    assert right(module.write_back()) > before
    # What a layer computes with are its new codes with their scales.
    for layer in binary_layers(module.graph):
        assert bool((module.weight(layer.weight).abs() > 0).all())


def test_with_the_guard_the_held_out_loss_never_rises(teacher: Graph) -> None:
    module = student(teacher)
    fit(module, Batches(task(), 25), TrainingConfig(12, lr=0.05), progress=False)
    samples = SampleSplit.of(task(200, seed=7), teacher, size=50)
    for targets in ("teacher", "descent", "latent"):
        estimate_statistics(module, samples.fit)
        loss = mean_loss(module.eval(), samples.held, cross_entropy())
        records = alternate_update(
            module, samples, teacher=GraphModule(teacher), targets=targets
        )  # type: ignore[arg-type]
        for record in records:
            assert record.loss[0] == pytest.approx(loss)
            assert record.kept == (record.loss[1] <= record.loss[0])
            loss = record.loss[1] if record.kept else loss
        assert mean_loss(module, samples.held, cross_entropy()) == pytest.approx(loss)


def test_a_layer_that_is_undone_has_its_old_weights(teacher: Graph) -> None:
    module = student(teacher)
    samples = SampleSplit.of(task(), teacher, size=50)
    estimate_statistics(module, samples.fit)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    calls = iter(range(1000))
    records = alternate_update(
        module,
        samples,
        teacher=GraphModule(teacher),
        loss=lambda outputs, batch: torch.tensor(float(next(calls))),
    )
    assert not any(record.kept for record in records)
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items()
    )
    calls = iter(range(1000))
    records = alternate_update(
        module,
        samples,
        teacher=GraphModule(teacher),
        guard=False,
        loss=lambda outputs, batch: torch.tensor(float(next(calls))),
    )
    assert all(record.kept for record in records)


def test_a_last_binary_layer_gets_a_bias_that_fits(teacher: Graph) -> None:
    binary, _ = to_binary(teacher, last="binary", min_inputs=16)
    module = GraphModule(binary, trainable=trainable(binary))
    samples = SampleSplit.of(task(), teacher, size=50)
    records = alternate_update(module, samples, teacher=GraphModule(teacher), guard=False)
    assert records[-1].layer == "head" and records[-1].error[1] < records[-1].error[0]
    x = torch.cat([batch["x"] for batch in samples.fit])
    with torch.no_grad():
        own, wanted = (m.eval()(x)[0].mean(0) for m in (module, GraphModule(teacher)))
    np.testing.assert_allclose(own, wanted, atol=1e-3 * float(wanted.abs().max()))


def test_binarize_from_graph_to_file(teacher: Graph) -> None:
    from prunegraph.runtime import session

    result = binarize(
        teacher,
        task(),
        BinarizeOptions(last="binary", min_inputs=16, epochs=3, lr=0.02, batch=25),
    )
    assert (
        result.losses["update"] <= result.losses["signs"]
        and result.losses["training"] <= result.losses["update"]
    )
    data = task(1000, seed=1)
    (logits,) = session.run(session.session(result.model), {"x": data["x"]})
    assert (logits.argmax(1) == data["labels"]).mean() > 0.9 * right(teacher)
    assert {node.domain for node in result.model.nodes} == {""}
    with torch.no_grad():
        wanted = GraphModule(result.trained).eval()(torch.from_numpy(data["x"]))[0].numpy()
    # A sum that is rounded otherwise may fall on the other side of a threshold; in this form that is rare.
    close = np.abs(logits - wanted).max(1) < 1e-4 * np.abs(wanted).max()
    assert close.mean() >= 0.99 and (logits.argmax(1) == wanted.argmax(1)).mean() >= 0.99
    again = binarize(
        teacher,
        task(),
        BinarizeOptions(last="binary", min_inputs=16, epochs=3, lr=0.02, batch=25),
    )
    assert again.model.sha256 == result.model.sha256, "the same seed gives the same file"


def test_without_labels_the_teacher_judges(teacher: Graph) -> None:
    result = binarize(
        teacher,
        {"x": task()["x"]},
        BinarizeOptions(last="float", form="thresholds", epochs=1),
    )
    assert result.losses["update"] <= result.losses["signs"]
    assert right(result.trained) > 0.5
    assert lower(result.trained, form="thresholds").sha256 == result.model.sha256


def test_a_model_that_does_not_classify() -> None:
    b = Builder(0)
    x = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, 8), 8))
    x = b.relu(b.bn(b.conv(x, 8, 8), 8))
    graph = b.graph(b.conv(x, 8, 3, name="image"))
    result = binarize(graph, {"x": task()["x"]}, BinarizeOptions(epochs=1, batch=50))
    assert result.losses["training"] <= result.losses["update"] <= result.losses["signs"]


def test_what_is_wrong(teacher: Graph) -> None:
    samples = SampleSplit.of(task(), teacher)
    with pytest.raises(DataError, match="give it, or other targets"):
        alternate_update(student(teacher), samples)
    with pytest.raises(DataError, match="makes no value"):
        alternate_update(student(teacher), samples, teacher=GraphModule(residual_net()))
    with pytest.raises(OptionError, match="targets are"):
        alternate_update(student(teacher), samples, targets="best")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="nothing to judge"):
        alternate_update(
            student(teacher), SampleSplit.of({"x": task()["x"]}, teacher), targets="latent"
        )
    with pytest.raises(DataError, match="held out"):
        SampleSplit.of({"x": task()["x"][:1]}, teacher)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_are_no_numbers(teacher: Graph, value: float) -> None:
    data = task(100)
    data["x"][17, 0, 0, 0] = value
    with pytest.raises(DataError, match="'x' has values that are infinite or not numbers"):
        binarize(teacher, data)
