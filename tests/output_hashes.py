"""Hashes of written files, to compare two checkouts: a change of shape alone leaves all of them as they are.

    python -m tests.output_hashes [--limit ELEMENTS] [--models NAME,...] [--commands NAME,...] > before.txt

Every committed model goes through every command with fixed options, small models first; what a command writes is hashed
byte for byte, and a refusal is listed as its message. One line a result: two checkouts are compared by `diff`. Hashes
depend on the processor and on versions of libraries, so none are stored. Models with more weights than the limit are
left out, and listed at the end; NAMEs choose models and commands by a part of their name.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx

import prunegraph as pg
from fixtures import light_models
from prunegraph.errors import PrunegraphError
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import random_inputs
from tests.frontends.mxnet import cases
from tests.paths import FIXTURES

#: Elements of all weights, above which a model is left out unless another limit is given.
LIMIT = 1_500_000

Samples = dict[str, np.ndarray]
Command = Callable[[Graph, Samples], Graph]


@dataclass(frozen=True)
class Fixture:
    """A committed model: its name, the number of elements of its weights, and what makes it."""

    name: str
    size: int
    make: Callable[[], Graph]


def fixtures() -> Iterator[Fixture]:
    """All committed models."""
    for path in sorted(FIXTURES.glob("*.onnx")):
        yield Fixture(path.stem, _size(onnx.load(path)), partial(pg.load, path))
    for path in sorted(FIXTURES.glob("zoo*/*.light.xz")):
        name = path.name.removesuffix(".light.xz")
        yield Fixture(name, _size(light_models.read(path)), partial(_restored, path))
    for folder in cases.folders():
        name = f"mxnet {folder.parent.name} {folder.name}"
        symbol = partial(_symbol, folder)
        try:
            yield Fixture(name, _size(symbol().model), symbol)
        except PrunegraphError as error:
            sys.stderr.write(f"not read: {name}: {error}\n")


def _size(model: onnx.ModelProto) -> int:
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer)


def _restored(path: Path) -> Graph:
    return pg.load(light_models.load(path, 0))


def _symbol(folder: Path) -> Graph:
    sizes = {name: array.shape for name, array in cases.inputs(folder).items()}
    return pg.load(str(folder / "model-symbol.json"), input_shapes=sizes)


def chosen(limit: int, parts: Sequence[str]) -> list[Fixture]:
    """Models whose name has one of the parts, small ones first; those above the limit are named on stderr."""
    result = [
        fixture
        for fixture in fixtures()
        if not parts or any(part in fixture.name for part in parts)
    ]
    result.sort(key=lambda fixture: (fixture.size, fixture.name))
    for fixture in result:
        if fixture.size > limit:
            sys.stderr.write(f"left out: {fixture.name}, {fixture.size:,} elements\n")
    return [fixture for fixture in result if fixture.size <= limit]


def pruned(graph: Graph, **options: object) -> Graph:
    return pg.prune(
        graph, budget=pg.Budget(ratio=0.5), round_to=1, verify=False, **options
    ).model


COMMANDS: dict[str, Command] = {
    "prune": lambda graph, data: pruned(graph),
    "prune random": lambda graph, data: pruned(graph, algorithm="random", seed=1),
    "prune refitted": lambda graph, data: pruned(graph, data=data),
    "prune absorb:map": lambda graph, data: pruned(
        graph, data=data, repair="absorb:form=map"
    ),
    "decompose": lambda graph, data: (
        pg.decompose(graph, rank="ratio:0.25", round_to=1).model
    ),
    "decompose folded": lambda graph, data: (
        pg.decompose(graph, rank="ratio:0.25", fold=True, data=data).model
    ),
    "quantize": lambda graph, data: pg.quantize(graph, data).model,
    "quantize equalized": lambda graph, data: (
        pg.quantize(graph, data, equalize=True, method="minmax").model
    ),
    "quantize weights": lambda graph, data: (
        pg.quantize(graph, weights="int4", activations="none").model
    ),
    "apply": lambda graph, data: pg.apply(
        graph, pg.select(graph, algorithm="l1", budget=pg.Budget(ratio=0.25), round_to=1)
    ),
    "compress": lambda graph, data: pg.compress(graph, data=data, params=0.5).model,
}


def samples(graph: Graph) -> Samples:
    """A few random samples along the first axis."""
    return random_inputs(graph, seed=0, batch=4)


def digest(graph: Graph, folder: Path) -> str:
    """A hash of the files that a graph is written to."""
    path = folder / "model.onnx"
    pg.save(graph, path)
    result = hashlib.sha256()
    for each in sorted(folder.iterdir()):
        result.update(each.name.encode() + each.read_bytes())
        each.unlink()
    return result.hexdigest()


def lines(fixture: Fixture, commands: Iterable[str]) -> Iterator[str]:
    """Model, command, and the hash of what it writes, or its refusal."""
    graph = fixture.make()
    for command in commands:
        with tempfile.TemporaryDirectory() as folder:
            try:
                data = samples(graph)
                result = digest(COMMANDS[command](graph, data), Path(folder))
            except (PrunegraphError, ValueError) as error:
                result = f"refused: {' '.join(str(error).split())}"
        yield f"{fixture.name}: {command}: {result}\n"


def main() -> None:
    """Write one line a result to stdout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, default=LIMIT)
    parser.add_argument("--models", default="")
    parser.add_argument("--commands", default="")
    given = parser.parse_args()
    parts = [part for part in given.commands.split(",") if part]
    commands = [
        name for name in COMMANDS if not parts or any(part in name for part in parts)
    ]
    for fixture in chosen(given.limit, [part for part in given.models.split(",") if part]):
        for line in lines(fixture, commands):
            sys.stdout.write(line)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
