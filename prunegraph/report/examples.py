"""A few of the user's images, with what both models make of them: classes, or maps of classes."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prunegraph.measuring.seen import has_classes
from prunegraph.runtime.session import run, session

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph
    from prunegraph.pipeline import PruneResult
    from prunegraph.runtime.data import Batch, Data

Array = np.ndarray

#: Images that are shown, classes of each, and the longer side of a picture in pixels.
IMAGES, CLASSES, SIDE = 6, 3, 160

#: Colours of classes in a map, in turn.
PALETTE = np.frombuffer(
    bytes.fromhex(
        "282c34 0b62b0 a8410a 0f766e 8b2f8f 7a5c00 444fbd b3261e 3f7d20 74839a e69f00 009e73"
    ),
    np.uint8,
).reshape(-1, 3)


@dataclass(frozen=True)
class Example:
    """An image and two answers. Pictures are addresses that hold a PNG.

    Args:
        image: the picture of the input.
        before: most probable classes of the original with their shares, or none.
        after: the same of the new model.
        maps: pictures of the classes of both, place by place; None where the output is no map.
        agreement: share of places (or 1 and 0 for one class) where both say the same.
    """

    image: str
    before: tuple[tuple[int, float], ...]
    after: tuple[tuple[int, float], ...]
    maps: tuple[str, str] | None
    agreement: float


def examples(result: PruneResult, data: Data | None) -> list[Example]:
    """The first images of the data with the answers of both models.

    None where there are no data, the model does not read one batch of images, its first output is neither classes nor a
    map of them, or its inputs or outputs changed.
    """
    if data is None or result.plan.interface or len(result.original.inputs) != 1:
        return []
    batch = next(
        data.head(IMAGES).fit(result.original).batches(result.original, IMAGES), None
    )
    images = _images(batch[result.original.inputs[0]]) if batch is not None else None
    if batch is None or images is None:
        return []
    before, after = (
        _first_output(graph, batch) for graph in (result.original, result.model)
    )
    if before.shape != after.shape or len(before) != len(images):
        return []
    if before.ndim == 2 and has_classes(before):
        return [
            Example(png(i), _best(b), _best(a), None, float(b.argmax() == a.argmax()))
            for i, b, a in zip(images[:IMAGES], before, after, strict=False)
        ]
    if before.ndim == 4 and before.shape[1] > 1 and min(before.shape[2:]) >= 8:
        return list(_maps(images[:IMAGES], before, after))
    return []


def _first_output(graph: Graph, batch: Batch) -> Array:
    return np.asarray(run(session(graph, threads=1), batch)[0], np.float64)


def _maps(images: Sequence[Array], before: Array, after: Array) -> Iterator[Example]:
    for image, one, other in zip(images, before.argmax(1), after.argmax(1), strict=False):
        pictures = png(PALETTE[one % len(PALETTE)]), png(PALETTE[other % len(PALETTE)])
        yield Example(png(image), (), (), pictures, float((one == other).mean()))


def _best(scores: Array) -> tuple[tuple[int, float], ...]:
    """The most probable classes with their shares, by a softmax unless scores are shares already."""
    shares = scores
    if scores.min() < 0 or abs(scores.sum() - 1) > 1e-3:
        powers = np.exp(scores - scores.max())
        shares = powers / powers.sum()
    order = np.argsort(-shares, kind="stable")[:CLASSES]
    return tuple((int(index), float(shares[index])) for index in order)


def _images(values: Array) -> list[Array] | None:
    """Images [h, w, 1 or 3] of 8 bits, stretched from their least to their largest value; None for no images."""
    if values.ndim != 4 or values.shape[0] == 0:
        return None
    if values.shape[1] in (1, 3):
        values = values.transpose(0, 2, 3, 1)
    if values.shape[3] not in (1, 3) or min(values.shape[1:3]) < 8:
        return None
    return [_stretched(np.asarray(each, np.float64)) for each in values]


def _stretched(image: Array) -> Array:
    low, high = image.min(), image.max()
    scaled = (image - low) / (high - low) if high > low else np.zeros_like(image)
    return (255 * scaled).round().astype(np.uint8)


def png(image: Array) -> str:
    """An image [h, w, 1 or 3] of 8 bits as the address of a PNG, thinned out where it is large."""
    step = max(1, -(-max(image.shape[:2]) // SIDE))
    image = np.ascontiguousarray(image[::step, ::step])
    height, width, channels = image.shape
    rows = np.concatenate(
        [np.zeros((height, 1), np.uint8), image.reshape(height, width * channels)], axis=1
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, data)
        for kind, data in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(rows.tobytes(), 9)),
            (b"IEND", b""),
        )
    )
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG: length, kind, data, checksum (PNG, third edition, section 5.3)."""
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
