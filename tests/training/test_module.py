"""Graphs as PyTorch modules: outputs, modes, gradients and names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import prunegraph as pg
from benchmarks.zoo import ZOO, names
from fixtures.light_models import load
from prunegraph.errors import DataError, ModelError, UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.runtime import session
from prunegraph.runtime.data import random_inputs
from prunegraph.training.module import GraphModule
from tests.builders import Builder, residual_net
from tests.training.running import Array, difference, reference, run

#: One of each kind, for the default run.
FAST = [
    "torchvision__mobilenet_v3_small__dynamo",
    "torchvision__shufflenet_v2_x1_0",
    "ultralytics__yolov8n__dynamo",
    "timm__test_vit",
    "timm__pvt_v2_b0",
    "timm__levit_128s__dynamo",
    "timm__sequencer2d_s",
    "timm__xcit_nano_12_p16_224",
    "torchvision__fasterrcnn_resnet50_fpn",
]


#: Its queries come in the order of scores that random weights make all but equal: rows are compared as a set.
UNORDERED = {"ultralytics__rtdetr-l"}


def as_rows(result: Array, wanted: Array) -> Array:
    """The rows of `found` [1, rows, values] in the order of those in `wanted` that they are nearest to."""
    gaps = np.abs(result[0][:, None] - wanted[0][None]).max(axis=2)
    assert len(set(gaps.argmin(axis=0))) >= 0.99 * wanted.shape[1]
    return result[:, gaps.argmin(axis=0)]


def agrees(name: str) -> None:
    graph = pg.load(load(ZOO / f"{name}.light.xz"))
    inputs = random_inputs(graph, batch=1)
    match, wanted = run(GraphModule(graph).eval(), inputs), reference(graph, inputs)
    for y, t in zip(match, wanted, strict=True):
        assert difference(as_rows(y, t) if name in UNORDERED else y, t) <= 1e-4, name


@pytest.mark.parametrize("name", FAST)
def test_fast_zoo(name: str) -> None:
    agrees(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in names() if n not in FAST])
def test_zoo(name: str) -> None:
    agrees(name)


def test_pruned_graphs_run_as_well() -> None:
    graph = residual_net()
    pruned = pg.prune(graph, budget=pg.Budget(ratio=0.5), round_to=1).model
    inputs = random_inputs(pruned)
    assert (
        difference(run(GraphModule(pruned).eval(), inputs)[0], reference(pruned, inputs)[0])
        <= 1e-5
    )


@pytest.mark.parametrize(
    "name", ["timm__test_vit", "torchvision__shufflenet_v2_x1_0", "timm__edgenext_xx_small"]
)
def test_all_parameters_get_gradients(name: str) -> None:
    graph = pg.load(load(ZOO / f"{name}.light.xz"))
    module = GraphModule(graph)
    sum(y.square().mean() for y in module(random_inputs(graph, batch=2))).backward()
    for key, parameter in module.named_parameters():
        assert (
            parameter.grad is not None
            and parameter.grad.isfinite().all()
            and parameter.grad.any()
        ), key


class TorchTwin(torch.nn.Module):
    """`residual_net` in PyTorch's own layers."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, width, 3, padding=1)
        self.block1 = torch.nn.Conv2d(width, width * 2, 3, padding=1)
        self.block2 = torch.nn.Conv2d(width * 2, width, 3, padding=1)
        self.norms = torch.nn.ModuleList(
            torch.nn.BatchNorm2d(c) for c in (width, width * 2, width)
        )
        self.head = torch.nn.Linear(width, 5)

    def forward(self, x: object) -> object:
        x = torch.relu(self.norms[0](self.stem(x)))
        y = self.norms[2](self.block2(torch.relu(self.norms[1](self.block1(x)))))
        return self.head(torch.relu(x + y).mean((2, 3)))

    def fill(self, graph: Graph) -> list[tuple[str, object]]:
        """Take a graph's weights over; returns pairs of its weights and this module's tensors."""
        pairs = []
        for node in graph.layers:
            layer = getattr(self, node.name)
            pairs += [(node.inputs[1], layer.weight), (node.inputs[2], layer.bias)]
        for node, norm in zip(
            (n for n in graph.nodes if n.op == "BatchNormalization"),
            self.norms,
            strict=True,
        ):
            tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
            pairs += list(zip(node.inputs[1:], tensors, strict=True))
        with torch.no_grad():
            for name, tensor in pairs:
                tensor.copy_(torch.from_numpy(graph.weights[name].read().copy()))
        return pairs


