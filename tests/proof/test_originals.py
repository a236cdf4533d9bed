"""Originals that show nothing: a failed proof does not blame a rule for them."""

from __future__ import annotations

import onnx
import pytest

import prunegraph as pg
from prunegraph.errors import ExactnessError
from tests.builders import Builder


def test_an_original_that_gives_no_numbers_is_named_as_that() -> None:
    """ONNX Runtime's MeanVarianceNormalization makes a channel that is 0 all over no number."""
    b = Builder()
    x = b.conv(b.input("n", 3, 8, 8), 3, 8)
    for tensor in b.tensors:
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[:2] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    y = b.op("MeanVarianceNormalization", x, axes=[2, 3])
    graph = b.graph(b.conv(y, 8, 5))
    with pytest.raises(ExactnessError, match="infinite or not a number") as seen:
        pg.prune(graph, budget=pg.Budget(ratio=0.5), round_to=1)
    assert "please report" not in str(seen.value)
