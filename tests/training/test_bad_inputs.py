"""What people may give `train` by mistake: one line that says what and where, exit code 2, no traceback, no file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from tests.commands import files, in_process
from tests.data.scenes import network, scenes, write_classes, write_coco
from tests.training.test_detection import detector

Array = np.ndarray

RNG = np.random.default_rng(0)


def photos(count: int = 12, size: int = 16) -> Array:
    return RNG.standard_normal((count, 3, size, size)).astype(np.float32)


def arrays(labels: object = None, images: Array | None = None, name: str = "d.npz") -> None:
    given = {"photo": photos() if images is None else images}
    if labels is not None:
        given["labels"] = np.asarray(labels)
    np.savez(name, **given)


def code(text: str) -> None:
    arrays(np.zeros(12, np.int64))
    Path("own.py").write_text(text)


def jpegs() -> None:
    write_classes(Path("photos"), each=2)
    (Path("photos") / "ball" / "0001.jpg").write_bytes(b"\xff\xd8\xff no more")


GOOD = np.zeros(12, np.int64)

#: What is there, words behind `train net.onnx -o out.onnx`, and what is said.
CASES: dict[str, tuple[object, str, str]] = {
    "no file": (None, "--data none.npz", "none.npz: no such data file"),
    "a folder of checkpoints that is not there": (
        lambda: arrays(GOOD),
        "--data d.npz --checkpoint none/run.pt",
        "the folder none does not exist",
    ),
    "a device that is not there": (
        lambda: arrays(GOOD),
        "--data d.npz --device abacus",
        "device 'abacus' is not there",
    ),
    "a device of a type that does not compute": (
        lambda: arrays(GOOD),
        "--data d.npz --device meta:x",
        "device 'meta:x' is not there",
    ),
    "smoothing above 1": (
        lambda: arrays(GOOD),
        "--data d.npz --loss cross_entropy:smoothing=5",
        "smoothing must be from 0 to 1, got 5",
    ),
    "smoothing below 0": (
        lambda: arrays(GOOD),
        "--data d.npz --loss cross_entropy:smoothing=-1",
        "smoothing must be from 0 to 1, got -1",
    ),
    "smoothing that is no number": (
        lambda: arrays(GOOD),
        "--data d.npz --loss cross_entropy:smoothing=nan",
        "smoothing must be from 0 to 1, got nan",
    ),
    "a budget that nothing is cut to": (
        lambda: arrays(GOOD),
        "--data d.npz --macs 0.5",
        "'plain' removes nothing: leave macs out",
    ),
    "a ratio that nothing is cut by": (
        lambda: arrays(GOOD),
        "--data d.npz --method sparse --ratio 0.5",
        "'sparse' removes nothing: leave ratio out",
    ),
    "fewer epochs than none": (
        lambda: arrays(GOOD),
        "--data d.npz --method joint:sparse_epochs=-1 --macs 0.5",
        "sparse_epochs must be at least 0, got -1",
    ),
    "no rounds": (
        lambda: arrays(GOOD),
        "--data d.npz --method joint:rounds=0 --macs 0.5",
        "rounds must be at least 1, got 0",
    ),
    "no labels": (
        lambda: arrays(),
        "--data d.npz",
        "the data have no labels: give --original",
    ),
    "a class too many": (lambda: arrays([3] * 12), "--data d.npz", "3"),
    "a class below nothing": (lambda: arrays([-1] * 12), "--data d.npz", "-1"),
    "half a class": (lambda: arrays([0.5] * 12), "--data d.npz", "labels"),
    "classes as words": (lambda: arrays(["cat"] * 12), "--data d.npz", "labels"),
    "too few labels": (lambda: arrays([0] * 11), "--data d.npz", "d.npz"),
    "labels of two axes": (
        lambda: arrays(np.zeros((12, 2), np.int64)),
        "--data d.npz",
        "labels",
    ),
    "other size": (lambda: arrays(GOOD, photos(size=8)), "--data d.npz", "photo"),
    "other type": (
        lambda: arrays(GOOD, photos().astype(np.float64)),
        "--data d.npz",
        "wants float32",
    ),
    "other name": (
        lambda: np.savez("d.npz", x=photos()),
        "--data d.npz",
        "no array for model input 'photo'",
    ),
    "no samples": (lambda: arrays(GOOD[:0], photos(0)), "--data d.npz", "d.npz"),
    "too few for a batch": (
        lambda: arrays(GOOD),
        "--data d.npz --batch 64",
        "12 samples do not fill a batch of 64",
    ),
    "not a number": (
        lambda: arrays(GOOD, photos() * np.nan),
        "--data d.npz",
        "loss is nan",
    ),
    "damaged archive": (
        lambda: Path("d.npz").write_bytes(b"PK\x03\x04 no"),
        "--data d.npz",
        "not an .npz file",
    ),
    "broken JPEG": (
        jpegs,
        "--data photos --preprocess resize=16x16",
        "photos/ball/0001.jpg: not an image",
    ),
    "boxes for classes": (
        lambda: write_coco(scenes(8), Path("d")),
        "--data d/annotations/instances_val.json --preprocess resize=16x16",
        "labels",
    ),
    "no such original": (
        lambda: arrays(),
        "--data d.npz --original none.onnx",
        "none.onnx",
    ),
    "an original of other inputs": (
        lambda: (arrays(), pg.save(network("N", 3, 8, 8), "other.onnx")),
        "--data d.npz --original other.onnx",
        "photo",
    ),
    "no such loss": (
        lambda: arrays(GOOD),
        "--data d.npz --loss hinge",
        "unknown loss 'hinge'",
    ),
    "no such function": (
        lambda: code("x = 1\n"),
        "--data d.npz --loss own.py:mine",
        "mine",
    ),
    "a loss that fails": (
        lambda: code("def mine(outputs, batch):\n    return outputs[7]\n"),
        "--data d.npz --loss own.py:mine",
        "loss own.py:mine: IndexError",
    ),
    "a loss of many numbers": (
        lambda: code("def mine(outputs, batch):\n    return outputs[0]\n"),
        "--data d.npz --loss own.py:mine",
        "has to give one number",
    ),
    "code that is none": (
        lambda: code("def (:\n"),
        "--data d.npz --loss own.py:mine",
        "own.py",
    ),
    "no such method": (
        lambda: arrays(GOOD),
        "--data d.npz --method magic",
        "unknown training method 'magic'",
    ),
    "no such option": (
        lambda: arrays(GOOD),
        "--data d.npz --method sparse:speed=3",
        "speed",
    ),
    "no budget": (
        lambda: arrays(GOOD),
        "--data d.npz --method joint",
        "there is no budget to prune to",
    ),
    "rate of nothing": (lambda: arrays(GOOD), "--data d.npz --lr 0", "lr must be above 0"),
    "no such optimizer": (
        lambda: arrays(GOOD),
        "--data d.npz --optimizer lion",
        "unknown optimizer 'lion'",
    ),
    "an eval without labels": (
        lambda: (arrays(GOOD), arrays(name="e.npz")),
        "--data d.npz --eval e.npz --metric top1",
        "labels",
    ),
    "eval of other sizes": (
        lambda: (arrays(GOOD), arrays(GOOD, photos(size=8), "e.npz")),
        "--data d.npz --eval e.npz",
        "photo",
    ),
    "a checkpoint that is none": (
        lambda: (arrays(GOOD), Path("run.pt.plain").write_bytes(b"no")),
        "--data d.npz --checkpoint run.pt",
        "run.pt.plain",
    ),
    "a folder that is not there": (
        lambda: arrays(GOOD),
        "--data d.npz --log none/log.csv",
        "none",
    ),
    "an augmentation that is none": (
        lambda: arrays(GOOD),
        "--data d.npz --augment turn",
        "unknown augmentation",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, words, message = CASES[name]
    monkeypatch.chdir(tmp_path)
    pg.save(network("N", 3, 16, 16), "net.onnx")
    if callable(make):
        make()
    before = files(Path())
    batch = [] if "--batch" in words else ["--batch", "4"]
    done = in_process(
        "train", "net.onnx", "-o", "out.onnx", "--epochs", "1", *batch, *words.split()
    )
    errors = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert done.exit_code == 2, (done.output, done.exception)
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0], (
        errors
    )
    assert files(Path()) == before


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([[[3, 1, 1, 9, 9]]] * 4, np.float32), "class 3"),
        (np.array([[[0, 9, 1, 1, 9]]] * 4, np.float32), "ends before it starts"),
        (np.array([[[0, np.nan, 1, 1, 9]]] * 4, np.float32), "labels"),
        (np.zeros((4, 1, 4), np.float32), "[samples, boxes, 5]"),
        (np.zeros(4, np.int64), "[samples, boxes, 5]"),
    ],
)
def test_wrong_boxes_are_one_line(
    labels: Array, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pg.save(detector(), "net.onnx")
    images = np.zeros((4, 3, 64, 64), np.float32)
    np.savez("d.npz", x=images, labels=labels)
    words = "train net.onnx -o out.onnx --data d.npz --loss yolo:strides=8 --batch 4 --epochs 1 --force"
    done = in_process(*words.split())
    errors = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert done.exit_code == 2, (done.output, done.exception)
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0], (
        errors
    )
    assert not Path("out.onnx").exists()