# -- BatchNormalization -----------------------------------------------------------------


def test_training_steps_equal_those_of_pytorch() -> None:
    """Three steps of SGD in train mode: the same losses, weights and running statistics."""
    graph = residual_net()
    mine, theirs = GraphModule(graph).train(), TorchTwin().train()
    pairs = theirs.fill(graph)
    steps = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (mine, theirs)]
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = torch.from_numpy(rng.standard_normal((6, 3, 8, 8)).astype(np.float32))
        labels = torch.from_numpy(rng.integers(0, 5, 6))
        losses = []
        for module, step in zip((mine, theirs), steps, strict=True):
            y = module(x)
            loss = torch.nn.functional.cross_entropy(
                y[0] if isinstance(y, tuple) else y, labels
            )
            step.zero_grad()
            loss.backward()
            step.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, tensor in pairs:
        torch.testing.assert_close(mine.weight(name), tensor, rtol=1e-4, atol=1e-5)
    before = [graph.weights[name].read() for name, _ in pairs]
    assert not any(
        np.array_equal(b, mine.weight(n).detach().numpy())
        for b, (n, _) in zip(before, pairs, strict=True)
    )


def test_trained_weights_reach_the_graph() -> None:
    graph = residual_net()
    module = GraphModule(graph).train()
    module(torch.ones(4, 3, 8, 8))[0].square().sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= 0.01 * parameter.grad
    module.eval()
    written, inputs = module.write_back(graph), random_inputs(graph)
    assert difference(reference(written, inputs)[0], run(module, inputs)[0]) <= 1e-5
    assert difference(reference(graph, inputs)[0], run(module, inputs)[0]) > 1e-3
    pg.analyze(written)


def test_half_precision_input_keeps_statistics_up_to_date() -> None:
    b = Builder()
    graph = b.graph(b.bn(b.input("n", 4, 3, 3), 4, name="bn"))
    module = GraphModule(graph).train()
    mean = graph.node("bn").inputs[3]
    before = module.weight(mean).clone()
    x = torch.full((2, 4, 3, 3), 2.0, dtype=torch.bfloat16)
    assert module(x)[0].dtype == torch.bfloat16
    torch.testing.assert_close(module.weight(mean), 0.9 * before + 0.1 * 2)


# -- running --------------------------------------------------------------------------------


def test_inputs_by_place_by_name_and_as_a_dict() -> None:
    b = Builder()
    graph = b.graph(b.op("Sub", b.input(3, name="a.1"), b.input(3, name="b")))
    module = GraphModule(graph)
    a, c = torch.tensor([1.0, 2, 3]), np.array([3, 2, 1], np.float32)
    for output in (module(a, c), module({"a.1": a, "b": c}), module(a, b=c)):
        assert output[0].tolist() == [-2, 0, 2]
    with pytest.raises(DataError, match=r"takes the inputs \['a.1', 'b'\]"):
        module(a)
    with pytest.raises(DataError, match="takes 2 inputs"):
        module(a, c, c)
    with pytest.raises(DataError, match=r"has type torch\.int64"):
        module(a, torch.tensor([1, 2, 3]))


def test_an_unknown_operator_is_named() -> None:
    b = Builder()
    graph = b.graph(b.op("Bernoulli", b.input(3), name="dice"))
    with pytest.raises(
        ModelError,
        match="operator Bernoulli of node 'dice' cannot be run as a PyTorch module",
    ):
        GraphModule(graph)


def test_a_failing_operator_is_named_with_shapes() -> None:
    b = Builder()
    graph = b.graph(b.op("MatMul", b.input("n", 3), b.weight(4, 2), name="product"))
    with pytest.raises(
        ModelError, match=r"MatMul 'product' fails on inputs \[\[2, 3\], \[4, 2\]\]"
    ):
        GraphModule(graph)(torch.ones(2, 3))


