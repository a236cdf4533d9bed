"""Noise of quantization between models side by side."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

import prunegraph as pg
from prunegraph.graph.onnx_io import from_model
from prunegraph.measuring.sqnr import sqnr
from prunegraph.quantization import quantize as module
from tests.builders import Builder, residual_net


def test_only_outputs_of_a_pruned_and_quantized_model_are_compared() -> None:
    """Inner values of a narrower model are other values: what they differ by is no noise of quantization."""
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((32, 3, 8, 8)).astype(np.float32)}
    graph = residual_net()
    given = {"data": data, "budget": pg.Budget(ratio=0.5), "round_to": 1, "rotate": "never"}
    both = pg.prune(graph, quantize="int8", **given).model
    assert set(pg.compare(graph, both, data=data).sqnr) == set(graph.outputs)
    integers = pg.quantize(graph, data=data).model
    assert set(pg.compare(graph, integers, data=data).sqnr) > set(graph.outputs)


def outputs(graph: pg.Graph, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph.to_model().SerializeToString())
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


def test_samples_are_spread_over_sorted_data() -> None:
    """A folder sorted by class: of three kinds of samples, all count."""
    rng = np.random.default_rng(0)
    scale = np.repeat([3.0, 0.03, 1.0], module.REPORTED)[:, None, None, None]
    x = (rng.standard_normal((len(scale), 3, 8, 8)) * scale).astype(np.float32)
    graph = residual_net()
    result = pg.quantize(graph, data={"x": x})
    chosen = np.linspace(0, len(x) - 1, module.REPORTED).round().astype(int)
    a, b = outputs(graph, x[chosen]), outputs(result.model, x[chosen])
    expected = 10 * np.log10(np.square(a).sum() / np.square(a - b).sum())
    (told,) = result.outputs.values()
    assert abs(told - expected) < 0.05
    assert set(scale.ravel()[chosen]) == {3.0, 0.03, 1.0}


def test_class_numbers_are_right_or_wrong() -> None:
    """Each of them counts the same: 10 log10(all / wrong)."""
    graphs = []
    for seed in (0, 1):
        b = Builder(0)
        scores = b.head(b.relu(b.conv(b.input("n", 3, 2, 2), 3, 8)), 8)
        b.rng = np.random.default_rng(seed)
        shifted = b.op("Add", scores, b.weight(5, scale=0.3))
        model = b.model(b.op("ArgMax", shifted, axis=1, keepdims=0, name="class"))
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
        graphs.append(from_model(model))
    x = np.random.default_rng(2).standard_normal((200, 3, 2, 2)).astype(np.float32) * 5
    first, second = graphs
    wrong = np.count_nonzero(outputs(first, x) != outputs(second, x))
    assert 0 < wrong < 200
    (told,) = sqnr(first, second, [{"x": x}]).values()
    assert abs(told - 10 * np.log10(200 / wrong)) < 1e-9
    (same,) = sqnr(first, first, [{"x": x}]).values()
    assert same == 200
