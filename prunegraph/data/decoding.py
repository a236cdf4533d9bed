"""Image files as pixels: upright, RGB or grey, 8 bits; whatever a file has instead is converted or refused.

Files may come from strangers: what Pillow raises for a damaged one, or for one that unpacks to far more than it
is, becomes one DataError that names it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from prunegraph.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

#: Suffixes of files that are taken for images.
SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)


class Picture(Protocol):
    """An image, wherever it is."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    def open(self, *, is_gray: bool) -> Image:
        """The image of mode RGB, or L where it is to be grey. Raises DataError."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """The bytes of an image: a file, or a part of one (an archive of images).

    Args:
        path: of the file.
        name: what to call the image in messages.
        start: where its bytes begin.
        length: how many there are; all to the end of the file where None.
    """

    path: str
    name: str
    start: int = 0
    length: int | None = None

    def read(self) -> bytes:
        """The bytes. Raises DataError."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.start)
                return file.read() if self.length is None else file.read(self.length)
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read ({_reason(error)})") from error

    def open(self, *, is_gray: bool) -> Image:
        """The image of mode RGB, or L where it is to be grey. Raises DataError."""
        return decoded(self.read(), self.name, is_gray=is_gray)


def need_pillow() -> None:
    """Raise MissingExtraError where Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise MissingExtraError("reading images", "pillow", "images") from None


def is_image(path: Path) -> bool:
    """Tell by its suffix whether a file is an image; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def decoded(data: bytes, name: str, *, is_gray: bool = False) -> Image:
    """An image of mode RGB, or L where it is to be grey.

    It is turned as its EXIF orientation says. Transparency is dropped, of 16 bits the higher 8 are kept, of an
    animation the first image.

    Raises:
        DataError: the bytes are no image, are damaged, or hold numbers without a range (32 bits, fractions).
    """
    from PIL import Image as Pillow
    from PIL import ImageOps

    with _readable(name), Pillow.open(BytesIO(data)) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    return converted(upright, name, is_gray=is_gray)


def converted(image: Image, name: str, *, is_gray: bool = False) -> Image:
    """An image of any mode as RGB, or as L. Raises DataError for 32 bits and fractions."""
    from PIL import Image as Pillow

    mode = "L" if is_gray else "RGB"
    if image.mode.startswith("I;16"):
        image = Pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        what = "32-bit numbers" if image.mode == "I" else "fractions"
        raise DataError(
            f"{name}: its pixels are {what}, whose range is not known; convert it to 8 or 16 bits"
        )
    with _readable(name):
        if image.mode in ("P", "PA"):
            # Colours first: a palette with transparency is not converted to grey in one step.
            image = image.convert("RGBA")
        return image if image.mode == mode else image.convert(mode)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Many more pixels than any photo has: a small file that unpacks to gigabytes.
        warnings.filterwarnings("error", message=".*decompression bomb.*")
        try:
            yield
        except Exception as error:  # Pillow's plug-ins raise what their formats make them
            raise DataError(
                f"{name}: not an image that can be read ({_reason(error)})"
            ) from error


def _reason(error: BaseException) -> str:
    """The first line of a foreign message, without what memory addresses would change from run to run."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return "unknown format" if "cannot identify" in text else text[:120]
