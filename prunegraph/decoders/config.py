"""Configuration files of a language model, as they are after a cut: `config.json` and its like, `genai_config.json`.

A file beside the model that describes it is written beside the result, with the sizes that are left and with ids of
tokens as they are numbered now. Where layers have come to different sizes, no such file can say it: none is written.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunegraph.coupling.survivors import Survivors
from prunegraph.decoders.sizes import Described, lost_layers, sizes_after
from prunegraph.errors import MALFORMED, ModelError
from prunegraph.graph.onnx_io import write_whole
from prunegraph.rewriting.vocabulary import Vocabulary

#: Of Hugging Face's transformers, of how it generates, and of ONNX Runtime's extension for generating.
CONFIG, GENERATION, GENAI = "config.json", "generation_config.json", "genai_config.json"
FILES = (CONFIG, GENERATION, GENAI)

#: What kinds of models call their sizes.
NAMES: Mapping[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "inner": (
        "intermediate_size",
        "n_inner",
        "d_ff",
        "ffn_dim",
        "encoder_ffn_dim",
        "decoder_ffn_dim",
        "hidden_dim",
    ),
    "heads": (
        "num_attention_heads",
        "n_head",
        "num_heads",
        "n_heads",
        "encoder_attention_heads",
        "decoder_attention_heads",
    ),
    "key_heads": ("num_key_value_heads",),
    "head_size": ("head_dim", "head_size", "d_kv"),
}

#: How many layers there are.
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")

#: Entries that hold ids of tokens: one, or a list.
IDS = ("_token_id", "_token_index")
#: Lists of ids, from which those that are gone are left out.
SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens", "bad_token_ids")

Content = dict[str, Any]


@dataclass(frozen=True)
class Configured:
    """Files that were written, and what they could not say."""

    paths: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


class _DifferentError(Exception):
    """A size that is not the same in all layers."""


def check_ids(source: str | os.PathLike[str], kept: Sequence[int]) -> None:
    """Raise ModelError where files beside a model name tokens that a smaller vocabulary does not keep."""
    for name, content in _beside(Path(source)):
        for part in _parts(content):
            for key, value in part.items():
                if not key.endswith(IDS):
                    continue
                lost = [i for i in _listed(value) if i not in set(kept)]
                if lost:
                    raise ModelError(
                        f"{Path(source).with_name(name)}: {key} is {lost[0]}, which is not kept; keep this token, too"
                    )


def write_configs(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    survivors: Survivors,
    vocabulary: Vocabulary | None = None,
) -> Configured:
    """Write the files that describe a model beside what it has become.

    In the folder of the original, and where the name is another model's, they get the result's name in front:
    `small.config.json` for `small.onnx`.

    Args:
        source: the original's path.
        out: the result's.
        survivors: what is left of the original.
        vocabulary: what is left of its tokens.

    Raises:
        ModelError: a file cannot be written.
    """
    paths, notes = [], []
    for name, content in _beside(Path(source)):
        where = f"{name} beside {Path(source).name}"
        try:
            new, said = _updated(content, name, Path(out), survivors, vocabulary)
        except _DifferentError as error:
            notes.append(f"{where} has no new version: {error}")
            continue
        path = _target(Path(source), Path(out), name, content)
        text = json.dumps(new, indent=2, ensure_ascii=False) + "\n"
        write_whole(path, [text.encode()])
        paths.append(path)
        notes += [f"{path.name}: {note}" for note in said]
    if vocabulary is not None and Path(source).with_name("tokenizer.json").is_file():
        notes.append(
            "tokenizer.json beside the model has the old ids: the map of ids translates"
        )
    return Configured(tuple(paths), tuple(notes))


def _beside(source: Path) -> Iterator[tuple[str, Content]]:
    """Files beside a model that describe one, with their content; what cannot be read describes none."""
    for name in FILES:
        path = source.with_name(name)
        try:
            content = json.loads(path.read_bytes())
        except MALFORMED:
            continue
        if isinstance(content, dict) and _describes(name, content):
            yield name, content


def _describes(name: str, content: Content) -> bool:
    if name == GENAI:
        model = content.get("model")
        return isinstance(model, dict) and isinstance(model.get("decoder"), dict)
    known = (
        ("transformers_version",) if name == GENERATION else ("model_type", "architectures")
    )
    return any(key in content for key in known)


def _target(source: Path, out: Path, name: str, content: Content) -> Path:
    """Where a file goes: under its own name, if no other model is described there."""
    path, own = out.with_name(name), out.with_name(f"{out.stem}.{name}")
    if path.resolve() == source.with_name(name).resolve():
        return own
    try:
        other = json.loads(path.read_bytes())
    except FileNotFoundError:
        return path
    except MALFORMED:
        return own
    same = isinstance(other, dict) and _kind(name, other) == _kind(name, content)
    return path if same else own


def _kind(name: str, content: Content) -> Any:
    model = content.get("model")
    nested = model.get("type") if isinstance(model, dict) else None
    return nested if name == GENAI else content.get("model_type")


def _parts(content: Content) -> Iterator[Content]:
    """Objects of a file that hold entries about the text model."""
    yield content
    for key in ("text_config", "model", "decoder", "encoder"):
        if isinstance(content.get(key), dict):
            yield from _parts(content[key])


def _updated(
    content: Content,
    name: str,
    out: Path,
    survivors: Survivors,
    vocabulary: Vocabulary | None,
) -> tuple[Content, list[str]]:
    """A file's new content, and what it could not say. Raises _DifferentError."""
    new, notes = copy.deepcopy(content), []
    for part in _parts(new):
        described = _described(part)
        if any(value is not None for value in vars(described).values()):
            notes += _set_sizes(part, described, sizes_after(described, survivors))
        notes += _unread(part)
        _drop_layers(part, survivors)
        if vocabulary is not None:
            notes += _set_ids(part, vocabulary)
    if name == GENAI and "filename" in new["model"]["decoder"]:
        new["model"]["decoder"]["filename"] = out.name
    return new, notes


