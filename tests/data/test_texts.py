"""Texts as token ids, against a tokenizer that is run by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import prunegraph as pg
from prunegraph.data.opening import open_data
from prunegraph.errors import DataError, OptionError
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data
from prunegraph.runtime.layout import LABELS
from tests.builders import Builder

WORDS = [
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[UNK]",
    *["the", "cat", "dog", "sat", "on", "mat", "and", "ran", "\n"],
]
IDS = {word: number for number, word in enumerate(WORDS)}
LINES = ["the cat sat", "", "the dog and the cat sat on the mat and ran", "ran"]


def encoder(
    length: int | str = 6, vocabulary: int = len(WORDS), *, kinds: bool = False
) -> Graph:
    """A network of token ids and their mask, as exporters call them."""
    b = Builder()
    ids = b.input("N", length, name="input_ids", kind=TensorProto.INT64)
    mask = b.input("N", length, name="attention_mask", kind=TensorProto.INT64)
    x = b.op("Gather", b.weight(vocabulary, 8), ids)
    weight = b.op(
        "Unsqueeze", b.op("Cast", mask, to=TensorProto.FLOAT), b.const([2], np.int64)
    )
    x = b.op("Mul", x, weight)
    if kinds:
        more = b.input("N", length, name="token_type_ids", kind=TensorProto.INT32)
        x = b.op("Add", x, b.op("Gather", b.weight(2, 8), more))
    x = b.op("ReduceMean", x, axes=[1], keepdims=0)
    return b.graph(b.linear(b.op("Relu", b.linear(x, 8, 12)), 12, 3))


def language_model(length: int = 4) -> Graph:
    """A network that says which token comes next."""
    b = Builder()
    ids = b.input("N", length, name="input_ids", kind=TensorProto.INT64)
    x = b.op("Gather", b.weight(len(WORDS), 8), ids)
    x = b.op("Relu", b.op("MatMul", x, b.weight(8, 12)))
    return b.graph(b.op("MatMul", x, b.weight(12, len(WORDS))))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Words between blanks; whole lines between [CLS] and [SEP]."""
    made = Tokenizer(models.WordLevel(IDS, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def whole(path: Path, graph: Graph, preprocess: object) -> dict[str, np.ndarray]:
    data = open_data(str(path), graph, preprocess=str(preprocess)).fit(graph)
    return data.in_memory().parts[0]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_lines_are_filled_up_and_cut(tmp_path: Path, tokenizer: Path) -> None:
    batch = whole(write(tmp_path / "a.txt", LINES), encoder(), tokenizer)
    expected, masks = [], []
    for line in filter(None, LINES):
        ids = [*[1, *(IDS[word] for word in line.split())][:5], 2]
        expected.append(ids + [0] * (6 - len(ids)))
        masks.append([1] * len(ids) + [0] * (6 - len(ids)))
    assert batch["input_ids"].tolist() == expected
    assert batch["attention_mask"].tolist() == masks
    assert batch["input_ids"].dtype == np.int64 and LABELS not in batch


def test_lengths_are_said_where_the_model_takes_any(
    tmp_path: Path, tokenizer: Path
) -> None:
    path = write(tmp_path / "a.txt", LINES)
    graph = encoder("tokens", kinds=True)
    batch = whole(path, graph, f"{tokenizer},lines=9")
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert {name: array.shape for name, array in batch.items()} == dict.fromkeys(
        names, (3, 9)
    )
    assert batch["token_type_ids"].dtype == np.int32 and not batch["token_type_ids"].any()
    assert whole(path, graph, tokenizer)["input_ids"].shape == (3, 128)


def test_language_models_get_stretches(tmp_path: Path, tokenizer: Path) -> None:
    text = write(tmp_path / "a.txt", ["the cat sat ", "on the mat ", "and ran "] * 300)
    rows = whole(text, language_model(), tokenizer)["input_ids"]
    line = [
        IDS[word]
        for word in [
            "the",
            "cat",
            "sat",
            "\n",
            "on",
            "the",
            "mat",
            "\n",
            "and",
            "ran",
            "\n",
        ]
        if word
    ]
    stream = np.array(line * 300)
    assert rows.tolist() == stream[: len(stream) // 4 * 4].reshape(-1, 4).tolist()
    lines = whole(text, language_model(), f"{tokenizer},lines")["input_ids"]
    assert lines.shape == (900, 4) and lines[0].tolist() == [1, IDS["the"], IDS["cat"], 2]


def test_labels_of_json_lines(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "a.jsonl"
    records = [
        {"text": line, "label": number % 3}
        for number, line in enumerate(["the", "cat", "ran"])
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    batch = whole(path, encoder(), tokenizer)
    assert batch[LABELS].tolist() == [0, 1, 2]
    assert batch["input_ids"][1].tolist() == [1, IDS["cat"], 2, 0, 0, 0]


def test_parts_are_those_of_arrays(tmp_path: Path, tokenizer: Path) -> None:
    graph = encoder()
    path = write(tmp_path / "a.txt", [" ".join(WORDS[4 + i % 7 : 12]) for i in range(200)])
    data = open_data(str(path), graph, preprocess=str(tokenizer)).fit(graph)
    arrays = Data.of(data.in_memory().parts[0]).fit(graph)
    assert data.digest == arrays.digest and data.samples == 200
    assert data.draw(13, 3).digest == arrays.draw(13, 3).digest
    assert data.head(70).digest == arrays.head(70).digest


@pytest.mark.parametrize("large", [1 << 40, 0], ids=["weights held", "weights on disk"])
def test_the_tokenizer_beside_the_model(
    large: int, tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunegraph.graph.spilling.LARGE", large)
    pg.save(encoder(), tmp_path / "net.onnx")
    graph = pg.load(tmp_path / "net.onnx")
    notes: list[str] = []
    data = open_data(str(write(tmp_path / "a.txt", LINES)), graph, note=notes.append)
    assert data.fit(graph).samples == 3
    assert notes == [f"preprocessing was guessed: {tokenizer},lines=6"]


def test_a_folder_of_texts(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "texts").mkdir()
    write(tmp_path / "texts" / "b.txt", ["ran"])
    write(tmp_path / "texts" / "a.txt", ["cat", "dog"])
    batch = whole(tmp_path / "texts", encoder(), tokenizer)
    assert batch["input_ids"][:, 1].tolist() == [IDS[w] for w in ("cat", "dog", "ran")]


@pytest.mark.parametrize(
    ("name", "content", "preprocess", "message"),
    [
        ("a.txt", "", "{}", "a.txt: holds no text"),
        ("a.txt", "cat", "{},blocks=6", "holds no text of 6 tokens"),
        ("a.txt", "cat", "{},lines=7", "the model takes 6 tokens, not 7"),
        ("a.txt", "cat", "{},words", "'words' is neither"),
        ("a.txt", "cat", "none.json", "none.json: no such tokenizer"),
        ("a.txt", "cat", "a.json", "a.json: not a tokenizer that can be read"),
        ("a.jsonl", "{", "{}", "a.jsonl, line 1: not a line as"),
        ("a.jsonl", '{"text": 3}', "{}", "`text` is to be text"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b", "label": 1}', "{}", "only a part"),
        ("a.txt", "\udcff", "{}", "not a text file in UTF-8"),
    ],
)
def test_what_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: Path,
    name: str,
    content: str,
    preprocess: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text("{}")
    Path(name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises((DataError, OptionError), match=message):
        whole(Path(name), encoder(), preprocess.replace("{}", "tokenizer.json"))


def test_a_tokenizer_of_another_model(tmp_path: Path, tokenizer: Path) -> None:
    path = write(tmp_path / "a.txt", ["the mat"])
    with pytest.raises(DataError, match=r"gives the id 9, the model takes ids below 8"):
        whole(path, encoder(vocabulary=8), tokenizer)
