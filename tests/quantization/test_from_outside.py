"""Ranges from outside, quantized models that are pruned, tolerances, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import prunegraph as pg
from prunegraph.errors import DataError, OptionError, UnknownNameError
from prunegraph.graph.model import Graph, Node
from prunegraph.ops.cost import cost
from prunegraph.quantization.report import layer_types
from tests.builders import Builder, residual_net
from tests.commands import FIXTURES
from tests.quantization.networks import samples
from tests.quantization.outputs import decibels_of, outputs, scales


def weight_scales(graph: Graph, node: Node) -> np.ndarray:
    dequantize = graph.nodes[graph.producer[node.inputs[1]]]
    return graph.weights[dequantize.inputs[1]].read()


def test_ranges_from_outside_are_taken_as_they_are() -> None:
    graph = residual_net()
    first = pg.quantize(graph, samples(), bias_correction=False)
    again = pg.quantize(graph, ranges=first.ranges)
    assert again.ranges == first.ranges
    np.testing.assert_array_equal(
        outputs(again.model, samples()), outputs(first.model, samples())
    )
    value = graph.node("stem").inputs[0]
    mine = pg.quantize(graph, samples(), ranges={value: {"scale": 0.5, "zero_point": 3}})
    assert mine.ranges[value] == {"scale": 0.5, "zero_point": 3}
    assert scales(mine.model)[value] == (0.5, 3)


def test_scales_of_weights_from_outside() -> None:
    graph = residual_net()
    weight = graph.node("head").inputs[1]
    quantized = pg.quantize(
        graph, samples(), ranges={weight: {"scale": [0.01, 0.02, 0.03, 0.04, 0.05]}}
    )
    node = quantized.model.nodes[
        quantized.model.producer[quantized.model.node("head").inputs[1]]
    ]
    np.testing.assert_allclose(
        quantized.model.weights[node.inputs[1]].read(), [0.01, 0.02, 0.03, 0.04, 0.05]
    )
    with pytest.raises(OptionError, match="5 outputs"):
        pg.quantize(graph, samples(), ranges={weight: {"scale": [0.01, 0.02]}})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"zero_point": 3}, "number for scale"),
        ({"scale": -1.0}, "positive"),
        ({"scale": float("nan")}, "positive"),
        ({"scale": 1.0, "zero_point": 256}, "does not fit into uint8"),
        ({"scale": "wide"}, "number for scale"),
    ],
)
def test_ranges_that_make_no_sense(entry: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pg.quantize(residual_net(), samples(), ranges={"x": entry})


def test_ranges_of_unknown_or_coupled_tensors() -> None:
    graph = residual_net()
    with pytest.raises(UnknownNameError, match="quantized tensor 'y'"):
        pg.quantize(graph, samples(), ranges={"y": {"scale": 1}})
    b = Builder()
    x = b.input("n", 3, 8, 8)
    y, z = b.conv(x, 3, 4), b.conv(x, 3, 4)
    graph = b.graph(b.conv(b.op("Concat", y, z, axis=1), 8, 4))
    with pytest.raises(OptionError, match="share one scale"):
        pg.quantize(graph, samples(), ranges={y: {"scale": 1}, z: {"scale": 2}})


def test_a_quantized_model_that_is_pruned_keeps_its_scales() -> None:
    created = pg.quantize(residual_net(width=16), samples()).model
    plan = pg.select(created, budget=pg.Budget(ratio=0.5), round_to=1)
    pruned = pg.apply(created, plan)
    pg.verify(created, plan, pruned)
    assert plan.remove
    assert scales(pruned) == scales(created)
    for node in pruned.layers:
        name = str(pruned.main_weight(node))
        weight, before = pruned.weights[name], created.weights[name]
        assert weight.dtype == np.int8
        assert weight.size < before.size
        assert np.isin(
            weight_scales(pruned, node), weight_scales(created, created.node(node.name))
        ).all()


def test_prune_then_quantize_in_one_call(tmp_path: Path) -> None:
    data = samples(32)
    options = {"data": data, "budget": pg.Budget(macs=0.5), "round_to": 1}
    result = pg.prune(
        residual_net(width=16), tmp_path / "small.onnx", quantize="int8", **options
    )
    assert result.proof is not None and result.quantized is not None
    assert result.after.bytes < 0.25 * result.before.bytes
    assert {layer.weights for layer in result.quantized.layers} == {"int8"}
    loaded = pg.load(tmp_path / "small.onnx")
    assert outputs(loaded, data).shape == (32, 5)
    with pytest.raises(DataError, match="needs data"):
        pg.prune(
            residual_net(),
            tmp_path / "not.onnx",
            budget=pg.Budget(ratio=0.5),
            quantize="int8",
        )
    assert not (tmp_path / "not.onnx").exists()


def test_a_tolerance_puts_the_worst_layers_back() -> None:
    graph, data = residual_net(width=16), samples(32)
    plain = pg.quantize(graph, data, weights="int4", rounding="nearest", tolerance=10)
    assert plain.loss is not None and plain.loss > 1e-3
    assert not any(layer.reason for layer in plain.layers)
    near = pg.quantize(
        graph, data, weights="int4", rounding="nearest", tolerance=plain.loss / 3
    )
    assert near.loss is not None and near.loss <= plain.loss / 3
    kinds = {layer.weights for layer in near.layers}
    assert kinds == {"int4", "float32"}
    assert all(
        "tolerance" in layer.reason for layer in near.layers if layer.weights == "float32"
    )
    none = pg.quantize(graph, data, weights="int4", tolerance=0)
    assert (
        none.loss is not None and none.loss < 1e-9
    )  # what folding BatchNormalization rounds
    assert {layer.weights for layer in none.layers} == {"float32"}


def test_no_layer_goes_back_without_need() -> None:
    graph = pg.load(FIXTURES / "fashion_resnet.onnx")
    data = {"image": np.load(FIXTURES / "fashion_calibration.npz")["image"][:64]}
    whole = pg.quantize(graph, data, tolerance=10).loss
    assert whole is not None
    quantized = pg.quantize(graph, data, tolerance=whole / 4)
    back = [layer.name for layer in quantized.layers if "tolerance" in layer.reason]
    assert back and quantized.loss is not None and quantized.loss <= whole / 4
    for name in back:
        others = [other for other in back if other != name]
        one_more = pg.quantize(graph, data, tolerance=10, float_layers=others)
        assert one_more.loss is not None and one_more.loss > whole / 4, name


def test_layers_go_back_to_int16(tmp_path: Path) -> None:
    graph, data = residual_net(width=16), samples(32)
    plain = pg.quantize(graph, data, tolerance=10)
    assert plain.loss is not None
    mixed = {
        kind: pg.quantize(graph, data, tolerance=plain.loss / 3, fallback=kind)
        for kind in ("float", "int16")
    }
    for kind, match in mixed.items():
        assert match.loss is not None and match.loss <= plain.loss / 3
        back = {layer.name for layer in match.layers if "tolerance" in layer.reason}
        types = {layer.weights for layer in match.layers if layer.name in back}
        assert back and types == {{"float": "float32"}.get(kind, kind)}
        assert {layer.activations for layer in match.layers if layer.name in back} == {
            "float32"
        }
        pg.save(match.model, tmp_path / f"{kind}.onnx")
        assert outputs(pg.load(tmp_path / f"{kind}.onnx"), data).shape == (32, 5)
    held = {layer.name: layer.weights for layer in layer_types(mixed["int16"].model)}
    assert set(held.values()) == {"int8", "int16"}
    bytes_of = {kind: cost(match.model).bytes for kind, match in mixed.items()}
    assert bytes_of["int16"] < bytes_of["float"]


def test_weights_in_external_files(tmp_path: Path) -> None:
    model = residual_net(width=16).model
    onnx.save(
        model,
        tmp_path / "in.onnx",
        save_as_external_data=True,
        location="in.data",
        size_threshold=64,
    )
    graph = pg.load(tmp_path / "in.onnx")
    quantized = pg.quantize(graph, samples(), float_layers=["last"])
    pg.save(quantized.model, tmp_path / "out.onnx")
    assert decibels_of(graph, pg.load(tmp_path / "out.onnx"), samples()) > 25


def test_parameters_computed_from_constants() -> None:
    b = Builder()
    x = b.input("n", 3, 8, 8)
    one = b.op("CastLike", b.const(0.5, np.float32), x)
    bias = b.op("Expand", one, b.const([4], np.int64))
    weight = b.op("Transpose", b.weight(3, 4, 1, 1), perm=[1, 0, 2, 3])
    graph = b.graph(b.bn(b.op("Conv", x, weight, bias), 4))
    quantized = pg.quantize(graph, samples())
    assert not {"Transpose", "Expand", "BatchNormalization"} & {
        node.op for node in quantized.model.nodes
    }
    assert [layer.weights for layer in quantized.layers] == ["int8"]
    assert decibels_of(graph, quantized.model, samples()) > 25
