"""Boxes follow what happens to pixels, exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prunegraph.data.geometry import (
    CenterCrop,
    GeometryStep,
    Letterbox,
    Resize,
    ShorterSide,
    Size,
    placement,
)
from prunegraph.errors import OptionError

SIDES = st.integers(1, 300)
SIZES = st.tuples(SIDES, SIDES)
STEPS = st.one_of(
    st.builds(Resize, SIZES),
    st.builds(ShorterSide, SIDES, st.none() | st.integers(1, 400)),
    st.builds(Letterbox, SIZES, st.integers(0, 255)),
    st.builds(CenterCrop, SIZES, st.booleans()),
)


def applied(steps: list[GeometryStep], image: Image.Image) -> Image.Image:
    for step in steps:
        image = step.apply(image, "nearest")
    return image


@given(st.lists(STEPS, max_size=3), SIZES)
def test_an_image_has_the_size_that_its_placement_says(
    steps: list[GeometryStep], size: Size
) -> None:
    # A long strip, resized by its shorter side, becomes too long.
    try:
        expected = placement(steps, size)
    except OptionError:
        return
    image = applied(steps, Image.new("RGB", size[::-1]))
    assert (image.height, image.width) == expected.size


@given(
    st.lists(
        st.one_of(st.builds(Resize, SIZES), st.builds(ShorterSide, SIDES)), max_size=2
    ),
    SIZES,
    st.tuples(SIDES, SIDES),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_boxes_come_back_from_a_letterbox(
    steps: list[GeometryStep], size: Size, room: Size, shares: list[float]
) -> None:
    try:
        placed = placement([*steps, Letterbox(room)], size)
    except OptionError:
        return
    (x1, x2), (y1, y2) = sorted(shares[:2]), sorted(shares[2:])
    box = np.array([[x1 * size[1], y1 * size[0], x2 * size[1], y2 * size[0]]])
    moved = placed.boxes(box, np.array([5]))
    width, height = ((box[0, 2:] - box[0, :2]) * placed.scale).tolist()
    # Narrower than what 32 bits tell apart: such a box may vanish.
    if min(width, height) < 1e-4:
        return
    assert moved.classes.tolist() == [5]
    back = (moved.xyxy - np.array(placed.shift * 2)) / np.array(placed.scale * 2)
    resolution = 1e-6 * max(room) / np.array(placed.scale * 2)
    assert (np.abs(back - box) <= resolution + 1e-9).all()


@given(
    st.integers(1, 4),
    st.tuples(st.integers(8, 20), st.integers(8, 20)),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.data(),
)
def test_a_painted_box_lies_where_its_corners_go(
    factor: int, size: Size, spare: tuple[int, int], data: st.DataObject
) -> None:
    """Pixels themselves are the reference: whole factors leave whole pixels."""
    height, width = size
    x1, y1 = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    x2 = data.draw(st.integers(x1 + 1, width))
    y2 = data.draw(st.integers(y1 + 1, height))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y1:y2, x1:x2] = 255
    # Room on one axis alone, so that the factor stays whole.
    room = (height * factor + spare[0], width * factor)
    crop = (height * factor - min(spare[1], 7), width * factor + 3)
    steps: list[GeometryStep] = [Letterbox(room, 0), CenterCrop(crop)]
    seen = np.argwhere(np.asarray(applied(steps, Image.fromarray(pixels)))[:, :, 0] == 255)
    boxes = placement(steps, size).boxes(np.array([[x1, y1, x2, y2]]), np.array([0]))
    if not len(seen):
        assert not len(boxes)
        return
    (top, left), (bottom, right) = seen.min(0), seen.max(0) + 1
    assert boxes.xyxy.tolist() == [[left, top, right, bottom]]


@pytest.mark.parametrize(
    ("step", "size", "expected"),
    [
        # ultralytics' LetterBox of 640: ratio 640 / 1280, 640 x 360, 140 rows above and below
        (Letterbox((640, 640)), (720, 1280), ((0.5, 0.5), (0, 140), (640, 640))),
        # a spare odd row is below: (15 - 10) / 2 - 0.1 is rounded to 2
        (Letterbox((15, 20)), (10, 20), ((1, 1), (0, 2), (15, 20))),
        # torchvision.transforms.Resize(256): int(256 * 500 / 375) is 341
        (ShorterSide(256), (375, 500), ((341 / 500, 256 / 375), (0, 0), (256, 341))),
        # DETR: shorter side 800, longer at most 1333
        (
            ShorterSide(800, 1333),
            (400, 1000),
            ((1333 / 1000, 533 / 400), (0, 0), (533, 1333)),
        ),
        # torchvision.transforms.CenterCrop(224): round(15.5) is 16, round(16.5) is 16
        (CenterCrop((224, 224)), (255, 257), ((1, 1), (-16, -16), (224, 224))),
        (CenterCrop((224, 224), True), (255, 257), ((1, 1), (-16, -15), (224, 224))),
    ],
)
def test_sizes_are_rounded_as_elsewhere(
    step: GeometryStep, size: Size, expected: object
) -> None:
    placed = step.place(size)
    assert (placed.scale, placed.shift, placed.size) == expected


def test_what_is_cropped_away_is_no_box() -> None:
    crop = placement([CenterCrop((10, 10))], (30, 30))
    boxes = np.array([[0, 0, 5, 5], [5, 12, 14, 14], [20, 10, 25, 20]])
    kept = crop.boxes(boxes, np.array([0, 1, 2]))
    assert kept.xyxy.tolist() == [[0, 2, 4, 4]] and kept.classes.tolist() == [1]


def test_images_that_become_too_large_are_refused() -> None:
    with pytest.raises(OptionError, match="10000 x 1 pixels would become 2240000 x 224"):
        placement([ShorterSide(224)], (1, 10_000))
