"""Which images there are, and what each is labelled with: folders, lists of paths, files of labels.

Only names and labels are read here; no image is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prunegraph.data.annotations import SourceBoxes, read_voc, read_yolo
from prunegraph.data.decoding import ImageFile, Picture, is_image
from prunegraph.errors import MALFORMED, DataError

#: A file in a folder of images that gives the names of classes in their order, one a line.
CLASSES = "classes.txt"

#: Folders that are parts of a data set, not classes.
PARTS = frozenset(("test", "train", "training", "val", "valid", "validation"))

#: Files that lie beside images and are none.
BESIDE = frozenset((".csv", ".json", ".md", ".txt", ".xml", ".yaml", ".yml"))


@dataclass(frozen=True)
class Listing:
    """Images in their order.

    Args:
        images: where each is.
        targets: a class number or boxes of each; None where there are no labels.
        classes: names of classes by number, as far as they are known.
        notes: what a user should know, a line each.
    """

    images: Sequence[Picture]
    targets: Sequence[int | SourceBoxes] | None = None
    classes: Sequence[str] = ()
    notes: Sequence[str] = field(default=())

    def __len__(self) -> int:
        return len(self.images)

    @property
    def has_boxes(self) -> bool:
        """Tell whether images are labelled with boxes."""
        return bool(self.targets) and isinstance(self.targets[0], SourceBoxes)  # type: ignore[index]

    @property
    def most(self) -> int:
        """Boxes that the fullest image has, at least 1."""
        counts = (len(each) for each in self.targets or () if isinstance(each, SourceBoxes))
        return max(1, max(counts, default=1))


def stored(path: Path) -> ImageFile:
    """An image in a file of its own."""
    return ImageFile(str(path), str(path))


# -- folders --------------------------------------------------------------------------------


def folder(path: Path) -> Listing | None:
    """Images of a folder, or None where there is none in it.

    Labels are found by how data sets lie on disk: `images/` beside `labels/` (YOLO), `JPEGImages/` beside
    `Annotations/` (VOC), a label file beside each image, or else a folder for each class.

    Raises:
        DataError: labels are missing, wrong, or could mean two things.
    """
    for pictures, labels, read in (
        ("images", "labels", _with_yolo),
        ("JPEGImages", "Annotations", _with_voc),
        ("images", "annotations", _with_voc),
    ):
        if (path / pictures).is_dir() and _has_labels(path / labels, read):
            return read(path / pictures, path / labels, path)
    parallel = _parallel_labels(path)
    if parallel is not None:
        return _with_yolo(path, parallel, path)
    images = list(_below(path))
    if not images:
        return None
    if any(image.with_suffix(".xml").is_file() for image in images[:100]):
        return _with_voc(path, path, path)
    if any(image.with_suffix(".txt").is_file() for image in images[:100]):
        return _with_yolo(path, path, path)
    return _by_class(path, images)


def _below(path: Path) -> Iterator[Path]:
    """Images at any depth, in the order of their names; hidden folders are left out."""
    for parent, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if is_image(Path(name)):
                yield Path(parent, name)


def _has_labels(path: Path, read: Callable[..., Listing]) -> bool:
    suffix = "*.xml" if read is _with_voc else "*.txt"
    return path.is_dir() and next(path.rglob(suffix), None) is not None


def _parallel_labels(path: Path) -> Path | None:
    """The folder of YOLO labels that belongs to a folder of images: the last `images` of its path is `labels` there."""
    parts = list(path.absolute().parts)
    if "images" not in parts:
        return None
    at = len(parts) - 1 - parts[::-1].index("images")
    labels = Path(*parts[:at], "labels", *parts[at + 1 :])
    return labels if _has_labels(labels, _with_yolo) else None


def _with_yolo(images: Path, labels: Path, root: Path) -> Listing:
    files = list(_below(images))
    if not files:
        raise DataError(f"{images}: holds no image")
    places = [(labels / file.relative_to(images)).with_suffix(".txt") for file in files]
    _refuse_parts(images, files)
    if not any(place.is_file() for place in places):
        raise DataError(
            f"{labels}: no label file belongs to an image of {images}; that of {files[0].name} is {places[0].name}"
        )
    targets = [read_yolo(place) for place in places]
    without = sum(not place.is_file() for place in places)
    notes = [f"{without} of {len(files)} images have no label file: they hold no object"]
    return Listing(
        [stored(file) for file in files], targets, _names(root), notes if without else ()
    )


def _with_voc(images: Path, labels: Path, root: Path) -> Listing:
    files = list(_below(images))
    if not files:
        raise DataError(f"{images}: holds no image")
    places = [(labels / file.relative_to(images)).with_suffix(".xml") for file in files]
    missing = next((place for place in places if not place.is_file()), None)
    if missing is not None:
        raise DataError(
            f"{missing}: no such file of labels, and there is an image of that name"
        )
    objects = [read_voc(place) for place in places]
    named = {name for each in objects for name in each.names}
    classes = _names(root) or sorted(named)
    unknown = sorted(named - set(classes))
    if unknown:
        raise DataError(
            f"{root / CLASSES}: has no class {unknown[0]!r}, which an object has"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    return Listing(
        [stored(file) for file in files], [each.boxes(numbers) for each in objects], classes
    )


def _by_class(path: Path, images: Sequence[Path]) -> Listing:
    """Images that lie in a folder for each class, numbered in the order of names; or all in one, without labels."""
    notes = _other_files(path)
    if all(image.parent == path for image in images):
        return Listing([stored(image) for image in images], notes=notes)
    if any(image.parent == path for image in images):
        raise DataError(
            f"{path}: holds images, and folders of images; put all there, or each into the folder of its class"
        )
    _refuse_parts(path, images)
    folders = sorted(
        each.name
        for each in path.iterdir()
        if each.is_dir() and not each.name.startswith(".")
    )
    tops = [image.relative_to(path).parts[0] for image in images]
    empty = next((name for name in folders if name not in set(tops)), None)
    if len(folders) == 1:
        notes = [*notes, f"one folder, {folders[0]!r}: images have no labels"]
        return Listing([stored(image) for image in images], notes=notes)
    if empty is not None:
        raise DataError(f"{path / empty}: the folder of a class holds no image")
    classes = _names(path)
    if not classes:
        classes = folders
        notes = [
            *notes,
            f"classes are numbered as their folders are called, 0 is {folders[0]!r} and {len(folders) - 1} "
            f"{folders[-1]!r}; {CLASSES} in {path} gives the model's order where that is another",
        ]
    unknown = next((name for name in folders if name not in classes), None)
    if unknown is not None:
        raise DataError(
            f"{path / CLASSES}: has no class {unknown!r}, which a folder is called"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    return Listing(
        [stored(image) for image in images], [numbers[top] for top in tops], classes, notes
    )


def _refuse_parts(path: Path, images: Sequence[Path]) -> None:
    """Raise DataError for a folder of a whole data set, parts of which are for different uses."""
    tops = {image.relative_to(path).parts[0] for image in images if image.parent != path}
    if tops and {top.lower() for top in tops} <= PARTS:
        first = sorted(tops)[0]
        raise DataError(
            f"{path}: holds the parts {', '.join(sorted(tops))} of a data set; give one, as {path / first}"
        )


def _other_files(path: Path) -> list[str]:
    """Say which files of a folder are taken for no images."""
    others = [
        Path(name)
        for _, _, files in os.walk(path)
        for name in files
        if not is_image(Path(name)) and Path(name).suffix.lower() not in BESIDE
    ]
    others = [each for each in others if not each.name.startswith(".")]
    if not others:
        return []
    return [f"{path}: {len(others)} files are no images, as {sorted(others)[0].name}"]


def _names(path: Path) -> list[str]:
    """Names of classes that a folder gives; none where it gives none. Raises DataError."""
    file = path / CLASSES
    if not file.is_file():
        return []
    names = [line.strip() for line in read_lines(file) if line.strip()]
    if len(set(names)) != len(names):
        raise DataError(f"{file}: has a class twice")
    return names


# -- lists of paths -------------------------------------------------------------------------


def read_lines(path: Path) -> list[str]:
    """Lines of a text file. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except MALFORMED as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({error})") from error


