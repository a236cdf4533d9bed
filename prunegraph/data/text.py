"""Texts as the token ids that a model takes, with a `tokenizer.json`; all samples have one length.

Ids are kept in a temporary file, so that texts may be longer than memory, and are read in any order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx

from prunegraph.errors import DataError, MissingExtraError, OptionError
from prunegraph.graph.indices import ranges
from prunegraph.graph.model import Graph
from prunegraph.graph.shapes import shape_info
from prunegraph.runtime import layout as layouts
from prunegraph.runtime.layout import LABELS, Batch, Layout, Shape
from prunegraph.runtime.scratch import scratch_file
from prunegraph.runtime.sources import CHUNK

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: What the file of a tokenizer is called.
TOKENIZER = "tokenizer.json"

#: Tokens of a sample where a model takes any number.
LENGTH = 128

#: Suffixes of files of texts: a text on each line.
TEXT_SUFFIXES = frozenset((".jsonl", ".txt"))

#: Inputs that follow from a text, by the names that exporters give them.
IDS, MASK, KINDS, PLACES = "input_ids", "attention_mask", "token_type_ids", "position_ids"

#: Lines that are tokenized at a time.
LINES = 512

#: What is a sample: a line, filled up or cut; or a stretch of all lines one behind the other.
Cut = Literal["lines", "blocks"]


#: Texts with their class numbers, or with None, from the first one each time it is called.
Texts = Callable[[], Iterator[tuple[str, int | None]]]


@dataclass(frozen=True)
class TextInput:
    """Inputs of a model that takes texts.

    Args:
        dtypes: of its inputs by name, `input_ids` among them.
        length: tokens of a sample, 0 where any number is taken.
        ids: ids are below this number; 0 where that is not known.
        cut: what a sample is. Models that say which token comes next take stretches.
    """

    dtypes: Mapping[str, np.dtype]
    length: int
    ids: int
    cut: Cut


def text_input(graph: Graph) -> TextInput | None:
    """What a graph takes of a text; None for a graph that takes anything else."""
    shapes = layouts.declared(graph)
    ids = shapes.get(IDS)
    if ids is None or ids.rank != 2 or not set(graph.inputs) <= {IDS, MASK, KINDS, PLACES}:
        return None
    types = {entry.name: entry.type.tensor_type for entry in graph.model.graph.input}
    dtypes = {
        name: onnx.helper.tensor_dtype_to_np_dtype(types[name].elem_type)
        for name in graph.inputs
    }
    info = shape_info(graph)
    sizes = dict(info.sizes)
    limit = ranges(graph, sizes).get(IDS)
    end = limit.end if limit is not None else 0
    shape = info.shapes.get(graph.outputs[0], ())
    says_next = len(shape) == 3 and shape[-1] == end
    return TextInput(dtypes, ids.sizes[1], end, "blocks" if says_next else "lines")


@dataclass(frozen=True)
class TextOptions:
    """How texts become samples.

    Args:
        tokenizer: the file of the tokenizer.
        cut: what a sample is.
        length: tokens of each.
    """

    tokenizer: Path
    cut: Cut
    length: int

    def __str__(self) -> str:
        return f"{self.tokenizer},{self.cut}={self.length}"


def text_options(text: str, target: TextInput, folder: Path | None) -> TextOptions:
    """What `--preprocess` says of texts: `tokenizer.json`, `lines=128`, `blocks=64`, or a tokenizer and one of these.

    Args:
        text: what is said, or "".
        target: what the model takes.
        folder: of the model, where a tokenizer is looked for.

    Raises:
        OptionError: it cannot be read, the length is not the model's, or no tokenizer is found.
    """
    file = folder / TOKENIZER if folder is not None else Path(TOKENIZER)
    cut, length = target.cut, target.length or LENGTH
    for word in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(lines|blocks)(?:=(\d{1,6}))?", word)
        if word.endswith(".json"):
            file = Path(word)
        elif match:
            cut = "lines" if match[1] == "lines" else "blocks"
            length = int(match[2] or length)
        else:
            raise OptionError(
                f"preprocessing of texts: {word!r} is neither a tokenizer.json, nor lines=TOKENS, "
                "nor blocks=TOKENS"
            )
    if not length or (target.length and length != target.length):
        raise OptionError(
            f"preprocessing of texts: the model takes {target.length or 'one or more'} tokens, not {length}"
        )
    if not file.is_file():
        raise OptionError(
            f"{file}: no such tokenizer; say --preprocess PATH/tokenizer.json, "
            "the one that the model was trained with"
        )
    return TextOptions(file, cut, length)


class TextSource:
    """Texts as inputs of a model; a source that can be read in any order.

    Args:
        texts: gives texts with their class numbers, or with None, when it is called.
        options: how they become samples.
        target: the inputs that take them.
        source: what to call the data in messages.
        progress: told how many samples there are so far.

    Raises:
        DataError: a file cannot be read, or there is no sample in them.
        MissingExtraError: the package tokenizers is not installed.
    """

    whole = False

    def __init__(
        self,
        texts: Texts,
        options: TextOptions,
        target: TextInput,
        source: str,
        *,
        progress: Callable[[str], None] | None = None,
    ):
        self._texts, self.options, self.target = texts, options, target
        tokenizer = _tokenizer(options.tokenizer)
        self._pad = _pad(tokenizer)
        self._lengths: list[int] = []
        self._labels: list[int | None] = []
        self._file = scratch_file(self)
        rows = (
            self._blocks(tokenizer) if options.cut == "blocks" else self._lines(tokenizer)
        )
        for number, row in enumerate(rows, 1):
            self._file.write(row.astype(np.int32).tobytes())
            if progress is not None and number % 10_000 == 0:
                progress(f"reading texts: {number:,} samples")
        if not self._lengths:
            raise DataError(
                f"{source}: holds no text of {options.length} tokens"
                if options.cut == "blocks"
                else f"{source}: holds no text"
            )
        if len({label is None for label in self._labels}) > 1:
            raise DataError(f"{source}: only a part of the texts has a label")

    # -- tokens -----------------------------------------------------------------------------

    def _lines(self, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
        """Ids of each text, cut at the length and filled up."""
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.options.length)
        texts = self._texts()
        while part := list(islice(texts, LINES)):
            for encoding, (_, label) in zip(
                tokenizer.encode_batch([text for text, _ in part]), part, strict=True
            ):
                row = np.full(self.options.length, self._pad, np.int64)
                row[: len(encoding.ids)] = encoding.ids
                self._keep(row, len(encoding.ids), label)
                yield row

    def _blocks(self, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
        """Stretches of the ids of all texts, with line breaks between; what does not fill one is left out."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        length = self.options.length
        rest = np.zeros(0, np.int64)
        texts = self._texts()
        while part := [text + "\n" for text, _ in islice(texts, LINES)]:
            encodings = tokenizer.encode_batch(part, add_special_tokens=False)
            ids = np.concatenate(
                [rest, *(np.array(each.ids, np.int64) for each in encodings)]
            )
            end = len(ids) - len(ids) % length
            for row in ids[:end].reshape(-1, length):
                self._keep(row, length, None)
                yield row
            rest = ids[end:]

    def _keep(self, row: np.ndarray, length: int, label: int | None) -> None:
        largest = int(row[:length].max(initial=0))
        if self.target.ids and largest >= self.target.ids:
            raise DataError(
                f"{self.options.tokenizer}: gives the id {largest}, the model takes ids below {self.target.ids}: "
                "it is not this model's tokenizer"
            )
        self._lengths.append(length)
        self._labels.append(label)

    # -- as a source ------------------------------------------------------------------------

    def shapes(self) -> Mapping[str, Shape]:
        count = len(self._lengths)
        result: dict[str, Shape] = dict.fromkeys(
            self.target.dtypes, (count, self.options.length)
        )
        return result if self._labels[0] is None else {**result, LABELS: (count,)}

    def read(self, layout: Layout) -> Iterator[Batch]:
        for start in range(0, len(self._lengths), CHUNK):
            yield self.take(np.arange(start, min(start + CHUNK, len(self._lengths))))

    def count(self) -> int:
        return len(self._lengths)

    def labels(self) -> np.ndarray | None:
        return None if self._labels[0] is None else np.array(self._labels, np.int64)

    def prepare(self) -> None:
        """All ids are in the file already."""

    @property
    def classes(self) -> Sequence[str]:
        return ()

    def take(self, numbers: np.ndarray) -> Batch:
        length = self.options.length
        ids = np.empty((len(numbers), length), np.int64)
        for place, number in enumerate(numbers):
            self._file.seek(int(number) * length * 4)
            ids[place] = np.frombuffer(self._file.read(length * 4), np.int32)
        lengths = np.array([self._lengths[number] for number in numbers])
        mask = np.arange(length) < lengths[:, None]
        values = {
            IDS: ids,
            MASK: mask,
            KINDS: np.zeros_like(ids),
            PLACES: np.broadcast_to(np.arange(length), ids.shape),
        }
        result = {
            name: np.ascontiguousarray(values[name], dtype)
            for name, dtype in self.target.dtypes.items()
        }
        if self._labels[0] is not None:
            result[LABELS] = np.array(
                [self._labels[number] for number in numbers], np.int64
            )
        return result


