"""Random cases of operators that move data, look along axes, or make data of their own."""

from __future__ import annotations

import numpy as np
import onnx

from tests.ops.networks import Case, Net, X

# -- reshaping ------------------------------------------------------------------------


def divisors(size: int) -> list[int]:
    return [d for d in range(1, size + 1) if size % d == 0]


def regrouped(n: Net, shape: list[int]) -> list[int]:
    """Another shape of the same size: axes split and merged at random."""
    parts: list[int] = []
    for size in shape:
        first = n.pick(*divisors(size))
        parts += [first, size // first] if n.flag() else [size]
    result = [parts[0]]
    for size in parts[1:]:
        if n.flag():
            result[-1] *= size
        else:
            result.append(size)
    return result


def reshape(n: Net) -> str:
    """Through another shape, where something elementwise may happen, and on to a third."""
    n.opset(13, 14, 19)
    x = n.data(2, 4)
    batch = x.shape[0] == "n"
    y = x.name
    for _ in range(n.int(1, 3)):
        target = regrouped(n, x.shape[1:] if batch else x.shape)
        sizes = [*([n.pick(0, -1)] if batch else []), *target]
        if not batch and n.flag():
            sizes[n.int(0, len(sizes) - 1)] = -1
        y = n.op(
            "Reshape",
            y,
            runtime(n, y, sizes) if n.pick(True, False, False) else n.ints(*sizes),
        )
        if n.flag():
            y = n.op("Mul", y, n.b.weight(*target, scale=1))
    return y


def runtime(n: Net, value: str, sizes: list[int]) -> str:
    """The sizes computed by shape arithmetic: the first one from the value's own shape, if that says the same."""
    if sizes[0] != 0:
        return n.op("Concat", *(n.ints(size) for size in sizes), axis=0)
    first = n.op("Gather", n.op("Shape", value), n.ints(0), axis=0)
    return n.op("Concat", first, *(n.ints(size) for size in sizes[1:]), axis=0)


def flatten(n: Net) -> str:
    x = n.data(2, 5)
    axis = n.int(1 if x.shape[0] == "n" else 0, x.rank)
    return n.op("Flatten", x, axis=axis - x.rank if n.flag() and axis < x.rank else axis)


def squeeze(n: Net) -> str:
    """Axes of size 1, named or all of them; an attribute before opset 13."""
    opset = n.opset(11, 13, 21)
    x = n.data(2, 4)
    axis = x.axis + 1
    shape = [*x.shape]
    for _ in range(n.int(1, 2)):
        at = n.int(1, len(shape))
        shape.insert(at, 1)
        axis += at < axis
    x = n.x(shape, axis - 1)
    ones = [a for a, size in enumerate(shape) if size == 1]
    axes = n.axes(len(shape), of=ones)
    if opset < 13:
        return n.op("Squeeze", x, **n.maybe(axes=axes))
    return n.op("Squeeze", x, n.ints(*axes) if n.flag() else None)


def unsqueeze(n: Net) -> str:
    opset = n.opset(11, 13, 21)
    x = n.data(1, 4)
    rank = x.rank + n.int(1, 2)
    axes = n.axes(rank, of=range(1, rank))[: rank - x.rank]
    axes += [a for a in range(rank) if a not in axes and a - rank not in axes][
        : rank - x.rank - len(axes)
    ]
    return (
        n.op("Unsqueeze", x, axes=axes)
        if opset < 13
        else n.op("Unsqueeze", x, n.ints(*axes))
    )


def transpose(n: Net) -> str:
    x = n.data(2, 5)
    return n.op("Transpose", x, **n.maybe(perm=n.perm(x.rank)))


# -- stretching -----------------------------------------------------------------------


def expand(n: Net) -> str:
    """Data stretched, or a constant stretched to the channels of data beside it."""
    x = n.data(2, 4)
    if n.flag():
        sizes = [1 if size == "n" else size for size in x.shape]
        pruned = n.b.weight(*(size if n.flag() else 1 for size in sizes), scale=1)
        return n.op("Mul", x, n.op("Expand", pruned, n.ints(*sizes)))
    target = [
        1 if size == "n" or n.flag() else size if size > 1 else n.int(1, 3)
        for size in x.shape
    ]
    return n.op("Expand", x, n.ints(*[n.int(1, 2)] * n.flag(), *target))


def constant_of_shape(n: Net) -> str:
    n.opset(9, 20)
    x = n.data(2, 4)
    start = n.int(1, x.axis) if x.axis else 0
    value = (
        {}
        if n.flag()
        else {"value": onnx.numpy_helper.from_array(np.asarray([0.5], np.float32))}
    )
    shape = n.ints(*x.shape[start:])
    if n.b.opset >= 15 and n.flag():
        shape = n.op("Shape", x, start=start)
    return n.op("Add", x, n.op("ConstantOfShape", shape, **value))


def tile(n: Net) -> str:
    x = n.data(2, 4)
    return n.op("Tile", x, n.ints(*(n.int(1, 3) for _ in range(x.rank))))


# -- picking --------------------------------------------------------------------------


def bounds(n: Net, size: int) -> tuple[int, int, int]:
    """Start, end and step of a slice that is not empty, as people write them."""
    step = n.pick(1, 1, 1, 2, 3, -1, -2)
    if step > 0:
        start = n.int(0, size - 1)
        end = n.pick(n.int(start + 1, size), 2**31 - 1, size + 5)
    else:
        start = n.int(0, size - 1)
        end = n.pick(-(2**31) - 1, -size - 5, *([n.int(0, start - 1)] if start else []))
    return n.pick(start, start - size), end, step


def slice_(n: Net) -> str:
    """Attributes before opset 10 (without steps), inputs since."""
    opset = n.opset(9, 11, 13)
    x = n.data(1, 4)
    axes = [
        a for a in dict.fromkeys(a % x.rank for a in n.axes(x.rank)) if x.shape[a] != "n"
    ] or [x.axis]
    starts, ends, steps = (
        list(part) for part in zip(*(bounds(n, x.shape[a]) for a in axes), strict=True)
    )
    if opset < 10:
        pairs = [
            (s, e, a) for s, e, t, a in zip(starts, ends, steps, axes, strict=True) if t > 0
        ] or [(0, 2, x.axis)]
        starts, ends, axes = (list(part) for part in zip(*pairs, strict=True))
        return n.op("Slice", x, starts=starts, ends=ends, axes=axes)
    given = [n.axis(a, x.rank) for a in axes]
    if axes == list(range(len(axes))) and min(steps) > 0 and n.flag():
        return n.op("Slice", x, n.ints(*starts), n.ints(*ends))
    return n.op("Slice", x, n.ints(*starts), n.ints(*ends), n.ints(*given), n.ints(*steps))


def gather(n: Net) -> str:
    """Positions on any axis, as a scalar, a list or a table; or rows of an embedding."""
    n.opset(11, 13)
    if n.pick(True, False, False):
        table = n.b.weight(6, n.int(3, 6), scale=1)
        return n.op("Gather", table, n.cast(n.data(1, 3, low=0.0, high=1.0), "int64"))
    x = n.data(1, 4)
    axes = [a for a, size in enumerate(x.shape) if size != "n"]
    axis = n.pick(x.axis, *axes)
    size = x.shape[axis]
    shape = n.pick([], [n.int(1, 6)], [1, n.int(1, 3)], [2, 2])
    index = n.b.const(
        np.reshape([n.int(-size, size - 1) for _ in range(int(np.prod(shape)))], shape),
        np.int64,
    )
    return n.op("Gather", x, index, axis=n.axis(axis, x.rank))


def concat(n: Net) -> str:
    """Data with other sizes along one axis, data again, or constants."""
    x = n.data(1, 4)
    axis = n.pick(x.axis, x.axis, *[a for a, size in enumerate(x.shape) if size != "n"])
    parts: list[X | str] = [x]
    for _ in range(n.int(0, 2)):
        shape = list(x.shape)
        shape[axis] = n.int(2, 6) if axis == x.axis else n.int(1, 3)
        kind = n.pick("data", "again", "constant")
        if kind == "constant" and "n" not in shape:
            parts.append(n.b.weight(*shape, scale=1))
        else:
            parts.append(x if kind == "again" else n.x(shape, x.axis))
    return n.op("Concat", *n.draw_order(parts), axis=n.axis(axis, x.rank))


def split_of(n: Net, x: X, axis: int) -> list[int]:
    """Sizes that an axis is split into."""
    size = int(x.shape[axis])
    cuts = sorted({n.int(1, size - 1) for _ in range(n.int(1, 2))}) if size > 1 else []
    return [b - a for a, b in zip([0, *cuts], [*cuts, size], strict=True)]


def split(n: Net) -> list[str]:
    """Named sizes, equal parts, or (since opset 18) a number of parts."""
    opset = n.opset(11, 13, 18)
    x = n.data(1, 4)
    axis = n.pick(x.axis, *[a for a, size in enumerate(x.shape) if size != "n"])
    at = n.axis(axis, x.rank)
    if opset >= 18 and n.flag():
        count = n.int(1, x.shape[axis])
        if -(-x.shape[axis] // -(-x.shape[axis] // count)) == count:
            return n.ops("Split", x, outputs=count, axis=at, num_outputs=count)
    sizes = split_of(n, x, axis)
    if opset < 13:
        return n.ops("Split", x, outputs=len(sizes), axis=at, split=sizes)
    return n.ops("Split", x, n.ints(*sizes), outputs=len(sizes), axis=at)


def sequence(n: Net) -> list[str]:
    """Split to a sequence, whose elements are read in any order."""
    x = n.data(1, 4)
    axis = n.pick(x.axis, *[a for a, size in enumerate(x.shape) if size != "n"])
    at = n.axis(axis, x.rank)
    kind = n.pick("sizes", "size", "ones", "squeezed")
    if kind == "sizes":
        parts = split_of(n, x, axis)
        sequence, count = n.op("SplitToSequence", x, n.ints(*parts), axis=at), len(parts)
    elif kind == "size":
        size = n.int(1, x.shape[axis])
        sequence = n.op("SplitToSequence", x, n.b.const(np.int64(size)), axis=at)
        count = -(-x.shape[axis] // size)
    else:
        keep = {"keepdims": 0} if kind == "squeezed" and x.rank > 1 else {}
        sequence, count = n.op("SplitToSequence", x, axis=at, **keep), x.shape[axis]
    index = [n.axis(n.int(0, count - 1), count) for _ in range(n.int(1, 3))]
    return [n.op("SequenceAt", sequence, n.b.const(np.int64(i))) for i in index]


def pad(n: Net) -> str:
    """Every axis before and after; an attribute before opset 11, some axes since 18."""
    opset = n.opset(10, 11, 13, 18, 21)
    x = n.data(1, 4)
    mode = n.pick("constant", "constant", "reflect", "edge")
    sizes = [1 if size == "n" else size for size in x.shape]
    most = [min(2, size - 1) if mode == "reflect" else 2 for size in sizes]
    least = [-1 if size > 2 and mode == "constant" else 0 for size in sizes]
    before, after = (
        [n.int(*ends) if n.flag() else 0 for ends in zip(least, most, strict=True)]
        for _ in range(2)
    )
    value = n.float(-1, 1) if mode == "constant" and n.flag() else 0.0
    if opset < 11:
        return n.op("Pad", x, pads=[*before, *after], mode=mode, **n.maybe(value=value))
    fill = n.b.const(value, np.float32) if value else None
    if opset >= 18 and n.flag():
        axes = list(dict.fromkeys(a % x.rank for a in n.axes(x.rank)))
        pads = n.ints(*(before[a] for a in axes), *(after[a] for a in axes))
        return n.op(
            "Pad", x, pads, fill, n.ints(*(n.axis(a, x.rank) for a in axes)), mode=mode
        )
    return n.op("Pad", x, n.ints(*before, *after), fill, mode=mode)


def depth_to_space(n: Net) -> str:
    n.opset(11, 13)
    block = n.int(1, 3)
    x = n.image(n.int(1, 3) * block**2 if block > 1 else 4, dims=(2,), size=(1, 3))
    return n.op("DepthToSpace", x, blocksize=block, **n.maybe(mode=n.pick("DCR", "CRD")))


def space_to_depth(n: Net) -> str:
    block = n.int(1, 3)
    x = n.x(
        ["n" if n.symbolic else 1, n.int(2, 5), block * n.int(1, 2), block * n.int(1, 2)]
    )
    return n.op("SpaceToDepth", x, blocksize=block)


def col2im(n: Net) -> str:
    n.opset(18)
    c, block, image = n.int(2, 4), [n.int(1, 3), n.int(1, 2)], [n.int(3, 5), n.int(3, 5)]
    columns = (image[0] - block[0] + 1) * (image[1] - block[1] + 1)
    x = n.x(["n" if n.symbolic else 2, c * block[0] * block[1], columns])
    return n.op("Col2Im", x, n.ints(*image), n.ints(*block))


CASES: dict[tuple[str, str], Case] = {
    ("", "Col2Im"): col2im,
    ("", "Concat"): concat,
    ("", "ConstantOfShape"): constant_of_shape,
    ("", "DepthToSpace"): depth_to_space,
    ("", "Expand"): expand,
    ("", "Flatten"): flatten,
    ("", "Gather"): gather,
    ("", "Pad"): pad,
    ("", "Reshape"): reshape,
    ("", "SequenceAt"): sequence,
    ("", "Slice"): slice_,
    ("", "SpaceToDepth"): space_to_depth,
    ("", "Split"): split,
    ("", "SplitToSequence"): sequence,
    ("", "Squeeze"): squeeze,
    ("", "Tile"): tile,
    ("", "Transpose"): transpose,
    ("", "Unsqueeze"): unsqueeze,
}
