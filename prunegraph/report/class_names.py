"""What outputs are called: names of classes, and the characters of a model that reads text.

Notes of a file are text that anybody may have written: they are read as data, and what has another form is no name.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunegraph.errors import MALFORMED

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph

#: Notes that hold names of classes: Ultralytics writes a dictionary of Python, Hugging Face's configuration has JSON.
NAMES = ("names", "id2label")

#: The note of RapidOCR and PaddleOCR: a character or class a line.
CHARACTERS = "character"

#: Hugging Face's configuration of a model lies beside it, or above a folder of this name that holds it.
CONFIG, EXPORTED = "config.json", "onnx"

#: What such a file calls classes that nobody named.
UNNAMED = re.compile(r"LABEL_\d+")

#: Longer notes are no list of names, longer names are cut; more classes than that are none.
MAX_NOTE, MAX_NAME, MAX_CLASSES = 2_000_000, 40, 100_000


def class_names(
    graph: Graph, count: int | None = None, classes: Sequence[str] = ()
) -> dict[int, str]:
    """Names by number of class; empty where nothing has them.

    Notes in the model's file count first, then a configuration beside it, then the user's own data.

    Args:
        graph: the model.
        count: how many classes it tells apart, where that is known: names of more are those of another model.
        classes: names that the user's data have; used where there are `count` of them, or this is not known.
    """
    notes = _notes(graph)
    for names in (
        *(_numbered(_literal(notes.get(key, ""))) for key in NAMES),
        _configured(graph),
    ):
        if names and (count is None or max(names) < count):
            return names
    for lines in (_lines(notes) if count is not None else (), classes):
        if count is None or len(lines) == count:
            names = _numbered(lines)
            if names:
                return names
    return {}


def read_text(graph: Graph, scores: np.ndarray) -> list[str] | None:
    """Text that a recogniser reads, of scores [n, steps, characters] by the best path of CTC.

    Class 0 is the blank, the next ones are the lines of the file's dictionary, and one more is a space. A class that
    follows itself counts once. None where the file has no dictionary of that size. Source: A. Graves et al.,
    Connectionist Temporal Classification, ICML 2006, section 3.2.
    """
    lines = _lines(_notes(graph))
    if scores.ndim != 3 or not lines or scores.shape[2] - len(lines) not in (1, 2):
        return None
    known = ["", *lines, " "]
    result = []
    for best in scores.argmax(2):
        first = np.concatenate([[True], best[1:] != best[:-1]])
        result.append("".join(known[each] for each in best[first]))
    return result


def _notes(graph: Graph) -> dict[str, str]:
    return {
        entry.key: entry.value
        for entry in graph.model.metadata_props
        if len(entry.value) <= MAX_NOTE
    }


def _configured(graph: Graph) -> dict[int, str]:
    """Names of Hugging Face's configuration; those that it made up are none."""
    for path in _configurations(graph):
        try:
            if path.stat().st_size > MAX_NOTE:
                continue
            content = json.loads(path.read_text(encoding="utf-8"))
        except MALFORMED:
            continue
        names = content.get("id2label") if isinstance(content, dict) else None
        if isinstance(names, dict) and not all(
            UNNAMED.fullmatch(str(n)) for n in names.values()
        ):
            return _numbered(names)
    return {}


def _configurations(graph: Graph) -> Iterator[Path]:
    """Where the configuration of a model may lie: beside its file, wherever its weights are."""
    folder = graph.home.folder
    if folder is not None:
        yield folder / CONFIG
        if folder.name == EXPORTED:
            yield folder.parent / CONFIG


def _lines(notes: Mapping[str, str]) -> list[str]:
    """Lines of the dictionary. Only "\\n" ends one: other line ends are characters of it."""
    text = notes.get(CHARACTERS, "")
    return text.removesuffix("\n").split("\n") if text else []


def _literal(text: str) -> Any:
    """A list or dictionary as JSON or Python writes it, None for all else."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(value, (list, tuple, dict)):
            return value
    return None


def _numbered(value: Mapping[Any, Any] | Sequence[Any] | None) -> dict[int, str]:
    """Names by number; empty where a key is no number of a class or a name no text."""
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value or ())
    result: dict[int, str] = {}
    for key, name in pairs:
        number = str(key)
        if not (number.isascii() and number.isdigit()) or not isinstance(name, str):
            return {}
        if len(number) > 6 or int(number) >= MAX_CLASSES:
            return {}
        if name.strip():
            result[int(number)] = name.strip()[:MAX_NAME]
    return result
