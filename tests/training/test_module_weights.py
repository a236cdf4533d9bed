"""Weights of a module: which are trained, and how they get back into the graph."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import prunegraph as pg
from benchmarks.zoo import ZOO
from fixtures.light_models import load
from prunegraph.errors import ModelError, UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from prunegraph.training.module import GraphModule
from tests.builders import Builder, residual_net
from tests.training.running import difference, reference, run


def test_untouched_weights_are_written_bit_by_bit() -> None:
    for name in (
        "timm__test_vit",
        "torchvision__mnasnet1_0__dynamo",
        "torchvision__ssdlite320_mobilenet_v3_large",
    ):
        graph = pg.load(load(ZOO / f"{name}.light.xz"))
        written = GraphModule(graph).write_back(graph)
        assert written.model.SerializeToString(
            deterministic=True
        ) == graph.model.SerializeToString(deterministic=True)


def test_one_changed_weight_changes_nothing_else() -> None:
    graph = residual_net()
    module = GraphModule(graph)
    name = graph.node("stem").inputs[1]
    with torch.no_grad():
        module.weight(name)[0] += 1
    written = module.write_back()
    for weight in graph.weights.values():
        same = np.array_equal(weight.read(), written.weights[weight.name].read())
        assert same == (weight.name != name)
    np.testing.assert_array_equal(
        written.weights[name].read(), module.weight(name).detach().numpy()
    )


def test_weights_cannot_go_where_they_do_not_fit() -> None:
    graph = residual_net()
    module = GraphModule(graph)
    with torch.no_grad():
        module.weight(graph.node("head").inputs[1]).zero_()
    with pytest.raises(ModelError, match=r"cannot be written: shape \[5, 4\]"):
        module.write_back(residual_net(width=4))
    b = Builder()
    with pytest.raises(ModelError, match="no such weight"):
        module.write_back(b.graph(b.relu(b.input(1))))


def named_model(*tensors: str) -> Graph:
    """A chain of Add nodes with vectors of these names."""
    nodes, value = [], "x"
    for i, name in enumerate(tensors):
        nodes.append(helper.make_node("Add", [value, name], [f"y{i}"]))
        value = f"y{i}"
    vectors = [
        onnx.numpy_helper.from_array(np.full(3, i + 1.0, np.float32), n)
        for i, n in enumerate(tensors)
    ]
    infos = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 3])
        for n in ("x", value)
    ]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], vectors)
    return from_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )


def test_keys_are_the_names_of_the_graph() -> None:
    given = ("layer1.0.conv.weight", "layer1.0.conv.bias", "plain", "onnx::Add_12", "a/b:0")
    module = GraphModule(named_model(*given), trainable="all")
    assert set(module.state_dict()) == set(given)
    assert {name for name, _ in module.named_parameters()} == set(given)


def test_names_that_torch_does_not_take() -> None:
    given = (
        "train",
        "forward.weight",
        "a.b",
        "a",
        "a..b",
        ".",
        "weights",
        "T_destination",
        "_owners.x",
    )
    graph = named_model(*given)
    module = GraphModule(graph, trainable="all")
    assert (
        len({module.key(name) for name in given}) == len(given) == len(module.state_dict())
    )
    for i, name in enumerate(given):
        assert torch.equal(module.weight(name), torch.full((3,), i + 1.0))
        assert torch.equal(module.state_dict()[module.key(name)], module.weight(name))
    with pytest.raises(UnknownNameError, match="floating-point weight 'b'"):
        module.key("b")
    assert (
        difference(
            run(module, {"x": np.zeros((2, 3), np.float32)})[0],
            np.full((2, 3), 45.0, np.float32),
        )
        == 0
    )


def test_what_is_trained() -> None:
    graph = residual_net()
    layers = {v for n in graph.nodes if n.op in ("Conv", "Gemm") for v in n.inputs[1:]}
    norms = [n for n in graph.nodes if n.op == "BatchNormalization"]
    layers |= {v for n in norms for v in n.inputs[1:3]}
    assert {name for name, _ in GraphModule(graph).named_parameters()} == layers
    statistics = {v for n in norms for v in n.inputs[3:]}
    assert {name for name, _ in GraphModule(graph).named_buffers()} == statistics
    some = graph.node("head").inputs[1]
    assert {
        name for name, _ in GraphModule(graph, trainable=[some]).named_parameters()
    } == {some}
    with pytest.raises(UnknownNameError, match="weight to train"):
        GraphModule(graph, trainable=[norms[0].inputs[3]])


def test_biases_behind_matrix_products_and_tables_are_trained() -> None:
    b = Builder()
    table, w, bias, other = b.weight(9, 4), b.weight(4, 6), b.weight(6), b.weight(6)
    y = b.op(
        "MatMul", b.op("Gather", table, b.input("n", 5, kind=onnx.TensorProto.INT64)), w
    )
    graph = b.graph(b.op("Add", b.op("Relu", b.op("Add", y, bias)), other))
    assert {name for name, _ in GraphModule(graph).named_parameters()} == {table, w, bias}
    assert {name for name, _ in GraphModule(graph, trainable="all").named_parameters()} == {
        table,
        w,
        bias,
        other,
    }


def test_ones_that_stand_in_for_weights_are_not_trained() -> None:
    """GroupNorm as the exporter writes it: InstanceNormalization with constants, then the real scale."""
    module = GraphModule(pg.load(load(ZOO / "timm__resnet50_gn.light.xz")))
    parameters = {name for name, _ in module.named_parameters()}
    plain = {
        v
        for n in module.graph.nodes
        if n.op == "InstanceNormalization"
        for v in n.inputs[1:]
    }
    assert plain and not plain & parameters


def deduplicated(shared_kernel: bool) -> Graph:
    """Two convolutions with BatchNormalization whose equal vectors are stored once."""
    b = Builder()
    vectors = [b.const(np.full(4, v), np.float32) for v in (1, 0, 0, 1)]
    kernels = [b.weight(4, 4, 3, 3) for _ in range(2)]
    y = b.input("n", 4, 6, 6)
    for kernel in [kernels[0]] * 2 if shared_kernel else kernels:
        y = b.op("Conv", y, kernel, vectors[1], pads=[1] * 4)
        y = b.op("BatchNormalization", y, *vectors)
    return b.graph(b.relu(y))


def test_vectors_that_only_happen_to_be_equal_are_taken_apart() -> None:
    graph, x = (
        deduplicated(shared_kernel=False),
        {"x": np.random.default_rng(0).standard_normal((2, 4, 6, 6))},
    )
    x = {name: value.astype(np.float32) for name, value in x.items()}
    module = GraphModule(graph)
    assert len(graph.weights) == 6 and len(module.weights()) == 2 + 2 * 4 + 2
    bias = graph.nodes[1].inputs[2]
    named = {name for name, _ in GraphModule(graph, trainable=[bias]).named_parameters()}
    assert len(named) == 4 and bias in named
    untouched = module.write_back(graph)
    assert untouched.weights.keys() == graph.weights.keys()
    module.train()(x)
    module.eval()
    means = [
        module.weight(n.inputs[3])
        for n in module.graph.nodes
        if n.op == "BatchNormalization"
    ]
    assert not torch.equal(*means)
    for written in (module.write_back(), module.write_back(graph)):
        assert difference(reference(written, x)[0], run(module, x)[0]) <= 1e-5


def test_layers_that_share_their_kernel_stay_tied() -> None:
    module = GraphModule(deduplicated(shared_kernel=True))
    # The bias of the convolution and that of the normalisation are two things.
    assert len(module.weights()) == len(module.graph.weights) == 4 + 1 + 2


def test_copies_share_nothing_but_the_program() -> None:
    module = GraphModule(residual_net())
    twin = copy.deepcopy(module)
    name = next(iter(module.weights()))
    with torch.no_grad():
        twin.weight(name).fill_(3.0)
    assert dict(twin.named_parameters())[twin.key(name)].flatten()[0] == 3.0
    assert (
        not torch.equal(twin.weight(name), module.weight(name))
        and twin.graph is module.graph
    )


def test_functional_calls_replace_weights() -> None:
    module = GraphModule(residual_net())
    zeros = {name: torch.zeros_like(tensor) for name, tensor in module.named_parameters()}
    assert not torch.func.functional_call(module, zeros, (torch.ones(1, 3, 8, 8),))[0].any()
