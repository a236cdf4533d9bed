"""Random cases of operators that are layers themselves: convolution, products, recurrence, fused and quantized ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tests.ops.networks import MS, Case, Net, X

# -- convolution ----------------------------------------------------------------------


def windows(n: Net, dims: int, dilated: bool = True) -> tuple[list[int], dict[str, Any]]:
    """A kernel that fits 5 or more elements, and attributes."""
    k = [n.int(1, 3) for _ in range(dims)]
    result: dict[str, Any] = n.maybe(kernel_shape=k, strides=[n.int(1, 2) for _ in k])
    if n.flag():
        result["pads"] = [n.int(0, 1) for _ in range(2 * dims)]
    elif n.flag() and "strides" not in result:
        result["auto_pad"] = n.pick("SAME_UPPER", "SAME_LOWER", "VALID")
    if dilated and "auto_pad" not in result:
        result |= n.maybe(dilations=[n.int(1, 2) for _ in k])
    return k, result


def groups_of(n: Net) -> tuple[int, int, int]:
    """Groups, input and output channels of each: none, depthwise (also with a multiplier), or any."""
    kind = n.pick("none", "depthwise", "grouped")
    if kind == "none":
        return 1, n.int(3, 6), n.int(2, 6)
    if kind == "depthwise":
        return n.int(3, 6), 1, n.int(1, 2)
    return n.int(2, 3), n.int(2, 3), n.int(2, 3)


def conv(n: Net) -> str:
    n.opset(11, 22)
    g, i, o = groups_of(n)
    x = n.image(g * i, size=(5, 6))
    k, attributes = windows(n, x.rank - 2)
    bias = n.b.weight(g * o) if n.flag() else None
    group = {"group": g} if g > 1 or n.flag() else {}
    return n.op("Conv", x, n.b.weight(g * o, i, *k), bias, **group, **attributes)


def fused_conv(n: Net) -> str:
    """A convolution with a sum and an activation in it."""
    g, i, o = groups_of(n)
    x = n.image(g * i, dims=(2,), size=(5, 6))
    kind = n.pick("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip")
    params = {"LeakyRelu": [0.1], "Clip": [-0.5, 0.5]}.get(kind, [])
    attributes = {"activation": kind, **({"activation_params": params} if params else {})}
    bias, other = (n.b.weight(g * o) if n.flag() else None), None
    if n.flag():
        bias, other = n.b.weight(g * o), n.x([x.shape[0], g * o, *x.shape[2:]])
    return n.op(
        "FusedConv",
        x,
        n.b.weight(g * o, i, 1, 1),
        bias,
        other,
        domain=MS,
        group=g,
        **attributes,
    )


def conv_transpose(n: Net) -> str:
    n.opset(11, 22)
    g, i, o = groups_of(n)
    x = n.image(g * i, size=(3, 4))
    k, attributes = windows(n, x.rank - 2)
    attributes.pop("auto_pad", None)
    if "strides" in attributes and n.flag():
        attributes["output_padding"] = [stride - 1 for stride in attributes["strides"]]
    bias = n.b.weight(g * o) if n.flag() else None
    return n.op("ConvTranspose", x, n.b.weight(g * i, o, *k), bias, group=g, **attributes)


def deform_conv(n: Net) -> str:
    n.opset(19, 22)
    g, i, o = groups_of(n)
    offsets = n.pick(*[d for d in (1, 2, g) if g * i % d == 0])
    x = n.image(g * i, dims=(2,), size=(4, 5))
    k = n.pick(1, 2)
    where = [x.shape[0], offsets * k * k * 2, *(size - k + 1 for size in x.shape[2:])]
    mask = n.x([where[0], offsets * k * k, *where[2:]], low=0.1) if n.flag() else None
    bias = n.b.weight(g * o) if n.flag() else None
    weight = n.b.weight(g * o, i, k, k)
    attributes = {"group": g, "offset_group": offsets, "kernel_shape": [k, k]}
    return n.op(
        "DeformConv", x, weight, n.x(where, low=-0.6, high=0.6), bias, mask, **attributes
    )


def grid_sample(n: Net, domain: str = "") -> str:
    opset = 16 if domain else n.opset(16, 20, 22)
    x = n.image(dims=(2, 3) if opset >= 20 else (2,), size=(3, 4))
    dims = x.rank - 2
    grid = n.x([x.shape[0], *(n.int(1, 3) for _ in range(dims)), dims], dims + 1, low=-1.0)
    names = ("linear", "nearest") if opset >= 20 else ("bilinear", "nearest")
    cubic = [{16: "bicubic"}.get(opset, "cubic")] if dims == 2 else []
    mode, padding = n.pick(*names, *cubic), n.pick("zeros", "border", "reflection")
    return n.op(
        "GridSample",
        x,
        grid,
        domain=domain,
        **n.maybe(mode=mode, padding_mode=padding, align_corners=1),
    )


# -- products -------------------------------------------------------------------------


def operand(n: Net, shape: list[Any], kind: str) -> X | str:
    """Data with channels along any axis, or a weight."""
    if kind == "weight":
        return n.b.const(n.rng.standard_normal(shape) / 2, np.float32)
    axes = [axis for axis, size in enumerate(shape) if size != "n" and size > 1]
    return n.x(shape, n.pick(*axes))


KINDS = (("data", "weight"), ("weight", "data"), ("data", "data"))


def gemm(n: Net, domain: str = "") -> str:
    m, k, cols = (n.int(2, 5) for _ in range(3))
    a, b = n.pick(0, 1), n.pick(0, 1)
    first, second = n.pick(*KINDS)
    remaining = operand(n, [k, m] if a else [m, k], first)
    right = operand(n, [cols, k] if b else [k, cols], second)
    shape = n.pick([cols], [m, cols], [1, cols], [m, 1], [1], [], None)
    bias = (
        n.b.const(n.rng.standard_normal(shape), np.float32) if shape is not None else None
    )
    if shape in ([cols], [m, cols]) and n.flag():
        bias = n.x(shape, len(shape) - 1).name
    attributes = {"transA": a, "transB": b, **n.maybe(alpha=0.5, beta=n.pick(0.0, 0.5))}
    if domain:
        return n.op(
            "FusedGemm",
            remaining,
            right,
            bias,
            domain=domain,
            activation=n.pick("Relu", "Tanh"),
            **attributes,
        )
    return n.op("Gemm", remaining, right, bias, **attributes)


def matmul_shapes(n: Net, vectors: bool = True) -> tuple[list[Any], list[Any]]:
    """Shapes of two operands: vectors, matrices, or stacks that broadcast."""
    m, k, cols = (n.int(2, 5) for _ in range(3))
    batch = [n.int(2, 3) for _ in range(n.int(0, 2))]
    stacks = [
        [size if n.flag() else 1 for size in batch][n.int(0, len(batch)) :]
        for _ in range(2)
    ]
    remaining, right = [*stacks[0], m, k], [*stacks[1], k, cols]
    if vectors and n.pick(True, False, False, False):
        remaining = [k]
    elif vectors and n.pick(True, False, False, False):
        right = [k]
    return remaining, right


def matmul(n: Net) -> str:
    remaining, right = matmul_shapes(n)
    first, second = n.pick(*KINDS)
    if n.symbolic and len(remaining) > 1 and first == "data":
        remaining = ["n", *remaining[-2:]]
        right = right[-2:]
    return n.op("MatMul", operand(n, remaining, first), operand(n, right, second))


def fused_matmul(n: Net, op: str = "FusedMatMul") -> str:
    remaining, right = matmul_shapes(n, vectors=False)
    a, b = n.pick(0, 1), n.pick(0, 1)
    remaining = [*remaining[:-2], remaining[-1], remaining[-2]] if a else remaining
    right = [*right[:-2], right[-1], right[-2]] if b else right
    first, second = n.pick(*KINDS)
    batches = {}
    alike = len(remaining) == len(right) >= 3 and remaining[:-2] == right[:-2]
    if op == "FusedMatMul" and alike and n.flag():
        batches = {"transBatchA": 1, "transBatchB": 1}
        remaining, right = (
            [shape[-2], *shape[:-2], shape[-1]] for shape in (remaining, right)
        )
    attributes = {"transA": a, "transB": b, **batches, **n.maybe(alpha=0.5)}
    return n.op(
        op,
        operand(n, remaining, first),
        operand(n, right, second),
        domain=MS,
        **attributes,
    )


EQUATIONS = (
    "bij,bjk->bik",
    "bhwc,hkc->bhwk",
    "...c,ck->...k",
    "...ij,...jk->...ik",
    "bic,cd",
    "nct,ncv->ntv",
    "ij->ji",
    "ij->",
    "bij->bj",
    "bi,bi->b",
    "bchw,cd->bdhw",
    "nchw->nc",
    "i,j->ij",
    "bnqd,bnkd->bnqk",
    "ab,bc,cd->ad",
    "bij , bkj -> bki",
    "bqhd,bkhd->bhqk",
    "bii->bi",
    "BiC,Cd->Bid",
)


def einsum(n: Net) -> str:
    """Equations of all kinds; any operand may be a weight, but not all."""
    equation = n.pick(*EQUATIONS)
    sizes: dict[str, int] = {}
    shapes = []
    for term in equation.partition("->")[0].replace(" ", "").replace("...", ".").split(","):
        shapes.append(
            [sizes.setdefault(letter, n.int(2, 5)) for letter in term.replace(".", "xy")]
        )
    kinds = ["data", *(n.pick("data", "weight") for _ in shapes[1:])]
    operands = [
        operand(n, shape, kind)
        for shape, kind in zip(shapes, n.draw_order(kinds), strict=True)
    ]
    return n.op("Einsum", *operands, equation=equation)


def matmul_nbits(n: Net) -> str:
    rows, block, blocks = n.int(4, 8), n.pick(16, 32), n.int(1, 2)
    x = n.x(["n" if n.symbolic else 2, 3, block * blocks], n.pick(1, 2))
    packed = n.b.const(n.rng.integers(0, 256, (rows, blocks, block // 2)), np.uint8)
    flat = n.flag()
    scales = n.b.const(
        n.rng.uniform(0.01, 0.1, [rows * blocks] if flat else [rows, blocks]), np.float32
    )
    zeros = None
    if n.flag():
        size = [rows * -(-blocks // 2)] if flat else [rows, -(-blocks // 2)]
        zeros = n.b.const(n.rng.integers(0, 256, size), np.uint8)
    bias = n.b.weight(rows) if n.flag() else None
    sizes = {"K": block * blocks, "N": rows, "bits": 4, "block_size": block}
    return n.op("MatMulNBits", x, packed, scales, zeros, None, bias, domain=MS, **sizes)


def mixture(n: Net) -> str:
    """Experts that a router chooses for each token; data of tokens, or of samples with tokens."""
    batch, tokens, hidden = "n" if n.symbolic else 2, 3, n.int(3, 5)
    experts, inner = n.int(2, 5), n.int(2, 5)
    kind, fused = n.pick(
        ("relu", 0), ("gelu", 0), ("silu", 0), ("identity", 0), ("swiglu", 1)
    )
    whole = n.flag()
    data = n.x([batch, tokens, hidden] if whole else [batch, hidden], -1)
    scores = data.name
    if whole:
        scores = n.b.op("Reshape", scores, n.b.const([-1, hidden]))
    scores = n.b.op("MatMul", scores, n.b.weight(hidden, experts), name="router")
    rows = inner * (2 if fused else 1)
    weights = [
        n.b.weight(experts, rows, hidden),
        n.b.weight(experts, rows) if n.flag() else None,
        n.b.weight(experts, hidden, inner),
        n.b.weight(experts, hidden) if n.flag() else None,
    ]
    given = {"swiglu_fusion": 1} if fused else {}
    given |= n.maybe(normalize_routing_weights=1)
    k = n.int(1, experts)
    return n.op(
        "MoE", data, scores, *weights, domain=MS, k=k, activation_type=kind, **given
    )


def quantized_mixture(n: Net) -> str:
    """Experts with weights of 4 or 8 bits, and a scale for every row."""
    batch, hidden, inner = "n" if n.symbolic else 2, n.pick(16, 32), n.pick(16, 32)
    experts, bits = n.int(2, 5), n.pick(4, 8)
    data = n.x([batch, hidden], -1)
    scores = n.b.op("MatMul", data.name, n.b.weight(hidden, experts), name="router")

    def packed(rows: int, columns: int) -> list[str]:
        codes = n.rng.integers(0, 256, (experts, rows, columns * bits // 8))
        scales = n.rng.uniform(0.01, 0.05, (experts, rows)) * 2.0 ** (4 - bits)
        return [n.b.const(codes, np.uint8), n.b.const(scales, np.float32)]

    weights = [
        *packed(2 * inner, hidden),
        n.b.weight(experts, 2 * inner) if n.flag() else None,
        *packed(hidden, inner),
        n.b.weight(experts, hidden) if n.flag() else None,
    ]
    given = {"activation_type": "swiglu", "swiglu_fusion": 1, "expert_weight_bits": bits}
    return n.op("QMoE", data, scores, *weights, domain=MS, k=n.int(1, experts), **given)


# -- recurrence -----------------------------------------------------------------------

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ACTIVATIONS = {
    "LSTM": ["Sigmoid", "Tanh", "Relu"],
    "GRU": ["Sigmoid", "Tanh"],
    "RNN": ["Relu"],
}


def recurrent(op: str, n: Net) -> list[str]:
    """Directions, states, peepholes, lengths; all outputs or some. ONNX Runtime runs layout 0 only."""
    n.opset(7, 14, 22)
    gates, hidden, steps = GATES[op], n.int(3, 5), n.int(1, 3)
    direction = n.pick("forward", "reverse", "bidirectional")
    d, batch = (2 if direction == "bidirectional" else 1), n.int(1, 2)
    x = n.x([steps, "n" if n.symbolic else batch, n.int(3, 5)], 2)
    weights: list[Any] = [
        n.b.weight(d, gates * hidden, x.c, scale=0.4),
        n.b.weight(d, gates * hidden, hidden, scale=0.4),
    ]
    weights.append(n.b.weight(d, 2 * gates * hidden, scale=0.2) if n.flag() else None)
    fixed = not n.symbolic
    weights.append(
        n.b.const([n.int(1, steps) for _ in range(batch)], np.int32)
        if fixed and n.flag()
        else None
    )
    for _ in range(2 if op == "LSTM" else 1):
        state = [d, batch, hidden]
        weights.append(
            (n.x(state, 2) if n.flag() else n.b.weight(*state, scale=0.3))
            if fixed and n.flag()
            else None
        )
    if op == "LSTM":
        weights.append(n.b.weight(d, 3 * hidden, scale=0.2) if n.flag() else None)
    attributes = n.maybe(clip=1.5, activations=ACTIVATIONS[op] * d)
    if op == "GRU":
        attributes |= n.maybe(linear_before_reset=1)
    if op == "LSTM":
        attributes |= n.maybe(input_forget=1)
    outputs = n.ops(
        op,
        x,
        *weights,
        outputs=3 if op == "LSTM" else 2,
        hidden_size=hidden,
        direction=direction,
        **attributes,
    )
    return n.pick(outputs, outputs[:1], outputs[-1:])


# -- quantized ------------------------------------------------------------------------


def scale(n: Net, *size: int) -> str:
    return n.b.const(n.rng.uniform(0.02, 0.05, size), np.float32)


def quantized(n: Net, x: X) -> tuple[str, str, str]:
    """Data as bytes, with scale and zero point."""
    s, zero = n.b.const(0.03, np.float32), n.b.const(n.int(100, 140), np.uint8)
    return n.b.op("QuantizeLinear", x.name, s, zero), s, zero


def weight_bytes(n: Net, shape: list[int], vector: int) -> tuple[str, str, str]:
    """A weight as bytes, with one scale and zero point, or `vector` of them."""
    sizes = (vector,) if n.flag() else ()
    w = n.b.const(n.rng.integers(-90, 90, shape), np.int8)
    return w, scale(n, *sizes), n.b.const(np.zeros(sizes), np.int8)


def qlinear_conv(n: Net) -> str:
    g, i, o = groups_of(n)
    x = n.image(g * i, dims=(2,), size=(5, 6))
    k, attributes = windows(n, x.rank - 2)
    q, s, zero = quantized(n, x)
    weight = weight_bytes(n, [g * o, i, *k], g * o)
    out = (n.b.const(0.3, np.float32), n.b.const(110, np.uint8))
    bias = n.b.const(n.rng.integers(-500, 500, g * o), np.int32) if n.flag() else None
    y = n.op("QLinearConv", q, s, zero, *weight, *out, bias, group=g, **attributes)
    return n.op("DequantizeLinear", y, *out)


def conv_integer(n: Net) -> str:
    g, i, o = groups_of(n)
    x = n.image(g * i, dims=(2,), size=(5, 6))
    k, attributes = windows(n, x.rank - 2)
    q, _, zero = quantized(n, x)
    w, _, _ = weight_bytes(n, [g * o, i, *k], g * o)
    given = n.pick((), (zero,), (zero, n.b.const(0, np.int8)))
    return n.op("ConvInteger", q, w, *given, group=g, **attributes)


def qlinear_matmul(n: Net) -> str:
    remaining, right = matmul_shapes(n, vectors=False)
    first, second = n.pick(("data", "weight"), ("data", "data"))
    a = quantized(n, operand(n, remaining, first))
    b = (
        weight_bytes(n, right, right[-1])
        if second == "weight" and len(right) == 2
        else quantized(n, operand(n, right, "data"))
    )
    out = (n.b.const(0.2, np.float32), n.b.const(120, np.uint8))
    return n.op("DequantizeLinear", n.op("QLinearMatMul", *a, *b, *out), *out)


def matmul_integer(n: Net) -> str:
    remaining, right = matmul_shapes(n, vectors=False)
    q, _, zero = quantized(n, operand(n, remaining, "data"))
    if n.flag():
        w, _, wz = weight_bytes(n, right, right[-1])
    else:
        w, _, wz = quantized(n, operand(n, right, "data"))
    return n.op(
        "MatMulInteger",
        q,
        w,
        *n.pick((), (zero,), (zero, wz)[: 2 if len(right) == 2 else 1]),
    )


def dynamic_quantize(n: Net) -> str:
    q, s, z = n.ops("DynamicQuantizeLinear", n.data(2, 4), outputs=3)
    return n.op("DequantizeLinear", q, s, z)


def quantize(n: Net, domain: str = "") -> str:
    """Scales of the tensor, of an axis, or of blocks."""
    opset = 13 if domain else n.opset(10, 13, 19, 21)
    x = n.data(2, 4)
    kind = (
        n.pick("tensor", "axis", "block")
        if opset >= 21
        else n.pick("tensor", "axis")
        if opset >= 13
        else "tensor"
    )
    at = n.pick(x.axis, *[a for a, size in enumerate(x.shape) if size != "n"])
    size = [] if kind == "tensor" else [x.shape[at]]
    attributes = {} if kind == "tensor" else {"axis": n.axis(at, x.rank)}
    if kind == "block":
        # Channels last: ONNX Runtime moves a Transpose through blocked scales and forgets to transpose them.
        x = n.x([n.int(1, 3), n.int(2, 3), 2 * n.int(2, 4)], 2)
        at = n.int(0, 2)
        block = n.pick(*[d for d in range(1, x.shape[at] + 1) if x.shape[at] % d == 0])
        size, attributes = list(x.shape), {"axis": n.axis(at, 3), "block_size": block}
        size[at] //= block
    s = scale(n, *size)
    zero = n.b.const(n.rng.integers(100, 150, size), np.uint8) if n.flag() else None
    q = n.op("QuantizeLinear", x, s, zero, domain=domain, **attributes)
    return n.op("DequantizeLinear", q, s, zero, domain=domain, **attributes)


def dequantized_weight(n: Net) -> str:
    """A weight in bytes behind a DequantizeLinear, read by a layer; or data there and back."""
    if n.flag():
        return quantize(n)
    opset = n.opset(13, 21)
    x = n.x([2, n.int(3, 6)])
    cols, transposed, axis = n.int(3, 6), n.int(0, 1), n.int(0, 1)
    shape = [cols, x.c] if transposed else [x.c, cols]
    size: list[int] = n.pick([], [shape[axis]])
    attributes = {"axis": n.axis(axis, 2)} if size else {}
    if opset >= 21 and n.flag():
        block = n.pick(*[d for d in range(1, shape[axis] + 1) if shape[axis] % d == 0])
        size, attributes = list(shape), {"axis": axis, "block_size": block}
        size[axis] //= block
    kind = n.pick(np.int8, np.uint8)
    w = n.b.const(n.rng.integers(0, 90, shape), kind)
    zero = n.b.const(n.rng.integers(0, 9, size), kind) if n.flag() else None
    w = n.op("DequantizeLinear", w, scale(n, *size), zero, **attributes)
    return n.op("Gemm", x, w, transB=transposed)


CASES: dict[tuple[str, str], Case] = {
    **{("", op): partial(recurrent, op) for op in GATES},
    ("", "Conv"): conv,
    ("", "ConvInteger"): conv_integer,
    ("", "ConvTranspose"): conv_transpose,
    ("", "DeformConv"): deform_conv,
    ("", "DequantizeLinear"): dequantized_weight,
    ("", "DynamicQuantizeLinear"): dynamic_quantize,
    ("", "Einsum"): einsum,
    ("", "Gemm"): gemm,
    ("", "GridSample"): grid_sample,
    ("", "MatMul"): matmul,
    ("", "MatMulInteger"): matmul_integer,
    ("", "QLinearConv"): qlinear_conv,
    ("", "QLinearMatMul"): qlinear_matmul,
    ("", "QuantizeLinear"): quantize,
    **{
        (MS, op): partial(quantize, domain=MS)
        for op in ("QuantizeLinear", "DequantizeLinear")
    },
    (MS, "FusedConv"): fused_conv,
    (MS, "FusedGemm"): partial(gemm, domain=MS),
    (MS, "GridSample"): partial(grid_sample, domain=MS),
    (MS, "FusedMatMul"): fused_matmul,
    (MS, "TransposeMatMul"): partial(fused_matmul, op="TransposeMatMul"),
    (MS, "MatMulNBits"): matmul_nbits,
    (MS, "MoE"): mixture,
    (MS, "QMoE"): quantized_mixture,
}
