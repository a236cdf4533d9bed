"""Noise of quantization between models side by side."""

from __future__ import annotations

import numpy as np

import prunegraph as pg
from tests.builders import residual_net


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
