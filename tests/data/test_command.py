"""`prunegraph data`: figures, and a picture in which pixels and boxes are where they belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prunegraph as pg
from prunegraph.data.sheet import COLORS, GAP, LINE, pixels_of
from tests.commands import in_process
from tests.data.scenes import network, scenes, write_classes, write_coco
from tests.data.test_images import true_boxes


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pg.save(network("N", 3, 96, 96), "net.onnx")
    return tmp_path


def call(command: str) -> str:
    done = in_process(*command.split())
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stderr


def test_classes() -> None:
    write_classes(Path("photos"))
    (Path("photos") / "tree" / "0003.jpg").unlink()
    text = call("data photos --model net.onnx")
    assert "11 samples" in text
    assert "input photo: [11, 3, 96, 96] of float32" in text
    assert "labels: 0 ball (4), 1 crate (4), 2 tree (3)" in text
    assert "note: preprocessing was guessed: resize=110,crop=96x96" in text


def test_boxes_are_drawn_where_they_are() -> None:
    made = scenes(4)
    path = write_coco(made, Path("set"))
    text = call(f"data {path} --model net.onnx --preprocess yolo --show out.png")
    assert "boxes: 6, at most 3 in an image, 1 images without" in text
    with Image.open("out.png") as image:
        sheet = np.asarray(image)
    for index, scene in enumerate(made):
        x, y = index % 2 * (96 + GAP), index // 2 * (96 + LINE + GAP)
        boxes = true_boxes(scene, 96)
        # The last box lies on top: its corners have its colour.
        if len(boxes):
            color = COLORS[boxes.classes[-1] % len(COLORS)]
            left, top = (int(each) for each in np.floor(boxes.xyxy[-1][:2]))
            spot = sheet[y + top : y + top + 2, x + left : x + left + 2].reshape(-1, 3)
            wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
            assert (spot == wanted).all(1).any()


@pytest.mark.parametrize("chain", ["imagenet", "clip", "none,resize=96x96,color=bgr"])
def test_the_picture_undoes_values(chain: str) -> None:
    """What is drawn are the pixels that the network's values stand for."""
    from prunegraph.data.image_input import need_image_input, preprocessing

    target = need_image_input(pg.load("net.onnx"), "data")
    known = preprocessing(chain, target)
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    )
    pixels = known.pixels(image)[None]
    shown = pixels_of(known.values(pixels, target.dtype), known)[0]
    upright = pixels[0][:, :, ::-1] if known.color == "bgr" else pixels[0]
    np.testing.assert_array_equal(shown, upright)


def test_arrays() -> None:
    values = np.random.default_rng(0).standard_normal((5, 3, 96, 96)).astype(np.float32)
    np.save("a.npy", values)
    text = call("data a.npy --model net.onnx --show out.png --number 3 --seed 1")
    assert "5 samples" in text and "no labels" in text
    with Image.open("out.png") as image:
        assert image.size == (2 * (96 + GAP), 2 * (96 + LINE + GAP))
        low, high = values.min(), values.max()
        drawn = np.sort(np.random.default_rng(1).permutation(5)[:3])
        chosen = values[drawn]
        low, high = chosen.min(), chosen.max()
        expected = np.rint((chosen[0].transpose(1, 2, 0) - low) / (high - low) * 255)
        np.testing.assert_allclose(np.asarray(image)[:96, :96], expected, atol=1)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("data photos --model net.onnx --show out.jpg", "out.jpg: a picture is a .png"),
        ("data photos --model net.onnx --show none/out.png", "none"),
        ("data none --model net.onnx", "none: no such data file"),
    ],
)
def test_what_is_refused(command: str, message: str) -> None:
    write_classes(Path("photos"))
    done = in_process(*command.split())
    assert done.exit_code == 2 and message in done.stderr and not Path("out.jpg").exists()
    assert done.stderr.count("error: ") == 1
