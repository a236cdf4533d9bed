"""What people may give by mistake: one line that says what and where, no traceback, no file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prunegraph as pg
from tests.commands import files, in_process
from tests.data.scenes import (
    network,
    save_images,
    scenes,
    write_classes,
    write_coco,
    write_voc,
    write_yolo,
)

Make = Callable[[], object]


def classes() -> Path:
    return write_classes(Path("d"), each=2)


def changed_coco(change: Callable[[dict[str, list[dict[str, object]]]], object]) -> None:
    path = write_coco(scenes(4), Path("d"))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def yolo_line(text: str) -> None:
    write_yolo(scenes(2), Path("d"))
    Path("d/labels/scene01.txt").write_text(text)


def voc_text(old: str, new: str) -> None:
    write_voc(scenes(2), Path("d"))
    path = Path("d/Annotations/scene01.xml")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def image_bytes(data: bytes) -> None:
    (classes() / "ball" / "0001.jpg").write_bytes(data)


def cut(length: int) -> None:
    path = classes() / "ball" / "0001.jpg"
    path.write_bytes(path.read_bytes()[:length])


def save(image: Image.Image, name: str) -> None:
    classes()
    image.save(Path("d", "ball", name))


def bomb() -> None:
    """A PNG of a few kilobytes that says it has ten thousand million pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9999)))
    image_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))


def text(content: str | bytes, name: str = "list.txt") -> None:
    classes()
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())


def twice(path: str) -> None:
    classes()
    Path(path).write_text("ball\nball\ncrate\ntree")


COCO = "d/annotations/instances_val.json"

