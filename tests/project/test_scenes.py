"""Rendered scenes: the same for a seed, boxes around what was painted, and files that the readers take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fixtures import scenes as rendered
from prunegraph.data.opening import open_data
from prunegraph.runtime.data import LABELS
from tests.builders import Builder

Array = np.ndarray

SIZE = 48


@pytest.fixture(autouse=True)
def _sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garments that are bright rectangles of the class's width, on photos that are black."""
    pytest.importorskip("PIL", reason="the extra [images] is not installed")

    def fashion(part: str) -> tuple[Array, Array]:
        images = np.zeros((20, 1, 28, 28), np.float32)
        for index, image in enumerate(images[:, 0]):
            image[4:24, 2 : 8 + 2 * (index % 10)] = 1
        return images, np.arange(20) % 10

    monkeypatch.setattr(rendered, "fashion", fashion)
    monkeypatch.setattr(rendered, "photos", lambda: [np.zeros((90, 150, 3), np.uint8)] * 2)


def test_boxes_are_where_garments_were_painted() -> None:
    made = rendered.scenes("train", 40, SIZE, seed=3)
    images, labels = made["image"], made[LABELS]
    assert images.shape == (40, 3, SIZE, SIZE) and images.dtype == np.uint8
    assert labels.shape == (40, rendered.MOST, 5) and labels.dtype == np.float32
    counts = (labels[..., 0] >= 0).sum(1)
    assert counts.min() >= 1 and counts.max() > 2
    assert set(labels[labels[..., 0] >= 0, 0]) == set(range(10))
    for image, row in zip(images.astype(int), labels, strict=True):
        boxes = row[row[:, 0] >= 0, 1:].astype(int)
        bright = image.max(0) > 60
        inside = np.zeros_like(bright)
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= SIZE and 0 <= top < bottom <= SIZE
            # But for the rim, which is blurred.
            assert bright[top + 1 : bottom - 1, left + 1 : right - 1].all()
            inside[top:bottom, left:right] = True
        assert not (bright & ~inside).any()
        for i, first in enumerate(boxes):
            for second in boxes[:i]:
                common = np.minimum(first, second)[2:] - np.maximum(first, second)[:2]
                areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
                assert np.clip(common, 0, None).prod() <= rendered.HIDDEN * min(areas)


def test_scenes_follow_from_seed_and_part() -> None:
    first, again, longer, other, tests = (
        rendered.scenes(part, count, SIZE, seed)["image"]
        for part, count, seed in (
            *(("train", 6, 0), ("train", 6, 0), ("train", 9, 0)),
            *(("train", 6, 1), ("t10k", 6, 0)),
        )
    )
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, longer[:6])
    assert (first != other).any((1, 2, 3)).all() and (first != tests).any((1, 2, 3)).all()


def test_files_give_the_same_scenes(tmp_path: Path) -> None:
    made = rendered.scenes("t10k", 5, SIZE)
    rendered.write_coco(tmp_path, "test", made)
    b = Builder()
    graph = b.graph(b.relu(b.input("n", 3, SIZE, SIZE)))
    data = open_data(
        str(tmp_path / "test.json"), graph, preprocess="scale=1/255", workers=0
    )
    batch = next(data.batches(graph, 5, labels=True))
    np.testing.assert_allclose(batch["x"] * 255, made["image"], atol=1e-3)
    wanted = made[LABELS]
    for mine, theirs in zip(batch[LABELS], wanted, strict=True):
        np.testing.assert_allclose(mine[mine[:, 0] >= 0], theirs[theirs[:, 0] >= 0])
