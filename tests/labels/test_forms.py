"""The three forms of the labels of an axis."""

from __future__ import annotations

import numpy as np
import pytest

from prunegraph.labels.labels import Labels, Listed, Span, Uniform, concatenate
from prunegraph.labels.products import Product

FORMS: list[Labels] = [Span(6, 4), Uniform(6, 3), Listed(np.asarray([5, 1, 7]), repeat=2)]


@pytest.mark.parametrize("labels", FORMS, ids=repr)
@pytest.mark.parametrize(
    "index", [slice(1, 4), slice(None, None, -2), slice(5, 2), np.asarray([0, 5, 5])]
)
def test_labels_are_taken_as_numpy_does(labels: Labels, index: slice | np.ndarray) -> None:
    taken = labels.take(index)
    assert taken.array().tolist() == labels.array()[index].tolist()
    assert len(taken) == taken.size == len(taken.array())


def test_a_part_of_a_span_is_a_span_and_uniform_labels_stay_uniform() -> None:
    assert isinstance(Span(6, 4).take(slice(1, 4)), Span)
    assert isinstance(Uniform(6, 3).take(np.asarray([2, 0])), Uniform)
    assert Uniform(6, 3).resized(2).array().tolist() == [3, 3]


def test_labels_are_the_same_only_in_the_same_form() -> None:
    ids = np.asarray([4, 5])
    assert Span(2, 4).same(Span(2, 4))
    assert Listed(ids).same(Listed(ids))
    assert not Span(1, 4).same(Uniform(1, 4))
    assert not Listed(ids).same(Listed(ids, repeat=2))
    assert not Span(2, 4).same(Listed(ids))


def test_one_part_is_its_own_concatenation() -> None:
    span = Span(2, 4)
    assert concatenate([span]) is span
    assert concatenate([span, Uniform(2, 1)]).array().tolist() == [4, 5, 1, 1]


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("labels", FORMS, ids=repr)
def test_a_factor_is_spread_over_the_whole(labels: Labels, index: int) -> None:
    factors: list[Labels] = [Span(2, 20), Span(3, 30)]
    factors.insert(index, labels)
    sizes = [factor.size for factor in factors]
    whole = int(np.prod(sizes))
    shape = [-1 if i == index else 1 for i in range(3)]
    expected = np.broadcast_to(labels.array().reshape(shape), sizes).reshape(-1)
    spread = Product(Span(whole, 100), tuple(factors), "here").spread(index)
    assert spread.array().tolist() == expected.tolist()