CASES: dict[str, tuple[Make, str, str]] = {
    "no such folder": (lambda: None, "d", "d: no such data file"),
    "empty folder": (lambda: Path("d").mkdir(), "d", "d: holds no image"),
    "folder of other files": (
        lambda: (Path("d").mkdir(), Path("d/a.heic").write_text("x")),
        "d",
        "d: holds no image",
    ),
    "images beside class folders": (
        lambda: save_images(scenes(1), classes()),
        "d",
        "holds images, and folders of images",
    ),
    "empty class folder": (
        lambda: (classes() / "zebra").mkdir(),
        "d",
        "d/zebra: the folder",
    ),
    "parts of a data set": (
        lambda: [write_classes(Path("d", part), each=1) for part in ("train", "val")],
        "d",
        "holds the parts train, val of a data set; give one, as d/train",
    ),
    "class not in classes.txt": (
        lambda: (classes() / "classes.txt").write_text("ball\ncrate\n"),
        "d",
        "d/classes.txt: has no class 'tree'",
    ),
    "class twice": (lambda: twice("d/classes.txt"), "d", "has a class twice"),
    "text as an image": (
        lambda: image_bytes(b"hello"),
        "d",
        "d/ball/0001.jpg: not an image",
    ),
    "empty file": (lambda: image_bytes(b""), "d", "d/ball/0001.jpg: not an image"),
    "damaged image": (
        lambda: cut(300),
        "d",
        "d/ball/0001.jpg: not an image that can be read",
    ),
    "bomb": (bomb, "d", "d/ball/0001.jpg: not an image that can be read"),
    "32 bits": (
        lambda: save(Image.new("I", (9, 9)), "0001.tif"),
        "d",
        "0001.tif: its pixels are 32-bit numbers",
    ),
    "fractions": (
        lambda: save(Image.new("F", (9, 9)), "0001.tif"),
        "d",
        "0001.tif: its pixels are fractions",
    ),
    "list of missing files": (
        lambda: text("d/ball/0000.jpg 0\nd/ball/none.jpg 1\n"),
        "list.txt",
        "list.txt, line 2: d/ball/none.jpg: no such image",
    ),
    "list with some labels": (
        lambda: text("d/ball/0000.jpg 0\nd/ball/0001.jpg\n"),
        "list.txt",
        "list.txt, line 2: has no class number",
    ),
    "empty list": (lambda: text("\n\n"), "list.txt", "list.txt: names no image"),
    "list that is no text": (lambda: text(b"\xff\xfe\x00"), "list.txt", "not a text file"),
    "json that is no json": (
        lambda: text("{", "l.json"),
        "l.json",
        "l.json: not a JSON file",
    ),
    "json of other things": (
        lambda: text('{"a": 1}', "l.json"),
        "l.json",
        "l.json: not a COCO file",
    ),
    "coco image missing": (
        lambda: (write_coco(scenes(3), Path("d")), Path("d/val/scene02.png").unlink()),
        COCO,
        "1 of 3 images are not in d/val, as scene02.png",
    ),
    "coco without images": (
        lambda: changed_coco(lambda c: c["images"].clear() or c["annotations"].clear()),
        COCO,
        "names no image",
    ),
    "coco unknown category": (
        lambda: changed_coco(lambda c: c["annotations"][0].update(category_id=5)),
        COCO,
        "there is no category 5",
    ),
    "coco images with one id": (
        lambda: changed_coco(lambda c: c["images"][1].update(id=c["images"][0]["id"])),
        COCO,
        "is there 2 times; ids must differ",
    ),
    "coco categories with one id": (
        lambda: changed_coco(lambda c: c["categories"].append(dict(c["categories"][0]))),
        COCO,
        "is there 2 times; ids must differ",
    ),
    "coco unknown image": (
        lambda: changed_coco(lambda c: c["annotations"][0].update(image_id=5)),
        COCO,
        "there is no image 5",
    ),
    "coco box of three": (
        lambda: changed_coco(lambda c: c["annotations"][0].update(bbox=[1, 2, 3])),
        COCO,
        "its box is not x, y, width, height: [1, 2, 3]",
    ),
    "coco no box": (
        lambda: changed_coco(lambda c: c["annotations"][0].pop("bbox")),
        COCO,
        "its box is not x, y, width, height: None",
    ),
    "coco box below nothing": (
        lambda: changed_coco(lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 4])),
        COCO,
        "its box is not x, y, width, height",
    ),
    "coco other size": (
        lambda: changed_coco(lambda c: c["images"][1].update(width=5)),
        COCO,
        "its labels are of an image of 5 x",
    ),
    "yolo pixels": (
        lambda: yolo_line("0 10 12 5 5\n"),
        "d",
        "d/labels/scene01.txt, line 1: numbers are shares",
    ),
    "yolo words": (lambda: yolo_line("\nball 0 0 1 1\n"), "d", "line 2: not `class x y"),
    "yolo four numbers": (lambda: yolo_line("0 0 1 1\n"), "d", "line 1: not `class x y"),
    "yolo negative class": (lambda: yolo_line("-1 .5 .5 1 1"), "d", "'-1' is no class"),
    "yolo class of a half": (lambda: yolo_line("1.5 .5 .5 1 1"), "d", "'1.5' is no class"),
    "voc damaged": (
        lambda: voc_text("</annotation>", ""),
        "d",
        "d/Annotations/scene01.xml: not a VOC file",
    ),
    "voc without a corner": (
        lambda: voc_text("xmin", "left"),
        "d",
        "an object without 'xmin'",
    ),
    "voc entities": (
        lambda: voc_text("<annotation>", "<!DOCTYPE a><annotation>"),
        "d",
        "declares entities",
    ),
    "voc missing": (
        lambda: (
            write_voc(scenes(3), Path("d")),
            Path("d/Annotations/scene02.xml").unlink(),
        ),
        "d",
        "d/Annotations/scene02.xml: no such file of labels",
    ),
    "tar that is none": (lambda: text("x" * 600, "a.tar"), "a.tar", "a.tar: not a .tar"),
    "several inputs": (
        lambda: (classes(), np.savez("a.npz", image=np.zeros((2, 3, 8, 8), np.float32))),
        "a.npz",
        "no array for model input 'photo'; it has image",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, source, message = CASES[name]
    monkeypatch.chdir(tmp_path)
    pg.save(network("N", 3, 16, 16), "net.onnx")
    make()
    check(f"quantize net.onnx -o out.onnx --data {source}", message, "resize=16x16")


def check(command: str, message: str, preprocess: str) -> None:
    before = files(Path())
    words = [*command.split(), *(["--preprocess", preprocess] if preprocess else [])]
    if ".npz" in command:
        words = command.split()
    done = in_process(*words)
    assert done.exit_code == 2, (done.output, done.exception)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1 and errors[0].startswith("error: ")
    assert message in errors[0]
    assert files(Path()) == before


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        ("none", "is 24 x 20 pixels after preprocessing"),
        ("resize=32x32", "is 32 x 32 pixels after preprocessing"),
        ("resize=16x16,color=gray", "color=gray gives 1 channels"),
        ("resize=16x16,sharpen=2", "unknown step of preprocessing 'sharpen'"),
        ("no.json", "no.json: not a JSON file"),
    ],
)
def test_preprocessing_that_does_not_fit(
    preprocess: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    classes()
    pg.save(network("N", 3, 16, 16), "net.onnx")
    check("quantize net.onnx -o out.onnx --data d", message, preprocess)


def test_images_of_many_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_images(scenes(3), Path("d"))
    pg.save(network("N", 3, "h", "w"), "net.onnx")
    message = "give --preprocess with one size for all, as resize="
    check("quantize net.onnx -o out.onnx --data d", message, "none")


def test_models_that_take_no_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.runtime.feeding import scalar

    monkeypatch.chdir(tmp_path)
    classes()
    pg.save(scalar(), "net.onnx")
    message = "images are for models with one input [N, 1 or 3, height, width]"
    check("quantize net.onnx -o out.onnx --data d", message, "imagenet")


def test_arrays_are_taken_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pg.save(network("N", 3, 16, 16), "net.onnx")
    Path("d").mkdir()
    np.save("d/photo.npy", np.zeros((2, 3, 16, 16), np.float32))
    message = "arrays are taken as they are"
    check("quantize net.onnx -o out.onnx --data d", message, "imagenet")


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.chdir(tmp_path)
    classes()
    pg.save(network("N", 3, 16, 16), "net.onnx")
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    message = "reading images needs the package pillow: pip install 'prunegraph[images]'"
    check("quantize net.onnx -o out.onnx --data d", message, "imagenet")
