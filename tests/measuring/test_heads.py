"""Boxes from heads with anchors and with priors, against what was put in, and the metrics that read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunegraph.errors import DataError, OptionError, UnknownNameError
from prunegraph.measuring.heads import anchor_sizes, from_anchors, from_priors
from prunegraph.measuring.metrics import Seen, portable, resolve

Array = np.ndarray

ANCHORS = "4x6+12x10/20x30+44x36"
CLASSES = 3


def logit(chance: Array | float) -> Array:
    return np.log(np.asarray(chance) / (1 - np.asarray(chance)))


def maps_of(
    labels: Array, scores: Array, size: tuple[int, int], empty: float = -20.0
) -> list[Array]:
    """Maps of strides 8 and 32 in which box k of a sample is given by anchor k: of all four, one each.

    Args:
        labels: [n, 4, 5]: class, corners.
        scores: of each box [n, 4].
        size: height and width of the images.
        empty: the logit of everything else.
    """
    sizes = [pair for part in anchor_sizes(ANCHORS, "test") for pair in part]
    maps = [
        np.full((len(labels), 2, 5 + CLASSES, size[0] // s, size[1] // s), empty)
        for s in (8, 32)
    ]
    for i, row in enumerate(labels):
        for k, (named, left, top, right, bottom) in enumerate(row):
            stride, anchor = (8, 32)[k // 2], sizes[k]
            x, y = (left + right) / 2 / stride, (top + bottom) / 2 / stride
            cell = maps[k // 2][i, k % 2, :, int(y), int(x)]
            cell[:2] = logit(x % 1), logit(y % 1)
            cell[2:4] = (
                np.log((right - left) / anchor[0]),
                np.log((bottom - top) / anchor[1]),
            )
            cell[4] = logit(scores[i, k])
            cell[5 + int(named)] = 20
    return [y.reshape(len(y), -1, *y.shape[3:]).astype(np.float32) for y in maps]


def drawn(count: int, size: tuple[int, int], seed: int) -> Array:
    """Labels [count, 4, 5] within images, whose centres lie inside their cells."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0.05, 0.95, (count, 4, 2)) + np.floor(
        rng.uniform(0, (size[1] // 32, size[0] // 32), (count, 4, 2))
    )
    centre *= np.array([8, 8, 32, 32])[:, None]
    extent = rng.uniform(3, 30, (count, 4, 2))
    named = rng.integers(0, CLASSES, (count, 4, 1))
    corners = [centre - extent / 2, centre + extent / 2]
    return np.concatenate([named, *corners], -1).astype(np.float32)


@given(st.integers(0, 2**16), st.sampled_from([(64, 64), (64, 128), (96, 32)]))
def test_maps_give_the_boxes_that_were_put_in(seed: int, size: tuple[int, int]) -> None:
    labels = drawn(3, size, seed)
    scores = np.random.default_rng(seed).uniform(0.1, 0.9, (3, 4))
    maps = maps_of(labels, scores, size)
    for order in (maps, maps[::-1]):
        boxes, chances = from_anchors(order, anchor_sizes(ANCHORS, "test"), size)
        places = sum(2 * (size[0] // s) * (size[1] // s) for s in (8, 32))
        assert boxes.shape == (3, places, 4) and chances.shape == (3, places, CLASSES)
        for i in range(3):
            for k in range(4):
                named = int(labels[i, k, 0])
                near = np.abs(boxes[i] - labels[i, k, 1:]).max(1) < 0.01
                assert chances[i, near, named] == pytest.approx([scores[i, k]], abs=1e-3)
        assert (chances > 1e-3).sum() == 12


@given(st.integers(0, 2**16))
def test_offsets_give_the_boxes_that_were_put_in(seed: int) -> None:
    rng = np.random.default_rng(seed)
    priors = np.concatenate([rng.uniform(0, 64, (9, 2)), rng.uniform(4, 40, (9, 2))], 1)
    least = rng.uniform(0, 40, (2, 9, 2))
    wanted = np.concatenate([least, least + rng.uniform(3, 20, (2, 9, 2))], -1)
    chances = rng.dirichlet(np.ones(1 + CLASSES), (2, 9))
    centre, extent = (
        (wanted[..., :2] + wanted[..., 2:]) / 2,
        wanted[..., 2:] - wanted[..., :2],
    )
    offsets = np.concatenate(
        [
            (centre - priors[:, :2]) / priors[:, 2:] / 0.1,
            np.log(extent / priors[:, 2:]) / 0.2,
        ],
        -1,
    )
    scores = np.log(chances) + rng.normal(0, 5, (2, 9, 1))
    boxes, got = from_priors([offsets, scores], priors)
    np.testing.assert_allclose(boxes, wanted, atol=1e-4)
    np.testing.assert_allclose(got, chances[..., 1:], atol=1e-6)
    # With another number of columns they may come in any order.
    for again in (
        from_priors([offsets, scores[..., :3]], priors),
        from_priors([scores[..., :3], offsets], priors),
    ):
        np.testing.assert_allclose(again[0], wanted, atol=1e-4)
        assert again[1].shape == (2, 9, 2)


def test_a_metric_reads_heads_by_its_options(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="the extra [detection] is not installed")
    labels = drawn(8, (64, 64), 1)
    maps = maps_of(labels, np.full((8, 4), 0.9), (64, 64))
    x = np.zeros((8, 3, 64, 64), np.float32)
    seen = Seen({"x": x, "labels": labels}, {}, {"a": maps[1], "b": maps[0]})
    for name in ("map50", "map"):
        assert resolve(portable(f"{name}:anchors={ANCHORS}")).measure([seen]) == (
            pytest.approx(100)
        )
    moved = ANCHORS.replace("4x6", "40x60").replace("12x10", "1x1")
    assert 0 < resolve(f"map50:anchors={moved}").measure([seen]) < 70
    priors = np.concatenate([labels[0, :, 1:3], labels[0, :, 3:] - labels[0, :, 1:3]], 1)
    priors[:, :2] += priors[:, 2:] / 2
    np.save(tmp_path / "priors.npy", priors)
    scores = 9 * np.eye(1 + CLASSES)[labels[:1, :, 0].astype(int) + 1]
    outputs = {"offsets": np.zeros((1, 4, 4)), "scores": scores}
    first = Seen({"x": x[:1], "labels": labels[:1]}, {}, outputs)
    metric = resolve(portable(f"map:priors={tmp_path / 'priors.npy'}"))
    assert metric.measure([first]) == pytest.approx(100)
    assert metric.name == "map" and metric.rises


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    labels = drawn(1, (64, 64), 1)
    maps = maps_of(labels, np.full((1, 4), 0.9), (64, 64))
    image = np.zeros((1, 3, 64, 64), np.float32)
    np.save(tmp_path / "flat.npy", np.zeros(4))
    np.save(tmp_path / "two.npy", np.ones((2, 4)))
    for metric, outputs, error, text in (
        ("map50:anchors=3", maps, OptionError, "WxH"),
        ("map50:anchors=4x4", maps, DataError, "1 groups of anchors"),
        ("map50:anchors=4x4/5x5+3x3", maps, DataError, "2 groups of anchors"),
        ("map50:anchors=4x4,priors=x.npy", maps, OptionError, "not both"),
        (f"map:priors={tmp_path / 'no.npy'}", maps, DataError, "not a file"),
        (f"map:priors={tmp_path / 'flat.npy'}", maps, DataError, "prior boxes are"),
        (f"map:priors={tmp_path / 'two.npy'}", maps, DataError, "2 priors need"),
        ("map50", maps, DataError, "map50:anchors="),
        ("map50:boxes=3", maps, UnknownNameError, "boxes"),
        ("top1:anchors=3", maps, UnknownNameError, "anchors"),
        ("nap:anchors=3", maps, UnknownNameError, "nap"),
    ):
        seen = Seen(
            {"x": image, "labels": labels},
            {},
            {str(i): y for i, y in enumerate(outputs)},
        )
        with pytest.raises(error, match=text):
            resolve(portable(metric)).measure([seen])
