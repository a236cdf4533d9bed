"""A picture of samples as a network gets them, in rows, with their labels and boxes."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np

from prunegraph.data.decoding import need_pillow
from prunegraph.data.image_input import ImageInput
from prunegraph.data.preprocess import Preprocessing
from prunegraph.data.targets import NO_BOX
from prunegraph.errors import DataError

#: Samples are drawn at least so wide, and the picture at most.
SMALLEST, LARGEST = 96, 4096

#: Height of the line of text under a sample, and the space between samples.
LINE, GAP = 14, 4

#: Colours of boxes, by class number: light enough to be seen on dark, strong enough on light.
COLORS = (
    "#ff4d4d",
    "#33cc33",
    "#4d94ff",
    "#ffcc00",
    "#ff66ff",
    "#00cccc",
    "#ff9933",
    "#b38cff",
)


def pixels_of(values: np.ndarray, chain: Preprocessing) -> np.ndarray:
    """Pixels that values stand for: what preprocessing did to them is undone. Shape [samples, h, w, 3], uint8."""
    array = values if chain.layout == "nhwc" else np.moveaxis(values, 1, -1)
    result = array.astype(np.float64) * np.array(chain.std) + np.array(chain.mean)
    result = np.clip(np.rint(result / chain.scale), 0, 255).astype(np.uint8)
    if chain.color == "gray":
        return np.repeat(result, 3, axis=-1)
    return result[..., ::-1] if chain.color == "bgr" else result


def stretched(values: np.ndarray, target: ImageInput) -> np.ndarray:
    """Pixels of values whose preprocessing is not known: the lowest is black, the highest white."""
    array = values if target.layout == "nhwc" else np.moveaxis(values, 1, -1)
    array = np.nan_to_num(array.astype(np.float64))
    low, high = float(array.min()), float(array.max())
    result = np.rint((array - low) / ((high - low) or 1) * 255).astype(np.uint8)
    return np.repeat(result, 3, axis=-1) if result.shape[-1] == 1 else result


def sheet(
    pixels: np.ndarray,
    labels: np.ndarray | None,
    classes: Mapping[int, str],
    names: Sequence[str],
) -> bytes:
    """A PNG of images in rows.

    Args:
        pixels: uint8 [samples, height, width, 3].
        labels: class numbers [samples], or rows of boxes [samples, most, 5], or None.
        classes: names of classes by number.
        names: of the samples.

    Raises:
        DataError: images are too large to be drawn.
        MissingExtraError: Pillow is not installed.
    """
    need_pillow()
    from PIL import Image, ImageDraw

    count, height, width, _ = pixels.shape
    factor = max(1, -(-SMALLEST // width))
    columns = math.ceil(math.sqrt(count))
    cell = width * factor + GAP, height * factor + LINE + GAP
    size = columns * cell[0], -(-count // columns) * cell[1]
    if max(size) > 4 * LARGEST:
        raise DataError(
            f"{count} samples of {width} x {height} do not fit into one picture: show fewer"
        )
    result = Image.new("RGB", size, "#202020")
    draw = ImageDraw.Draw(result)
    for index, image in enumerate(pixels):
        x, y = index % columns * cell[0], index // columns * cell[1]
        drawn = Image.fromarray(image).resize(
            (width * factor, height * factor), Image.Resampling.NEAREST
        )
        text = names[index]
        if labels is not None and labels.ndim == 3:
            _draw_boxes(ImageDraw.Draw(drawn), labels[index], factor, classes)
        elif labels is not None and labels.ndim == 1:
            text = f"{_class_name(labels[index], classes)}: {text}"
        result.paste(drawn, (x, y))
        draw.text(
            (x + 2, y + height * factor + 1), text[: max(width * factor // 6, 4)], "#e0e0e0"
        )
    stream = io.BytesIO()
    result.save(stream, "PNG")
    return stream.getvalue()


def _class_name(number: float, classes: Mapping[int, str]) -> str:
    return classes.get(
        int(number), str(int(number)) if number == int(number) else f"{number:g}"
    )


def _draw_boxes(
    draw: object, rows: np.ndarray, factor: int, classes: Mapping[int, str]
) -> None:
    for kind, *corners in rows[rows[:, 0] != NO_BOX].tolist():
        color = COLORS[int(kind) % len(COLORS)]
        x1, y1, x2, y2 = (each * factor for each in corners)
        # The last pixel that belongs to the box; Pillow draws it too.
        draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=color)  # type: ignore[attr-defined]
        draw.text((x1 + 2, y1 + 1), _class_name(kind, classes), color)  # type: ignore[attr-defined]
