"""Golden numbers of half-wave and signed quantizers for normally distributed inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prunegraph.errors import OptionError
from prunegraph.training.binary.levels import (
    half_wave_error,
    half_wave_levels,
    half_wave_step,
    signed_step,
    thresholds,
)

#: Bits, step and error as published; step and error with a dead zone.
STEPS = [
    (1, 0.797885, 0.18169, 1.224006, 0.09509),
    (2, 0.538812, 0.04322, 0.650770, 0.02343),
    (3, 0.321729, 0.01020, 0.353411, 0.00645),
    (4, 0.184243, 0.00251, 0.193248, 0.00185),
    (5, 0.102984, 0.00065, 0.105488, 0.00054),
    (6, 0.056584, 0.00017, 0.057261, 0.00015),
]


@pytest.mark.parametrize(("bits", "step", "error", "dead_step", "dead_error"), STEPS)
def test_uniform_steps(
    bits: int, step: float, error: float, dead_step: float, dead_error: float
) -> None:
    for deadzone, wanted, missed in ((False, step, error), (True, dead_step, dead_error)):
        result = half_wave_step(bits, deadzone)
        assert result == pytest.approx(wanted, abs=1e-6)
        levels = [i * result for i in range(1, 2**bits)]
        assert half_wave_error(levels, deadzone) == pytest.approx(missed, abs=6e-6)
        for other in (0.99 * result, 1.01 * result):
            assert half_wave_error(
                [i * other for i in range(1, 2**bits)], deadzone
            ) > half_wave_error(levels, deadzone)


def test_one_bit_is_the_mean_of_the_positive_half() -> None:
    assert half_wave_step(1) == pytest.approx(math.sqrt(2 / math.pi), abs=1e-12)


def test_free_levels() -> None:
    assert half_wave_levels(3) == pytest.approx((0.3177, 1.0001, 1.8936), abs=5e-5)
    assert half_wave_levels(2) == pytest.approx((0.45278, 1.51042), abs=5e-6)
    assert half_wave_levels(3, deadzone=True) == pytest.approx(
        (0.5606, 1.1881, 2.0334), abs=5e-5
    )
    seven = (0.2739, 0.5548, 0.8511, 1.1749, 1.5461, 2.0065, 2.6809)
    assert half_wave_levels(7, deadzone=True) == pytest.approx(seven, abs=5e-5)
    assert half_wave_error(half_wave_levels(3)) == pytest.approx(0.02899, abs=5e-6)
    assert half_wave_error(half_wave_levels(2)) == pytest.approx(0.05874, abs=5e-6)
    assert half_wave_error(half_wave_levels(3, True), True) == pytest.approx(
        0.02200, abs=5e-6
    )


def test_signed_steps() -> None:
    wanted = (
        1.595769,
        0.995687,
        0.586019,
        0.335201,
        0.188139,
        0.104063,
        0.056868,
        0.030762,
    )
    assert [signed_step(bits) for bits in range(1, 9)] == pytest.approx(wanted, abs=1e-6)


def test_published_steps_with_plain_rounding_are_not_the_best() -> None:
    step = 0.538
    assert half_wave_error([step, 2 * step, 3 * step], deadzone=True) == pytest.approx(
        0.0278, abs=5e-5
    )


def test_binary_weights_of_a_normal_distribution() -> None:
    w = np.random.default_rng(0).standard_normal(1_000_000)
    assert np.mean((w - np.abs(w).mean() * np.sign(w)) ** 2) == pytest.approx(
        1 - 2 / math.pi, abs=2e-3
    )


def test_thresholds() -> None:
    assert thresholds([1.0, 2.0, 3.0]) == [0.0, 1.5, 2.5, math.inf]
    assert thresholds([1.0, 2.0, 3.0], deadzone=True) == [0.5, 1.5, 2.5, math.inf]


def test_bits_out_of_range() -> None:
    with pytest.raises(OptionError, match="1 to 8 bits, not 9"):
        half_wave_step(9)
