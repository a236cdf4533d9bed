"""Hashes of written files, to compare two checkouts: a change of shape alone leaves all of them as they are.

    python -m tests.output_hashes [NAME ...] > before.json

Every model goes through every command with fixed options; what a command writes is hashed byte for byte, and a refusal
is listed as its message. Hashes depend on the processor and on versions of libraries, so none are stored: run both
checkouts on one machine and compare the two files. NAMEs choose models (by a part of their name).
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import prunegraph as pg
from benchmarks.zoo import ZOO
from fixtures import light_models
from prunegraph.errors import PrunegraphError
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import random_inputs
from tests.paths import FIXTURES

#: Small graphs of different kinds: residual, depthwise, split and shuffled, dynamic shapes, attention.
MODELS = (
    "timm__test_resnet",
    "timm__test_resnet__dynamo",
    "timm__test_vit",
    "timm__levit_128s__dynamo",
    "torchvision__mobilenet_v3_small__dynamo",
    "torchvision__shufflenet_v2_x1_0",
    "ultralytics__yolov5n__dynamo",
)

Samples = dict[str, np.ndarray]
Command = Callable[[Graph, Samples], Graph]


def models() -> Iterator[tuple[str, Callable[[], Graph]]]:
    """Names of models, and what makes them."""
    for name in ("fashion_resnet", "lenet5"):
        yield name, lambda name=name: pg.load(FIXTURES / f"{name}.onnx")  # type: ignore[misc]
    for name in MODELS:
        yield (
            name,
            lambda name=name: pg.load(light_models.load(ZOO / f"{name}.light.xz", 0)),
        )  # type: ignore[misc]


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


def hashes(wanted: list[str]) -> dict[str, str]:
    """Hash or refusal by model and command."""
    matches = {}
    for name, make in models():
        if wanted and not any(part in name for part in wanted):
            continue
        graph = make()
        for command, run in COMMANDS.items():
            with tempfile.TemporaryDirectory() as folder:
                try:
                    result = digest(run(graph, samples(graph)), Path(folder))
                except (PrunegraphError, ValueError) as error:
                    result = f"refused: {error}"
            matches[f"{name}: {command}"] = result
            sys.stderr.write(f"{name}: {command}: {result[:60]}\n")
    return matches


if __name__ == "__main__":
    sys.stdout.write(json.dumps(hashes(sys.argv[1:]), indent=1) + "\n")
