"""Operators that ONNX Runtime's optimizer fuses (domain `com.microsoft`), where they are compositions of others."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf

from prunegraph.training.operators import indexing, movement, quantized  # noqa: F401  (what is the same there)
from prunegraph.training.operators.table import OPERATORS, Call, Tensor, operator

MS = "com.microsoft"

#: Operators of ONNX that ONNX Runtime had first, with the same inputs and attributes.
SAME = ("DequantizeLinear", "GatherND", "QuantizeLinear", "Trilu")

for _name in SAME:
    operator(_name, domain=MS, host=tuple(OPERATORS["", _name].host))(
        OPERATORS["", _name].function
    )


@operator("Gelu", domain=MS)
def gelu(call: Call, x: Tensor) -> Tensor:
    return nnf.gelu(x)


@operator("BiasGelu", domain=MS)
def bias_gelu(call: Call, x: Tensor, bias: Tensor) -> Tensor:
    return nnf.gelu(x + bias)


@operator("FastGelu", domain=MS)
def fast_gelu(call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return nnf.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", domain=MS)
def quick_gelu(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.get("alpha", 1.702) * x)


@operator("FusedMatMul", "TransposeMatMul", domain=MS)
def fused_matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    # Rows may stand before the batch.
    a = a.movedim(0, -2) if call.get("transBatchA", 0) else a
    b = b.movedim(0, -2) if call.get("transBatchB", 0) else b
    a = a.mT if call.get("transA", 0) and a.dim() > 1 else a
    b = b.mT if call.get("transB", 0) and b.dim() > 1 else b
    return call.get("alpha", 1.0) * torch.matmul(a, b)


def _skipped(x: Tensor, skip: Tensor, bias: Tensor | None) -> Tensor:
    """The sum that a Skip...Normalization normalises."""
    return x + skip if bias is None else x + skip + bias


@operator("SkipLayerNormalization", domain=MS)
def skip_layer_normalization(
    call: Call,
    x: Tensor,
    skip: Tensor,
    scale: Tensor,
    shift: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    total = _skipped(x, skip, bias)
    eps = call.get("epsilon", 1e-12)
    mean = total.mean(-1, keepdim=True)
    inverse = torch.rsqrt((total - mean).square().mean(-1, keepdim=True) + eps)
    return nnf.layer_norm(total, total.shape[-1:], scale, shift, eps), mean, inverse, total


@operator("SkipSimplifiedLayerNormalization", domain=MS)
def skip_simplified_layer_normalization(
    call: Call, x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    total = _skipped(x, skip, bias)
    inverse = torch.rsqrt(
        total.square().mean(-1, keepdim=True) + call.get("epsilon", 1e-12)
    )
    return total * inverse * scale, None, inverse, total
