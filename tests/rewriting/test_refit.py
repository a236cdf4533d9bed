"""Parts of decomposed layers fitted to data."""

from __future__ import annotations

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.rewriting.factorize import Form, Spatial, Svd, Tucker2
from prunegraph.rewriting.refit import output_error, refitted
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run_values
from tests.builders import Builder
from tests.commands import FIXTURES, MODEL
from tests.rewriting.test_decompose import METHODS, checked, one_conv

CALIBRATION = FIXTURES / "fashion_calibration.npz"


@pytest.mark.parametrize(
    ("kind", "ranks"), [(Tucker2, (8, 6)), (Svd, (7,)), (Spatial, (9,))]
)
def test_the_fitted_part_is_the_best_there_is(
    kind: type[Form], ranks: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 12, 3, 5))
    rows = rng.standard_normal((400, 20)) @ rng.standard_normal(
        (20, 180)
    ) + 0.1 * rng.standard_normal((400, 180))
    moments = rows.T @ rows / len(rows)
    form = kind(weight)
    before = form.factors(ranks)
    after = refitted(form.method, before, weight, moments, ridge=0)
    best = output_error(weight, form.product(after), moments)
    assert best < 0.9 * output_error(weight, form.product(before), moments)
    outputs = rows @ weight.reshape(16, -1).T
    created = rows @ form.product(after).reshape(16, -1).T
    assert best == pytest.approx(
        np.linalg.norm(outputs - created) / np.linalg.norm(outputs), rel=1e-6
    )
    part = 1  # the core, or the last of two
    for _ in range(5):
        other = list(after)
        other[part] = after[part] + 0.01 * rng.standard_normal(after[part].shape)
        assert output_error(weight, form.product(other), moments) > best


def test_much_ridge_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 12, 3, 3))
    form = Svd(weight)
    before = form.factors((5,))
    after = refitted("svd", before, weight, np.eye(108), ridge=1e9)
    np.testing.assert_allclose(after[1], before[1], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_outputs_come_nearer(method: str) -> None:
    rng = np.random.default_rng(0)
    graph = one_conv(rng.standard_normal((24, 20, 3, 3)), pads=[1] * 4)
    mixed = rng.standard_normal((64, 6, 11, 11)) + 1
    data = np.einsum("nchw,dc->ndhw", mixed, rng.standard_normal((20, 6))).astype(
        np.float32
    )
    plain = pg.decompose(graph, method=method, rank="ratio:0.3")
    fitted = checked(
        pg.decompose(graph, method=method, rank="ratio:0.3", data=Data.of({"x": data}))
    )
    (row,) = fitted.layers
    assert plain.layers[0].output_error is None and row.output_error is not None
    batch = {"x": data[:2]}
    (y,), (a,), (b,) = (
        run_values(g, batch, g.outputs).values() for g in (graph, plain.model, fitted.model)
    )
    assert np.linalg.norm(y - b) < 0.8 * np.linalg.norm(y - a)
    assert row.output_error == pytest.approx(
        np.linalg.norm(y - b) / np.linalg.norm(y - y.mean((0, 2, 3))[:, None, None]),
        rel=0.3,
    )


@pytest.mark.parametrize("shape", [(40,), (1, 40)])
def test_the_mean_of_a_gemm_stays(shape: tuple[int, ...]) -> None:
    b = Builder()
    y = b.op(
        "Gemm",
        b.input("n", 30),
        b.weight(40, 30),
        b.weight(*shape),
        name="g",
        alpha=0.5,
        beta=2.0,
        transB=1,
    )
    graph = b.graph(y)
    data = {
        "x": (np.random.default_rng(0).standard_normal((256, 30)) + 3).astype(np.float32)
    }
    plain, fitted = (
        pg.decompose(graph, rank="ratio:0.3", data=given).model for given in (None, data)
    )
    means = [
        run_values(each, data, each.outputs)[y].mean(0) for each in (graph, plain, fitted)
    ]
    np.testing.assert_allclose(means[2], means[0], atol=1e-4)
    assert np.abs(means[1] - means[0]).max() > 0.1


def test_a_trained_network_keeps_more_of_its_accuracy() -> None:
    """At half of the MACs; what it costs without data is 2 points (docs/decomposition.md)."""
    from prunegraph.runtime.data import read_data

    graph, evaluation = pg.load(MODEL), read_data(str(FIXTURES / "fashion_eval.npz"))
    accuracies = []
    for data in (None, read_data(str(CALIBRATION))):
        decomposed = pg.decompose(graph, method="auto", macs=0.5, data=data)
        both = pg.compare(graph, decomposed.model, data=evaluation, runs=2)
        assert both.accuracy is not None
        accuracies.append(both.accuracy[1])
    assert accuracies[1] >= max(accuracies[0] + 0.01, 0.936)
