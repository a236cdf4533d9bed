"""Real architectures pruned and quantized, against the integer reference (slow: minutes)."""

from __future__ import annotations

import numpy as np
import pytest

import prunegraph as pg
from fixtures import light_models
from prunegraph.runtime.data import random_inputs
from tests.paths import FIXTURES
from tests.quantization.integer_reference import Reference
from tests.quantization.networks import run_fast

ZOO = FIXTURES / "zoo"

#: Networks for other tasks than classification of images.
OTHERS = ("deeplab", "fasterrcnn", "fcn", "r3d", "ssdlite")
NAMES = [
    path.name.removesuffix(".light.xz")
    for path in sorted(ZOO.glob("torchvision__*.light.xz"))
    if not any(other in path.name for other in OTHERS)
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_pruned_and_quantized(name: str) -> None:
    graph = pg.load(light_models.load(ZOO / f"{name}.light.xz"))
    pruned = pg.apply(graph, pg.select(graph, budget=pg.Budget(ratio=0.5)))
    batches = [random_inputs(pruned, seed=seed, batch=1) for seed in range(4)]
    quantized = pg.quantize(pruned, batches)
    assert not [layer for layer in quantized.layers if layer.reason]
    assert min(quantized.outputs.values()) > 20, quantized.weakest
    created = quantized.model
    names = [node.outputs[0] for node in created.nodes if node.op == "QuantizeLinear"]
    codes = run_fast(created, batches[0], names)
    for value, expected in Reference(created, codes).results().items():
        difference = np.abs(expected.astype(int) - codes[value].astype(int))
        assert difference.max() <= 1, value
        assert (difference == 0).mean() >= 0.99, value
