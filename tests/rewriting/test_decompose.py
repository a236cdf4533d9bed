"""Decomposed graphs: exact at full rank, bounded below it, and graphs like any other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import prunegraph as pg
from prunegraph.errors import BudgetError, OptionError, UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from prunegraph.graph.shapes import shape_info
from prunegraph.latency.low_rank import MEASUREMENTS, SLOWER
from prunegraph.measuring.latency import Latency
from prunegraph.ops.cost import node_macs
from prunegraph.rewriting.decomposable import layers
from prunegraph.rewriting.decompose import DecomposeResult
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.session import run_values
from tests.builders import Builder, residual_net
from tests.paths import FIXTURES

FASHION = FIXTURES / "fashion_resnet.onnx"

METHODS = ("tucker2", "svd", "spatial", "auto")


def low(
    outputs: int, inputs: int, *kernel: int, rank: int = 2, seed: int = 0
) -> np.ndarray:
    """A weight whose unfoldings all have a low rank."""
    rng = np.random.default_rng(seed)
    remaining, right = (
        rng.standard_normal((outputs, rank)),
        rng.standard_normal((rank, inputs)),
    )
    taps = [rng.standard_normal((rank, size)) for size in kernel]
    operands = [",r" + letter for letter, _ in zip("xyz", kernel, strict=False)]
    return np.einsum(
        f"or,ri{''.join(operands)}->oi{'xyz'[: len(kernel)]}", remaining, right, *taps
    )


def one_conv(
    weight: np.ndarray, size: int = 11, dtype: type = np.float32, **attributes: object
) -> Graph:
    """A convolution with a bias, over inputs of odd size."""
    b = Builder()
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x = b.input(2, weight.shape[1], *(size for _ in weight.shape[2:]), kind=kind)
    bias = b.const(np.arange(len(weight)) / 8, dtype)
    model = b.model(
        b.op("Conv", x, b.const(weight, dtype), bias, name="conv", **attributes)
    )
    model.graph.output[0].type.tensor_type.elem_type = kind
    return from_model(model)


def outputs(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    return run_values(graph, random_inputs(graph, seed=seed), graph.outputs)


def assert_same(first: Graph, second: Graph, tolerance: float = 1e-5) -> None:
    for name, value in outputs(first).items():
        created = outputs(second)[name]
        assert created.shape == value.shape and created.dtype == value.dtype
        assert np.abs(created - value).max() <= tolerance * np.abs(value).max()


def checked(decomposed: DecomposeResult) -> DecomposeResult:
    """The graph is valid, and its cost is what the rows say."""
    onnx.shape_inference.infer_shapes(
        decomposed.model.model, check_type=True, strict_mode=True
    )
    for index, kind in enumerate(("params", "macs")):
        saved = sum(
            getattr(row, kind)[0] - getattr(row, kind)[1] for row in decomposed.layers
        )
        assert (
            getattr(decomposed.before, kind) - getattr(decomposed.after, kind) == saved
        ), (index, kind)
    return decomposed


ATTRIBUTES = [
    {"pads": [1, 2, 0, 1]},
    {"strides": [2, 3], "pads": [1, 1, 1, 1]},
    {"dilations": [2, 3], "pads": [2, 0, 1, 3]},
    {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"strides": [3, 2], "auto_pad": "SAME_LOWER"},
    {"auto_pad": "VALID", "dilations": [1, 2]},
    {"kernel_shape": [3, 5]},
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("attributes", ATTRIBUTES, ids=str)
def test_a_convolution_of_low_rank_is_the_same(
    method: str, attributes: dict[str, object]
) -> None:
    graph = one_conv(low(24, 20, 3, 5), **attributes)
    result = checked(
        pg.decompose(graph, method=method, rank="energy:0.9999999", round_to=1)
    )
    (row,) = result.layers
    assert row.error < 1e-6 and set(row.ranks) == {2}
    assert_same(graph, result.model)


@pytest.mark.parametrize(
    ("kernel", "method"),
    [((5,), "tucker2"), ((3, 3, 3), "tucker2"), ((3,), "svd"), ((1,), "svd")],
)
def test_other_numbers_of_axes(kernel: tuple[int, ...], method: str) -> None:
    graph = one_conv(
        low(24, 20, *kernel), size=6, pads=[0] * len(kernel) + [1] * len(kernel)
    )
    result = checked(
        pg.decompose(graph, method=method, rank="energy:0.9999999", round_to=1)
    )
    assert [row.method for row in result.layers] == [method]
    assert_same(graph, result.model)
    assert not pg.decompose(one_conv(low(24, 20, 5)), method="spatial").layers


def test_a_convolution_of_one_element_keeps_stride_and_padding() -> None:
    graph = one_conv(low(24, 20, 1, 1), strides=[2, 2], pads=[1, 0, 2, 1])
    result = checked(pg.decompose(graph, rank="energy:0.9999999", round_to=1))
    assert result.layers[0].method == "svd" and result.layers[0].ranks == (2,)
    assert_same(graph, result.model)


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_keeps_its_factors_and_matmul_its_axes(opset: int, transposed: int) -> None:
    b = Builder(opset=opset)
    weight = low(40, 30)
    x = b.op("MatMul", b.input(2, 3, 24), b.const(low(24, 30), np.float32), name="matmul")
    flat = b.op("Reshape", x, b.const([-1, 30], np.int64))
    gemm = b.const(weight if transposed else weight.T, np.float32)
    y = b.op(
        "Gemm",
        flat,
        gemm,
        b.weight(1, 40),
        name="gemm",
        alpha=0.5,
        beta=2.0,
        transB=transposed,
    )
    graph = b.graph(y)
    result = checked(pg.decompose(graph, rank="energy:0.9999999", round_to=1))
    assert [(row.name, row.ranks) for row in result.layers] == [
        ("matmul", (2,)),
        ("gemm", (2,)),
    ]
    assert [node.name for node in result.model.nodes if node.op == "Gemm"] == ["gemm/last"]
    assert_same(graph, result.model)


def test_16_bit_weights_stay_16_bit() -> None:
    graph = one_conv(low(24, 20, 3, 3), dtype=np.float16)
    # Rounding to 16 bits gives a weight more ranks, with little energy.
    decomposed = pg.decompose(graph, rank="energy:0.99999", round_to=1)
    assert decomposed.layers and all(
        weight.dtype == np.float16 for weight in decomposed.model.weights.values()
    )
    assert_same(graph, decomposed.model, 5e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rank", ["evbmf:0", "energy:0.9", "energy:0.5", "ratio:0.25"])
def test_the_error_bounds_what_a_layer_makes(method: str, rank: str) -> None:
    """By Cauchy and Schwarz: an input element is in at most as many patches as the kernel has elements."""
    rng = np.random.default_rng(1)
    for kernel in ((3, 3), (1, 1)):
        weight = low(32, 32, *kernel, rank=4) + 0.3 * rng.standard_normal((32, 32, *kernel))
        graph = one_conv(weight, pads=[kernel[0] // 2] * 4)
        decomposed = pg.decompose(graph, method=method, rank=rank)
        (row,) = decomposed.layers
        given = random_inputs(graph, seed=3)
        (before,), (after,) = (
            run_values(each, given, each.outputs).values()
            for each in (graph, decomposed.model)
        )
        bound = (
            row.error
            * np.linalg.norm(weight)
            * np.sqrt(np.prod(kernel))
            * np.linalg.norm(given["x"])
        )
        measured = np.linalg.norm(before - after)
        assert 0 < measured <= bound


def names_of(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


def test_names() -> None:
    b = Builder()
    x = b.conv(b.input(1, 20, 8, 8), 20, 20, k=1, name="conv/first")
    graph = b.graph(b.conv(x, 20, 24, name="conv"))
    decomposed = pg.decompose(graph, rank="ratio:0.2", round_to=1)
    assert names_of(decomposed.model) == [
        "conv/first/first",
        "conv/first/last",
        "conv/first_",
        "conv/core",
        "conv/last",
    ]
    assert len(set(decomposed.model.weights)) == len(decomposed.model.weights) == 7
    assert decomposed.model.outputs == graph.outputs


def test_savings_of_tucker2_at_equal_ratio() -> None:
    ((_, layer),) = layers(one_conv(np.ones((256, 256, 3, 3))), {})
    assert not isinstance(layer, str)
    for ratio, saving in ((0.5, 2.77), (0.25, 8.47)):
        params, _ = layer.cost_with("tucker2", (int(256 * ratio),) * 2)
        assert layer.cost()[0] / params == pytest.approx(saving, abs=0.005)


def left_net() -> Graph:
    b = Builder()
    x = b.conv(b.input(1, 16, 8, 8), 16, 16, group=16, name="depthwise")
    x = b.conv(x, 16, 16, group=2, name="grouped")
    shared = b.weight(16, 16, 3, 3)
    for name in ("one", "two"):
        x = b.op("Conv", x, shared, name=name, pads=[1] * 4)
    x = b.op("ConvTranspose", x, b.weight(16, 16, 2, 2), name="up")
    x = b.op("MatMul", b.weight(9, 9), x, name="swapped")
    return b.graph(b.conv(x, 16, 16, name="last"))


def test_what_is_left_has_a_reason() -> None:
    graph = left_net()
    result = checked(pg.decompose(graph, rank="energy:0.3", keep=["last"]))
    assert result.model is graph and not result.layers
    assert result.skipped == {
        "depthwise": "depthwise convolution",
        "grouped": "grouped convolution",
        "one": "its weight has other readers",
        "two": "its weight has other readers",
        "up": "ConvTranspose is not decomposed",
        "swapped": "its weight is its first operand, or computed in the graph",
        "last": "kept",
    }
    assert (
        pg.decompose(graph, rank="energy:1").skipped["last"] == "rank 16 x 16 would not pay"
    )
    broken = one_conv(np.full((8, 8, 3, 3), np.nan))
    assert "no number" in pg.decompose(broken).skipped["conv"]


def test_a_weight_of_zeros() -> None:
    result = checked(pg.decompose(one_conv(np.zeros((32, 32, 3, 3)))))
    assert result.layers[0].error == 0
    assert_same(one_conv(np.zeros((32, 32, 3, 3))), result.model)


@pytest.mark.parametrize("method", METHODS)
def test_a_decomposed_graph_is_pruned_and_proved(method: str) -> None:
    graph = pg.decompose(
        residual_net(width=16), method=method, rank="ratio:0.4", round_to=2
    ).model
    groups = pg.analyze(graph).groups
    inner = [group for group in groups if any("/first" in layer for layer in group.layers)]
    assert inner, "ranks are channels"
    plan = pg.select(graph, budget=pg.Budget(ratio=0.5), round_to=1)
    pruned = pg.apply(graph, plan)
    assert pg.verify(graph, plan, pruned)
    assert any(
        pruned.weights[name].shape < weight.shape
        for name, weight in graph.weights.items()
        if "/first" in name
    )


@pytest.mark.parametrize("kind", ["params", "macs"])
@pytest.mark.parametrize("method", METHODS)
def test_budgets_are_met_and_cost_less_than_one_rule_for_all(
    kind: str, method: str
) -> None:
    rng = np.random.default_rng(0)
    b = Builder()
    x = b.input(1, 32, 12, 12)
    for decay in (3, 10, 100):
        decline = np.exp(-np.add.outer(np.arange(32), np.arange(32)) / decay)
        weight = rng.standard_normal((32, 32, 3, 3)) * decline[:, :, None, None]
        x = b.op("Conv", x, b.const(weight, np.float32), pads=[1] * 4)
    graph = b.graph(x)
    for ratio in (0.4, 0.25):
        rule = pg.decompose(graph, method=method, rank=f"ratio:{ratio}", round_to=2)
        bound = getattr(rule.after, kind)
        result = checked(pg.decompose(graph, method=method, round_to=2, **{kind: bound}))
        assert 0.9 * bound < getattr(result.after, kind) <= bound
        assert sum(row.error**2 for row in result.layers) < sum(
            row.error**2 for row in rule.layers
        )
        share = pg.decompose(
            graph, method=method, round_to=2, **{kind: bound / getattr(result.before, kind)}
        )
        assert share.layers == result.layers


def test_bad_input() -> None:
    graph = residual_net()
    for rank in ("energy", "energy:0", "ratio:1.5", "evbmf:-1", "vbmf", "energy:nan", ""):
        with pytest.raises(OptionError, match="evbmf"):
            pg.decompose(graph, rank=rank)
    with pytest.raises(OptionError, match="round_to"):
        pg.decompose(graph, round_to=0)
    with pytest.raises(OptionError, match="not both"):
        pg.decompose(graph, rank="evbmf", macs=0.5)
    with pytest.raises(BudgetError, match="not both"):
        pg.decompose(graph, params=0.5, macs=0.5)
    with pytest.raises(BudgetError, match="cannot fall"):
        pg.decompose(graph, macs=0.01)
    with pytest.raises(UnknownNameError, match="tucker2"):
        pg.decompose(graph, method="tucker")
    with pytest.raises(UnknownNameError, match="layer"):
        pg.decompose(graph, keep=["nothing"])


def test_a_file_of_ir_version_3_stays_valid() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(one_conv(low(24, 20, 3, 3)).model)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    shape = helper.make_tensor_value_info("y", 1, (2, 24, 9, 9)).type.tensor_type.shape
    model.graph.output[0].type.tensor_type.shape.CopyFrom(shape)
    graph = from_model(model)
    decomposed = pg.decompose(graph, rank="energy:0.9999999", round_to=1)
    assert decomposed.layers and decomposed.model.inputs == graph.inputs
    onnx.checker.check_model(decomposed.model.model, full_check=True)
    assert_same(graph, decomposed.model)


def test_layers_in_subgraphs_stay_whole() -> None:
    b = Builder()
    x = b.conv(b.input(1, 16, 6, 6), 16, 16, name="outer")
    weight = numpy_helper.from_array(low(16, 16, 1, 1).astype(np.float32), "w")
    created = helper.make_node("Conv", [x, "w"], ["made"], name="inner")
    info = helper.make_tensor_value_info("made", 1, None)
    subgraphs = [
        helper.make_graph([created], name, [], [info], [weight]) for name in ("yes", "no")
    ]
    flag = b.op("Greater", b.op("ReduceMax", x, keepdims=0), b.const(0.0, np.float32))
    graph = b.graph(b.op("If", flag, then_branch=subgraphs[0], else_branch=subgraphs[1]))
    decomposed = pg.decompose(graph, rank="ratio:0.2", round_to=1)
    assert [row.name for row in decomposed.layers] == ["outer"]
    assert len(decomposed.skipped) == 2 and set(decomposed.skipped.values()) == {
        "it is in the subgraph of an If, Loop or Scan"
    }
    assert {value.shape for value in outputs(decomposed.model).values()} == {(1, 16, 6, 6)}


def test_external_weights_and_the_source_stay(tmp_path: object) -> None:
    graph = one_conv(low(24, 20, 3, 3))
    before = graph.model.SerializeToString()
    decomposed = pg.decompose(graph, rank="energy:0.99")
    assert graph.model.SerializeToString() == before
    path = f"{tmp_path}/m.onnx"
    onnx.save(
        graph.model, path, save_as_external_data=True, location="m.data", size_threshold=0
    )
    again = pg.decompose(pg.load(path), rank="energy:0.99")
    for name, weight in decomposed.model.weights.items():
        np.testing.assert_array_equal(
            numpy_helper.to_array(weight.tensor), again.model.weights[name].read()
        )


# -- latency ----------------------------------------------------------------------------------------


class Computed:
    """A timer that computes: a layer costs its MACs and `each` a node; chains whose name is in `slow` cost more."""

    def __init__(self, graph: pg.Graph, slow: tuple[str, ...] = (), each: float = 0.0):
        self.graph, self.slow, self.each = graph, slow, each
        self.measured: list[float] = []

    def cost(self, graph: pg.Graph) -> float:
        shapes = shape_info(graph).shapes
        total = sum(node_macs(node, shapes) for node in graph.nodes) + self.each * len(
            graph.nodes
        )
        return total * (
            100
            if any(node.name.rpartition("/")[0] in self.slow for node in graph.nodes)
            else 1
        )

    def against(self, pruned: pg.Graph, pairs: int = 1) -> Latency:
        whole, remaining = self.cost(self.graph), self.cost(pruned)
        self.measured.append(remaining / whole)
        return Latency(whole, remaining, whole / remaining, runs=1, threads=1)

    def alone(self, model: pg.Graph) -> float:
        return self.cost(model)

    def original(self) -> float:
        return self.cost(self.graph)


@pytest.mark.parametrize("bound", [0.8, 0.5])
@pytest.mark.parametrize("fold", [False, True])
def test_a_latency_is_met(bound: float, fold: bool) -> None:
    graph = pg.load(FASHION)
    timer = Computed(graph)
    decomposed = pg.decompose(
        graph, method="auto", latency=bound, round_to=1, fold=fold, timer=timer
    )
    assert decomposed.latency is not None and decomposed.layers
    assert bound * 0.95 <= decomposed.latency.kept <= bound
    assert any(np.isclose(decomposed.latency.kept, each) for each in timer.measured)
    assert len(timer.measured) <= MEASUREMENTS
    assert fold != any(node.op == "BatchNormalization" for node in decomposed.model.nodes)
    onnx.checker.check_model(decomposed.model.model, full_check=True)
    time = pg.decompose(
        graph,
        method="auto",
        latency=f"{bound * timer.original()}ms",
        round_to=1,
        timer=timer,
    )
    assert time.latency is not None and time.latency.kept <= bound
    assert {row.ranks for row in time.layers} == {
        row.ranks for row in decomposed.layers
    } or fold


def test_layers_whose_parts_are_slower_stay_whole() -> None:
    graph = pg.load(FASHION)
    usual = pg.decompose(
        graph, method="auto", latency=0.7, round_to=1, timer=Computed(graph)
    )
    slow = usual.layers[0].name
    decomposed = pg.decompose(
        graph, method="auto", latency=0.7, round_to=1, timer=Computed(graph, slow=(slow,))
    )
    assert slow not in {row.name for row in decomposed.layers}
    assert decomposed.skipped[slow] == SLOWER
    assert decomposed.latency is not None and decomposed.latency.kept <= 0.7


def test_parts_fitted_to_data_keep_their_ranks_under_a_latency() -> None:
    graph = pg.load(FASHION)
    data = {
        "image": np.random.default_rng(0)
        .standard_normal((16, 1, 28, 28))
        .astype(np.float32)
    }
    plain, fitted = (
        pg.decompose(
            graph, method="auto", latency=0.6, round_to=4, data=each, timer=Computed(graph)
        )
        for each in (None, data)
    )
    assert [(row.name, row.ranks) for row in plain.layers] == [
        (row.name, row.ranks) for row in fitted.layers
    ]
    assert plain.latency == fitted.latency
    assert all(row.output_error is not None for row in fitted.layers)


def test_a_latency_that_cannot_be_met() -> None:
    graph = pg.load(FASHION)
    with pytest.raises(
        BudgetError,
        match=r"cannot fall to 0\.3 by decomposition; the least measured is 0\.[4-9]",
    ):
        pg.decompose(graph, latency=0.3, timer=Computed(graph, each=3e5))
    with pytest.raises(OptionError, match="one of latency and macs"):
        pg.decompose(graph, latency=0.5, macs=0.5)
    with pytest.raises(BudgetError, match="latency must be"):
        pg.decompose(graph, latency=7)


def test_a_latency_for_real() -> None:
    b = Builder()
    graph = b.graph(
        b.conv(
            b.relu(b.conv(b.input(1, 192, 16, 16), 192, 192, name="a")), 192, 192, name="b"
        )
    )
    decomposed = pg.decompose(graph, latency=0.9, threads=1)
    assert decomposed.latency is not None and 0 < decomposed.latency.kept <= 0.9
    assert {row.name for row in decomposed.layers} <= {"a", "b"} and decomposed.layers
