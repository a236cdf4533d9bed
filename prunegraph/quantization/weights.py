"""Weights and biases as integers: symmetric, one scale for each output, or for each block of inputs of one.

Rounding is to the nearest code, or by GPTQ: inputs are rounded one after the other, and what each loses is made up
for by those that follow, W[j+1:] -= U[j, j+1:]' e_j with e_j = (w_j - q_j) / U[j, j] and U the upper Cholesky factor of
the inverse Gram matrix. Sources: ALGORITHMS 1.5, 6.4; Frantar et al. 2022.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from prunegraph.errors import OptionError
from prunegraph.graph import linear
from prunegraph.graph.model import Node
from prunegraph.quantization.scheme import MIN_SCALE, Scheme

Array = np.ndarray

#: Share of the mean of a Gram matrix's diagonal that is added to it.
DAMPING = 0.01

#: Columns that GPTQ rounds before it updates all others.
LAZY = 128

#: Codes of int32 biases stay below this.
BIAS_LIMIT = 2**30


@dataclass(frozen=True)
class Codes:
    """A quantized weight.

    Args:
        codes: integers of the weight's shape.
        scales: [outputs], or with blocks of the weight's shape but for the blocked axis.
        axis: of the outputs, or with blocks the blocked axis.
        block: elements of a block; 0 without blocks.
    """

    codes: Array
    scales: Array
    axis: int
    block: int = 0

    def each(self) -> Array:
        """The scale of every element."""
        return _each(self.codes.shape, self.scales, self.axis, self.block)

    def values(self) -> Array:
        """Say what DequantizeLinear gives."""
        return (self.codes * self.each()).astype(np.float32)


def quantized(
    node: Node,
    weight: Array,
    scheme: Scheme,
    *,
    least: Array | None = None,
    given: Array | None = None,
    gram: Array | None = None,
) -> Codes:
    """A layer's weight in integers.

    Args:
        node: the layer.
        weight: in float.
        scheme: its type, and the size of blocks.
        least: scales [outputs] that must not be undercut.
        given: scales [outputs] to take as they are.
        gram: means of products of the layer's inputs [groups, inputs, inputs], to round by GPTQ.

    Raises:
        OptionError: `given` has another number of scales than the layer outputs, or some that are not positive.
    """
    axis, limit = linear.output_axis(node), scheme.weight_limit
    others = tuple(each for each in range(weight.ndim) if each != axis)
    inputs = weight.shape[1 - axis]
    if given is not None:
        # Scales from outside were made for all of the type's codes.
        scales, block, limit = (
            _checked(node, given, weight.shape[axis]),
            0,
            scheme.weights.highest,
        )
    elif scheme.weights.bits < 8 and inputs > scheme.block:
        block, axis = scheme.block, 1 - axis
        scales = _positive(_largest_of_blocks(np.abs(weight), axis, block) / limit)
    else:
        block = 0
        scales = _positive(np.abs(weight).max(axis=others, initial=0.0) / limit)
        if least is not None:
            scales = np.maximum(scales, least.astype(np.float32))
    each = _each(weight.shape, scales, axis, block)
    low, high = -limit, limit
    if gram is None:
        codes = np.clip(np.rint(weight / each), low, high)
    else:
        matrix = linear.to_matrix(node, weight.astype(np.float64))
        steps = linear.to_matrix(node, np.ascontiguousarray(each).astype(np.float64))
        codes = linear.from_matrix(node, _gptq(matrix, steps, gram, limit), weight.shape)
    return Codes(codes.astype(np.int32), scales, axis, block)


def bias_codes(bias: Array, scales: Array) -> Array:
    """A bias as int32, with the scale of the layer's accumulator (input scale times weight scale) [outputs]."""
    return np.clip(np.rint(bias / scales.astype(np.float64)), -(2**31), 2**31 - 1).astype(
        np.int32
    )


def least_scales(bias: Array, input_scale: float) -> Array:
    """Weight scales [outputs] with which a bias fits into int32."""
    return np.asarray(np.abs(bias) / (input_scale * BIAS_LIMIT))


def _checked(node: Node, given: Array, outputs: int) -> Array:
    scales = np.asarray(given, np.float32).reshape(-1)
    if scales.size == 1:
        scales = np.repeat(scales, outputs)
    if scales.size != outputs:
        raise OptionError(
            f"layer {node.name!r} has {outputs} outputs, but its weight is given {scales.size} scales"
        )
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise OptionError(
            f"layer {node.name!r}: scales of its weight must be positive numbers"
        )
    return scales


def _positive(scales: Array) -> Array:
    """Scales as 32-bit floats; 1 where all weights are zero."""
    return np.where(scales > 0, np.maximum(scales, MIN_SCALE), 1.0).astype(np.float32)


def _largest_of_blocks(magnitudes: Array, axis: int, block: int) -> Array:
    size = magnitudes.shape[axis]
    return np.maximum.reduceat(magnitudes, np.arange(0, size, block), axis=axis)


def _each(shape: tuple[int, ...], scales: Array, axis: int, block: int) -> Array:
    if block:
        return np.repeat(scales, block, axis=axis).take(np.arange(shape[axis]), axis=axis)
    return np.broadcast_to(
        scales.reshape([-1 if each == axis else 1 for each in range(len(shape))]), shape
    )


def _gptq(matrix: Array, steps: Array, gram: Array, limit: int) -> Array:
    """Codes [groups, inputs, outputs] of a matrix with the step of each element."""
    codes = np.empty_like(matrix)
    for group, (weights, step, products) in enumerate(
        zip(matrix, steps, gram, strict=True)
    ):
        remaining, upper = weights.copy(), _inverse_factor(products)
        for start in range(0, len(remaining), LAZY):
            stop = min(start + LAZY, len(remaining))
            lost = np.zeros((stop - start, remaining.shape[1]))
            for j in range(start, stop):
                codes[group, j] = np.clip(np.rint(remaining[j] / step[j]), -limit, limit)
                lost[j - start] = (remaining[j] - codes[group, j] * step[j]) / upper[j, j]
                remaining[j + 1 : stop] -= np.outer(upper[j, j + 1 : stop], lost[j - start])
            remaining[stop:] -= upper[start:stop, stop:].T @ lost
    return codes


def _inverse_factor(products: Array) -> Array:
    """The upper Cholesky factor U of the inverse of a damped Gram matrix: inverse = U' U.

    With the matrix as R R', R upper, U is the inverse of R; R follows from the Cholesky factor of the matrix with its
    order reversed. More damping where few samples leave the matrix without full rank.
    """
    matrix = products.astype(np.float64)
    level = float(np.einsum("ii->i", matrix).mean()) or 1.0
    identity = np.eye(len(matrix))
    for damping in (DAMPING, 10 * DAMPING, 1.0):
        with suppress(np.linalg.LinAlgError):
            lower = np.linalg.cholesky((matrix + damping * level * identity)[::-1, ::-1])
            return _lower_inverse(lower)[::-1, ::-1]
    return identity


def _lower_inverse(matrix: Array) -> Array:
    """The inverse of a lower triangular matrix, by halves."""
    half = len(matrix) // 2
    if half < LAZY:
        return np.tril(np.linalg.inv(matrix))
    inverse = np.zeros_like(matrix)
    first, last = _lower_inverse(matrix[:half, :half]), _lower_inverse(matrix[half:, half:])
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[half:, :half] = -last @ matrix[half:, :half] @ first
    return inverse
