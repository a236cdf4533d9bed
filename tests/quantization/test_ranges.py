"""Histograms in a stream, and the scales that follow from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunegraph.errors import OptionError, UnknownNameError
from prunegraph.quantization.histogram import BINS, Histogram
from prunegraph.quantization.ranges import METHODS, find
from prunegraph.quantization.scheme import MIN_SCALE, TYPES, IntType, params_of, scheme

UINT8, INT8 = TYPES["uint8"], TYPES["int8"]


def seen(*arrays: np.ndarray) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(array)
    return histogram


def squared_error(
    x: np.ndarray, method: str, kind: IntType = UINT8, **options: object
) -> float:
    params = find(seen(x), method, kind, **options)
    return float(np.square(params.values(params.codes(x)).astype(np.float64) - x).mean())


arrays = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.floats(-12, 12), st.floats(-2, 2)),
    min_size=1,
    max_size=4,
).map(
    lambda draws: [
        (
            np.random.default_rng(seed).standard_normal(97) * 2.0**power
            + 2.0**power * shift
        ).astype(np.float32)
        for seed, power, shift in draws
    ]
)


@settings(max_examples=40)
@given(arrays)
def test_a_histogram_does_not_depend_on_order_or_batches(parts: list[np.ndarray]) -> None:
    whole, stream, merged = seen(np.concatenate(parts)), seen(*reversed(parts)), Histogram()
    for part in parts:
        merged.merge(seen(part))
    for other in (stream, merged):
        assert (other.exponent, other.zeros, other.elements) == (
            whole.exponent,
            whole.zeros,
            whole.elements,
        )
        assert (other.low, other.high) == (whole.low, whole.high)
        np.testing.assert_array_equal(other.counts, whole.counts)
    assert (
        whole.counts.sum() + whole.zeros
        == whole.elements
        == sum(part.size for part in parts)
    )


@settings(max_examples=40)
@given(arrays)
def test_every_element_lies_in_its_bin(parts: list[np.ndarray]) -> None:
    x = np.concatenate(parts)
    histogram = seen(x)
    places = np.floor(x[x != 0].astype(np.float64) / histogram.width).astype(int) + BINS
    np.testing.assert_array_equal(np.bincount(places, minlength=2 * BINS), histogram.counts)


@settings(max_examples=60)
@given(
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6),
    st.sampled_from(sorted(TYPES)),
    st.booleans(),
)
def test_zero_has_a_code_of_its_own_and_the_range_is_covered(
    a: float, b: float, name: str, symmetric: bool
) -> None:
    low, high = min(a, b), max(a, b)
    params = params_of(low, high, TYPES[name], symmetric=symmetric)
    assert params.scale > 0 and np.isfinite(params.scale)
    assert TYPES[name].lowest <= params.zero_point <= TYPES[name].highest
    assert params.values(params.codes(np.zeros(1)))[0] == 0
    step = 1.001 * params.scale
    assert params.low <= min(low, 0) + step and params.high >= max(high, 0) - step


@pytest.mark.parametrize("value", [0.0, 3.25, -7.5, 1e-30, 1e30])
@pytest.mark.parametrize("method", METHODS)
def test_constants_are_represented(value: float, method: str) -> None:
    params = find(seen(np.full(100, value, np.float32)), method, UINT8)
    assert params.scale >= MIN_SCALE
    assert params.values(params.codes(np.asarray([value])))[0] == pytest.approx(
        value, rel=1e-6, abs=1e-18
    )


def test_nothing_seen_gives_a_usable_scale() -> None:
    assert find(Histogram(), "mse", UINT8) == params_of(0, 0, UINT8)
    assert params_of(0, 0, UINT8).scale == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(FloatingPointError):
        Histogram().add(np.asarray([0, bad, 1], np.float32))


# Steps with the least squared error for max(x, 0) of Gaussian x, and that error: ALGORITHMS 4.2, "with zero bin".
@pytest.mark.parametrize(
    ("bits", "step", "error"),
    [(2, 0.650770, 0.02343), (3, 0.353411, 0.00645), (4, 0.193248, 0.00185)],
)
def test_the_squared_error_of_a_half_wave_gaussian_is_least_at_the_known_step(
    bits: int, step: float, error: float
) -> None:
    x = np.maximum(np.random.default_rng(0).standard_normal(2_000_000), 0).astype(
        np.float32
    )
    kind = IntType("uint8", bits, False, 10)
    assert find(seen(x), "mse", kind).scale == pytest.approx(step, rel=0.01)
    assert squared_error(x, "mse", kind) == pytest.approx(error, rel=0.01)


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_is_the_best_method_in_squared_error(symmetric: bool) -> None:
    rng = np.random.default_rng(1)
    for x in (
        rng.standard_normal(50_000),
        rng.standard_t(2, 50_000),
        np.abs(rng.standard_t(2, 50_000)),
    ):
        x = x.astype(np.float32)
        errors = {
            m: squared_error(x, m, INT8 if symmetric else UINT8, symmetric=symmetric)
            for m in METHODS
        }
        assert errors["mse"] <= 1.001 * min(errors.values()), errors


def test_percentile_clips_that_share() -> None:
    x = np.linspace(-1, 3, 1_000_001, dtype=np.float32)
    params = find(seen(x), "percentile", UINT8, percentile=90)
    outside = ((x < params.low - params.scale) | (x > params.high + params.scale)).mean()
    assert 0.08 < outside < 0.1
    assert find(seen(x), "percentile", UINT8, percentile=100) == find(
        seen(x), "minmax", UINT8
    )


def test_entropy_clips_a_long_tail_and_keeps_what_is_uniform() -> None:
    rng = np.random.default_rng(2)
    tail = np.abs(rng.standard_t(2, 100_000)).astype(np.float32)
    assert find(seen(tail), "entropy", UINT8).high < 0.5 * tail.max()
    flat = rng.uniform(0, 1, 100_000).astype(np.float32)
    assert find(seen(flat), "entropy", UINT8).high > 0.9


def test_sixteen_bits_take_the_whole_range() -> None:
    x = np.random.default_rng(3).standard_t(3, 10_000).astype(np.float32)
    params = find(seen(x), "mse", TYPES["uint16"])
    assert params.high >= x.max() - params.scale and params.low <= x.min() + params.scale


def test_names_and_options_are_checked() -> None:
    for call, error in (
        (lambda: find(Histogram(), "median", UINT8), UnknownNameError),
        (lambda: find(Histogram(), "percentile", UINT8, percentile=10), OptionError),
        (lambda: scheme("int3"), UnknownNameError),
        (lambda: scheme("uint8"), OptionError),
        (lambda: scheme(target="abacus"), UnknownNameError),
        (lambda: scheme(activations="uint8", target="tensorrt"), OptionError),
        (lambda: scheme(block=0), OptionError),
    ):
        with pytest.raises(error):
            call()
