"""Every form in which a file can write a layer `alpha x W + beta C`, between two others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunegraph.graph.model import Graph
from tests.builders import Builder

Array = np.ndarray

#: Samples that a model takes where its bias has a row for each.
ROWS = 4

#: Channels that the layer reads, how many of them are constant, and how many it makes.
INPUTS, DEAD, OUTPUTS = 12, 3, 6


@dataclass(frozen=True)
class Form:
    """A way to write the layer; `bias` is the shape of C, "none", "shared" or "computed"."""

    op: str = "Gemm"
    bias: tuple[int, ...] | str = (OUTPUTS,)
    alpha: float = 1.0
    beta: float = 1.0
    turned: bool = False
    turned_weight: bool = False
    normal: bool = False

    def __str__(self) -> str:
        flags = "".join(
            name
            for name, on in (
                ("-transA", self.turned),
                ("-transB", self.turned_weight),
                ("-bn", self.normal),
            )
            if on
        )
        return f"{self.op}-{self.bias}-{self.alpha:g}-{self.beta:g}{flags}"

    @property
    def rows(self) -> int | str:
        """The size of the batch axis."""
        return ROWS if isinstance(self.bias, tuple) and ROWS in self.bias[:-1] else "n"


SHAPES: tuple[tuple[int, ...] | str, ...] = (
    "none",
    "shared",
    "computed",
    (),
    (1,),
    (1, 1),
    (OUTPUTS,),
    (1, OUTPUTS),
    (ROWS, 1),
    (ROWS, OUTPUTS),
)

FORMS = [
    *(
        Form(bias=bias, alpha=alpha, beta=beta)
        for bias in SHAPES
        for alpha, beta in ((1, 1), (0.5, 0), (-2, 0.25))
    ),
    *(
        Form(bias=bias, turned=True, turned_weight=True, alpha=0.5)
        for bias in ("none", (OUTPUTS,), (ROWS, 1))
    ),
    *(
        Form(bias=bias, normal=True, beta=beta)
        for bias in ("none", "computed", (OUTPUTS,))
        for beta in (0, 2)
    ),
    *(Form("MatMul", bias) for bias in SHAPES if bias != (1, 1)),
    Form("MatMul", (1, 1, OUTPUTS)),
    *(
        Form("Conv", bias, normal=normal)
        for bias in ("none", "shared", "computed", (OUTPUTS,))
        for normal in (False, True)
    ),
]


def network(form: Form, seed: int = 0, opset: int = 17, rank: int = 0) -> Graph:
    """A layer of a form, whose input has constant channels (the first `DEAD`), between two others.

    `rank` is that of its weight; 0 is full.
    """
    b = Builder(seed, opset=opset)
    shape = (8, 3, 3) if form.op == "Conv" else (8,)
    b.input(form.rows, *shape)
    x = _first(b, form)
    axes = (1, 1) if form.op == "Conv" else ()
    w = b.rng.standard_normal((INPUTS, OUTPUTS)) / 3
    if rank:
        w = (
            b.rng.standard_normal((INPUTS, rank))
            @ b.rng.standard_normal((rank, OUTPUTS))
            / 3
        )
    weight = b.const(
        (w.T if form.turned_weight or axes else w).reshape(*_weight_shape(form), *axes),
        np.float32,
    )
    y = _layer(b, form, x, weight)
    if form.normal:
        y = b.bn(y, OUTPUTS)
    last = b.const(b.rng.standard_normal((OUTPUTS, 5)) / 2, np.float32)
    y = b.op("GlobalAveragePool", y) if form.op == "Conv" else y
    y = b.op("Reshape", b.op("Sigmoid", y), b.const((-1, OUTPUTS), np.int64))
    return b.graph(b.op("MatMul", y, last, name="last"))


def _weight_shape(form: Form) -> tuple[int, int]:
    return (
        (OUTPUTS, INPUTS) if form.turned_weight or form.op == "Conv" else (INPUTS, OUTPUTS)
    )


def _first(b: Builder, form: Form) -> str:
    """A layer with channels that are constant behind its ReLU."""
    shift = b.rng.uniform(0.5, 1.5, INPUTS)
    weight = b.rng.standard_normal((INPUTS, 8)) / 2
    weight[:DEAD] = 0
    if form.op == "Conv":
        x = b.op(
            "Conv",
            "x",
            b.const(weight[:, :, None, None], np.float32),
            b.const(shift, np.float32),
            name="first",
        )
    else:
        x = b.op(
            "Gemm",
            "x",
            b.const(weight, np.float32),
            b.const(shift, np.float32),
            transB=1,
            name="first",
        )
    return b.relu(x)


def _layer(b: Builder, form: Form, x: str, weight: str) -> str:
    bias = _bias(b, form)
    if form.op == "MatMul":
        y = b.op("MatMul", x, weight, name="layer")
        y = b.op("Add", y, bias) if bias else y
    elif form.op == "Conv":
        y = b.op("Conv", x, weight, *filter(None, [bias]), name="layer")
    else:
        x = b.op("Transpose", x, perm=[1, 0]) if form.turned else x
        y = b.op(
            "Gemm",
            x,
            weight,
            *filter(None, [bias]),
            name="layer",
            alpha=float(form.alpha),
            beta=float(form.beta),
            transA=int(form.turned),
            transB=int(form.turned_weight),
        )
    if form.bias == "shared":
        shape = (1, -1, 1, 1) if form.op == "Conv" else (1, -1)
        again = b.op("Reshape", bias, b.const(shape, np.int64))
        y = b.op("Add", y, b.op("Tanh", again))
    return y


def _bias(b: Builder, form: Form) -> str:
    if form.bias == "none":
        return ""
    if form.bias == "computed":  # from the input, the same for all samples
        total = b.op(
            "ReduceMean", "x", axes=list(range(4 if form.op == "Conv" else 2)), keepdims=0
        )
        return b.op("Mul", b.op("Tanh", total), b.weight(OUTPUTS))
    shape = (OUTPUTS,) if form.bias == "shared" else form.bias
    return b.const(b.rng.standard_normal(shape), np.float32)


def samples(form: Form, count: int = 256) -> dict[str, Array]:
    shape = (count, 8, 3, 3) if form.op == "Conv" else (count, 8)
    return {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
