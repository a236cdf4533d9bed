"""Boxes of images, alone and as one array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunegraph.data.targets import NO_BOX, Boxes, padded, unpadded
from prunegraph.errors import DataError

SIDE = st.floats(0, 4096, width=32)


@st.composite
def boxes(draw: st.DrawFn) -> Boxes:
    count = draw(st.integers(0, 4))
    corners = np.array(
        draw(st.lists(SIDE, min_size=4 * count, max_size=4 * count)), np.float32
    )
    ends = np.sort(corners.reshape(count, 2, 2), axis=1).reshape(count, 4)
    classes = draw(st.lists(st.integers(0, 2**20), min_size=count, max_size=count))
    return Boxes(ends, np.array(classes, np.int64))


@given(st.lists(boxes(), max_size=4), st.integers(0, 3))
def test_padding_loses_nothing(images: list[Boxes], spare: int) -> None:
    most = max([1, *map(len, images)]) + spare
    array = padded(images, most)
    assert array.shape == (len(images), most, 5) and array.dtype == np.float32
    assert unpadded(array) == images
    assert [int((row[:, 0] != NO_BOX).sum()) for row in array] == list(map(len, images))


def test_an_image_without_boxes_has_a_row_that_says_so() -> None:
    np.testing.assert_array_equal(padded([Boxes([], [])]), [[[NO_BOX, 0, 0, 0, 0]]])


@pytest.mark.parametrize(
    ("xyxy", "classes", "message"),
    [
        ([[0, 0, 1, 1]], [0, 1], "1 boxes have 2 classes"),
        ([[0, 0, np.nan, 1]], [0], "no finite number"),
        ([[2, 0, 1, 1]], [0], "ends before it starts"),
        ([[0, 0, 1, 1]], [-1], "class -1"),
    ],
)
def test_what_is_no_box(xyxy: list[list[float]], classes: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Boxes(np.array(xyxy), np.array(classes))


def test_more_boxes_than_room() -> None:
    with pytest.raises(DataError, match="2 boxes, and there is room for 1"):
        padded([Boxes(np.zeros((2, 4)), np.zeros(2))], 1)
    with pytest.raises(DataError, match="shape"):
        unpadded(np.zeros((2, 3)))
