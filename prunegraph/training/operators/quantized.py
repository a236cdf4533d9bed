"""QuantizeLinear and DequantizeLinear with gradients.

Rounding passes gradients straight through, clipping stops them outside of the range (Jacob et al. 2018). Where
scales are learnt, the same two rules give LSQ's gradient of a scale (Esser et al. 2020), divided by
sqrt(elements * largest code) as there.
"""

from __future__ import annotations

import math
from typing import Any

import onnx
import torch

from prunegraph.training.operators.table import DTYPES, Call, Tensor, operator

#: Types of onnx 1.20 and later.
UINT2, INT2 = 25, 26

#: Smallest and largest code by type.
RANGES: dict[int, tuple[int, int]] = {
    onnx.TensorProto.INT8: (-128, 127),
    onnx.TensorProto.UINT8: (0, 255),
    onnx.TensorProto.INT16: (-32768, 32767),
    onnx.TensorProto.UINT16: (0, 65535),
    onnx.TensorProto.INT32: (-(2**31), 2**31 - 1),
    onnx.TensorProto.INT4: (-8, 7),
    onnx.TensorProto.UINT4: (0, 15),
    INT2: (-2, 1),
    UINT2: (0, 3),
}

#: Types that are stored in a wider one.
STORAGE = {
    onnx.TensorProto.INT4: torch.int8,
    onnx.TensorProto.UINT4: torch.uint8,
    INT2: torch.int8,
    UINT2: torch.uint8,
}


class RoundThrough(torch.autograd.Function):
    """Rounds to the nearest whole number, half to even; gradients pass as if it did not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class ScaleGradient(torch.autograd.Function):
    """The value itself; its gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def _spread(call: Call, values: Tensor, x: Tensor) -> Tensor:
    """Scales or zero points in a shape that broadcasts with the tensor: for all, along an axis, or in blocks."""
    if values.numel() == 1:
        return values.reshape(())
    axis = call.get("axis", 1) % x.dim()
    if values.dim() == 1:
        return values.reshape([-1 if i == axis else 1 for i in range(x.dim())])
    block = call.get("block_size", 0) or math.ceil(x.shape[axis] / values.shape[axis])
    return values.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])


def _scale(call: Call, scale: Tensor, x: Tensor, top: int) -> Tensor:
    """The scale, spread; where it is learnt, positive and with LSQ's factor on its gradient."""
    if scale.requires_grad:
        per_sample = x.numel() // max(x.shape[0], 1) if x.dim() else 1
        each = max(per_sample // scale.numel(), 1)
        scale = ScaleGradient.apply(
            scale.clamp(min=torch.finfo(scale.dtype).tiny), 1 / math.sqrt(each * top)
        )
    return _spread(call, scale, x)


def _code_type(call: Call, zero: Tensor | None) -> int:
    if zero is not None:
        kinds = {dtype: kind for kind, dtype in DTYPES.items()}
        return kinds[zero.dtype]
    return call.get("output_dtype", 0) or onnx.TensorProto.UINT8


@operator("QuantizeLinear")
def quantize_linear(
    call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None
) -> Tensor:
    """Codes; as floating-point numbers with gradients where only DequantizeLinear reads them."""
    kind = call.code_type or _code_type(call, zero)
    if kind not in RANGES:
        raise call.refuse(f"quantization to ONNX type {kind}")
    low, high = RANGES[kind]
    wide = torch.promote_types(torch.promote_types(x.dtype, scale.dtype), torch.float32)
    codes = x.to(wide) / _scale(call, scale, x, high).to(wide)
    shift = 0 if zero is None else _spread(call, zero, x).to(wide)
    # Rounded before the zero point is added, as ONNX does: half to even of the quotient.
    codes = torch.clamp(RoundThrough.apply(codes) + shift, low, high)
    return codes if call.fake else codes.to(STORAGE.get(kind) or DTYPES[kind])


@operator("DequantizeLinear")
def dequantize_linear(
    call: Call, codes: Tensor, scale: Tensor, zero: Tensor | None = None
) -> Tensor:
    kind = DTYPES[call.get("output_dtype")] if call.get("output_dtype", 0) else scale.dtype
    wide = (
        codes.dtype
        if codes.is_floating_point()
        else torch.float64
        if codes.dtype == torch.int32
        else torch.float32
    )
    top = RANGES.get(_code_type(call, zero), (0, 127))[1]
    shift = 0 if zero is None else _spread(call, zero, codes).to(wide)
    centred = (codes.to(wide) - shift).to(torch.promote_types(scale.dtype, torch.float32))
    return (centred * _scale(call, scale, codes, top)).to(kind)
