"""Random cases of operators that look along an axis, or make data of their own."""

from __future__ import annotations

from functools import partial

import numpy as np

from tests.ops.networks import MS, Case, Net, X

# -- looking along an axis --------------------------------------------------------------


def top_k(n: Net) -> list[str]:
    n.opset(10, 11)
    x = n.data(1, 4)
    axis = n.along(x)
    k = n.ints(n.int(1, x.shape[axis]))
    more = n.maybe(largest=n.int(0, 1), sorted=1) if n.b.opset >= 11 else {}
    return n.ops("TopK", x, k, outputs=2, axis=n.axis(axis, x.rank), **more)


def cumulative(op: str, n: Net) -> str:
    n.opset(*((26,) if op == "CumProd" else (11, 14)))
    x = n.data(1, 4, low=0.3, high=1.5)
    axis = n.b.const(n.axis(n.int(0, x.rank - 1), x.rank), n.pick(np.int64, np.int32))
    return n.op(op, x, axis, **n.maybe(exclusive=1), **n.maybe(reverse=1))


def trilu(n: Net, domain: str = "") -> str:
    x = n.data(2, 4, axes=(0, 0, 1, 1, 2, 3))
    k = n.b.const(n.int(-2, 2), np.int64) if n.flag() else None
    return n.op("Trilu", x, k, domain=domain, **n.maybe(upper=n.int(0, 1)))


def positions(n: Net, shape: list[int], size: int, spread: bool = False) -> str:
    """Indices into an axis of that size, of either sign; `spread`: no two alike along the last axis."""
    if spread:
        return n.b.const(
            n.rng.permuted(np.broadcast_to(np.arange(size), [*shape[:-1], size]), axis=-1)[
                ..., : shape[-1]
            ]
        )
    return n.b.const(n.rng.integers(-size, size, shape), np.int64)


def gather_elements(n: Net) -> str:
    """Positions are constant, or follow from the data itself."""
    x = n.data(n.pick(1, 2, 2, 2), 3)
    axis = n.along(x)
    if n.flag():
        index = n.op("ArgMax", x, axis=axis)
    elif "n" in x.shape:
        return n.op("GatherElements", x, n.op("ArgMin", x, axis=axis), axis=axis)
    else:
        shape = [size if n.flag() else n.int(1, size) for size in x.shape]
        index = positions(n, shape, x.shape[axis])
    return n.op("GatherElements", x, index, axis=n.axis(axis, x.rank))