def _tokenizer(path: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtraError("reading texts", "tokenizers", "text") from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        reason = " ".join(str(error).split())[:120]
        raise OptionError(f"{path}: not a tokenizer that can be read ({reason})") from error


def _pad(tokenizer: Tokenizer) -> int:
    """The id that fills up short texts."""
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"])
    named = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>", "<|endoftext|>"))
    return next((number for number in named if number is not None), 0)


def texts_of(files: Sequence[Path]) -> Texts:
    """Texts of files: one on each line; of `.jsonl` the field `text`, with `label`, a class number."""

    def read() -> Iterator[tuple[str, int | None]]:
        for file in files:
            for number, line in enumerate(_lines_of(file), 1):
                if line.strip() and file.suffix == ".jsonl":
                    yield _record(line, f"{file}, line {number}")
                elif line.strip():
                    yield line.rstrip("\r\n"), None

    return read


def _lines_of(path: Path) -> Iterator[str]:
    """Lines of a file, read one by one. Raises DataError."""
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            yield from file
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({error})") from error


def _record(line: str, where: str) -> tuple[str, int | None]:
    try:
        content = json.loads(line)
        text, label = content["text"], content.get("label")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f'{where}: not a line as {{"text": "...", "label": 0}}') from error
    if not isinstance(text, str) or not (label is None or type(label) is int):
        raise DataError(f"{where}: `text` is to be text, and `label` a class number")
    return text, label
