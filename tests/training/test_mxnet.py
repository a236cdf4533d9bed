"""Networks from MXNet and from a bare ONNX file: pruned, trained on, and written back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import prunegraph as pg
from prunegraph.errors import ModelError
from prunegraph.frontends import mxnet
from prunegraph.runtime import session
from prunegraph.training import Batches, GraphModule, TrainingConfig, fit, mean_squared
from tests.frontends.mxnet import cases as cases
from tests.quantization.networks import random_net, samples


def tuned(
    graph: pg.Graph, original: pg.Graph, inputs: dict[str, np.ndarray]
) -> tuple[pg.Graph, list[float]]:
    """Trained for a little towards the original's outputs, with the loss of every epoch."""
    module = GraphModule(graph)
    run = fit(
        module,
        Batches(inputs, 8),
        TrainingConfig(epochs=6, lr=0.02, clip=1.0),
        loss=mean_squared(GraphModule(original)),
    )
    return module.write_back(), [record["loss"] for record in run.history]


@pytest.mark.parametrize(
    "name", ["resnet_v1_basic_tiny", "vgg_bn_tiny", "mobilenetv2_tiny"]
)
def test_a_network_from_mxnet_is_tuned_and_written_back(name: str, tmp_path: Path) -> None:
    folder = cases.ROOT / "tiny" / name
    shapes = {key: put.shape for key, put in cases.inputs(folder).items()}
    graph = pg.load(str(folder / "model-symbol.json"), input_shapes=shapes)
    result = pg.prune(graph, budget=pg.Budget(macs=0.6), round_to=1)
    source, reduced = str(folder / "model-symbol.json"), str(tmp_path / "small-symbol.json")
    params = str(tmp_path / "small-0000.params")
    mxnet.apply(source, result.plan, result.model, reduced, params, input_shapes=shapes)
    pruned = pg.load(reduced, input_shapes=shapes)
    rng = np.random.default_rng(0)
    inputs = {
        key: rng.standard_normal((32, *shape[1:])).astype(np.float32)
        for key, shape in shapes.items()
    }
    trained, losses = tuned(pruned, graph, inputs)
    assert losses[-1] < losses[0]
    mxnet.store(reduced, trained, str(tmp_path / "small-0001.params"), input_shapes=shapes)
    again = pg.load(
        reduced, input_shapes=shapes, params_file=str(tmp_path / "small-0001.params")
    )
    one = {key: inputs[key][:1] for key in inputs} if session_batch(again) else inputs
    for ours, theirs in zip(
        *(session.run(session.session(each), one) for each in (again, trained)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert any(
        not np.array_equal(again.weights[k].read(), pruned.weights[k].read())
        for k in again.weights
    )


def session_batch(graph: pg.Graph) -> bool:
    """Whether the batch is fixed to one."""
    return graph.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_packed_parameters_are_written_back(tmp_path: Path) -> None:
    """The gates of an LSTM are taken apart, put in another order and packed again."""
    folder = cases.ROOT / "sym" / "rnn_lstm"
    shapes = {key: put.shape for key, put in cases.inputs(folder).items()}
    source = str(folder / "model-symbol.json")
    graph = pg.load(source, input_shapes=shapes)
    module = GraphModule(graph)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    trained = module.write_back()
    mxnet.store(source, trained, str(tmp_path / "new.params"), input_shapes=shapes)
    again = pg.load(source, input_shapes=shapes, params_file=str(tmp_path / "new.params"))
    for name, weight in trained.weights.items():
        np.testing.assert_array_equal(again.weights[name].read(), weight.read())


def test_what_mxnet_cannot_hold_is_refused(tmp_path: Path) -> None:
    folder = cases.ROOT / "tiny" / "vgg_bn_tiny"
    shapes = {key: put.shape for key, put in cases.inputs(folder).items()}
    source, out = str(folder / "model-symbol.json"), str(tmp_path / "new.params")
    graph = pg.load(source, input_shapes=shapes)
    pruned = pg.prune(graph, budget=pg.Budget(ratio=0.5), round_to=1).model
    with pytest.raises(ModelError, match="is no weight of"):
        mxnet.store(source, pruned, out, input_shapes=shapes)
    with pytest.raises(ModelError, match="is no weight of"):
        mxnet.store(source, random_net(0), out, input_shapes=shapes)
    assert not list(tmp_path.iterdir())


def test_a_bare_onnx_file_is_tuned_and_written_back(tmp_path: Path) -> None:
    pg.save(random_net(3), tmp_path / "net.onnx")
    graph = pg.load(tmp_path / "net.onnx")
    pruned = pg.prune(graph, budget=pg.Budget(macs=0.6), round_to=1).model
    trained, losses = tuned(pruned, graph, samples(32))
    assert losses[-1] < losses[0]
    pg.save(trained, tmp_path / "tuned.onnx")
    again = pg.load(tmp_path / "tuned.onnx")
    assert [n.op for n in again.nodes] == [
        n.op for n in pruned.nodes
    ] and again.sha256 != pruned.sha256
    with torch.no_grad():
        wanted = GraphModule(trained).eval()(samples(4))[0].numpy()
    np.testing.assert_allclose(
        session.run(session.session(again), samples(4))[0], wanted, rtol=1e-4, atol=1e-4
    )
