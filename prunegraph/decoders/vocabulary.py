"""A smaller vocabulary from the file that lists it, proved, and the map of ids that goes beside the model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prunegraph.errors import DataError, ExactnessError, ModelError
from prunegraph.graph.indices import table_of
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import write_whole
from prunegraph.proof.feeds import PairedInputs
from prunegraph.proof.result import Proof
from prunegraph.proof.verify import prove
from prunegraph.rewriting.vocabulary import Vocabulary, shrink_vocabulary
from prunegraph.runtime.data import Batch, random_inputs
from prunegraph.runtime.session import run_values
from prunegraph.selection.plan import derive_cuts

#: What a file of kept ids or a map of them is written under.
FORMAT = "prunegraph/vocabulary@1"


def read_ids(path: str | os.PathLike[str]) -> list[int]:
    """Ids from a text file: one a line, alone or behind a token and a tab; empty lines and those with # are skipped.

    Raises:
        DataError: the file cannot be read, or a line holds no id, or an id stands in it twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a list of ids: {error}") from error
    ids: dict[int, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.rpartition("\t")[2].strip()
        if not text or (line.startswith("#") and "\t" not in line):
            continue
        if not (text.isascii() and text.isdigit()):
            raise DataError(
                f"{path}: line {number} holds no id: {line.strip()[:40]!r}; "
                "give an id a line, or TOKEN<tab>ID"
            )
        if int(text) in ids:
            raise DataError(
                f"{path}: id {text} stands in lines {ids[int(text)]} and {number}"
            )
        ids[int(text)] = number
    return list(ids)


def shrink(
    graph: Graph,
    keep: Sequence[int],
    *,
    old_ids: bool = False,
    verify: bool = True,
    data: Sequence[Batch] = (),
    seed: int = 0,
    scratch: Path | None = None,
) -> tuple[Vocabulary, Proof | None]:
    """A graph with a smaller vocabulary, and the proof that it says the same of the tokens that are left.

    Args:
        graph: the model.
        keep: ids that stay.
        old_ids: whether the inputs go on to take old ids.
        verify: whether to prove it.
        data: inputs of the original to compare on besides random ones.
        seed: of the random inputs.
        scratch: where to put weights of a model that has them in external files.

    Raises:
        ModelError: the graph has no vocabulary that can be pruned, or itself asks for tokens that are not kept.
        ExactnessError: the outputs differ.
    """
    result = shrink_vocabulary(graph, keep, old_ids=old_ids, scratch=scratch)
    if not verify or len(result.kept) == result.size:
        return result, None
    feeds = PairedInputs(
        result.survivors, dict.fromkeys(result.inputs, result.kept), not old_ids
    )
    cuts = derive_cuts(result.survivors)
    try:
        proof = prove(result.survivors, cuts, result.model, feeds, data, seed)
    except ExactnessError as error:
        lost = _asked_for(result, feeds, seed)
        if lost is None:
            raise
        raise ModelError(
            f"{graph.source}: the model itself asks for token {lost}, which is not kept (a token that it begins with, "
            "or pads with); keep it, too"
        ) from error
    return result, proof


def _asked_for(result: Vocabulary, feeds: PairedInputs, seed: int) -> int | None:
    """A token that is not kept and that the original looks up all the same, where inputs hold kept ones alone."""
    graph = result.original
    names = [
        node.inputs[1]
        for node in graph.nodes
        if table_of(graph, node) == result.table and node.subgraph is None
    ]
    values = run_values(graph, feeds.random(random_inputs(graph, seed=seed), seed), names)
    looked_up = np.unique(np.concatenate([values[name].reshape(-1) for name in names]))
    lost = np.setdiff1d(looked_up % result.size, result.kept)
    return int(lost[0]) if len(lost) else None


def map_path(out: str | os.PathLike[str]) -> Path:
    """Where the map of ids goes: beside the model, `model.vocabulary.json` for `model.onnx`."""
    return Path(out).with_suffix(".vocabulary.json")


def write_map(vocabulary: Vocabulary, path: str | os.PathLike[str]) -> None:
    """Write which old id every new one was: `kept[new]` is the old id. Raises ModelError."""
    content = {
        "format": FORMAT,
        "size": len(vocabulary.kept),
        "size_before": vocabulary.size,
        "inputs": list(vocabulary.inputs),
        "inputs_take": "old ids" if vocabulary.old_ids else "new ids",
        "outputs": list(vocabulary.outputs),
        "kept": list(vocabulary.kept),
    }
    write_whole(Path(path), [(json.dumps(content) + "\n").encode()])
