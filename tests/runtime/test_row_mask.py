"""Rows that do not count: a mask of positions, found in the graph and used by statistics, criteria and fits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import prunegraph as pg
from prunegraph.errors import DataError, UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data
from prunegraph.runtime.row_mask import find_mask
from prunegraph.runtime.statistics import Statistics
from tests.builders import Builder

WIDTH, HIDDEN, LENGTH = 8, 24, 6


def sentences(mask: str = "attention_mask", kind: int = onnx.TensorProto.INT64) -> Graph:
    """Two MLPs over positions, each in a residual branch, then a mean over the positions that the mask has."""
    b = Builder()
    x = b.input("batch", "length", WIDTH)
    b.input("batch", "length", name=mask, kind=kind)
    for number in range(2):
        up = b.op("MatMul", x, b.weight(WIDTH, HIDDEN), name=f"up{number}")
        hidden = b.relu(b.op("Add", up, b.weight(HIDDEN)))
        down = b.op("MatMul", hidden, b.weight(HIDDEN, WIDTH), name=f"down{number}")
        x = b.op("Add", x, b.op("Add", down, b.weight(WIDTH)))
    swapped = b.op("Transpose", x, perm=[0, 2, 1], name="swapped")
    on = b.op("Unsqueeze", b.op("Cast", mask, to=1), b.const([1], np.int64))
    return b.graph(b.op("ReduceSum", b.op("Mul", swapped, on), b.const([2], np.int64)))


def batch(seed: int, filler: float, samples: int = 64) -> dict[str, np.ndarray]:
    """Samples of 1 to LENGTH positions; behind them stands what `filler` makes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, LENGTH, WIDTH)) @ rng.standard_normal((WIDTH, WIDTH))
    mask = np.arange(LENGTH) < rng.integers(1, LENGTH + 1, samples)[:, None]
    noise = np.random.default_rng(int(filler)).standard_normal(x.shape) * filler
    return {
        "x": np.where(mask[..., None], x, noise).astype(np.float32),
        "attention_mask": mask.astype(np.int64),
    }


def pruned(filler: float, **options: object) -> pg.PruneResult:
    return pg.prune(
        sentences(),
        data=batch(0, filler),
        budget=pg.Budget(ratio=0.5),
        round_to=1,
        **options,
    )


def weights(result: pg.PruneResult) -> dict[str, np.ndarray]:
    return {name: weight.read() for name, weight in result.model.weights.items()}


@pytest.mark.parametrize("algorithm", ["obs", "wanda", "thinet"])
def test_what_stands_behind_a_sample_changes_nothing(algorithm: str) -> None:
    some, other = (pruned(filler, algorithm=algorithm) for filler in (1, 50))
    assert some.plan.remove.keys() and some.plan.cuts == other.plan.cuts
    for name, values in weights(some).items():
        np.testing.assert_array_equal(values, weights(other)[name])
    whole = [
        weights(pruned(filler, algorithm=algorithm, mask_input="none"))
        for filler in (1, 50)
    ]
    assert any((whole[0][name] != whole[1][name]).any() for name in whole[0])


def test_statistics_are_those_of_the_rows_that_count() -> None:
    graph, x = sentences(), batch(1, 9)
    statistics = Statistics(graph, Data.of(x))
    rows = x["x"][x["attention_mask"] != 0].astype(np.float64)
    gram = statistics.gram(graph.node("up0"))
    assert gram is not None and gram.count == len(rows)
    np.testing.assert_allclose(gram.products[0], rows.T @ rows / len(rows), rtol=1e-4)
    np.testing.assert_allclose(gram.mean[0], rows.mean(axis=0), rtol=1e-5, atol=1e-6)
    (moments,) = statistics.moments([("x", 2)])
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(moments.std, rows.std(axis=0), rtol=1e-6)


def test_a_value_with_other_axes_first_has_no_mask() -> None:
    """Also where the sizes would fit by chance: axes are told by how they grow."""
    graph = sentences()
    mask = find_mask(graph)
    assert mask is not None and mask.input == "attention_mask"
    assert {"x", graph.node("up1").inputs[0], graph.node("down1").inputs[0]} <= mask.values
    assert not {"swapped.out", *graph.outputs} & mask.values


def test_which_input_is_the_mask() -> None:
    assert find_mask(sentences("valid")) is None
    found = find_mask(sentences("valid", onnx.TensorProto.BOOL), "valid")
    assert found is not None and found.input == "valid"
    assert find_mask(sentences(), "none") is None
    assert find_mask(sentences(kind=onnx.TensorProto.FLOAT)) is None
    with pytest.raises(DataError, match="cannot be the mask"):
        find_mask(sentences(kind=onnx.TensorProto.FLOAT), "attention_mask")
    with pytest.raises(UnknownNameError, match="attention_msk"):
        find_mask(sentences(), "attention_msk")


@pytest.mark.parametrize("algorithm", ["obs", "l2"])
def test_nothing_counts(algorithm: str) -> None:
    x = batch(0, 1)
    x["attention_mask"][:] = 0
    with pytest.raises(DataError, match="0 everywhere"):
        pg.prune(sentences(), data=x, budget=pg.Budget(ratio=0.5), algorithm=algorithm)
