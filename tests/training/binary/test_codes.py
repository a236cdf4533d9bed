"""Alternate update of codes and scales: never worse, the best for small filters, signs without correlation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from prunegraph.training.binary.codes import Alternation, by_magnitude

Array = np.ndarray


def problem(
    seed: int, size: int, filters: int, places: int = 400
) -> tuple[Array, Array, Array, Array]:
    """Gram matrix and products of correlated half-wave inputs with outputs of real weights; these; their energy."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((size, size)) / np.sqrt(size)
    x = rng.standard_normal((places, size)) @ (np.eye(size) + mixing)
    codes = np.clip(np.ceil(x / 0.538812 - 0.5), 1, 3) * (x > 0) * 0.538812
    weight = rng.standard_normal((filters, size))
    y = np.maximum(x, 0) @ weight.T
    return codes.T @ codes, codes.T @ y, weight, (y**2).sum(0)


@pytest.mark.parametrize("groups", [1, 4])
def test_every_step_lowers_the_loss(groups: int) -> None:
    gram, cross, weight, _ = problem(0, 64, 32)
    codes, scales = by_magnitude(weight, groups)
    result = Alternation(gram, cross, codes, groups)
    result.set_scales(scales)
    last = result.losses()
    for _ in range(6):
        for step in (result.update_scales, result.sweep):
            step()
            now = result.losses()
            assert (now <= last + 1e-9 * np.abs(last)).all()
            last = now
    assert result.flips > 0 and (result.scales >= 0).all()
    np.testing.assert_array_equal(np.abs(result.codes), 1)


@pytest.mark.parametrize("groups", [1, 5])
def test_losses_are_those_of_the_weights(groups: int) -> None:
    gram, cross, weight, _ = problem(1, 40, 8)
    result = Alternation(gram, cross, by_magnitude(weight)[0], groups)
    for _ in range(3):
        result.update_scales()
        result.sweep()
        w = result.codes * np.repeat(result.scales, 40 // groups, 1)
        wanted = ((w @ gram) * w).sum(1) - 2 * (w * cross.T).sum(1)
        np.testing.assert_allclose(result.losses(), wanted, rtol=1e-9)


@pytest.mark.parametrize("size", [64, 288])
def test_error_falls_well_below_that_of_signs(size: int) -> None:
    gram, cross, weight, energy = problem(2, size, 32, places=2000)
    signs, means = by_magnitude(weight)
    start, match = Alternation(gram, cross, signs), Alternation(gram, cross, signs).run()
    start.set_scales(means)
    before, after = (
        (energy + start.losses()).sum() / energy.sum(),
        (energy + match.losses()).sum() / energy.sum(),
    )
    assert after < 0.7 * before


def test_a_scale_for_each_group_lowers_the_error() -> None:
    gram, cross, weight, energy = problem(2, 64, 32, places=2000)
    weight = weight * np.repeat(np.random.default_rng(0).uniform(0.2, 2, 4), 16)
    cross = gram @ weight.T
    energy = (weight * cross.T).sum(1)
    errors = []
    for groups in (1, 4, 16):
        result = Alternation(gram, cross, by_magnitude(weight)[0], groups).run()
        errors.append((energy + result.losses()).sum() / energy.sum())
    assert errors[1] < 0.8 * errors[0] and errors[2] < errors[1]


@pytest.mark.parametrize("groups", [1, 3])
def test_without_correlation_it_is_sign_and_mean_magnitude(groups: int) -> None:
    weight = np.random.default_rng(3).standard_normal((16, 30))
    signs, means = by_magnitude(weight, groups)
    result = Alternation(np.eye(30), weight.T, signs, groups).run()
    assert result.flips == 0
    np.testing.assert_array_equal(result.codes, signs)
    np.testing.assert_allclose(result.scales, means)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_against_all_codes_of_small_filters(groups: int) -> None:
    gaps = []
    for seed in range(30):
        gram, cross, weight, energy = problem(seed + 10, 8, 1, places=60)
        result = Alternation(gram, cross, by_magnitude(weight)[0], groups)
        result.update_scales()
        start = result.losses()[0]
        end = result.run().losses()[0]
        best = min(
            _best_scales(gram, cross[:, 0], np.array(codes), groups)
            for codes in product((-1.0, 1.0), repeat=8)
        )
        assert best - 1e-9 * energy[0] <= end <= start + 1e-9 * energy[0]
        gaps.append((end - best) / energy[0])
    assert np.median(gaps) < 1e-9


def _best_scales(gram: Array, cross: Array, codes: Array, groups: int) -> float:
    """The least error of some codes, by least squares over columns of codes, one for each group."""
    columns = codes[:, None] * np.repeat(np.eye(groups), len(codes) // groups, 0)
    solved = np.linalg.lstsq(columns.T @ gram @ columns, columns.T @ cross, rcond=None)[0]
    return -float(solved @ columns.T @ cross)


def test_codes_that_pull_the_wrong_way_are_turned() -> None:
    gram, cross, weight, _ = problem(4, 20, 4)
    result = Alternation(gram, cross, -by_magnitude(weight)[0])
    result.update_scales()
    assert (result.scales >= 0).all()
    np.testing.assert_array_equal(result.codes, by_magnitude(weight)[0])


def test_inputs_that_cancel_do_not_blow_up_the_scale() -> None:
    gram = np.ones((2, 2))
    result = Alternation(gram, np.array([[1e-3], [0.0]]), np.array([[1.0, -1.0]]))
    result.update_scales()
    assert np.isfinite(result.scales).all() and result.scales[0] < 1


def test_groups_that_are_dead_or_alike_have_finite_scales() -> None:
    """Those without input get nothing, two with the same input half each; the error is the least there is."""
    x = np.random.default_rng(0).standard_normal((50, 4))
    x = np.concatenate([x, x, np.zeros((50, 4))], 1)
    weight = np.array([[1.0, -2.0, 1.5, -0.5, *[0.0] * 8]])
    gram, cross = x.T @ x, x.T @ (x @ weight.T)
    codes = np.where(np.tile(weight[:, :4], 3) >= 0, 1.0, -1.0)
    result = Alternation(gram, cross, codes, 3)
    result.update_scales()
    np.testing.assert_allclose(result.scales[:, 0], result.scales[:, 1])
    np.testing.assert_array_equal(result.scales[:, 2], 0)
    one = Alternation(gram[:4, :4], cross[:4], codes[:, :4])
    one.update_scales()
    np.testing.assert_allclose(result.losses(), one.losses())


def test_zero_has_the_sign_one() -> None:
    codes, scales = by_magnitude(np.array([[0.0, -0.0, -1.0]]))
    np.testing.assert_array_equal(codes, [[1, 1, -1]])
    np.testing.assert_allclose(scales, [[1 / 3]])
