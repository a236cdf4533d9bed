"""How firmly a layer's fitted weights are held to those that are known before: by the error on samples left out.

Where samples are few for a layer's inputs, or what its outputs lack is no function of the inputs, weights that are
fitted freely are worse than the ones that were there; where samples are many, holding them costs accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunegraph.graph import symmetric
from prunegraph.recovery.passing import Passing
from prunegraph.recovery.regression import RIDGE, Regression

Array = np.ndarray

#: The choices, relative to the mean energy of an input.
RIDGES = (RIDGE, 1e-2, 1e-1, 1.0, 10.0)

#: Rows are cut into so many runs, of which every so many-th is held out, and so many outputs are looked at.
RUNS, EVERY, OUTPUTS = 8, 4, 128

#: The lowest ridge is taken whose error is above the lowest error by this share at most: what one layer does not make
#: up for, the layers behind it have to.
SLACK = 0.02


def choose_ridge(
    regression: Regression,
    y: Array,
    anchor: Array,
    passing: Passing | None = None,
    added: Array | None = None,
) -> float:
    """The ridge, of `RIDGES`, that serves best where it was not fitted.

    Args:
        regression: of the layer's inputs; rows of a sample stand together.
        y: what the original has [groups, samples, outputs].
        anchor: weights that are known before [groups, inputs, outputs].
        passing: what follows the outputs; None where all of them counts.
        added: what is added to the layer's outputs before that [groups, samples, outputs].

    Returns:
        That ridge; where there are too few rows to hold out any, inputs for each row.
    """
    x, held = regression.x, _held_out(regression.x.shape[1])
    count = x.shape[1] - sum(part.stop - part.start for part in held)
    if x.shape[1] < RUNS:
        return max(RIDGE, x.shape[2] / x.shape[1])
    columns = slice(None, None, -(-anchor.shape[2] // OUTPUTS))
    y = y[:, :, columns]
    created = x @ anchor[:, :, columns].astype(np.float32)
    if added is not None:
        created += added[:, :, columns]
    created += (y - created).mean(axis=1, keepdims=True)
    outside = [(x[:, part], y[:, part], created[:, part]) for part in held]
    gram = regression.gram * np.float32(x.shape[1])
    target = x.swapaxes(1, 2) @ (y - created)
    for inputs, wanted, before in outside:
        gram -= inputs.swapaxes(1, 2) @ inputs
        target -= inputs.swapaxes(1, 2) @ (wanted - before)
    gram /= count
    target /= count
    errors = []
    for ridge in RIDGES:
        damped = gram.copy()
        diagonal = np.arange(x.shape[2])
        damped[:, diagonal, diagonal] += regression.damping(ridge).astype(np.float32)[
            :, None
        ]
        step = symmetric.solve(damped, target)
        errors.append(sum(_error(step, *each, passing) for each in outside))
    return _lowest(errors)


def _lowest(errors: Sequence[float]) -> float:
    most = (1 + SLACK) * min(errors)
    return next(ridge for ridge, error in zip(RIDGES, errors, strict=True) if error <= most)


def _error(
    step: Array, inputs: Array, wanted: Array, before: Array, passing: Passing | None
) -> float:
    """Squared error of what comes through, once the weights are changed by a step."""
    created = before + inputs @ step
    if passing is not None:
        wanted, created = passing.of(wanted), passing.of(created)
    return float(np.square(wanted - created).sum(dtype=np.float64))


def _held_out(rows: int) -> list[slice]:
    """Runs of rows that are held out, spread over all."""
    ends = np.linspace(0, rows, RUNS + 1).astype(int)
    return [
        slice(int(ends[run]), int(ends[run + 1])) for run in range(EVERY - 1, RUNS, EVERY)
    ]
