"""From an image to what a network gets: geometry, colours, scale, mean, deviation, order of axes; spelled in one line.

    resize=256,crop=224,scale=1/255,mean=0.485,0.456,0.406,std=0.229,0.224,0.225,layout=nchw,color=rgb

Steps of geometry work in the order in which they stand; then values are `(pixel * scale - mean) / std`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from prunegraph.data import geometry
from prunegraph.data.geometry import (
    Affine,
    CenterCrop,
    GeometryStep,
    Interpolation,
    Letterbox,
    Resize,
    ShorterSide,
    Size,
)
from prunegraph.errors import OptionError, UnknownNameError

if TYPE_CHECKING:
    from PIL.Image import Image

Color = Literal["rgb", "bgr", "gray"]
Order = Literal["nchw", "nhwc"]


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of an image.

    Args:
        steps: of geometry, in their order.
        interpolation: how images are resampled.
        color: order of channels, or one channel of grey.
        scale: what pixels from 0 to 255 are multiplied by.
        mean: subtracted after that: one number, or one for each channel in the order of `color`.
        std: divided by after that.
        layout: order of axes.
    """

    steps: tuple[GeometryStep, ...] = ()
    interpolation: Interpolation = "bilinear"
    color: Color = "rgb"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Order = "nchw"

    @property
    def channels(self) -> int:
        """Channels of the result."""
        return 1 if self.color == "gray" else 3

    @property
    def size(self) -> Size | None:
        """Height and width of every result; None where they depend on the image."""
        return geometry.fixed_size(self.steps)

    def place(self, size: Size) -> Affine:
        """Where points of an image of that height and width go. Raises OptionError for results that are too large."""
        return geometry.placement(self.steps, size)

    def pixels(self, image: Image) -> np.ndarray:
        """An image (mode RGB, or L for grey) after the steps. Shape [height, width, channels], uint8."""
        self.place((image.height, image.width))
        for step in self.steps:
            image = step.apply(image, self.interpolation)
        array = np.asarray(image).reshape(image.height, image.width, self.channels)
        return array[:, :, ::-1] if self.color == "bgr" else array

    def values(self, pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Values of pixels [samples, height, width, channels], as a network's input of a type takes them.

        Raises:
            OptionError: the type holds whole numbers, and there are fractions.
        """
        array = pixels if self.layout == "nhwc" else np.moveaxis(pixels, -1, 1)
        if dtype.kind in "iu":
            if (self.scale, self.mean, self.std) != (1.0, (0.0,), (1.0,)):
                raise OptionError(
                    f"the network takes pixels as whole numbers ({dtype}): leave out scale, mean and std"
                )
            return np.ascontiguousarray(array, dtype)
        shape = (-1,) if self.layout == "nhwc" else (-1, 1, 1)
        mean, std = (
            np.array(each, np.float32).reshape(shape) for each in (self.mean, self.std)
        )
        # In the order that is wanted, and in place: a batch of photos is held once.
        result = array.astype(np.float32, order="C")
        result *= np.float32(self.scale)
        result -= mean
        result /= std
        return result.astype(dtype, copy=False)

    def __str__(self) -> str:
        """One line that is read as the same."""
        parts = [_SPELLED[type(step)](step) for step in self.steps]
        if self.interpolation != "bilinear":
            parts.append(f"interpolation={self.interpolation}")
        parts.append(f"color={self.color}")
        if self.scale != 1:
            parts.append(f"scale={_spelled(self.scale)}")
        if self.mean != (0.0,):
            parts.append(f"mean={','.join(map(_spelled, self.mean))}")
        if self.std != (1.0,):
            parts.append(f"std={','.join(map(_spelled, self.std))}")
        return ",".join([*parts, f"layout={self.layout}"])


# -- in words -------------------------------------------------------------------------------


def parse(text: str, start: Preprocessing) -> Preprocessing:
    """A chain that is spelled in words, with what it does not say from another one.

    Where it says anything of geometry, no step of the other one's stays.

    Raises:
        OptionError: a word that is no `name=value`, or a value that cannot be.
        UnknownNameError: there is no such name.
    """
    fields: dict[str, object] = {}
    steps: list[GeometryStep] = []
    for name, values in _words(text):
        if name in _STEPS:
            steps.append(_STEPS[name](name, values))
        elif name in _FIELDS:
            fields[name] = _FIELDS[name](name, values)
        elif name == "fill":
            steps = _filled(steps, _whole(name, values, 0, 255))
        else:
            raise UnknownNameError("step of preprocessing", name, NAMES)
    changed = {**fields, **({"steps": tuple(steps)} if steps else {})}
    return checked(dataclasses.replace(start, **changed))  # type: ignore[arg-type]


def checked(chain: Preprocessing) -> Preprocessing:
    """The same chain. Raises OptionError where numbers are not finite, or not as many as there are channels."""
    for name, numbers in (("mean", chain.mean), ("std", chain.std)):
        if len(numbers) not in (1, chain.channels):
            raise OptionError(
                f"preprocessing: {name} has {len(numbers)} numbers, and there are {chain.channels} channels "
                f"(color={chain.color})"
            )
    if (
        not all(map(math.isfinite, (chain.scale, *chain.mean, *chain.std)))
        or 0 in chain.std
    ):
        raise OptionError(
            "preprocessing: scale, mean and std are finite numbers, std not 0"
        )
    return chain


def _words(text: str) -> list[tuple[str, list[str]]]:
    """Names with their values: what stands behind a comma without a name belongs to the name before."""
    result: list[tuple[str, list[str]]] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = word.partition("=")
        if equals:
            result.append((name.strip(), [value.strip()]))
        elif result:
            result[-1][1].append(word)
        else:
            raise OptionError(
                f"preprocessing: {word!r} is not NAME=VALUE, nor a preset (imagenet, yolo, clip, none)"
            )
    return result


def _wrong(name: str, values: Sequence[str], wanted: str) -> OptionError:
    return OptionError(f"preprocessing: {name}={','.join(values)!s} is not {wanted}")


def _number(name: str, text: str) -> float:
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise _wrong(name, [text], f"{name}=NUMBER, as in 0.5 or 1/255") from None


def _numbers(name: str, values: Sequence[str]) -> tuple[float, ...]:
    return tuple(_number(name, value) for value in values)


def _one_number(name: str, values: Sequence[str]) -> float:
    if len(values) != 1:
        raise _wrong(name, values, "one number")
    return _number(name, values[0])


def _whole(name: str, values: Sequence[str], lowest: int, highest: int) -> int:
    text = ",".join(values)
    if not re.fullmatch(r"\d{1,6}", text) or not lowest <= int(text) <= highest:
        raise _wrong(name, values, f"a whole number from {lowest} to {highest}")
    return int(text)


def _size(name: str, values: Sequence[str]) -> Size:
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", ",".join(values))
    height, width = (int(side or match[1]) for side in match.groups()) if match else (0, 0)
    if not height or not width:
        raise _wrong(
            name, values, f"{name}=SIDE or {name}=HEIGHTxWIDTH, as in 224 or 224x320"
        )
    return height, width


def _resize(name: str, values: Sequence[str]) -> GeometryStep:
    """`resize=256`: the shorter side; `224x224`: both; `800,1333`: the shorter side, the longer at most so long."""
    if len(values) == 2:
        side, longest = (_whole(name, [value], 1, 99_999) for value in values)
        return ShorterSide(side, longest)
    size = _size(name, values)
    return Resize(size) if "x" in values[0] else ShorterSide(size[0])


def _crop(name: str, values: Sequence[str]) -> GeometryStep:
    """`crop=224`; `crop=224,down` rounds half a pixel down."""
    is_rounded_down = values[1:] == ["down"]
    size = _size(name, values[:1] if is_rounded_down else values)
    return CenterCrop(size, is_rounded_down)


def _filled(steps: Sequence[GeometryStep], fill: int) -> list[GeometryStep]:
    if not steps or not isinstance(steps[-1], Letterbox):
        raise OptionError("preprocessing: fill=... stands behind letterbox=...")
    return [*steps[:-1], dataclasses.replace(steps[-1], fill=fill)]


def _choice(allowed: Sequence[str]) -> Callable[[str, Sequence[str]], str]:
    def read(name: str, values: Sequence[str]) -> str:
        value = ",".join(values).lower()
        if value not in allowed:
            raise _wrong(name, values, f"one of {', '.join(allowed)}")
        return value

    return read


_STEPS: Mapping[str, Callable[[str, Sequence[str]], GeometryStep]] = {
    "resize": _resize,
    "letterbox": lambda name, values: Letterbox(_size(name, values)),
    "crop": _crop,
}

_FIELDS: Mapping[str, Callable[[str, Sequence[str]], object]] = {
    "interpolation": _choice(get_args(Interpolation)),
    "color": _choice(get_args(Color)),
    "scale": _one_number,
    "mean": _numbers,
    "std": _numbers,
    "layout": _choice(get_args(Order)),
}

#: Names that a chain may have.
NAMES = (*_STEPS, "fill", *_FIELDS)


def _spelled(number: float) -> str:
    """A number as one would write it; 1/255 stays a fraction."""
    if 1e-6 < abs(number) < 1 and number == 1 / round(1 / number):
        return f"1/{round(1 / number)}"
    return repr(number).removesuffix(".0")


def _spelled_size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _spelled_shorter(step: ShorterSide) -> str:
    return f"resize={step.side}" + (f",{step.longest}" if step.longest else "")


def _spelled_letterbox(step: Letterbox) -> str:
    fill = "" if step.fill == Letterbox.fill else f",fill={step.fill}"
    return f"letterbox={_spelled_size(step.size)}{fill}"


def _spelled_crop(step: CenterCrop) -> str:
    return f"crop={_spelled_size(step.size)}" + (",down" if step.is_rounded_down else "")


#: How steps are written, by their class.
_SPELLED: Mapping[type, Callable[..., str]] = {
    Resize: lambda step: f"resize={_spelled_size(step.size)}",
    ShorterSide: _spelled_shorter,
    Letterbox: _spelled_letterbox,
    CenterCrop: _spelled_crop,
}
