"""The input of a model that takes images, and how images become what it takes: as one says it, or as it is guessed."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from prunegraph.data.geometry import CenterCrop, Letterbox, Resize, ShorterSide, Size
from prunegraph.data.preprocess import Order, Preprocessing, checked, parse
from prunegraph.data.processor_config import CONFIG, read_config
from prunegraph.errors import DataError, OptionError
from prunegraph.graph.model import Graph
from prunegraph.runtime import layout as layouts

#: Sides of images where a model takes any.
IMAGENET_SIDE, YOLO_SIDE = 224, 640

#: Means and deviations of channels from 0 to 1: of ImageNet (torchvision), of CLIP's training images (OpenAI).
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)

#: The share of an image's shorter side that a crop leaves, 224 of 256.
CROPPED = 224 / 256

PRESETS = ("imagenet", "yolo", "clip", "none")


@dataclass(frozen=True)
class ImageInput:
    """An input that takes images.

    Args:
        name: of the input.
        layout: order of its axes.
        channels: 1 or 3.
        size: height and width, None where either is free.
        dtype: type of its values.
        samples: images in a batch, 0 where that is free.
    """

    name: str
    layout: Order
    channels: int
    size: Size | None
    dtype: np.dtype
    samples: int = 0

    def __str__(self) -> str:
        sides: tuple[int | str, int | str] = self.size or ("height", "width")
        axes = (self.channels, *sides) if self.layout == "nchw" else (*sides, self.channels)
        return f"input {self.name!r} is [{', '.join(map(str, (self.samples or 'N', *axes)))}] of {self.dtype}"


def image_input(graph: Graph) -> ImageInput | None:
    """The one input of a graph that takes images; None where it has none, or other inputs beside it."""
    if len(graph.inputs) != 1:
        return None
    (name,) = graph.inputs
    shape = layouts.declared(graph)[name]
    if shape is None or shape.rank != 4:
        return None
    sizes = shape.sizes
    layout: Order = "nhwc" if sizes[3] in (1, 3) and sizes[1] not in (1, 3) else "nchw"
    channels, sides = (sizes[1], sizes[2:]) if layout == "nchw" else (sizes[3], sizes[1:3])
    [entry] = [each for each in graph.model.graph.input if each.name == name]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
    if channels not in (0, 1, 3) or dtype.kind not in "fui":
        return None
    size = (sides[0], sides[1]) if all(sides) else None
    return ImageInput(name, layout, channels or 3, size, dtype, sizes[0])


def need_image_input(graph: Graph, source: str) -> ImageInput:
    """The input of a graph that takes images. Raises DataError that says what its inputs are instead."""
    target = image_input(graph)
    if target is None:
        shapes = layouts.declared(graph)
        listed = ", ".join(
            f"{name!r} {list(shape.sizes) if shape is not None else ''}".strip()
            for name, shape in shapes.items()
        )
        raise DataError(
            f"{source}: images are for models with one input [N, 1 or 3, height, width] (or channels last), and "
            f"this one has {listed}; give file.py:function, which makes its inputs"
        )
    return target


# -- presets --------------------------------------------------------------------------------


def preset(name: str, target: ImageInput) -> Preprocessing:
    """What a preset means for a model's input."""
    plain = Preprocessing(
        layout=target.layout, color="gray" if target.channels == 1 else "rgb"
    )
    if name == "none":
        return plain
    scaled = plain if target.dtype.kind in "iu" else replace(plain, scale=1 / 255)
    if name == "yolo":
        return replace(scaled, steps=(Letterbox(target.size or (YOLO_SIDE, YOLO_SIDE)),))
    size = target.size or (IMAGENET_SIDE, IMAGENET_SIDE)
    shorter = max(size) if name == "clip" else math.ceil(max(size) / CROPPED - 1e-9)
    chain = replace(
        scaled,
        steps=(ShorterSide(shorter), CenterCrop(size, name == "clip")),
        interpolation="bicubic" if name == "clip" else "bilinear",
    )
    if target.channels == 1 or target.dtype.kind in "iu":
        return chain
    mean, std = CLIP if name == "clip" else IMAGENET
    return replace(chain, mean=mean, std=std)


# -- what is said ---------------------------------------------------------------------------


def preprocessing(text: str, target: ImageInput) -> Preprocessing:
    """What `--preprocess` says, for a model's input.

    It is a preset, a chain, a preset with a chain behind it (`yolo,letterbox=320`), or a file
    `preprocessor_config.json` of Hugging Face.

    Raises:
        OptionError: it cannot be read, or has other channels than the input.
    """
    start = replace(preset("none", target))
    first, _, rest = text.partition(",")
    if first.strip() in PRESETS:
        start, text = preset(first.strip(), target), rest
    elif first.strip().endswith(".json"):
        start, text = read_config(Path(first.strip()), start), rest
    chain = parse(text, start) if text.strip() else checked(start)
    if chain.channels != target.channels:
        raise OptionError(
            f"preprocessing with color={chain.color} gives {chain.channels} channels; {target}"
        )
    return chain


# -- what is guessed ------------------------------------------------------------------------


@dataclass(frozen=True)
class Guess:
    """What is taken for a model's preprocessing, and by what it was told."""

    chain: Preprocessing
    why: str

    def __str__(self) -> str:
        return (
            f"preprocessing was guessed: {self.chain} ({self.why}); "
            "say --preprocess where the network learnt otherwise"
        )


def guessed(graph: Graph, target: ImageInput) -> Guess:
    """What a model's own words say of its preprocessing: a file beside it, its metadata, its input.

    Raises:
        OptionError: the file beside it cannot be read.
    """
    beside = graph.home.folder / CONFIG if graph.home.folder is not None else None
    if beside is not None and beside.is_file():
        chain = read_config(beside, preset("none", target))
        if chain.channels == target.channels:
            return Guess(chain, f"{CONFIG} lies beside the model")
    notes = {entry.key: entry.value for entry in graph.model.metadata_props}
    if "ultralytics" in f"{notes.get('author', '')} {notes.get('description', '')}".lower():
        return _ultralytics(notes, target)
    if target.dtype.kind in "iu" or target.channels == 1:
        size = target.size or (IMAGENET_SIDE, IMAGENET_SIDE)
        chain = replace(preset("none", target), steps=(Resize(size),))
        scale = 1.0 if target.dtype.kind in "iu" else 1 / 255
        return Guess(replace(chain, scale=scale), str(target))
    return Guess(preset("imagenet", target), f"as for ImageNet; {target}")


def _ultralytics(notes: dict[str, str], target: ImageInput) -> Guess:
    """Ultralytics' exports say their task and image size; classifiers are cropped, all others letterboxed."""
    size = target.size or _image_size(notes.get("imgsz", ""))
    chain = preset("yolo", replace(target, size=size))
    if notes.get("task") == "classify" and size is not None:
        chain = replace(chain, steps=(ShorterSide(max(size)), CenterCrop(size)))
    return Guess(
        chain, f"the model's metadata are of ultralytics, task {notes.get('task', '?')}"
    )


def _image_size(text: str) -> Size | None:
    try:
        height, width = ast.literal_eval(text)
        return int(height), int(width)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