def path_list(path: Path) -> Listing:
    """Images of a text file: a path on each line, relative to the file, and perhaps a class number behind it.

    Where paths have no class number and YOLO labels lie beside them, as `labels/` for `images/`, those are read.

    Raises:
        DataError: a file is not there, or only some lines have a class number.
    """
    rows = [
        (number, *_path_and_class(line, path))
        for number, line in enumerate(read_lines(path), 1)
        if line.strip()
    ]
    if not rows:
        raise DataError(f"{path}: names no image")
    for number, file, _ in rows:
        if not file.is_file():
            raise DataError(f"{path}, line {number}: {file}: no such image")
    labelled = [kind is not None for _, _, kind in rows]
    if any(labelled) and not all(labelled):
        number = rows[labelled.index(False)][0]
        raise DataError(
            f"{path}, line {number}: has no class number, and other lines have one"
        )
    files = [file for _, file, _ in rows]
    images = [stored(file) for file in files]
    if all(labelled):
        return Listing(images, [kind for _, _, kind in rows if kind is not None])
    labels = {
        parent: _parallel_labels(parent) for parent in {file.parent for file in files}
    }
    places = [
        where / f"{file.stem}.txt" for file in files if (where := labels[file.parent])
    ]
    if len(places) == len(files):
        return Listing(images, [read_yolo(place) for place in places])
    return Listing(images)


def _path_and_class(line: str, source: Path) -> tuple[Path, int | None]:
    """A line's path and class number. A path may have blanks in it, and may end in a number."""
    text = line.strip()
    whole = source.parent / text
    words = text.replace("\t", " ").rsplit(" ", 1)
    has_number = len(words) == 2 and words[1].isdecimal() and len(words[1]) < 10
    if has_number and not (is_image(whole) and whole.is_file()):
        return source.parent / words[0].strip(), int(words[1])
    return whole, None
