"""Hugging Face's `preprocessor_config.json`: what its image processors do to an image, as a chain of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunegraph.data.geometry import (
    CenterCrop,
    GeometryStep,
    Interpolation,
    Resize,
    ShorterSide,
    Size,
)
from prunegraph.data.preprocess import Preprocessing, checked
from prunegraph.errors import MALFORMED, OptionError

#: What the file is called.
CONFIG = "preprocessor_config.json"

#: Numbers of Pillow's ways to resample, as files have them.
RESAMPLE: Mapping[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}

#: Processors for which one number as `size` means the shorter side; for others it means both.
SHORTER = ("CLIP", "ConvNext", "LeViT", "MobileNet", "PoolFormer")

#: Steps that there is nothing for here; a file that asks for one is refused.
UNKNOWN = (
    "do_align_long_axis",
    "do_thumbnail",
    "do_splits",
    "include_top",
    "rescale_offset",
)

#: Up to this size ConvNeXt's processor crops; larger images are only resized.
CONVNEXT_LARGE = 384


def read_config(path: Path, start: Preprocessing) -> Preprocessing:
    """The chain that a file describes; layout and colours are those of `start`. Raises OptionError."""
    try:
        content = json.loads(path.read_text())
    except MALFORMED as error:
        raise OptionError(
            f"{path}: not a JSON file ({' '.join(str(error).split())[:100]})"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("image_processor"), dict):
        content = content["image_processor"]
    if not isinstance(content, dict) or not content.keys() & {
        "size",
        "image_mean",
        "do_resize",
    }:
        raise OptionError(f"{path}: says nothing of images; it is to be a {CONFIG}")
    asked = next((key for key in UNKNOWN if content.get(key) is True), None)
    if asked is not None:
        raise OptionError(
            f"{path}: {asked!r} is nothing that --preprocess knows; give file.py:function"
        )
    try:
        return checked(_chain(content, start))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise OptionError(
            f"{path}: a value is not what a {CONFIG} has ({type(error).__name__}: {error})"
        ) from error


def _chain(content: Mapping[str, Any], start: Preprocessing) -> Preprocessing:
    chain = replace(start, steps=tuple(_steps(content)), scale=1.0)
    chain = replace(chain, interpolation=RESAMPLE[int(content.get("resample", 2))])
    if content.get("do_rescale", True):
        chain = replace(chain, scale=float(content.get("rescale_factor", 1 / 255)))
    if content.get("do_normalize", "image_mean" in content):
        mean, std = (_numbers(content[key], start) for key in ("image_mean", "image_std"))
        chain = replace(chain, mean=mean, std=std)
    if content.get("do_flip_channel_order") and chain.color == "rgb":
        chain = replace(chain, color="bgr")
    return chain


def _numbers(given: Any, start: Preprocessing) -> tuple[float, ...]:
    """Numbers of channels; for a network of grey images, their mean."""
    numbers = tuple(map(float, given)) if isinstance(given, list) else (float(given),)
    return (sum(numbers) / len(numbers),) if start.channels == 1 else numbers


def _steps(content: Mapping[str, Any]) -> list[GeometryStep]:
    crops = bool(content.get("do_center_crop", "crop_size" in content))
    kind = str(
        content.get("image_processor_type") or content.get("feature_extractor_type") or ""
    )
    steps: list[GeometryStep] = []
    if content.get("do_resize", "size" in content):
        if kind.startswith("ConvNext") and content.get("crop_pct") is not None:
            return _convnext(content)
        is_shorter = kind.startswith(SHORTER) or (not kind and crops)
        steps.append(_resize(content["size"], is_shorter=is_shorter))
    if crops:
        crop = content.get("crop_size", content["size"])
        steps.append(CenterCrop(_size(crop), is_rounded_down=True))
    return steps


def _resize(size: Any, *, is_shorter: bool) -> GeometryStep:
    if isinstance(size, dict) and "shortest_edge" in size:
        longest = size.get("longest_edge")
        return ShorterSide(
            _side(size["shortest_edge"]), None if longest is None else _side(longest)
        )
    if isinstance(size, int) and is_shorter:
        return ShorterSide(_side(size))
    return Resize(_size(size))


def _size(size: Any) -> Size:
    if isinstance(size, dict) and "shortest_edge" in size:
        size = size["shortest_edge"]
    if isinstance(size, dict):
        return _side(size["height"]), _side(size["width"])
    if isinstance(size, list):
        # Older files: width before height.
        width, height = size
        return _side(height), _side(width)
    return _side(size), _side(size)


def _side(value: Any) -> int:
    side = int(value)
    if not 0 < side < 100_000:
        raise ValueError(f"{value!r} is no side of an image")
    return side


def _convnext(content: Mapping[str, Any]) -> list[GeometryStep]:
    size = content["size"]
    side = _side(size["shortest_edge"] if isinstance(size, dict) else size)
    if side >= CONVNEXT_LARGE:
        return [Resize((side, side))]
    shorter = int(side / float(content["crop_pct"]))
    return [ShorterSide(shorter), CenterCrop((side, side), is_rounded_down=True)]
