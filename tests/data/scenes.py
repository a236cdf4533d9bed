"""Rendered scenes with boxes, written as the data sets that people have; and models that take them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from onnx import TensorProto
from PIL import Image, ImageDraw

from prunegraph.graph.model import Graph
from tests.builders import Builder

NAMES = ("ball", "crate", "tree")


@dataclass(frozen=True)
class Scene:
    """An image and what is in it: corners in pixels, and numbers of classes."""

    name: str
    image: Image.Image
    boxes: Sequence[tuple[int, int, int, int]]
    classes: Sequence[int]

    @property
    def size(self) -> tuple[int, int]:
        return self.image.height, self.image.width


def scenes(count: int = 5, seed: int = 0) -> list[Scene]:
    """Scenes of different sizes; one of them is empty."""
    rng = np.random.default_rng(seed)
    result = []
    for number in range(count):
        width, height = (int(side) for side in rng.integers(40, 90, 2))
        noise = rng.integers(0, 90, (height, width, 3)).astype(np.uint8)
        image = Image.fromarray(noise)
        draw, boxes, classes = ImageDraw.Draw(image), [], []
        for _ in range(number % 4):
            x, y = int(rng.integers(0, width - 12)), int(rng.integers(0, height - 12))
            w, h = int(rng.integers(4, 12)), int(rng.integers(4, 12))
            kind = int(rng.integers(len(NAMES)))
            draw.rectangle((x, y, x + w - 1, y + h - 1), fill=(255, 60 * kind, 0))
            boxes.append((x, y, x + w, y + h))
            classes.append(kind)
        result.append(Scene(f"scene{number:02}", image, boxes, classes))
    return result


def save_images(made: Sequence[Scene], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for scene in made:
        scene.image.save(folder / f"{scene.name}.png")


def write_coco(made: Sequence[Scene], folder: Path) -> Path:
    """`annotations/instances_val.json` beside `val/`; ids do not count from 0, nor without gaps."""
    save_images(made, folder / "val")
    ids = [7, 3, 90]
    numbers = {name: sorted(ids)[place] for place, name in enumerate(NAMES)}
    content = {
        "images": [
            {
                "id": 100 - place,
                "file_name": f"{scene.name}.png",
                "height": scene.size[0],
                "width": scene.size[1],
            }
            for place, scene in enumerate(made)
        ],
        "categories": [{"id": numbers[name], "name": name} for name in reversed(NAMES)],
        "annotations": [
            {
                "id": 10 * place + at,
                "image_id": 100 - place,
                "category_id": numbers[NAMES[kind]],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            for place, scene in enumerate(made)
            for at, ((x1, y1, x2, y2), kind) in enumerate(
                zip(scene.boxes, scene.classes, strict=True)
            )
        ],
    }
    path = folder / "annotations" / "instances_val.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_yolo(made: Sequence[Scene], folder: Path) -> Path:
    """`images/` and `labels/`; an image without objects has no label file."""
    save_images(made, folder / "images")
    (folder / "labels").mkdir()
    for scene in made:
        height, width = scene.size
        lines = [
            f"{kind} {(x1 + x2) / 2 / width!r} {(y1 + y2) / 2 / height!r} {(x2 - x1) / width!r} {(y2 - y1) / height!r}"
            for (x1, y1, x2, y2), kind in zip(scene.boxes, scene.classes, strict=True)
        ]
        if lines:
            (folder / "labels" / f"{scene.name}.txt").write_text("\n".join(lines) + "\n")
    (folder / "classes.txt").write_text("\n".join(NAMES))
    return folder


def write_voc(made: Sequence[Scene], folder: Path) -> Path:
    """`JPEGImages/` and `Annotations/`; pixels count from 1."""
    save_images(made, folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    for scene in made:
        root = ElementTree.Element("annotation")
        size = ElementTree.SubElement(root, "size")
        for side, value in zip(("height", "width"), scene.size, strict=True):
            ElementTree.SubElement(size, side).text = str(value)
        for (x1, y1, x2, y2), kind in zip(scene.boxes, scene.classes, strict=True):
            thing = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(thing, "name").text = NAMES[kind]
            box = ElementTree.SubElement(thing, "bndbox")
            for corner, value in (
                ("xmin", x1 + 1),
                ("ymin", y1 + 1),
                ("xmax", x2),
                ("ymax", y2),
            ):
                ElementTree.SubElement(box, corner).text = str(value)
        ElementTree.ElementTree(root).write(folder / "Annotations" / f"{scene.name}.xml")
    (folder / "classes.txt").write_text("\n".join(NAMES))
    return folder


def write_classes(folder: Path, each: int = 4, side: int = 20, seed: int = 0) -> Path:
    """A folder for each class, with JPEGs."""
    rng = np.random.default_rng(seed)
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            noise = rng.integers(0, 256, (side, side + 4, 3)).astype(np.uint8)
            Image.fromarray(noise).save(folder / name / f"{number:04}.jpg")
    return folder


def network(
    *shape: int | str, kind: int = TensorProto.FLOAT, notes: dict[str, str] | None = None
) -> Graph:
    """A small network that takes images of that shape, channels first."""
    b = Builder()
    x = b.input(*shape, name="photo", kind=kind)
    x = b.op("Cast", x, to=TensorProto.FLOAT) if kind != TensorProto.FLOAT else x
    x = b.op("Relu", b.conv(x, int(shape[1]), 8))
    x = b.op("Flatten", b.op("GlobalAveragePool", x))
    model = b.model(b.linear(x, 8, len(NAMES)))
    for key, value in (notes or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    from prunegraph.graph.onnx_io import from_model

    return from_model(model)
