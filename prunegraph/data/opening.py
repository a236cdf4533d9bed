"""The one reader of what follows `--data`: whatever it is, as the data of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from prunegraph.data import listing as listings
from prunegraph.data.coco import coco
from prunegraph.data.decoding import SUFFIXES, is_image
from prunegraph.data.image_input import guessed, need_image_input, preprocessing
from prunegraph.data.images import ImageSource
from prunegraph.data.listing import Listing, path_list, stored
from prunegraph.data.rows import Columns, ParquetRows, TableRows, image_rows, text_rows
from prunegraph.data.shards import shards
from prunegraph.data.text import (
    TEXT_SUFFIXES,
    TextInput,
    Texts,
    TextSource,
    text_input,
    text_options,
    texts_of,
)
from prunegraph.data.yolo_yaml import SUFFIXES as YAML_SUFFIXES
from prunegraph.data.yolo_yaml import data_yaml, is_part
from prunegraph.errors import DataError, OptionError
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data, read_data
from prunegraph.runtime.sources import Folder

#: What says how things go on, or what was guessed.
Say = Callable[[str], None]


def _nothing(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class _Asked:
    """What a caller says besides the source (see `open_data`)."""

    preprocess: str
    workers: int | None
    note: Say
    progress: Say | None


def open_data(
    text: str,
    model: Graph,
    *,
    preprocess: str = "",
    workers: int | None = None,
    note: Say = _nothing,
    progress: Say | None = None,
    part: str = "train",
) -> Data:
    """Data of any kind as inputs of a model: images, texts, arrays, what a function yields.

    Args:
        text: a folder of images; a file of paths, of COCO annotations; ultralytics' `data.yaml`; a `.tar` or `.parquet`
            file, or a folder of these; a file or folder of texts; an `.npz` or `.npy` file, a folder of these; or
            `file.py:function`.
        model: the model that they are for.
        preprocess: what becomes of images (`imagenet`, `yolo`, `clip`, `none`, a chain, a
            `preprocessor_config.json`) or of texts (a `tokenizer.json`); guessed where it is not given.
        workers: processes that decode images; by default as many as there are cores, where there is much to decode.
        note: told what was guessed, and what else a user should know.
        progress: told how decoding goes on.
        part: of a data set whose `data.yaml` has several (train, val, test); `data.yaml:val` says it in the text.

    Raises:
        DataError: the source cannot be read, or does not fit the model.
        OptionError: what `preprocess` says cannot be.
        MissingExtraError: a package that reads such files is not installed.
    """
    asked = _Asked(preprocess, workers, note, progress)
    if ".py:" in text:
        return _open_arrays(text, model, asked)
    path = Path(text)
    if tables := _tables(path):
        return _open_rows(ParquetRows(tables), model, Columns(), text, asked)
    target = text_input(model)
    if target is not None and (files := _text_files(path)):
        return _open_texts(texts_of(files), target, model, text, asked)
    images = _of_yaml(text, part) or _images(path)
    if images is not None:
        return _open_images(images, model, text, asked)
    return _open_arrays(text, model, asked)


def open_rows(
    rows: TableRows,
    model: Graph,
    *,
    columns: Columns | None = None,
    preprocess: str = "",
    note: Say = _nothing,
    progress: Say | None = None,
) -> Data:
    """Rows of a table as inputs of a model, as of Hugging Face's `datasets`: images or texts, with labels.

    Args:
        rows: dicts by number, of which there is a length.
        model: the model that they are for.
        columns: which columns hold what; found by their names and content where it is not said.
        preprocess: as in `open_data`.
        note: as in `open_data`.
        progress: as in `open_data`.

    Raises:
        DataError: no column holds what the model takes.
        OptionError: what `preprocess` says cannot be.
        MissingExtraError: a package that reads such rows is not installed.
    """
    asked = _Asked(preprocess, None, note, progress)
    return _open_rows(rows, model, columns or Columns(), "rows", asked)


def _open_rows(
    rows: TableRows, model: Graph, columns: Columns, source: str, asked: _Asked
) -> Data:
    target = text_input(model)
    texts = text_rows(rows, columns, source) if target is not None else None
    if target is not None and texts is not None:
        return _open_texts(texts, target, model, source, asked)
    images = image_rows(rows, columns, source) if target is None else None
    if images is None:
        what = "texts" if target is not None else "images"
        raise DataError(f"{source}: no column holds {what}, which the model takes")
    # Tables are read where they are open: in this process.
    return _open_images(images, model, source, replace(asked, workers=0))


def _open_images(images: Listing, model: Graph, source: str, asked: _Asked) -> Data:
    target = need_image_input(model, source)
    if asked.preprocess:
        chain = preprocessing(asked.preprocess, target)
    else:
        guess = guessed(model, target)
        chain = guess.chain
        asked.note(str(guess))
    for line in images.notes:
        asked.note(line)
    reader = ImageSource(
        images, chain, target, source, workers=asked.workers, progress=asked.progress
    )
    return Data(reader, source)


def _open_texts(
    texts: Texts, target: TextInput, model: Graph, source: str, asked: _Asked
) -> Data:
    options = text_options(asked.preprocess, target, model.home.folder)
    if str(options) != asked.preprocess:
        asked.note(f"preprocessing was guessed: {options}")
    return Data(TextSource(texts, options, target, source, progress=asked.progress), source)


def _open_arrays(text: str, model: Graph, asked: _Asked) -> Data:
    path = Path(text)
    if path.suffix == ".npy" and path.is_file():
        arrays = Data(Folder(path.parent, _single_array(path, model)), text)
    else:
        arrays = read_data(text)
    if asked.preprocess:
        raise OptionError(
            f"{text}: arrays are taken as they are; --preprocess is for images and texts"
        )
    return arrays


# -- what a path stands for -----------------------------------------------------------------


def _tables(path: Path) -> list[Path]:
    """Parquet files that a path stands for; none where it is something else."""
    if path.is_dir():
        return sorted(path.glob("*.parquet"))
    return [path] if path.suffix == ".parquet" and path.is_file() else []


def _text_files(path: Path) -> list[Path]:
    """Files of texts that a path stands for."""
    if path.is_dir():
        return [file for file in sorted(path.iterdir()) if file.suffix in TEXT_SUFFIXES]
    return [path] if path.suffix in TEXT_SUFFIXES and path.is_file() else []


def _of_yaml(text: str, part: str) -> Listing | None:
    """The images of a part of a data set that a YAML file describes; None for other sources."""
    if is_part(text):
        text, _, part = text.rpartition(":")
    path = Path(text)
    is_file = path.suffix in YAML_SUFFIXES and path.is_file()
    return data_yaml(path, part) if is_file else None


def _images(path: Path) -> Listing | None:
    """The images that a path stands for; None where it stands for no images."""
    if path.is_dir():
        return _images_of_folder(path)
    if not path.is_file():
        return None
    readers: Mapping[str, Callable[[Path], Listing]] = {
        ".json": coco,
        ".txt": path_list,
        ".tar": lambda file: shards([file]),
    }
    if path.suffix in readers:
        return readers[path.suffix](path)
    return Listing([stored(path)]) if is_image(path) else None


def _images_of_folder(path: Path) -> Listing | None:
    archives = sorted(path.glob("*.tar"))
    if archives:
        return shards(archives)
    if any(next(path.glob(f"*.{kind}"), None) for kind in ("npy", "npz")):
        return None
    images = listings.folder(path)
    if images is None:
        raise DataError(
            f"{path}: holds no image ({', '.join(sorted(SUFFIXES))}), no .npy or .npz file, no .tar, no .parquet"
        )
    return images


def _single_array(path: Path, model: Graph) -> dict[str, Path]:
    """The array of an `.npy` file under the name of the model's input. Raises DataError where there are several."""
    if len(model.inputs) != 1:
        raise DataError(
            f"{path}: one array, and the model has the inputs {', '.join(model.inputs)}; give a folder of .npy files"
        )
    return {model.inputs[0]: path}
