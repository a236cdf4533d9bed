"""Graphs as PyTorch modules: outputs, modes, gradients, names, and the way back."""

from __future__ import annotations

import copy

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
from prunegraph.graph.onnx_io import from_model
from prunegraph.runtime import session
from prunegraph.runtime.data import random_inputs
from prunegraph.training.module import GraphModule
from tests.builders import Builder, residual_net

Array = np.ndarray

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


def reference(graph: Graph, inputs: dict[str, Array]) -> list[Array]:
    return session.run(session.session(graph, threads=1), inputs)


def run(module: GraphModule, inputs: dict[str, Array]) -> list[Array]:
    with torch.no_grad():
        return [y.numpy() for y in module(inputs)]


def difference(result: Array, wanted: Array) -> float:
    """Largest difference as a share of the largest value."""
    assert result.shape == wanted.shape and result.dtype == wanted.dtype
    if not wanted.size:
        return 0.0
    top = max(np.abs(wanted.astype(np.float64)).max(), 1e-30)
    return float(np.abs(result.astype(np.float64) - wanted.astype(np.float64)).max() / top)


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


# -- BatchNormalization -----------------------------------------------------------------


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


# -- weights ------------------------------------------------------------------------------


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


# -- quantized graphs -----------------------------------------------------------------------


def quantized(per_channel: bool = False) -> tuple[Graph, str, str]:
    """A convolution between pairs of QuantizeLinear and DequantizeLinear; its weight, and the input's scale."""
    b = Builder()
    scale, zero = b.const(0.05, np.float32), b.const(10, np.uint8)
    weight = b.weight(4, 3, 3, 3)
    if per_channel:
        pair, axis = (
            (b.const([0.01, 0.02, 0.03, 0.04], np.float32), b.const([0] * 4, np.int8)),
            {"axis": 0},
        )
    else:
        pair, axis = (b.const(0.01, np.float32), b.const(0, np.int8)), {}
    x = b.op("QuantizeLinear", b.input("n", 3, 6, 6), scale, zero)
    x = b.op("DequantizeLinear", b.op("Transpose", x, perm=[0, 1, 3, 2]), scale, zero)
    w = b.op(
        "DequantizeLinear", b.op("QuantizeLinear", weight, *pair, **axis), *pair, **axis
    )
    return b.graph(b.relu(b.op("Conv", x, w, pads=[1] * 4))), weight, scale


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantized_graphs_have_gradients_straight_through(per_channel: bool) -> None:
    graph, weight, _ = quantized(per_channel)
    module, inputs = GraphModule(graph), random_inputs(graph)
    assert difference(run(module, inputs)[0], reference(graph, inputs)[0]) <= 1e-5
    assert {name for name, _ in module.named_parameters()} == {weight}
    module(inputs)[0].sum().backward()
    assert (module.weight(weight).grad != 0).all()


def test_scales_are_trained_where_they_are_named() -> None:
    graph, weight, scale = quantized()
    assert scale not in dict(GraphModule(graph, trainable="all").named_parameters())
    assert {
        name for name, _ in GraphModule(graph, trainable=[scale]).named_parameters()
    } == {scale}
    assert {scale, weight} < {
        name for name, _ in GraphModule(graph, learn_scales=True).named_parameters()
    }


def test_clipped_values_have_no_gradient() -> None:
    b = Builder()
    scale, zero = b.const(0.1, np.float32), b.const(0, np.int8)
    y = b.op(
        "DequantizeLinear", b.op("QuantizeLinear", b.input(5), scale, zero), scale, zero
    )
    module = GraphModule(b.graph(y))
    x = torch.tensor([-13.0, -12.8, 0.34, 12.7, 13.0], requires_grad=True)
    module(x)[0].sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_learnt_scales_have_the_gradient_of_lsq() -> None:
    """Esser et al. 2020, equation 3: round(v/s) - v/s inside, the bound outside; times 1/sqrt(elements * top)."""
    b = Builder()
    scale, zero = b.const(0.1, np.float32), b.const(0, np.int8)
    y = b.op(
        "DequantizeLinear", b.op("QuantizeLinear", b.input(1, 5), scale, zero), scale, zero
    )
    module = GraphModule(b.graph(y), learn_scales=True)
    v = torch.tensor([[-13.0, -0.26, 0.34, 0.51, 13.0]])
    module(v)[0].sum().backward()
    inside = (v / 0.1).round() - v / 0.1
    wanted = torch.where(
        v < -12.8, -128.0, torch.where(v > 12.7, 127.0, inside)
    ).sum() / np.sqrt(5 * 127)
    torch.testing.assert_close(module.weight(scale).grad, wanted, rtol=1e-4, atol=1e-4)
    assert module.weight(scale).grad.item() == pytest.approx(wanted.item(), rel=1e-4)


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
