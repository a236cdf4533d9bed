"""Real architectures decomposed and run (slow: minutes); every error stays within what the report says of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import prunegraph as pg
from benchmarks.compress import measured_by_bound
from fixtures import light_models
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.session import run_values
from tests.paths import FIXTURES
from tests.quantization.test_zoo import NAMES, ZOO


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_decomposed(name: str) -> None:
    graph = pg.load(light_models.load(ZOO / f"{name}.light.xz"))
    decomposed = pg.decompose(graph, rank="energy:0.9")
    assert decomposed.skipped or decomposed.layers
    for row in decomposed.layers:
        # HOSVD loses at most the tails of both unfoldings, a tenth of the energy each.
        assert row.error**2 <= 0.1 * len(row.ranks) + 1e-6
        assert row.params[1] < row.params[0] and row.macs[1] < row.macs[0]
    ratios = dict(measured_by_bound(graph, decomposed))
    assert ratios.keys() == {row.name for row in decomposed.layers} and all(
        0 < ratio <= 1 for ratio in ratios.values()
    ), ratios
    saved = sum(row.params[0] - row.params[1] for row in decomposed.layers)
    assert decomposed.before.params - decomposed.after.params == saved
    given = random_inputs(decomposed.model, batch=1)
    before, after = (
        run_values(each, given, graph.outputs) for each in (graph, decomposed.model)
    )
    for output, value in before.items():
        assert after[output].shape == value.shape and np.isfinite(after[output]).all()


@pytest.mark.parametrize("method", ["tucker2", "svd", "spatial"])
def test_the_bound_of_a_small_network(method: str) -> None:
    """The same where it takes no minutes; and an error that is reported too small is found."""
    graph = pg.load(FIXTURES / "fashion_resnet.onnx")
    decomposed = pg.decompose(graph, method=method, rank="ratio:0.3", round_to=1)
    ratios = dict(measured_by_bound(graph, decomposed))
    assert len(ratios) == len(decomposed.layers) > 8
    assert all(0.02 < ratio <= 1 for ratio in ratios.values()), ratios
    wrong = replace(
        decomposed,
        layers=tuple(replace(row, error=row.error / 50) for row in decomposed.layers),
    )
    assert all(ratio > 1 for _, ratio in measured_by_bound(graph, wrong))
