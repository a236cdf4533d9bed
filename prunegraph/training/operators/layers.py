"""Operators that contract their input with a weight: convolutions and matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf

from prunegraph.training.operators.table import Call, Tensor, auto_pads, operator, pair_pads

CONV = {1: nnf.conv1d, 2: nnf.conv2d, 3: nnf.conv3d}
CONV_TRANSPOSE = {1: nnf.conv_transpose1d, 2: nnf.conv_transpose2d, 3: nnf.conv_transpose3d}


@operator("Conv")
def conv(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    rank = x.dim() - 2
    if rank not in CONV:
        raise call.refuse(f"a convolution over {rank} axes")
    strides, dilations = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    pads = auto_pads(call, x.shape[2:], w.shape[2:], strides, dilations)
    padding = pads[:rank]
    if padding != pads[rank:]:
        x, padding = nnf.pad(x, pair_pads(pads)), [0] * rank
    if not any(padding) and all(size == 1 for size in w.shape[2:]):
        x, strides = _subsampled(x, strides), [1] * rank
    return CONV[rank](
        x, w, b, list(strides), padding, list(dilations), call.get("group", 1)
    )


def _subsampled(x: Tensor, strides: Sequence[int]) -> Tensor:
    """What a pointwise convolution with strides reads of its input [n, channels, ...].

    With strides of its own, oneDNN computes wrong gradients of its weight, or writes beyond its memory, where
    channels are few and last and the processor has no AVX-512: https://github.com/uxlfoundation/oneDNN/issues/6035.
    """
    if all(stride == 1 for stride in strides):
        return x
    return x[(..., *(slice(None, None, stride) for stride in strides))]


@operator("ConvTranspose")
def conv_transpose(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    rank = x.dim() - 2
    if rank not in CONV_TRANSPOSE:
        raise call.refuse(f"a convolution over {rank} axes")
    strides, dilations = (
        list(call.get("strides", [1] * rank)),
        list(call.get("dilations", [1] * rank)),
    )
    extra = list(call.get("output_padding", [0] * rank))
    # Unpadded and then cropped, because torch knows only equal pads on both sides.
    full = [
        (s - 1) * st + (k - 1) * d + 1
        for s, st, k, d in zip(x.shape[2:], strides, w.shape[2:], dilations, strict=True)
    ]
    pads = _transposed_pads(call, list(x.shape[2:]), full, strides, extra)
    y = CONV_TRANSPOSE[rank](x, w, None, strides, 0, 0, call.get("group", 1), dilations)
    crop = [
        -pads[axis + side * rank] + side * extra[axis]
        for axis in reversed(range(rank))
        for side in (0, 1)
    ]
    if any(crop):
        y = nnf.pad(y, crop)
    return y if b is None else y + b.reshape(-1, *[1] * rank)


def _transposed_pads(
    call: Call, sizes: list[int], full: list[int], strides: list[int], extra: list[int]
) -> list[int]:
    """Say what a transposed convolution crops: [begins..., ends...]."""
    rank, mode = len(sizes), call.get("auto_pad", "NOTSET")
    target = call.get("output_shape")
    if target is not None:
        target = list(target)[-rank:]
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        target = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    if target is None:
        return list(call.get("pads", [0] * (2 * rank)))
    begins, ends = [], []
    for whole, more, wanted in zip(full, extra, target, strict=True):
        total = whole + more - wanted
        begin = total // 2 if mode == "SAME_UPPER" else total - total // 2
        begins.append(begin)
        ends.append(total - begin)
    return begins + ends


@operator("Gemm")
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    c = c if beta else None
    a = a.T if call.get("transA", 0) else a
    if call.get("transB", 0) and alpha == beta == 1.0 and (c is None or c.dim() == 1):
        return nnf.linear(a, b, c)
    y = a @ (b.T if call.get("transB", 0) else b)
    y = y if alpha == 1.0 else alpha * y
    return y if c is None else y + (c if beta == 1.0 else beta * c)


@operator("MatMul")
def matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("Einsum")
def einsum(call: Call, *inputs: Tensor) -> Tensor:
    return torch.einsum(call.get("equation").replace(" ", ""), *inputs)


@operator("Det")
def det(call: Call, x: Tensor) -> Tensor:
    return torch.linalg.det(x)


@operator("Col2Im", host=(1, 2))
def col2im(call: Call, x: Tensor, image: Tensor, block: Tensor) -> Tensor:
    rank = image.numel()
    if rank != 2:
        raise call.refuse(f"Col2Im over {rank} axes")
    size, kernel = tuple(image.tolist()), tuple(block.tolist())
    strides, dilations = call.get("strides", [1, 1]), call.get("dilations", [1, 1])
    pads = call.get("pads", [0] * 4)
    # Folded to the padded image and then cropped, because torch knows only equal pads on both sides.
    padded = (size[0] + pads[0] + pads[2], size[1] + pads[1] + pads[3])
    x = x.reshape(x.shape[0], -1, x.shape[-1]) if math.prod(x.shape) else x
    y = nnf.fold(x, padded, kernel, tuple(dilations), 0, tuple(strides))
    return y[:, :, pads[0] : padded[0] - pads[2], pads[1] : padded[1] - pads[3]]
