"""Images and boxes of a COCO file (`instances_*.json`)."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunegraph.data.annotations import SourceBoxes
from prunegraph.data.geometry import Size
from prunegraph.data.listing import Listing, stored
from prunegraph.errors import MALFORMED, DataError


def coco(path: Path) -> Listing:
    """Images of a COCO file with their boxes; categories are numbered from 0 in the order of their ids.

    Image files are looked for beside the file, in `images/` there, and in the folders beside its own
    (`annotations/instances_val2017.json` and `val2017/`). Boxes of crowds are left out.

    Raises:
        DataError: it is no such file, or an image is not there.
    """
    content = _content(path)
    try:
        images = {each["id"]: each for each in content["images"]}
        _check_ids(path, "image", content["images"])
        _check_ids(path, "category", content.get("categories", ()))
        categories = sorted(content.get("categories", ()), key=lambda each: each["id"])
        numbers = {each["id"]: number for number, each in enumerate(categories)}
        rows = _rows(content.get("annotations", ()), images, numbers, path)
        names = [str(each["file_name"]) for each in images.values()]
        targets = [
            SourceBoxes.of(*rows[key], size=_size(each)) for key, each in images.items()
        ]
        classes = [str(each.get("name", number)) for number, each in enumerate(categories)]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"[:120]
        raise DataError(f"{path}: not a COCO file of boxes ({reason})") from error
    if not names:
        raise DataError(f"{path}: names no image")
    root = _folder(path, names)
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(names)} images are not in {root}, as {missing[0]}"
        )
    has_boxes = "annotations" in content
    return Listing(
        [stored(root / name) for name in names], targets if has_boxes else None, classes
    )


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except MALFORMED as error:
        reason = " ".join(str(error).split())[:100]
        raise DataError(f"{path}: not a JSON file ({reason})") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{path}: not a COCO file: it has no list of `images`")
    return content


def _check_ids(path: Path, kind: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError where two entries have one id: annotations would belong to either."""
    for number, count in Counter(each["id"] for each in entries).items():
        if count > 1:
            raise DataError(
                f"{path}: {kind} {number!r} is there {count} times; ids must differ"
            )


def _rows(
    annotations: Sequence[Mapping[str, Any]],
    images: Mapping[Any, Any],
    numbers: Mapping[Any, int],
    path: Path,
) -> dict[Any, tuple[list[list[float]], list[int]]]:
    """Rows of boxes and their classes, by image."""
    result: dict[Any, tuple[list[list[float]], list[int]]] = defaultdict(lambda: ([], []))
    for number, each in enumerate(annotations):
        if each.get("iscrowd"):
            continue
        where = f"{path}, annotation {each.get('id', number)}"
        if each["image_id"] not in images:
            raise DataError(f"{where}: there is no image {each['image_id']!r}")
        if each["category_id"] not in numbers:
            raise DataError(f"{where}: there is no category {each['category_id']!r}")
        try:
            x, y, width, height = map(float, each["bbox"])
        except (KeyError, TypeError, ValueError):
            x = y = width = height = math.nan
        if not (width >= 0 and height >= 0 and abs(x) + abs(y) + width + height < 1e6):
            raise DataError(
                f"{where}: its box is not x, y, width, height: {each.get('bbox')}"
            )
        rows, classes = result[each["image_id"]]
        rows.append([x, y, x + width, y + height])
        classes.append(numbers[each["category_id"]])
    return result


def _size(image: Mapping[str, Any]) -> Size | None:
    height, width = int(image.get("height") or 0), int(image.get("width") or 0)
    return (height, width) if height and width else None


def _folder(path: Path, names: Sequence[str]) -> Path:
    """The folder that the names of images are relative to. Raises DataError where none has the first one."""
    above = path.parent
    outer = above.parent if above != above.parent else Path("..")
    beside = [each for each in sorted(outer.iterdir()) if each.is_dir()]
    ends = [each for each in beside if path.stem.endswith(each.name)]
    for folder in (above, above / "images", *ends, outer, *beside):
        if (folder / names[0]).is_file():
            return folder
    raise DataError(
        f"{path}: its first image, {names[0]}, lies neither beside it, nor in images/ there, "
        "nor in a folder beside its own"
    )
