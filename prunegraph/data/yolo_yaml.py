"""The file of a detection data set as ultralytics has it (`data.yaml`): folders of its parts, and names of classes.

Only paths and names are read. What else such a file may hold, a script that downloads images among it, is never run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prunegraph.data import listing as listings
from prunegraph.data.annotations import SourceBoxes
from prunegraph.data.listing import Listing, path_list
from prunegraph.errors import MALFORMED, DataError, MissingExtraError

#: Parts that such a file may name.
PARTS = ("train", "val", "test")

SUFFIXES = (".yaml", ".yml")

#: Bytes that such a file has at most: names of a thousand classes take a hundredth of it.
LARGEST = 2**22


def is_part(text: str) -> bool:
    """Tell whether a source is spelt `data.yaml:part`."""
    return text.rpartition(":")[0].endswith(SUFFIXES)


def data_yaml(path: Path, part: str) -> Listing:
    """Images of one part of a data set, labelled as its file says: YOLO's labels beside the images.

    Args:
        path: of the file. Its `path` is relative to the folder that it is in, to the one above, or to where the
            program runs; without one, parts are relative to the folder.
        part: "train", "val" or "test".

    Raises:
        DataError: it is no such file, has no such part, or images are not there.
        MissingExtraError: the package pyyaml is not installed.
    """
    content = _content(path)
    if part not in PARTS:
        raise DataError(f"{path}: {part!r} is no part; there are {', '.join(PARTS)}")
    given = content.get(part)
    places = [given] if isinstance(given, str) else given
    if not places or not isinstance(places, list):
        named = ", ".join(each for each in PARTS if content.get(each)) or "none"
        raise DataError(f"{path}: has no part {part!r}; it has {named}")
    if not all(isinstance(place, str) for place in places):
        raise DataError(f"{path}: {part!r} has to be a path, or a list of paths")
    roots = list(_roots(path, content.get("path")))
    parts = [_images(_found(place, roots, path, part)) for place in places]
    return _joined(parts, _names(content, path), path)


def _content(path: Path) -> Mapping[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError(f"reading {path.name}", "pyyaml", "images") from error
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path}: is larger than any file that describes a data set")
        text = path.read_text(encoding="utf-8-sig")
        # Aliases could name each other until memory is full.
        if any(isinstance(each, yaml.AliasToken) for each in yaml.scan(text)):
            raise DataError(f"{path}: has aliases, which no such file needs")
        content = yaml.safe_load(text)
    except (*MALFORMED, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: not a YAML file ({reason})") from error
    if not isinstance(content, dict) or not any(part in content for part in PARTS):
        raise DataError(
            f"{path}: names no part of a data set ({', '.join(PARTS)}), as ultralytics' data.yaml does"
        )
    return content


def _names(content: Mapping[str, Any], path: Path) -> list[str]:
    """Names of classes by number; as many numbers where it says only how many there are."""
    names, count = content.get("names"), content.get("nc")
    if names is None and count is None:
        return []
    if isinstance(names, dict) and sorted(map(repr, names)) == sorted(
        map(repr, range(len(names)))
    ):
        names = [names[number] for number in range(len(names))]
    if names is None and isinstance(count, int) and 0 < count < 2**16:
        return [str(number) for number in range(count)]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: `names` has to name all classes, from number 0")
    if count is not None and count != len(names):
        raise DataError(f"{path}: `nc` is {count!r}, and {len(names)} classes have names")
    return [str(name) for name in names]


def _roots(path: Path, said: object) -> Iterator[Path]:
    """Folders that paths of a file may be relative to."""
    beside = path.absolute().parent
    if isinstance(said, str) and said:
        yield from (beside / said, beside.parent / said, Path(said))
    elif said is not None and said != "":
        raise DataError(f"{path}: `path` has to be a folder, got {said!r}")
    yield beside


def _found(place: str, roots: Sequence[Path], path: Path, part: str) -> Path:
    """Where a path of the file leads. Raises DataError where that is nowhere."""
    # Exports have `../train/images` in the file beside `train/`.
    spellings = [place, place.removeprefix("../")]
    for each in dict.fromkeys(root / name for root in roots for name in spellings):
        try:
            if each.exists():
                return each
        except MALFORMED:  # a name that no file can have
            continue
    raise DataError(f"{path}: {part!r} is {place}, which is not there")


def _images(place: Path) -> Listing:
    images = path_list(place) if place.is_file() else listings.folder(place)
    if images is None:
        raise DataError(f"{place}: holds no image")
    if images.targets is not None and not images.has_boxes:
        raise DataError(f"{place}: images lie in folders of classes, and have no boxes")
    return images


def _joined(parts: Sequence[Listing], names: Sequence[str], path: Path) -> Listing:
    """Several listings as one. Raises DataError for a class without a name, or labels of some parts only."""
    labelled = [part.targets is not None for part in parts]
    if any(labelled) != all(labelled):
        raise DataError(f"{path}: some of its folders have labels, and others have none")
    notes = [note for part in parts for note in part.notes]
    if not all(labelled):
        notes.append(f"{path.name}: images have no labels")
    images = [image for part in parts for image in part.images]
    targets = [target for part in parts for target in part.targets or ()]
    for image, target in zip(images, targets, strict=False):
        assert isinstance(target, SourceBoxes)
        if names and len(target) and target.classes.max() >= len(names):
            raise DataError(
                f"{image.name}: has an object of class {target.classes.max()}, and {path.name} names "
                f"{len(names)} classes, from 0"
            )
    return Listing(images, targets if all(labelled) else None, names, notes)
