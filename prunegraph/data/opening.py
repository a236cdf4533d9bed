"""The one reader of what follows `--data`: whatever it is, as the data of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from prunegraph.data import listing as listings
from prunegraph.data.coco import coco
from prunegraph.data.decoding import SUFFIXES, is_image
from prunegraph.data.image_input import guessed, need_image_input, preprocessing
from prunegraph.data.images import ImageSource
from prunegraph.data.listing import Listing, path_list, stored
from prunegraph.data.shards import shards
from prunegraph.data.text import SUFFIXES as TEXT_SUFFIXES
from prunegraph.data.text import TextSource, text_input, text_options
from prunegraph.errors import DataError, OptionError
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data, read_data
from prunegraph.runtime.sources import Folder

#: What says how things go on, or what was guessed.
Say = Callable[[str], None]


def _nothing(text: str) -> None:
    """Say nothing."""


def open_data(
    text: str,
    model: Graph,
    *,
    preprocess: str = "",
    workers: int | None = None,
    note: Say = _nothing,
    progress: Say | None = None,
) -> Data:
    """Data of any kind as inputs of a model: images, texts, arrays, what a function yields.

    Args:
        text: a folder of images; a file of paths, of COCO annotations, a `.tar` of images; a file or folder of
            texts; an `.npz` or `.npy` file, a folder of these; or `file.py:function`.
        model: the model that they are for.
        preprocess: what becomes of images (`imagenet`, `yolo`, `clip`, `none`, a chain, a
            `preprocessor_config.json`) or of texts (a `tokenizer.json`); guessed where it is not given.
        workers: processes that decode images; by default as many as there are cores.
        note: told what was guessed, and what else a user should know.
        progress: told how decoding goes on.

    Raises:
        DataError: the source cannot be read, or does not fit the model.
        OptionError: what `preprocess` says cannot be.
        MissingExtraError: a package that reads such files is not installed.
    """
    path = Path(text)
    texts = None if ".py:" in text else _text_files(path, model)
    if texts is not None:
        return _texts(texts, text, model, preprocess, note, progress)
    images = None if ".py:" in text else _images(path)
    if images is not None:
        return open_images(
            images,
            model,
            text,
            preprocess=preprocess,
            workers=workers,
            note=note,
            progress=progress,
        )
    if path.suffix == ".npy" and path.is_file():
        arrays = Data(Folder(path.parent, _single_array(path, model)), text)
    else:
        arrays = read_data(text)
    if preprocess:
        raise OptionError(
            f"{text}: arrays are taken as they are; --preprocess is for images and texts"
        )
    return arrays


def open_images(
    images: Listing,
    model: Graph,
    source: str,
    *,
    preprocess: str = "",
    workers: int | None = None,
    note: Say = _nothing,
    progress: Say | None = None,
) -> Data:
    """Images of a listing as inputs of a model. Arguments and errors are those of `open_data`."""
    target = need_image_input(model, source)
    if preprocess:
        chain = preprocessing(preprocess, target)
    else:
        guess = guessed(model, target)
        chain = guess.chain
        note(str(guess))
    for line in images.notes:
        note(line)
    reader = ImageSource(images, chain, target, source, workers=workers, progress=progress)
    return Data(reader, source)


def _images(path: Path) -> Listing | None:
    """The images that a path stands for; None where it stands for no images."""
    if path.is_dir():
        archives = sorted(path.glob("*.tar"))
        if archives:
            return shards(archives)
        is_arrays = any(next(path.glob(f"*.{kind}"), None) for kind in ("npy", "npz"))
        images = None if is_arrays else listings.folder(path)
        if images is None and not is_arrays:
            raise DataError(
                f"{path}: holds no image ({', '.join(sorted(SUFFIXES))}), no .npy or .npz file, and no .tar"
            )
        return images
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


def _text_files(path: Path, model: Graph) -> list[Path] | None:
    """Files of texts, for a model that takes texts; else None."""
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix in TEXT_SUFFIXES]
    else:
        files = [path] if path.suffix in TEXT_SUFFIXES and path.is_file() else []
    return files if files and text_input(model) is not None else None


def _texts(
    files: list[Path],
    text: str,
    model: Graph,
    preprocess: str,
    note: Say,
    progress: Say | None,
) -> Data:
    target = text_input(model)
    assert target is not None
    options = text_options(preprocess, target, model.folder)
    if str(options) != preprocess:
        note(f"preprocessing was guessed: {options}")
    return Data(TextSource(files, options, target, text, progress=progress), text)


def _single_array(path: Path, model: Graph) -> dict[str, Path]:
    """The array of an `.npy` file under the name of the model's input. Raises DataError where there are several."""
    if len(model.inputs) != 1:
        raise DataError(
            f"{path}: one array, and the model has the inputs {', '.join(model.inputs)}; give a folder of .npy files"
        )
    return {model.inputs[0]: path}
