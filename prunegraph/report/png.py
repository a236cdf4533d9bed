"""Pictures of a report: PNG files as addresses that hold them."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

Array = np.ndarray

#: Colour types of a PNG by the number of channels: grey, colours, colours and opacity.
COLOR_TYPES = {1: 0, 3: 2, 4: 6}


def png(image: Array, side: int) -> str:
    """An image [h, w, 1, 3 or 4] of 8 bits as the address of a PNG, thinned out where it is longer than `side`."""
    step = max(1, -(-max(image.shape[:2]) // side))
    image = np.ascontiguousarray(image[::step, ::step])
    height, width, channels = image.shape
    rows = np.concatenate(
        [np.zeros((height, 1), np.uint8), image.reshape(height, width * channels)], axis=1
    )
    header = struct.pack(">IIBBBBB", width, height, 8, COLOR_TYPES[channels], 0, 0, 0)
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
