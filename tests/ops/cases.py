"""Random cases of elementwise operators, reductions, normalisations and pooling. See `tests.ops.networks`."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx

from tests.ops.networks import MS, Case, Net, X

# -- elementwise ----------------------------------------------------------------------

#: Operator: lowest and highest input (None: any number), opsets, attributes and their ranges.
UNARY = {
    "Abs": (None, 1, (13,), {}),
    "Acos": (-0.9, 0.9, (13,), {}),
    "Acosh": (1.1, 4, (13,), {}),
    "Asin": (-0.9, 0.9, (13,), {}),
    "Asinh": (None, 1, (13,), {}),
    "Atan": (None, 1, (13,), {}),
    "Atanh": (-0.9, 0.9, (13,), {}),
    "Ceil": (-4, 4, (13,), {}),
    "Celu": (None, 1, (13,), {"alpha": (0.5, 2)}),
    "Cos": (None, 1, (13,), {}),
    "Cosh": (None, 1, (13,), {}),
    "Elu": (None, 1, (13, 22), {"alpha": (0.5, 2)}),
    "Erf": (None, 1, (13,), {}),
    "Exp": (None, 1, (13,), {}),
    "Floor": (-4, 4, (13,), {}),
    "HardSigmoid": (None, 1, (13, 22), {"alpha": (0.1, 0.4), "beta": (0.3, 0.7)}),
    "HardSwish": (None, 1, (14, 22), {}),
    "Identity": (None, 1, (13, 21), {}),
    "LeakyRelu": (None, 1, (13, 16), {"alpha": (0.01, 0.5)}),
    "Log": (0.2, 4, (13,), {}),
    "Mish": (None, 1, (18, 22), {}),
    "Neg": (None, 1, (13,), {}),
    "Reciprocal": (0.3, 2, (13,), {}),
    "Relu": (None, 1, (13, 14), {}),
    "Round": (-4, 4, (13,), {}),
    "Selu": (None, 1, (13,), {"alpha": (1, 2), "gamma": (1, 2)}),
    "Shrink": (None, 1, (13,), {"bias": (0, 0.5), "lambd": (0.1, 0.6)}),
    "Sigmoid": (None, 1, (13,), {}),
    "Sign": (None, 1, (13,), {}),
    "Sin": (None, 1, (13,), {}),
    "Sinh": (None, 1, (13,), {}),
    "Swish": (None, 1, (24,), {"alpha": (0.5, 2)}),
    "Softplus": (None, 1, (13, 22), {}),
    "Softsign": (None, 1, (13, 22), {}),
    "Sqrt": (0.1, 4, (13,), {}),
    "Tan": (-1, 1, (13,), {}),
    "Tanh": (None, 1, (13,), {}),
    "ThresholdedRelu": (None, 1, (13,), {"alpha": (0.1, 0.6)}),
}


def unary(op: str, n: Net) -> str:
    low, high, opsets, ranges = UNARY[op]
    n.opset(*opsets)
    attributes = n.maybe(**{name: n.float(*bounds) for name, bounds in ranges.items()})
    return n.op(op, n.data(1, 5, low=low, high=high), **attributes)


def gelu(n: Net) -> str:
    n.opset(20)
    return n.op("Gelu", n.data(1, 5), **n.maybe(approximate=n.pick("none", "tanh")))


def clip(n: Net) -> str:
    low, high = n.float(-1, 0), n.float(0.2, 1)
    if n.opset(9, 11, 13) < 11:
        return n.op("Clip", n.data(), **n.maybe(min=low, max=high))
    bounds = [n.b.const(v, np.float32) if n.flag() else None for v in (low, high)]
    return n.op("Clip", n.data(), *bounds)


def dropout(n: Net) -> str | list[str]:
    """Inference; the mask may be asked for."""
    if n.opset(10, 12, 13, 22) < 12:
        return n.op("Dropout", n.data(), **n.maybe(ratio=0.3))
    ratio = n.b.const(0.3, np.float32) if n.flag() else None
    training = n.b.const(False, np.bool_) if n.flag() else None
    if n.flag():
        return n.ops("Dropout", n.data(), ratio, training, outputs=2)
    return n.op("Dropout", n.data(), ratio, training)


def cast(n: Net) -> str:
    n.opset(13, 19)
    kind = n.pick("FLOAT16", "DOUBLE", "INT32", "INT64", "UINT8", "BOOL")
    x = n.data(low=0.0, high=9.0)
    return n.op("Cast", x, to=getattr(onnx.TensorProto, kind))


def cast_like(n: Net) -> str:
    """The type may come from data whose channels stay."""
    n.opset(15, 19)
    kind = n.pick(np.float16, np.int32)
    return n.op(
        "CastLike", n.data(low=0.0, high=9.0), n.b.const(np.zeros(n.int(1, 3)), kind)
    )


def logical_not(n: Net) -> str:
    return n.op("Not", n.cast(n.data(), "bool"))


def bitwise_not(n: Net) -> str:
    n.opset(18)
    return n.op("BitwiseNot", n.cast(n.data(), n.pick("int32", "uint8")))


def is_nan(n: Net) -> str:
    """The square root of half the numbers."""
    return n.op("IsNaN", n.b.op("Sqrt", n.data().name))


def is_inf(n: Net) -> str:
    x = n.b.op("Reciprocal", n.b.op("Relu", n.data().name))
    return n.op("IsInf", x, **n.maybe(detect_negative=n.int(0, 1), detect_positive=1))


#: Operator: lowest and highest input, how many operands, opsets.
NARY = {
    "Add": (None, 1, 2, (13, 14)),
    "Sub": (None, 1, 2, (13, 14)),
    "Mul": (None, 1, 2, (13, 14)),
    "Div": (0.3, 1, 2, (13, 14)),
    "Pow": (0.3, 1, 2, (13, 15)),
    "Min": (None, 1, 3, (8, 13)),
    "Max": (None, 1, 3, (8, 13)),
    "Sum": (None, 1, 3, (8, 13)),
    "Mean": (None, 1, 3, (8, 13)),
    "Less": (None, 1, 2, (13,)),
    "LessOrEqual": (None, 1, 2, (12, 16)),
    "Greater": (None, 1, 2, (13,)),
    "GreaterOrEqual": (None, 1, 2, (12, 16)),
}


def nary(op: str, n: Net) -> str:
    """Operands that broadcast in every way, in any order."""
    low, high, most, opsets = NARY[op]
    n.opset(*opsets)
    x = n.data(1, 5, low=low, high=high)
    operands = [
        x,
        *(n.like(x, wide=True, low=low, high=high) for _ in range(n.int(1, most - 1))),
    ]
    return n.op(op, *n.draw_order(operands))


def mod(n: Net) -> str:
    x = n.data(low=1.0, high=9.0)
    if n.flag():
        return n.op("Mod", x, n.like(x, low=2.0, high=5.0), fmod=1)
    return n.op(
        "Mod", n.cast(x, "int32"), n.cast(n.like(x, low=2.0, high=5.0), "int32", 1, 1)
    )


def logical(op: str, n: Net) -> str:
    x = n.data()
    a, b = (n.cast(v, "bool") for v in (x, n.like(x, weight=False)))
    return n.op(op, *((a, b) if n.flag() else (b, a)))


def equal(n: Net) -> str:
    x = n.data()
    return n.op("Equal", n.cast(x, "int32"), n.cast(n.like(x), "int32"))


def bitwise(op: str, n: Net) -> str:
    n.opset(18)
    x = n.data()
    return n.op(op, n.cast(x, "uint8"), n.cast(n.like(x, weight=False), "uint8"))


def bit_shift(n: Net) -> str:
    x = n.data()
    shift = n.cast(n.like(x, low=0.1, high=0.9), "uint8")
    return n.op("BitShift", n.cast(x, "uint8"), shift, direction=n.pick("LEFT", "RIGHT"))


def where(n: Net) -> str:
    n.opset(9, 16)
    x = n.data()
    condition = n.cast(n.like(x, wide=True), "bool")
    return n.op("Where", condition, *n.draw_order([x, n.like(x, wide=True)]))


def prelu(n: Net) -> str:
    """The slope is a weight mostly, and stretches to the data."""
    n.opset(9, 16)
    x = n.data()
    return n.op("PRelu", x, n.like(x))


# -- reductions -----------------------------------------------------------------------

#: Reductions that take their axes from an input since opset 13, others since 18.
REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)


def reduction(op: str, n: Net) -> str:
    since = 13 if op == "ReduceSum" else 18
    opset = n.opset(11, 13, 18)
    x: X = n.data(2, 5, low=0.2, high=2.0)
    axes = n.axes(x.rank) if n.pick(True, True, False) else []
    keep = n.maybe(keepdims=n.int(0, 1))
    if op in ("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceMean") and n.pick(
        True, False, False, False
    ):
        x.name = n.cast(x, "int32")
    if opset < since:
        return n.op(op, x, **({"axes": axes} if axes else {}), **keep)
    empty = n.maybe(noop_with_empty_axes=n.int(0, 1))
    given = n.ints(*axes) if axes or n.flag() else None
    return n.op(op, x, given, **keep, **empty)


def arg(op: str, n: Net) -> str:
    n.opset(12, 13)
    x = n.data(2, 4)
    axis = n.axis(n.int(0, x.rank - 1), x.rank)
    return n.op(
        op, x, **n.maybe(axis=axis, keepdims=n.int(0, 1), select_last_index=n.int(0, 1))
    )


# -- normalisations -------------------------------------------------------------------


def per_channel(n: Net, x: X, count: int) -> list[str]:
    """Positive parameters for the second axis."""
    return [
        n.b.const(n.rng.uniform(0.5, 1.5, x.shape[1]), np.float32) for _ in range(count)
    ]


def batch_norm(n: Net) -> str | list[str]:
    """What a layer makes may also lie along an axis whose elements are normalised together."""
    n.least = 2
    opset = n.opset(9, 14, 15)
    x = n.data(2, 5, axes=(1, 1, 2))
    scale, bias, mean, variance = per_channel(n, x, 4)
    attributes = n.maybe(epsilon=1e-3)
    if opset >= 14 and n.flag():
        attributes |= {"training_mode": 1, **n.maybe(momentum=n.float(0, 1))}
        return n.ops(
            "BatchNormalization", x, scale, bias, mean, variance, outputs=3, **attributes
        )
    return n.op("BatchNormalization", x, scale, bias, mean, variance, **attributes)


def instance_norm(n: Net) -> str:
    n.least = 2
    n.opset(9, 22)
    x = n.data(3, 5, axes=(1, 1, 2))
    return n.op("InstanceNormalization", x, *per_channel(n, x, 2), **n.maybe(epsilon=1e-3))


def group_norm(n: Net) -> str:
    """Parameters for groups (opset 18) or channels (21)."""
    n.least = 2
    groups, each = n.int(1, 4), n.int(1, 4)
    per_channel = n.opset(18, 21) >= 21
    x = n.image(groups * each if groups * each > 1 else 4)
    groups = groups if x.c == groups * each else 2
    scale, bias = (
        n.b.const(n.rng.uniform(0.5, 1.5, x.c if per_channel else groups), np.float32)
        for _ in range(2)
    )
    return n.op(
        "GroupNormalization", x, scale, bias, num_groups=groups, **n.maybe(epsilon=1e-3)
    )


LAYER_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")


def layer_norm(op: str, n: Net) -> str | list[str]:
    """Normalised from any axis on; parameters may have fewer axes or sizes of 1; statistics may be asked for."""
    n.least = 2
    n.opset(*((23,) if op == "RMSNormalization" else (17,)))
    x = n.data(2, 4)
    axis = n.int(1 if x.shape[0] == "n" else 0, x.rank - 1)
    sizes = x.shape[axis:]
    scale = n.b.const(n.rng.uniform(0.5, 1.5, sizes), np.float32)
    bias = n.b.weight(*sizes) if op == "LayerNormalization" and n.flag() else None
    attributes = {"axis": n.axis(axis, x.rank), **n.maybe(epsilon=1e-3)}
    most = {"LayerNormalization": 3, "SimplifiedLayerNormalization": 2}.get(op, 1)
    if most > 1 and n.flag():
        return n.ops(op, x, scale, bias, outputs=most, **attributes)
    return n.op(op, x, scale, bias, **attributes)


def lp_norm(n: Net) -> str:
    x = n.data(2, 4)
    return n.op(
        "LpNormalization",
        x,
        **n.maybe(axis=n.axis(n.int(0, x.rank - 1), x.rank), p=n.int(1, 2)),
    )


def mean_variance(n: Net) -> str:
    n.least = 2
    n.opset(9, 13)
    x = n.image(dims=(2,))
    return n.op(
        "MeanVarianceNormalization",
        x,
        **n.maybe(axes=n.pick([0, 2, 3], [2, 3], [0, 1, 2, 3], [1, 2, 3])),
    )


def lrn(n: Net) -> str:
    return n.op(
        "LRN",
        n.image(dims=(2,)),
        size=n.pick(1, 3, 5),
        **n.maybe(alpha=0.1, beta=0.5, bias=2.0),
    )


def softmax(op: str, n: Net) -> str:
    """Before opset 13 all axes from `axis` on are one."""
    opset = n.opset(11, 13)
    x = n.data(2, 4)
    axis = n.int(0 if opset >= 13 else 1, x.rank - 1)
    return n.op(op, x, **n.maybe(axis=n.axis(axis, x.rank)))


# -- pooling and resizing -------------------------------------------------------------


def window(n: Net, dims: int) -> dict[str, object]:
    """Attributes of a sliding window over `dims` axes of size 4 or more."""
    k = [n.int(1, 3) for _ in range(dims)]
    result: dict[str, object] = {
        "kernel_shape": k,
        **n.maybe(strides=[n.int(1, min(2, size)) for size in k]),
    }
    if n.flag():
        result["pads"] = [n.int(0, size // 2) for size in k] + [
            n.int(0, size // 2) for size in k
        ]
    elif n.flag():
        result = {
            "kernel_shape": k,
            "auto_pad": n.pick("SAME_UPPER", "SAME_LOWER", "VALID"),
        }
    return result


def max_pool(n: Net) -> str | list[str]:
    n.opset(10, 12)
    x = n.image(size=(5, 7))
    attributes = {**window(n, x.rank - 2), **n.maybe(ceil_mode=1)}
    if "auto_pad" not in attributes and n.flag():
        attributes["dilations"] = [n.int(1, 2) for _ in range(x.rank - 2)]
    if n.pick(True, False, False):
        return n.ops("MaxPool", x, outputs=2, **attributes)
    return n.op("MaxPool", x, **attributes)


def average_pool(n: Net) -> str:
    n.opset(10, 19)
    x = n.image()
    return n.op(
        "AveragePool",
        x,
        **window(n, x.rank - 2),
        **n.maybe(count_include_pad=1, ceil_mode=1),
    )


def lp_pool(n: Net) -> str:
    n.opset(11, 18)
    x = n.image()
    return n.op("LpPool", x, **window(n, x.rank - 2), **n.maybe(p=n.int(1, 3)))


def global_pool(op: str, n: Net) -> str:
    attributes = n.maybe(p=n.int(1, 3)) if op == "GlobalLpPool" else {}
    return n.op(op, n.image(), **attributes)


def resize(n: Net) -> str:
    """Channels first or last; by scales or sizes, of all axes or of some."""
    opset = n.opset(11, 13, 18, 19)
    x = n.image(size=(3, 5))
    if n.flag():
        x = n.x([x.shape[0], *x.shape[2:], x.c], x.rank - 1)
    mode = n.pick(
        *{3: ["nearest"], 4: ["nearest", "linear"], 5: ["nearest"]}[x.rank],
        *["cubic"] * (x.rank == 4 and x.axis == 1),
    )
    space = [a for a in range(1, x.rank) if a != x.axis]
    coordinates = n.pick("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel")
    attributes = {"mode": mode, **n.maybe(coordinate_transformation_mode=coordinates)}
    if mode == "nearest":
        attributes |= n.maybe(nearest_mode=n.pick("floor", "ceil", "round_prefer_ceil"))
    axes = list(range(x.rank))
    if opset >= 18 and n.flag():
        axes = attributes["axes"] = n.pick(
            space, [x.axis, *space] if x.axis == 1 else [*space, x.axis]
        )
    empty = n.b.const([], np.float32) if opset < 13 else None
    if n.flag() or (x.shape[0] == "n" and 0 in axes):
        scales = [n.pick(0.5, 1.0, 1.5, 2.0) if a in space else 1.0 for a in axes]
        return n.op("Resize", x, empty, n.b.const(scales, np.float32), **attributes)
    if "axes" in attributes and axes == space:
        attributes |= n.maybe(keep_aspect_ratio_policy=n.pick("not_larger", "not_smaller"))
    sizes = [n.int(2, 8) if a in space else x.shape[a] for a in axes]
    return n.op("Resize", x, empty, empty, n.ints(*sizes), **attributes)


def upsample(n: Net) -> str:
    """Scales were an attribute before opset 9."""
    opset = n.opset(8, 9)
    scales = [1.0, 1.0, n.pick(1.0, 2.0), n.pick(1.0, 2.0)]
    x, mode = n.image(dims=(2,)), n.maybe(mode=n.pick("nearest", "linear"))
    if opset < 9:
        return n.op("Upsample", x, scales=scales, **mode)
    return n.op("Upsample", x, n.b.const(scales, np.float32), **mode)


def fused_activation(op: str, n: Net) -> str:
    attributes = n.maybe(alpha=n.float(0.5, 2)) if op == "QuickGelu" else {}
    return n.op(op, n.data(), domain=MS, **attributes)


def bias_gelu(op: str, n: Net) -> str:
    x: X = n.data(2, 4)
    x = (
        n.x([*x.shape[: x.axis], *x.shape[x.axis + 1 :], x.c], x.rank - 1)
        if x.axis != x.rank - 1
        else x
    )
    bias = n.b.weight(x.c) if op == "BiasGelu" or n.flag() else None
    return n.op(op, x, bias, domain=MS)


CASES: dict[tuple[str, str], Case] = {
    **{("", op): partial(unary, op) for op in UNARY},
    **{("", op): partial(nary, op) for op in NARY},
    **{("", op): partial(logical, op) for op in ("And", "Or", "Xor")},
    **{("", op): partial(bitwise, op) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")},
    **{("", op): partial(reduction, op) for op in REDUCTIONS},
    **{("", op): partial(arg, op) for op in ("ArgMax", "ArgMin")},
    **{("", op): partial(layer_norm, op) for op in LAYER_NORMS},
    **{("", op): partial(softmax, op) for op in ("Softmax", "LogSoftmax", "Hardmax")},
    **{
        ("", op): partial(global_pool, op)
        for op in ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")
    },
    **{(MS, op): partial(fused_activation, op) for op in ("Gelu", "QuickGelu")},
    **{(MS, op): partial(bias_gelu, op) for op in ("BiasGelu", "FastGelu")},
    ("", "AveragePool"): average_pool,
    ("", "BatchNormalization"): batch_norm,
    ("", "BitShift"): bit_shift,
    ("", "BitwiseNot"): bitwise_not,
    ("", "Cast"): cast,
    ("", "CastLike"): cast_like,
    ("", "Clip"): clip,
    ("", "Dropout"): dropout,
    ("", "Equal"): equal,
    ("", "Gelu"): gelu,
    ("", "GroupNormalization"): group_norm,
    ("", "InstanceNormalization"): instance_norm,
    ("", "IsInf"): is_inf,
    ("", "IsNaN"): is_nan,
    ("", "LRN"): lrn,
    ("", "LpNormalization"): lp_norm,
    ("", "LpPool"): lp_pool,
    ("", "MaxPool"): max_pool,
    ("", "MeanVarianceNormalization"): mean_variance,
    ("", "Mod"): mod,
    ("", "Not"): logical_not,
    ("", "PRelu"): prelu,
    ("", "Resize"): resize,
    ("", "Upsample"): upsample,
    ("", "Where"): where,
}
