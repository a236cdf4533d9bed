"""How firmly weights are held follows from what samples say."""

from __future__ import annotations

import numpy as np

from prunegraph.recovery.passing import Rectifier
from prunegraph.recovery.regression import RIDGE, Regression
from prunegraph.recovery.ridge import RIDGES, choose_ridge

Array = np.ndarray


def truth(rows: int, noise: float, seed: int = 0) -> Array:
    """The weights of what is no noise in the outputs of `problem`."""
    rng = np.random.default_rng(seed)
    rng.standard_normal((1, rows, 30))
    known, change = rng.standard_normal((2, 1, 30, 6))
    result: Array = known + change * (1 - noise)
    return result


def problem(rows: int, noise: float, seed: int = 0) -> tuple[Array, Array, Array]:
    """Inputs, outputs, and weights that are nearly those of the outputs."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, rows, 30)).astype(np.float32)
    known, change = rng.standard_normal((2, 1, 30, 6))
    y = x @ (known + change * (1 - noise)) + 5 * noise * rng.standard_normal((1, rows, 6))
    return x, y.astype(np.float32), known


def test_many_samples_of_a_linear_change_leave_weights_free() -> None:
    x, y, known = problem(4000, 0)
    assert choose_ridge(Regression(x), y, known) == RIDGE


def test_a_change_that_is_no_function_of_the_inputs_leaves_weights_as_they_are() -> None:
    x, y, known = problem(60, 1)
    assert choose_ridge(Regression(x), y, known) == max(RIDGES)


def test_the_choice_is_better_on_new_samples_than_no_ridge() -> None:
    """Fresh rows are the judge: what is chosen comes near the best of all."""
    x, y, known = problem(120, 0.6)
    fresh = np.random.default_rng(1).standard_normal((1, 2000, 30)).astype(np.float32)
    wanted = fresh @ truth(120, 0.6)
    errors = {}
    for ridge in RIDGES:
        regression = Regression(x.copy(), ridge=ridge)
        weights, intercept = regression.solve(y, known)
        errors[ridge] = float(np.square(fresh @ weights + intercept - wanted).mean())
    chosen = choose_ridge(Regression(x.copy()), y, known)
    assert errors[chosen] <= 1.25 * min(errors.values())
    assert errors[chosen] < 0.8 * errors[RIDGE]


def test_only_what_passes_is_judged() -> None:
    """Outputs far below zero pull the weights; a rectifier drops them, and then known weights are better."""
    x, y, known = problem(4000, 0.9)
    y = (x @ known).astype(np.float32)
    loud = np.where(y < 0, 50 * y, y)
    assert choose_ridge(Regression(x.copy()), loud, known) == RIDGE
    assert choose_ridge(Regression(x.copy()), loud, known, Rectifier()) == max(RIDGES)


def test_rows_too_few_to_hold_out_say_how_little_they_say() -> None:
    x, y, known = problem(3, 0)
    assert choose_ridge(Regression(x), y, known) == 10