def scatter_elements(op: str, n: Net) -> str:
    opset = n.opset(*((9, 10) if op == "Scatter" else (11, 16, 18)))
    x = n.data(n.pick(1, 2, 2, 2), 3)
    axis = n.along(x)
    more = (
        {"reduction": n.pick("add", "mul", *["max", "min"] * (opset >= 18))}
        if opset >= 16 and n.flag()
        else {}
    )
    if n.flag() or "n" in x.shape:
        best = n.op("ArgMax", x, axis=axis)
        reduced = (
            n.op("ReduceMax", x, n.ints(axis))
            if opset >= 18
            else n.op("ReduceMax", x, axes=[axis])
        )
        return n.op(op, x, best, reduced, axis=axis, **more)
    shape = [size if n.flag() else n.int(1, size) for size in x.shape]
    order = [*(a for a in range(x.rank) if a != axis), axis]
    index = np.stack(
        [
            n.rng.permutation(x.shape[axis])[: shape[axis]]
            for _ in range(int(np.prod(shape)) // shape[axis])
        ]
    )
    index = np.reshape(index, [shape[a] for a in order]).transpose(np.argsort(order))
    return n.op(
        op,
        x,
        n.b.const(index, np.int64),
        n.x(shape, x.axis),
        axis=n.axis(axis, x.rank),
        **more,
    )


def gather_nd(n: Net, domain: str = "") -> str:
    opset = 11 if domain else n.opset(11, 12, 13)
    x = n.data(2, 4, axes=(1, 2, 3)) if n.symbolic else n.data(2, 4)
    batch = n.int(0, min(1, x.rank - 1)) if opset >= 12 else 0
    if x.shape[0] == "n":
        x = n.x([2, *x.shape[1:]], x.axis)
    depth = n.int(1, x.rank - batch)
    tuples = [x.shape[0]] * batch + [n.int(1, 3) for _ in range(n.int(0, 2))]
    index = np.stack(
        [n.rng.integers(0, x.shape[batch + i], tuples) for i in range(depth)], -1
    )
    return n.op(
        "GatherND",
        x,
        n.b.const(index, np.int64),
        domain=domain,
        **({"batch_dims": batch} if batch else {}),
    )


def scatter_nd(n: Net) -> str:
    """Whole slices written at distinct positions, as exporters write a roll."""
    opset = n.opset(11, 13, 16, 18)
    x = n.data(2, 3)
    if x.shape[0] == "n":
        x = n.x([3, *x.shape[1:]], x.axis)
    depth = n.int(1, x.rank)
    cells = int(np.prod(x.shape[:depth]))
    count = n.int(1, min(3, cells))
    index = np.stack(
        np.unravel_index(n.rng.permutation(cells)[:count], x.shape[:depth]), -1
    )
    shape = [count, *x.shape[depth:]]
    axis = x.axis - depth + 1
    updates = (
        n.x(shape, axis)
        if axis > 0
        else n.x([*shape, 1][: max(len(shape), 2)], 0)
        if count > 1
        else None
    )
    if updates is None or updates.shape != shape:
        updates = n.b.weight(*shape, scale=1)
    more = {"reduction": n.pick("add", "mul")} if opset >= 16 and n.flag() else {}
    return n.op("ScatterND", x, n.b.const(index, np.int64), updates, **more)


def one_hot(n: Net) -> str:
    n.opset(9, 11)
    x = n.cast(n.data(1, 3, low=0.0, high=1.0), "int64")
    depth = n.int(2, 5)
    return n.op(
        "OneHot",
        x,
        n.b.const(np.int64(depth)),
        n.b.const([0, 1], np.float32),
        **n.maybe(axis=-1),
    )


# -- data of its own --------------------------------------------------------------------


def beside(n: Net, x: X, created: str) -> str:
    """What an operator makes, added to data."""
    return n.op("Add", x, created)


def source(op: str, n: Net) -> str:
    """Positions, windows and noise are as wide as they are: the data beside them stays too."""
    n.opset(17)
    x = n.x([2, n.int(3, 6)])
    size = n.b.const(np.int64(x.c))
    if op == "Range":
        return beside(
            n,
            x,
            n.op(
                op,
                n.b.const(0, np.float32),
                n.b.const(x.c, np.float32),
                n.b.const(1, np.float32),
            ),
        )
    if op == "EyeLike":
        return beside(n, x, n.op(op, x, **n.maybe(k=1)))
    if op == "MelWeightMatrix":
        numbers = [n.b.const(np.int64(v)) for v in (x.c, 8, 8000)]
        created = n.op(op, *numbers, n.b.const(10, np.float32), n.b.const(4000, np.float32))
        return n.op("Add", x, n.op("ReduceMean", created, axes=[0], keepdims=0))
    if op in ("RandomNormal", "RandomUniform"):
        return beside(n, x, n.op(op, shape=x.shape, seed=3.0))
    if op == "Bernoulli":
        return beside(n, x, n.op(op, n.op("Sigmoid", x), seed=3.0))
    if op in ("RandomNormalLike", "RandomUniformLike"):
        return beside(n, x, n.op(op, x, seed=3.0))
    return beside(n, x, n.op(op, size))


SOURCES = (
    "Bernoulli",
    "BlackmanWindow",
    "EyeLike",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Range",
    "HannWindow",
    "HammingWindow",
    "MelWeightMatrix",
)


def block_gather(n: Net) -> str:
    """Rows of a table of 4 or 8 bits, picked by numbers that a graph input holds, added to what a layer makes."""
    rows, block, blocks, bits = n.int(3, 6), 16, n.int(1, 2), n.pick(4, 8)
    batch = "n" if n.symbolic else 2
    data = n.x([batch, 3, block * blocks], -1)
    ids = n.b.input(batch, 3, name="ids", kind=7)
    codes = n.rng.integers(0, 256, (rows, block * blocks * bits // 8))
    scales = n.rng.uniform(0.01, 0.1, (rows, blocks))
    packed = [n.b.const(codes, np.uint8), ids, n.b.const(scales, np.float32)]
    given = {"bits": bits, "block_size": block, "quantize_axis": 1, "gather_axis": 0}
    rows_of = n.op("GatherBlockQuantized", *packed, domain=MS, **given)
    return n.op("Add", data, rows_of)


CASES: dict[tuple[str, str], Case] = {
    **{("", op): partial(source, op) for op in SOURCES},
    **{("", op): partial(cumulative, op) for op in ("CumSum", "CumProd")},
    **{("", op): partial(scatter_elements, op) for op in ("ScatterElements", "Scatter")},
    ("", "GatherElements"): gather_elements,
    ("", "GatherND"): gather_nd,
    ("", "OneHot"): one_hot,
    ("", "ScatterND"): scatter_nd,
    ("", "TopK"): top_k,
    ("", "Trilu"): trilu,
    (MS, "GatherBlockQuantized"): block_gather,
    (MS, "GatherND"): partial(gather_nd, domain=MS),
    (MS, "Trilu"): partial(trilu, domain=MS),
}
