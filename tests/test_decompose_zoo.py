"""Real architectures decomposed and run (slow: minutes)."""

from __future__ import annotations

import numpy as np
import pytest

import prunegraph as pg
from fixtures import light_models
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.session import run_values
from tests.test_quantization_zoo import NAMES, ZOO


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_decomposed(name: str) -> None:
    graph = pg.load(light_models.load(ZOO / f"{name}.light.xz"))
    found = pg.decompose(graph, rank="energy:0.9")
    assert found.left or found.layers
    for row in found.layers:
        # HOSVD loses at most the tails of both unfoldings, a tenth of the energy each.
        assert row.error**2 <= 0.1 * len(row.ranks) + 1e-6
        assert row.params[1] < row.params[0] and row.macs[1] < row.macs[0]
    saved = sum(row.params[0] - row.params[1] for row in found.layers)
    assert found.before.params - found.after.params == saved
    given = random_inputs(found.graph, batch=1)
    before, after = (run_values(each, given, graph.outputs) for each in (graph, found.graph))
    for output, value in before.items():
        assert after[output].shape == value.shape and np.isfinite(after[output]).all()
