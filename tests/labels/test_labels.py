"""Labels: ties, pins, products, and what they resolve to."""

from __future__ import annotations

import numpy as np
import pytest

from prunegraph.labels.labels import Labels, concatenate
from prunegraph.labels.reasons import Reason
from prunegraph.labels.resolution import resolve
from prunegraph.labels.space import LabelSpace

WHY = Reason("because", "node")


def channels(space: LabelSpace, *used: Labels) -> list[list[int]]:
    """Channel numbers of axes, renumbered from 0 in order of appearance."""
    result = resolve(space, used)
    numbers: dict[int, int] = {}
    return [
        [numbers.setdefault(int(n), len(numbers)) for n in result.root(labels).array()]
        for labels in used
    ]


def test_fresh_axes_are_apart_and_tied_ones_together() -> None:
    space = LabelSpace()
    a, b, c = space.fresh(3), space.fresh(3), space.fresh(3)
    space.tie(a, b)
    assert channels(space, a, b, c) == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]


def test_partial_ties() -> None:
    space = LabelSpace()
    a, b = space.fresh(4), space.fresh(2)
    space.tie(a.take(slice(1, 3)), b)
    assert channels(space, a, b) == [[0, 1, 2, 3], [1, 2]]


def test_a_tie_with_a_permutation_of_itself() -> None:
    space = LabelSpace()
    a = space.fresh(4)
    space.tie(a, a.take(np.asarray([1, 0, 3, 2])))
    assert channels(space, a) == [[0, 0, 1, 1]]


def test_concatenation_then_whole_tie() -> None:
    space = LabelSpace()
    a, b, c = space.fresh(2), space.fresh(3), space.fresh(5)
    space.tie(c, concatenate([a, b]))
    space.tie(a, space.fresh(2))
    assert channels(space, a, b, c) == [[0, 1], [2, 3, 4], [0, 1, 2, 3, 4]]


def test_pins_travel_along_ties_with_their_reason() -> None:
    space = LabelSpace()
    a, b = space.fresh(3), space.fresh(3)
    space.tie(a, b)
    space.pin(b.take(slice(1, 2)), WHY)
    result = resolve(space, [a, b])
    assert np.asarray(result.pinned(a)).tolist() == [False, True, False]
    assert result.reason(a) == WHY
    assert not result.all_pinned(a)


def test_reason_of_a_free_axis_is_an_error() -> None:
    space = LabelSpace()
    a = space.fresh(3)
    with pytest.raises(LookupError):
        resolve(space, [a]).reason(a)


def test_product_with_one_free_factor() -> None:
    space = LabelSpace()
    whole, inner = space.fresh(6), space.fresh(3)
    space.product(whole, [space.pinned(2, WHY), inner], "reshape")
    assert channels(space, inner, whole) == [[0, 1, 2], [0, 1, 2, 0, 1, 2]]


def test_product_with_no_free_factor_pins_the_whole() -> None:
    space = LabelSpace()
    whole = space.fresh(6)
    space.product(whole, [space.pinned(2, WHY), space.pinned(3, WHY)], "reshape")
    assert resolve(space, [whole]).all_pinned(whole)


def test_pinned_whole_pins_all_factors() -> None:
    space = LabelSpace()
    a, b = space.fresh(2), space.fresh(3)
    space.product(space.pinned(6, WHY), [a, b], "reshape")
    result = resolve(space, [a, b])
    assert result.all_pinned(a)
    assert result.all_pinned(b)
    assert result.reason(a) == WHY


def test_policy_takes_the_finest_factor_and_pins_the_other() -> None:
    space = LabelSpace()
    whole, a, b = space.fresh(8), space.fresh(2), space.fresh(4)
    space.product(whole, [a, b], "reshape")
    result = resolve(space, [whole, a, b])
    assert result.all_pinned(a)
    assert not np.any(result.pinned(b))
    assert (
        result.root(whole).array().tolist() == np.tile(result.root(b).array(), 2).tolist()
    )


def test_a_factor_that_carries_one_product_carries_the_next() -> None:
    space = LabelSpace()
    first, second, g, i, o = (space.fresh(n) for n in (32, 64, 8, 4, 8))
    space.product(first, [g, i], "conv")
    space.product(second, [g, o], "conv")
    result = resolve(space, [first, second, g, i, o])
    assert not np.any(result.pinned(g))
    assert result.all_pinned(i)
    assert result.all_pinned(o)


def test_sizes_must_agree() -> None:
    space = LabelSpace()
    with pytest.raises(ValueError, match="sizes 2 and 3"):
        space.tie(space.fresh(2), space.fresh(3))
    with pytest.raises(ValueError, match="not the product"):
        space.product(space.fresh(5), [space.fresh(2), space.fresh(3)], "x")
