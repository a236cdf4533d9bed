"""Images in archives: WebDataset's `.tar` shards. Headers are read once; images are read where they lie."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from prunegraph.data.decoding import ImageFile, is_image
from prunegraph.data.listing import Listing
from prunegraph.errors import DataError

#: Labels that lie beside an image are at most so long.
LABEL_BYTES = 65_536


def shards(paths: Sequence[Path]) -> Listing:
    """Images of archives: files of one name are a sample, as `0001.jpg` and `0001.cls` (a class number).

    `0001.json` with a field `label` or `cls` does as well. Archives are not packed: samples are read in any order.

    Raises:
        DataError: an archive cannot be read, or only some images have a class.
    """
    images: list[ImageFile] = []
    classes: list[int | None] = []
    for path in paths:
        for image, label in _samples(path):
            images.append(image)
            classes.append(label)
    if not images:
        raise DataError(f"{paths[0]}: holds no image")
    if None not in classes:
        return Listing(images, [each for each in classes if each is not None])
    if any(each is not None for each in classes):
        raise DataError(
            f"{images[classes.index(None)].name}: has no class, and other images have one"
        )
    return Listing(images)


def _samples(path: Path) -> Iterator[tuple[ImageFile, int | None]]:
    """The images of an archive with their classes."""
    image: ImageFile | None = None
    label: int | None = None
    key = ""
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isreg() or Path(member.name).name.startswith("."):
                    continue
                if (now := _key(member.name)) != key:
                    if image is not None:
                        yield image, label
                    key, image, label = now, None, None
                if is_image(Path(member.name)):
                    name = f"{path}, {member.name}"
                    image = ImageFile(str(path), name, member.offset_data, member.size)
                else:
                    label = _label(archive, member, path, label)
        if image is not None:
            yield image, label
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{path}: not a .tar archive that is not packed ({error})"
        ) from error


def _key(name: str) -> str:
    """The name of a sample: that of its files up to the first dot behind the last slash."""
    match = re.match(r"(.*/)?[^/.]*", name)
    return match[0] if match else name


def _label(
    archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, known: int | None
) -> int | None:
    if not member.name.endswith((".cls", ".json")) or member.size > LABEL_BYTES:
        return known
    file = archive.extractfile(member)
    text = file.read().decode("utf-8", "replace").strip() if file is not None else ""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if member.name.endswith(".json"):
        content = (
            content.get("label", content.get("cls")) if isinstance(content, dict) else None
        )
        if content is None:
            return known
    if type(content) is not int or content < 0:
        raise DataError(f"{path}, {member.name}: {text[:40]!r} is no class number")
    return content
