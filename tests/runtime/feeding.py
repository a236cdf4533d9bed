"""Small graphs, each with an input of its kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from click.testing import Result
from onnx import TensorProto

from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from tests.builders import Builder
from tests.commands import in_process
from tests.runtime.voice import voice_graph, voice_samples

Arrays = dict[str, np.ndarray]


RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def call(command: str, code: int = 0) -> Result:
    """A command that ends with this code."""
    done = in_process(*command.split())
    assert done.exit_code == code, (done.output, done.exception)
    return done


def two_layers(b: Builder, x: str, width: int = 12) -> str:
    return b.linear(b.op("Relu", x, name="hidden"), width, 5)


def scalar(*shape: int | str) -> Graph:
    """The first layer times an input of that shape."""
    b = Builder()
    x = b.linear(b.input("N", 7), 7, 12)
    return b.graph(two_layers(b, b.op("Mul", x, b.input(*shape, name="s"))))


def state(*shape: int | str, axis: int = 0) -> Graph:
    """The first layer plus a state with an axis of size 1."""
    b = Builder()
    x = b.linear(b.input("N", 7), 7, 12)
    s = b.op("Squeeze", b.input(*shape, name="s"), b.const([axis], np.int64))
    return b.graph(two_layers(b, b.op("Add", x, s)))


def text() -> Graph:
    """A second input of text, handed out as it is."""
    b = Builder()
    s = b.input("N", name="s", kind=TensorProto.STRING)
    model = b.model(two_layers(b, b.linear(b.input("N", 7), 7, 12)), b.op("Identity", s))
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.STRING
    return from_model(model)


def edges(*shape: int | str, seed: int = 0) -> Graph:
    """Rows of the first layer taken by indices."""
    b = Builder(seed)
    x = b.linear(b.input("V", 7), 7, 12)
    e = b.input(*shape, name="e", kind=TensorProto.INT64)
    for _ in range(len(shape) - 1):
        e = b.op("Gather", e, b.const(0, np.int64), axis=0)
    return b.graph(two_layers(b, b.op("Gather", x, e, axis=0)))


CASES: dict[str, tuple[Callable[[], Graph], Callable[[int], Arrays]]] = {
    "scalar": (lambda: scalar(), lambda n: {"x": normal(n, 7), "s": np.float32(0.5)}),
    "one number": (lambda: scalar(1), lambda n: {"x": normal(n, 7), "s": normal(1)}),
    "one number, any length": (
        lambda: scalar("K"),
        lambda n: {"x": normal(n, 7), "s": normal(1)},
    ),
    "one for all": (
        lambda: scalar(1, 12),
        lambda n: {"x": normal(n, 7), "s": normal(1, 12)},
    ),
    "one each": (lambda: scalar("M", 1), lambda n: {"x": normal(n, 7), "s": normal(n, 1)}),
    "state": (
        lambda: state(1, "N", 12),
        lambda n: {"x": normal(n, 7), "s": normal(1, n, 12)},
    ),
    "state, other name": (
        lambda: state(1, "M", 12),
        lambda n: {"x": normal(n, 7), "s": normal(1, n, 12)},
    ),
    "state, no name": (
        lambda: state(1, None, 12),
        lambda n: {"x": normal(n, 7), "s": normal(1, n, 12)},
    ),
    "state, last axis": (
        lambda: state("N", 12, 1, axis=2),
        lambda n: {"x": normal(n, 7), "s": normal(n, 12, 1)},
    ),
    "text": (
        text,
        lambda n: {
            "x": normal(n, 7),
            "s": np.array([f"t{i}" for i in range(n)], dtype=object),
        },
    ),
    "text of numpy": (
        text,
        lambda n: {"x": normal(n, 7), "s": np.array([f"t{i}" for i in range(n)])},
    ),
    "voice": (voice_graph, lambda n: voice_samples(n)),
}