def _described(part: Content) -> Described:
    """What an object says of sizes; a head size that it leaves out follows from the rest."""
    given: dict[str, int] = {}
    for field, names in NAMES.items():
        for name in names:
            if isinstance(part.get(name), int):
                given.setdefault(field, part[name])
    if "heads" in given:
        given.setdefault("key_heads", given["heads"])
        if given.get("hidden", 1) % given["heads"] == 0 and "hidden" in given:
            given.setdefault("head_size", given["hidden"] // given["heads"])
    if "n_inner" in part and "inner" not in given and "hidden" in given:
        given["inner"] = 4 * given["hidden"]
    return Described(**given)


def _unread(part: Content) -> list[str]:
    """Tell which sizes stay as they are because they are no whole numbers; null means that something else says it."""
    return [
        f"{name} is no whole number: it stays {part[name]!r}"
        for names in NAMES.values()
        for name in names
        if part.get(name) is not None and type(part[name]) is not int
    ]


def _set_sizes(
    part: Content, described: Described, sizes: dict[str, set[int]]
) -> list[str]:
    """Put the sizes that are left into an object, and tell what it cannot say. Raises _DifferentError."""
    now = dict(vars(described))
    for field, remaining in sizes.items():
        if len(remaining) > 1:
            raise _DifferentError(
                f"{_name(part, field)} differs between layers ({min(remaining)} to {max(remaining)}); "
                "--same-width keeps them alike"
            )
        [now[field]] = remaining
    for field, names in NAMES.items():
        for name in names:
            is_set = isinstance(part.get(name), int) or (name == "n_inner" and name in part)
            if is_set and now[field] is not None:
                part[name] = now[field]
    notes = [
        f"{_name(part, field)} was not found in the graph: it stays {value}"
        for field, value in vars(described).items()
        if value is not None and field not in sizes and _name(part, field) in part
    ]
    implied = now["heads"] and now["hidden"] and now["hidden"] / now["heads"]
    is_given = any(name in part for name in NAMES["head_size"])
    if is_given or now["head_size"] is None or implied == now["head_size"]:
        return notes
    if "num_key_value_heads" in part:  # such models have a head size of their own
        part["head_dim"] = now["head_size"]
        return notes
    return [
        *notes,
        f"it has no entry for the head size, which is {now['head_size']}, not {now['hidden']} / {now['heads']}",
    ]


def _drop_layers(part: Content, survivors: Survivors) -> None:
    """Count the layers that are left, also in lists with an entry for each. Raises _DifferentError."""
    for name in LAYERS:
        count = part.get(name)
        if type(count) is not int:
            continue
        whole, parts = lost_layers(count, survivors)
        if parts:
            raise _DifferentError(f"layer {min(parts)} of {name} {count} is gone in part")
        part[name] = count - len(whole)
        for key, value in part.items():
            if whole and isinstance(value, list) and len(value) == count:
                part[key] = [each for i, each in enumerate(value) if i not in whole]


def _name(part: Content, field: str) -> str:
    return next((name for name in NAMES[field] if name in part), NAMES[field][0])


def _listed(value: Any) -> list[int]:
    """Ids of an entry that holds one or several; -1 and the like stand for none."""
    values = value if isinstance(value, list) else [value]
    return [each for each in values if type(each) is int and each >= 0]


def _set_ids(part: Content, vocabulary: Vocabulary) -> list[str]:
    """Put the size of the vocabulary and the new ids into an object, and tell what it cannot say."""
    has_ids = any(key.endswith(IDS) or key in SUPPRESSED for key in part)
    notes = []
    if part.get("vocab_size") == vocabulary.size:
        part["vocab_size"] = len(vocabulary.kept)
    elif "vocab_size" in part:
        notes.append(
            f"vocab_size stays {part['vocab_size']!r}: the table of tokens had {vocabulary.size} rows, and has "
            f"{len(vocabulary.kept)}"
        )
    if vocabulary.old_ids:
        said = ["ids of tokens are old ones, outputs have the new order"] if has_ids else []
        return [*notes, *said]
    new = {old: index for index, old in enumerate(vocabulary.kept)}
    for key, value in part.items():
        if key in SUPPRESSED and isinstance(value, list):
            part[key] = [new[each] for each in _listed(value) if each in new]
        elif key.endswith(IDS) and isinstance(value, list):
            part[key] = [new.get(each, each) for each in value]
        elif key.endswith(IDS) and type(value) is int:
            part[key] = new.get(value, value)
    return notes
