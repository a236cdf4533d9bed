"""Parts of a decomposed layer fitted to data: least squares on the outputs instead of the weight.

With G the second moments of a layer's input rows, `|(W - W') G^1/2|` is the error of its outputs. All parts but one are
held; that one then has a closed form. Arrays in, arrays out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray

#: Added to the diagonal, relative to its mean: keeps the part near what it was where inputs hardly vary.
RIDGE = 1e-3


def refitted(
    method: str,
    factors: Sequence[Array],
    weight: Array,
    moments: Array,
    ridge: float = RIDGE,
) -> tuple[Array, ...]:
    """Factors with one of them fitted: the core of Tucker-2, the last part of the others.

    Args:
        method: "tucker2", "svd" or "spatial".
        factors: as its form makes them.
        weight: [O, I, *kernel].
        moments: of the input rows, in the order of the weight's axes [I * kernel, I * kernel]; they are multiplied with
            in their own precision.
        ridge: how firmly the part is held to what it was.
    """
    matrix = weight.reshape(len(weight), -1)
    first, last = factors[0], factors[-1]
    if method == "tucker2":
        taps = matrix.shape[1] // weight.shape[1]
        # The last part is orthonormal: what it reads best is its transpose times the outputs.
        core = _solved(
            np.kron(first, np.eye(taps)), last.T @ matrix, factors[1], moments, ridge
        )
        return first, core, last
    if method == "spatial":
        wide = weight.shape[3]
        rows = np.einsum("rih,xy->rxihy", first[..., 0], np.eye(wide)).reshape(
            len(first) * wide, -1
        )
        return first, _solved(rows, matrix, last, moments, ridge)
    return first, _solved(first.reshape(len(first), -1), matrix, last, moments, ridge)


def _solved(
    rows: Array, target: Array, anchor: Array, moments: Array, ridge: float
) -> Array:
    """The part A [outputs, ...] for which `A rows` is nearest to `target`, in the shape of what it was."""
    seen = (rows.astype(moments.dtype, copy=False) @ moments).astype(np.float64, copy=False)
    gram = seen @ rows.T
    damping = ridge * float(np.trace(gram)) / len(gram) + np.finfo(np.float32).tiny
    right = seen @ target.T + damping * anchor.reshape(len(anchor), -1).T
    return np.linalg.solve(gram + damping * np.eye(len(gram)), right).T.reshape(
        anchor.shape
    )


def output_error(weight: Array, other: Array, moments: Array) -> float:
    """Root of the mean squared change of the outputs by their own; 0 where they are zero."""
    whole, change = (each.reshape(len(each), -1) for each in (weight, weight - other))
    energies = [
        max(float(np.einsum("oi,oi->", each @ moments, each)), 0.0)
        for each in (change, whole)
    ]
    return float(np.sqrt(energies[0] / energies[1])) if energies[1] else 0.0