def test_weights_that_torch_has_no_type_for_are_named() -> None:
    b = Builder(opset=19, ir_version=9)
    codes = onnx.helper.make_tensor("codes", onnx.TensorProto.FLOAT8E4M3FN, [2], [1.0, 2.0])
    b.tensors.append(codes)
    graph = b.graph(
        b.op(
            "Add",
            b.input(2),
            b.op("DequantizeLinear", "codes", b.const(1, np.float32), name="wide"),
        )
    )
    with pytest.raises(
        ModelError,
        match="DequantizeLinear 'wide' reads 'codes', which is sparse, text, or of a type",
    ):
        GraphModule(graph)(torch.ones(2))


def test_shape_arithmetic_stays_exact() -> None:
    """2**53 + 1 is no double: whole numbers must not pass through floating point."""
    b = Builder()
    big = b.const([2**53 + 1], np.int64)
    total = b.op("Add", b.op("Shape", b.input("n", name="x")), big)
    module = GraphModule(b.graph(total))
    assert module(torch.ones(6))[0].tolist() == [2**53 + 7]


def test_inner_values_by_name() -> None:
    graph = residual_net()
    name = graph.node("block1").outputs[0]
    inputs = random_inputs(graph)
    result = GraphModule(graph).eval().values([name], inputs)[name].detach().numpy()
    assert difference(result, session.run_values(graph, inputs, [name])[name]) <= 1e-5
    with pytest.raises(UnknownNameError, match="value 'nothing'"):
        GraphModule(graph).values(["nothing"], inputs)


def test_values_go_when_nobody_reads_them_any_more() -> None:
    """A chain holds two values at a time."""
    from prunegraph.training.program import execute

    b = Builder()
    value = b.input(4)
    for _ in range(6):
        value = b.relu(value)
    module = GraphModule(b.graph(value))
    values = {"x": torch.ones(4)}
    execute(module._program.main, values, False)
    assert set(values) == {value}


def test_control_flow_has_gradients() -> None:
    """A Loop that multiplies by a weight: the gradient is that of a power."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["again"]),
            helper.make_node("Mul", ["now", "w"], ["next"]),
            helper.make_node("Identity", ["next"], ["row"]),
        ],
        "body",
        [
            helper.make_tensor_value_info(n, k, [])
            for n, k in (("i", 7), ("go", 9), ("now", 1))
        ],
        [
            helper.make_tensor_value_info(n, k, [])
            for n, k in (("again", 9), ("next", 1), ("row", 1))
        ],
    )
    b = Builder()
    count, start = b.const(3, np.int64), b.input(name="start")
    b.tensors.append(onnx.numpy_helper.from_array(np.float32(2.0), "w"))
    b.nodes.append(
        helper.make_node("Loop", [count, "", start], ["last", "rows"], body=body)
    )
    module = GraphModule(b.graph("last", "rows"), trainable=["w"])
    last, rows = module(torch.tensor(5.0))
    assert last.item() == 40 and rows.tolist() == [10, 20, 40]
    last.backward()
    assert module.weight("w").grad.item() == 5 * 3 * 4


def test_dropout_drops_in_train_mode_only() -> None:
    b = Builder()
    graph = b.graph(b.op("Dropout", b.input("n", 100), b.const(0.5, np.float32)))
    module, x = GraphModule(graph), torch.ones(20, 100)
    assert torch.equal(module.eval()(x)[0], x)
    torch.manual_seed(0)
    share = (module.train()(x)[0] == 0).float().mean().item()
    assert 0.4 < share < 0.6


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_have_gradients(op: str) -> None:
    b = Builder()
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    weights = (
        b.weight(2, gates * 5, 3),
        b.weight(2, gates * 5, 5),
        b.weight(2, 2 * gates * 5),
    )
    y = b.op(
        op,
        b.input(4, "n", 3),
        *weights,
        outputs=2,
        hidden_size=5,
        direction="bidirectional",
    )
    graph = b.graph(y)
    module, inputs = GraphModule(graph), random_inputs(graph)
    assert difference(run(module, inputs)[0], reference(graph, inputs)[0]) <= 1e-5
    module(inputs)[0].square().sum().backward()
    assert all(module.weight(w).grad.any() for w in weights)
