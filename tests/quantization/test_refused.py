"""Data and models that cannot be quantized."""

from __future__ import annotations

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import DataError, ModelError, OptionError, UnknownNameError
from tests.builders import Builder, residual_net
from tests.quantization.networks import samples


def test_data_that_do_not_fit() -> None:
    graph = residual_net()
    nan = samples()
    nan["x"][3, 0, 0, 0] = np.nan
    wide = {"x": np.full((4, 3, 8, 8), np.inf, np.float32)}
    for data, message in (
        (nan, "input 'x' is not a number"),
        (wide, "input 'x' is infinite"),
        ([], "no samples"),
        ({"y": samples()["x"]}, "no array for model input 'x'"),
        (samples(size=9) | {"x": samples(channels=4)["x"]}, "wants shape"),
        ({"x": samples()["x"].astype(np.float64)}, "wants float32"),
        (None, "needs data"),
    ):
        with pytest.raises(DataError, match=message):
            pg.quantize(graph, data)


def test_a_value_that_becomes_infinite_is_named() -> None:
    b = Builder()
    x = b.op("Div", b.input("n", 3, 8, 8), b.const(0.0, np.float32))
    graph = b.graph(b.conv(x, 3, 4))
    with pytest.raises(DataError, match=r"value .*div.* is"):
        pg.quantize(graph, samples())


def test_models_that_cannot_be_quantized() -> None:
    created = pg.quantize(residual_net(), samples()).model
    with pytest.raises(ModelError, match="quantized already"):
        pg.quantize(created, samples())
    b = Builder()
    with pytest.raises(ModelError, match="no layer"):
        pg.quantize(b.graph(b.relu(b.input("n", 3, 8, 8))), samples())


def test_options_are_checked_before_the_work() -> None:
    graph = residual_net()
    for options, error in (
        ({"method": "median"}, UnknownNameError),
        ({"weights": "int2"}, UnknownNameError),
        ({"rounding": "up"}, UnknownNameError),
        ({"tolerance": -1}, OptionError),
        ({"tolerance": 1, "metric": "beauty"}, UnknownNameError),
        ({"percentile": 5}, OptionError),
        ({"target": "tensorrt", "activations": "uint8"}, OptionError),
        ({"fallback": "int2"}, UnknownNameError),
        ({"target": "qnn", "fallback": "int16"}, OptionError),
    ):
        with pytest.raises(error):
            pg.quantize(graph, samples(), **options)
    with pytest.raises(DataError, match="gptq"):
        pg.quantize(graph, activations="none", rounding="gptq")
