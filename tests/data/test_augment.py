"""Augmentation: labels follow the pictures, held against what the pictures themselves show."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunegraph.data import augment as augments
from prunegraph.data import warping
from prunegraph.data.augment import Augmentation, augmentation
from prunegraph.data.image_input import ImageInput
from prunegraph.errors import DataError, OptionError, UnknownNameError
from prunegraph.runtime.layout import LABELS

Array = np.ndarray
TARGET = ImageInput("x", "nchw", 3, (24, 20), np.dtype(np.float32))
PLACES = st.fixed_dictionaries(
    {
        "flip": st.sampled_from([0.0, 0.5, 1.0]),
        "crop": st.sampled_from([0.0, 0.3, 0.6]),
        "shift": st.sampled_from([0.0, 0.2]),
        "mosaic": st.sampled_from([0.0, 0.5, 1.0]),
    }
)


def rectangles(
    count: int, seed: int, height: int = 40, width: int = 48
) -> dict[str, Array]:
    """Images with a channel for each sample of the batch; each shows one rectangle, in its own channel."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, count, height, width), np.float32)
    labels = np.full((count, 2, 5), -1, np.float32)
    for index in range(count):
        w, h = rng.integers(8, width // 2), rng.integers(8, height // 2)
        x, y = rng.integers(0, width - w), rng.integers(0, height - h)
        images[index, index, y : y + h, x : x + w] = 1
        labels[index, 1] = (index, x, y, x + w, y + h)
    return {"x": images, LABELS: labels}


def far_inside(box: Array, shape: tuple[int, ...], margin: float) -> Array:
    """Pixels [height, width] whose middle is inside a box, a margin away from its sides (below 0: outside of it)."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    left, top, right, bottom = box
    sides = np.stack([x - left, y - top, right - x, bottom - y])
    return sides.min(0) > margin


@given(PLACES, st.integers(0, 10**6), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_boxes_are_where_pictures_show_them(
    chosen: dict[str, float], seed: int, count: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # Every rest of a box is kept here, so that what is shown has a box.
        patch.setattr(warping, "LEAST", 0.0)
        patch.setattr(warping, "NARROWEST", 0.0)
        batch = rectangles(count, seed)
        result = Augmentation("x", **chosen)(batch, np.random.default_rng(seed))
    for image, rows in zip(result["x"], result[LABELS], strict=True):
        rows = rows[rows[:, 0] >= 0]
        for channel, shown in enumerate(image):
            near = np.zeros(shown.shape, bool)
            for box in rows[rows[:, 0] == channel, 1:]:
                near |= far_inside(box, shown.shape, -1.0)
                assert (shown[far_inside(box, shown.shape, 1.0)] > 0.5).all()
            assert not (shown[~near] > 0.5).any()


@given(PLACES, st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_what_is_left_of_a_box_is_enough_to_see(
    chosen: dict[str, float], seed: int
) -> None:
    result = Augmentation("x", **chosen)(rectangles(3, seed), np.random.default_rng(seed))
    for rows in result[LABELS]:
        rows = rows[rows[:, 0] >= 0]
        assert (rows[:, 3:] - rows[:, 1:3] >= 2).all()
        assert (
            (rows[:, 1:] >= 0).all()
            and (rows[:, [1, 3]] <= 48).all()
            and (rows[:, [2, 4]] <= 40).all()
        )


@given(PLACES, st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_numbers_of_pixels_follow(chosen: dict[str, float], seed: int) -> None:
    batch = rectangles(3, seed)
    maps = batch["x"].argmax(1) + 5 * (batch["x"].max(1) > 0)
    result = Augmentation("x", **chosen)(
        {**batch, LABELS: maps}, np.random.default_rng(seed)
    )
    shown, numbers = result["x"], result[LABELS]
    assert numbers.dtype == maps.dtype and set(np.unique(numbers)) <= set(np.unique(maps))
    is_clear = (shown.max(1) > 0.75) | (shown.max(1) < 0.25)
    wanted = np.where(shown.max(1) > 0.5, shown.argmax(1) + 5, 0)
    np.testing.assert_array_equal(numbers[is_clear], wanted[is_clear])


@given(st.integers(0, 10**6), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_boxes_are_around_what_is_turned(seed: int, count: int) -> None:
    batch = rectangles(count, seed)
    # An edge that fills what is free makes what lies at it larger: nothing does here.
    batch["x"] = np.pad(batch["x"], ((0, 0), (0, 0), (8, 8), (8, 8)))
    batch[LABELS][:, 1, 1:] += 8
    result = Augmentation("x", affine=1.0)(batch, np.random.default_rng(seed))
    for image, rows in zip(result["x"], result[LABELS], strict=True):
        for label, *box in rows[rows[:, 0] >= 0]:
            shown = image[int(label)] > 0.5
            assert not shown[~far_inside(np.asarray(box), shown.shape, -1.0)].any()
            y, x = np.nonzero(shown)
            ends = [x.min(), y.min(), x.max() + 1, y.max() + 1]
            # Corners of a turned rectangle are pointed: half of a pixel is seen a little further in.
            np.testing.assert_allclose(ends, box, atol=4)


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_numbers_of_pixels_are_turned_with_the_picture(seed: int) -> None:
    batch = rectangles(3, seed)
    maps = batch["x"].argmax(1) + 5 * (batch["x"].max(1) > 0)
    result = Augmentation("x", affine=1.0)(
        {**batch, LABELS: maps}, np.random.default_rng(seed)
    )
    shown, numbers = result["x"], result[LABELS]
    is_clear = (shown.max(1) > 0.75) | (shown.max(1) < 0.25)
    wanted = np.where(shown.max(1) > 0.5, shown.argmax(1) + 5, 0)
    np.testing.assert_array_equal(numbers[is_clear], wanted[is_clear])
    assert not np.array_equal(shown, batch["x"])


def test_an_image_is_turned_about_its_middle_and_no_map_leaves_it() -> None:
    image = np.random.default_rng(0).standard_normal((2, 9, 7)).astype(np.float32)
    np.testing.assert_array_equal(warping.Warp(np.eye(2)).image(image), image)
    # Half a turn is exact.
    half = warping.Warp(-np.eye(2))
    np.testing.assert_array_equal(half.image(image), image[:, ::-1, ::-1])
    np.testing.assert_array_equal(half.numbers(image[0]), image[0, ::-1, ::-1])
    rows = np.array([[3, 1, 2, 4, 6]], np.float32)
    np.testing.assert_allclose(half.boxes(rows, (9, 7)), [[3, 3, 3, 6, 7]])
    # A linear picture stays linear inside, with the slopes of the map.
    y, x = np.mgrid[:33, :33].astype(np.float32)
    turn = warping.Warp.drawn(np.random.default_rng(1))
    inner = (slice(8, 25), slice(8, 25))
    for slopes in ((1, 0), (0, 1)):
        seen = turn.image((slopes[0] * x + slopes[1] * y)[None])[0][inner]
        wanted = np.asarray(slopes) @ turn.matrix
        np.testing.assert_allclose(np.diff(seen, axis=1), wanted[0], atol=1e-4)
        np.testing.assert_allclose(np.diff(seen, axis=0), wanted[1], atol=1e-4)


def test_a_mirror_is_exact_and_a_seed_repeats() -> None:
    batch = rectangles(4, 0)
    turned = Augmentation("x", flip=1.0)(batch, np.random.default_rng(0))
    np.testing.assert_array_equal(turned["x"], batch["x"][..., ::-1])
    twice = Augmentation("x", flip=1.0)(turned, np.random.default_rng(0))
    np.testing.assert_array_equal(twice["x"], batch["x"])
    np.testing.assert_array_equal(twice[LABELS][:, 0], batch[LABELS][:, 1])
    full = Augmentation("x", **augments.USUAL)
    first, second = (full(batch, np.random.default_rng(3)) for _ in range(2))
    other = full(batch, np.random.default_rng(4))
    for name in batch:
        np.testing.assert_array_equal(first[name], second[name])
    assert not np.array_equal(first["x"], other["x"])


def test_shifts_are_whole_pixels_and_the_edge_fills() -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 3, 20, 30)).astype(np.float32)
    seen = set()
    for seed in range(30):
        moved = Augmentation("x", shift=0.2)({"x": image}, np.random.default_rng(seed))["x"]
        padded = np.pad(image, ((0, 0), (0, 0), (4, 4), (6, 6)), mode="edge")
        places = [
            (dy, dx)
            for dy in range(9)
            for dx in range(13)
            if np.array_equal(padded[:, :, dy : dy + 20, dx : dx + 30], moved)
        ]
        assert places
        seen |= set(places)
    assert len(seen) > 15


def test_colours_are_a_line_for_grey_and_stay_within_what_is_asked_for() -> None:
    image = np.random.default_rng(0).standard_normal((6, 1, 9, 9)).astype(np.float32)
    result = Augmentation("x", color=0.3)({"x": image}, np.random.default_rng(1))["x"]
    for before, after in zip(image, result, strict=True):
        slope, shift = np.polyfit(before.ravel(), after.ravel(), 1)
        np.testing.assert_allclose(slope * before + shift, after, atol=1e-4)
        assert abs(slope - 1) <= 0.3 and slope != 1
        assert abs(after.mean() - before.mean()) <= 0.3 * before.std() + 1e-5
    grey = np.repeat(image, 3, 1)
    coloured = Augmentation("x", color=0.3)({"x": grey}, np.random.default_rng(1))["x"]
    np.testing.assert_allclose(coloured[:, 0], coloured[:, 1], atol=1e-5)


def test_a_blend_has_the_boxes_of_both() -> None:
    batch = rectangles(4, 1)
    result = Augmentation("x", mixup=1.0)(batch, np.random.default_rng(2))
    assert len(result[LABELS]) == 4
    for index, (image, rows) in enumerate(zip(result["x"], result[LABELS], strict=True)):
        shown = {channel for channel in range(4) if image[channel].max() > 0}
        assert {int(kind) for kind in rows[rows[:, 0] >= 0, 0]} == shown and index in shown
    assert any((rows[:, 0] >= 0).sum() == 2 for rows in result[LABELS])


def test_other_layouts_types_and_inputs() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 10, 3)).astype(np.uint8)
    full = Augmentation("x", "nhwc", flip=0.5, crop=0.3, color=0.9)
    result = full({"x": pixels, "other": pixels}, np.random.default_rng(0))
    assert result["x"].dtype == np.uint8 and result["x"].shape == pixels.shape
    assert result["other"] is pixels
    planes = {"x": pixels.transpose(0, 3, 1, 2).astype(np.float32)}
    wanted = dataclasses.replace(full, layout="nchw")(planes, np.random.default_rng(0))["x"]
    np.testing.assert_array_equal(
        result["x"], wanted.transpose(0, 2, 3, 1).round().clip(0, 255).astype(np.uint8)
    )


def test_words() -> None:
    assert augmentation("flip, crop=0.4,color", TARGET) == Augmentation(
        "x", flip=0.5, crop=0.4, color=0.2
    )
    assert str(augmentation("crop=0.4", TARGET)) == "crop=0.4"
    for text, error, message in (
        ("turn", UnknownNameError, "unknown augmentation 'turn'"),
        ("crop=much", OptionError, "crop is a number, got 'much'"),
        ("crop=1", OptionError, "crop is from 0 to 0.9, got 1"),
        ("flip=-1", OptionError, "flip is from 0 to 1, got -1"),
        ("flip=nan", OptionError, "flip is from 0 to 1, got nan"),
    ):
        with pytest.raises(error, match=message):
            augmentation(text, TARGET)


@pytest.mark.parametrize(
    ("text", "labels", "message"),
    [
        ("mosaic", np.zeros(4, np.int64), "do not follow mosaic"),
        ("mixup", np.zeros(4, np.int64), "--mixup blends samples and their labels"),
        ("mixup", np.zeros((4, 40, 48), np.int64), "do not follow mixup"),
        ("flip", np.zeros((4, 7), np.float32), r"\[4, 7\] do not follow flip=0.5"),
    ],
)
def test_labels_that_cannot_follow(text: str, labels: Array, message: str) -> None:
    batch = {**rectangles(4, 0), LABELS: labels}
    with pytest.raises(DataError, match=message):
        augmentation(text, TARGET)(batch, np.random.default_rng(0))
    same = augmentation("color", TARGET)(batch, np.random.default_rng(0))
    assert same[LABELS] is labels


def test_what_is_no_batch_of_images() -> None:
    for arrays, message in (
        ({"y": np.zeros(3)}, "there is no 'x'"),
        ({"x": np.zeros((3, 4))}, r"input 'x' has shape \[3, 4\]"),
    ):
        with pytest.raises(DataError, match=message):
            augmentation("flip", TARGET)(arrays, np.random.default_rng(0))


def test_a_command_trains_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import prunegraph as pg
    from tests.commands import in_process
    from tests.data.scenes import network, write_classes

    monkeypatch.chdir(tmp_path)
    write_classes(Path("photos"))
    pg.save(network("N", 3, 16, 16), "net.onnx")
    command = "train net.onnx -o out.onnx --data photos --epochs 1 --batch 4 --force"
    words = command.split()
    done = in_process(*words, "--augment", "flip,crop,color,shift")
    assert done.exit_code == 0, done.output
    for text, message in (
        ("turn", "unknown augmentation"),
        ("mosaic", "do not follow mosaic"),
    ):
        done = in_process(*words, "--augment", text)
        assert done.exit_code == 2 and message in done.stderr
