"""Gram matrices, gathered batch by batch and kept as stripes of their lower triangles."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import DataError
from prunegraph.runtime import gram as gram_module
from prunegraph.runtime import triangles as triangles_module
from prunegraph.runtime.data import Data
from prunegraph.runtime.gram import Gram, GramSum
from prunegraph.runtime.patches import Rows
from prunegraph.runtime.statistics import Statistics
from prunegraph.runtime.store import Store
from prunegraph.runtime.triangles import Triangles, triangle_bytes
from tests.builders import Builder


def convolution(groups: int = 1) -> pg.Graph:
    rng = np.random.default_rng(0)
    b = Builder(1)
    x = b.input("n", 8, 6, 6)
    weight = b.const(rng.standard_normal((4, 8 // groups, 3, 3)), np.float32)
    return b.graph(b.op("Conv", x, weight, group=groups, name="conv"))


def gathered(groups: int, keep: int, images: np.ndarray) -> tuple[Gram, np.ndarray]:
    """A Gram matrix of three batches, and the rows that it is made of [groups, rows, inputs]."""
    node = convolution(groups).node("conv")
    rows = Rows(node, (4, 8 // groups, 3, 3), per_sample=5)
    sums, seen = GramSum(("x",), rows), []
    for batch, part in enumerate(np.split(images, 3)):
        sums.add(batch, part)
        seen.append(rows.inputs(part, batch).swapaxes(0, 1))
    gram = sums.result(Triangles(Store(keep)), "conv")
    assert gram is not None
    return gram, np.concatenate(seen, axis=1).astype(np.float64)


@pytest.mark.parametrize("keep", [0, 1 << 20])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stripe", [7, 36, 512])
def test_matrices_are_those_of_the_rows(
    keep: int, groups: int, stripe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In stripes that do not divide the size, that do, and in one; in memory and in a file."""
    monkeypatch.setattr(triangles_module, "STRIPE", stripe)
    monkeypatch.setattr(gram_module, "BUFFER", 16)
    images = np.random.default_rng(1).standard_normal((9, 8, 6, 6)).astype(np.float32)
    gram, rows = gathered(groups, keep, 3 + images)
    mean = rows.mean(axis=1)
    centred = rows - mean[:, None]
    expected = centred.swapaxes(1, 2) @ centred / rows.shape[1]
    assert (gram.count, gram.is_finite) == (45, True)
    np.testing.assert_allclose(gram.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(gram.centred, expected, rtol=1e-4, atol=1e-5)
    assert gram.centred.dtype == np.float32
    np.testing.assert_array_equal(gram.covariance, gram.centred.astype(np.float64))
    np.testing.assert_array_equal(gram.products, gram.covariance + mean_products(gram.mean))
    for group in range(groups):
        np.testing.assert_array_equal(gram.matrix(group), gram.centred[group])
        assert gram.matrix(group, np.float64).dtype == np.float64


def mean_products(mean: np.ndarray) -> np.ndarray:
    return mean[:, :, None] * mean[:, None, :]


def test_a_matrix_is_the_callers_own() -> None:
    images = np.random.default_rng(1).standard_normal((9, 8, 6, 6)).astype(np.float32)
    gram, _ = gathered(1, 1 << 20, images)
    before = gram.centred
    gram.centred[:] = 0
    gram.matrix(0)[:] = 0
    gram.covariance[:] = 0
    np.testing.assert_array_equal(gram.centred, before)


def test_half_of_a_large_matrix_is_kept() -> None:
    assert triangle_bytes(512) == 4 * 512**2
    assert triangle_bytes(4608) < 0.56 * 4 * 4608**2


def test_matrices_beyond_a_few_are_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many layers no more is held than a store holds."""
    rng = np.random.default_rng(0)
    b = Builder(1)
    widths = [96, 80, 64, 48]
    value = b.input("n", widths[0])
    for one, two in pairwise(widths):
        value = b.relu(b.linear(value, one, two))
    graph = b.graph(value)
    data = Data.of({"x": rng.standard_normal((64, widths[0])).astype(np.float32)})
    whole = Statistics(graph, data)
    expected = [whole.gram(node).centred for node in graph.layers]
    assert whole._triangles.held == sum(each.nbytes for each in expected)
    init = Store.__init__
    monkeypatch.setattr(Store, "__init__", lambda self, keep=20000: init(self, keep))
    small = Statistics(graph, data)
    for node, matrices in zip(graph.layers, expected, strict=True):
        np.testing.assert_array_equal(small.gram(node).centred, matrices)
    assert 0 < small._triangles.held <= 20000


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e30])
def test_what_cannot_be_squared_is_said(value: float) -> None:
    images = np.ones((4, 8, 6, 6), np.float32)
    images[2, 3] = value
    graph = convolution()
    statistics = Statistics(graph, Data.of({"x": images}))
    with pytest.raises(DataError, match="layer 'conv' reads is not a number, or too large"):
        statistics.gram(graph.node("conv"))
