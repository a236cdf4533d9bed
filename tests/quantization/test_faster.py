"""Layers at the start that stay in float where integers are slower."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import OptionError, UnknownNameError
from prunegraph.measuring.latency import Latency
from prunegraph.quantization.faster import PAIRS, faster_in_float
from tests.commands import MODEL, cli
from tests.paths import FIXTURES

FASHION = FIXTURES / "fashion_resnet.onnx"
CALIBRATION = FASHION.with_name("fashion_calibration.npz")


class Computed:
    """A timer that computes: milliseconds of each layer in float and in integers, in the layers' order."""

    def __init__(self, graph: pg.Graph, floats: list[float], integers: list[float]):
        self.graph, self.floats, self.integers = graph, floats, integers
        self.measured = 0

    def cost(self, graph: pg.Graph) -> float:
        makers = [graph.producer.get(node.inputs[0]) for node in graph.layers]
        whole = [
            maker is not None and graph.nodes[maker].op == "DequantizeLinear"
            for maker in makers
        ]
        return sum(
            integer if is_whole else in_float
            for is_whole, integer, in_float in zip(
                whole, self.integers, self.floats, strict=True
            )
        )

    def against(self, pruned: pg.Graph, pairs: int = 1) -> Latency:
        self.measured += 1
        whole, remaining = self.cost(self.graph), self.cost(pruned)
        return Latency(whole, remaining, whole / remaining, runs=1, threads=1)

    def alone(self, model: pg.Graph) -> float:
        return self.cost(model)

    def original(self) -> float:
        return self.cost(self.graph)


def found(floats: dict[int, float], **options: object) -> tuple[tuple[str, ...], int]:
    """The layers found where a layer takes 1 ms in integers, and in float what is given, else 2 ms; measurements."""
    graph, timers = pg.load(FASHION), []
    count = len(graph.layers)

    def stopwatch(base: pg.Graph) -> Computed:
        timers.append(
            Computed(
                base, [floats.get(place, 2.0) for place in range(count)], [1.0] * count
            )
        )
        return timers[-1]

    data = dict(np.load(CALIBRATION))
    names = faster_in_float(graph, data, stopwatch=stopwatch, **options)  # type: ignore[arg-type]
    return names, timers[0].measured // PAIRS


def names(count: int) -> tuple[str, ...]:
    graph = pg.load(FASHION)
    return tuple(node.name for node in graph.layers[:count])


@pytest.mark.parametrize(
    ("floats", "wanted"),
    [
        ({}, 0),
        ({0: 0.5}, 1),
        ({0: 0.5, 1: 0.5, 2: 0.5}, 3),
        ({0: 1.5, 1: 0.2}, 2),
        ({0: 1.5, 1: 1.5, 2: 0.0}, 0),  # two in a row that save nothing end the search
        ({0: 0.95}, 0),  # saves less than counts
    ],
)
def test_the_fastest_start_is_found(floats: dict[int, float], wanted: int) -> None:
    assert found(floats) == (names(wanted), min(wanted + 2, 15))


def test_layers_that_stay_in_float_anyway_are_not_named() -> None:
    first = names(1)
    assert found({0: 0.5, 1: 0.5}, float_layers=first)[0] == names(2)[1:]


def test_what_cannot_be_measured_is_said() -> None:
    graph, data = pg.load(FASHION), dict(np.load(CALIBRATION))
    with pytest.raises(OptionError, match="activations in integers"):
        faster_in_float(graph, data, activations="none")
    with pytest.raises(UnknownNameError, match="nowhere"):
        faster_in_float(graph, data, float_layers=["nowhere"])


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    done = cli(
        "quantize", MODEL, "-o", out, "--data", CALIBRATION, "--fastest", "--float", "last"
    )
    assert done.returncode == 0, done.stderr
    last = pg.load(MODEL).layers[-1]
    assert not any(
        node.op == "DequantizeLinear" and last.inputs[1] in node.inputs
        for node in pg.load(out).nodes
    )
    for words, said in (
        (("--target", "qnn", "--data", CALIBRATION), "target"),
        ((), "--data"),
    ):
        failed = cli("quantize", MODEL, "-o", tmp_path / "no.onnx", "--fastest", *words)
        assert (
            failed.returncode
            and said in failed.stderr
            and not (tmp_path / "no.onnx").exists()
        )
