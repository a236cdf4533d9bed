"""Source 001 on Fashion-MNIST: gates and sparse training, half of the MACs cut away, no fine-tuning after the cut.

    python -m benchmarks.training gfr

Trains `fixtures/fashion_resnet.onnx` on 55,000 of the training images in two ways that differ only in the gates (method
`gfr`, method `sparse`), trains gates alone on 5,000 images without labels (the light form), and compares what is left
at 50 % of the MACs with the network as it is, ranked by its scales. The other 5,000 training images are held out; the
search with a tolerance measures 2,000 of them. All figures in the tables are of the 10,000 test images. Epochs are kept
in the folder PRUNEGRAPH_RUNS (by default in the system's temporary one): a run that was killed goes on.
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch

import prunegraph as pg
from benchmarks.tasks import ROOT, fashion, fashion_accuracy, outputs
from prunegraph.coupling.sample import full_cost
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data
from prunegraph.training import (
    GraphModule,
    TrainingConfig,
    TrainingOptions,
    cross_entropy,
    distillation,
    measure,
    train,
)
from prunegraph.training.compression import Compression, CompressionResult
from prunegraph.training.gates import GatedModule
from prunegraph.training.gfr import calibration

SEED = 0
BATCH = 128
RECIPE = TrainingConfig(epochs=3, lr=0.05, seed=SEED)
STRENGTH = 0.025
LIGHT = TrainingConfig(epochs=2, lr=0.05, seed=SEED)
LIGHT_STRENGTH = 1.0
HELD_OUT = 5000
SEARCHED = 2000
TOLERANCE = 0.5
BUDGET = pg.Budget(macs=0.5)
FOLDER = Path(
    os.environ.get("PRUNEGRAPH_RUNS") or Path(tempfile.gettempdir()) / "prunegraph-gfr"
)


def original() -> Graph:
    return pg.load(ROOT / "fixtures" / "fashion_resnet.onnx")


@cache
def split() -> tuple[Data, dict[str, np.ndarray]]:
    """Images to train on, and those that are held out, with labels."""
    images, labels = fashion("train")
    order = np.random.default_rng(SEED).permutation(len(images))
    first, held = order[:-HELD_OUT], order[-HELD_OUT:]
    labels = labels.astype(np.int64)
    return (
        Data.of({"image": images[first], "labels": labels[first]}),
        {"image": images[held], "labels": labels[held]},
    )


def trained(
    name: str, method: str, recipe: TrainingConfig, *, light: bool = False
) -> Graph:
    """The network after a training method. Every epoch is reported."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    data, held = split()
    graph = original()
    setting = TrainingOptions(
        data.head(HELD_OUT) if light else data,
        BATCH,
        distillation(GraphModule(graph)) if light else cross_entropy(),
        recipe,
        evaluate=measure(held, graph),
        checkpoint=FOLDER / f"{name}.pt",
    )
    start = time.perf_counter()
    done = train(graph, setting, method)
    for record in done.history:
        print(
            f"    {name}: epoch {record['epoch']}, loss {record['loss']:.4f}, held out {record['metric']:.2f} %"
        )
    print(
        f"    {name}: {(time.perf_counter() - start) / 60:.1f} minutes in this process",
        flush=True,
    )
    return done.model


def fold_error(folded: Graph) -> tuple[float, float]:
    """Largest difference of logits between the module with gates and the folded graph, and the largest logit."""
    module = GatedModule(original(), seed=SEED)
    module.load_state_dict(torch.load(FOLDER / "gfr.pt.gfr", weights_only=True)["module"])
    images = fashion("t10k")[0][:1000]
    with torch.no_grad():
        wanted = module.eval()(image=torch.from_numpy(images))[0].numpy()
    return float(abs(wanted - outputs(folded, images, 500)).max()), float(abs(wanted).max())


def compression(
    algorithm: str, round_to: int = 1, repair: str = "bn", allocation: str = "global:mean"
) -> Compression:
    data = calibration(split()[0], SEED)
    return Compression(data, algorithm, allocation, round_to, repair, seed=SEED)


@cache
def accuracy(graph: Graph) -> float:
    """Percent of the test images."""
    return 100 * fashion_accuracy(graph)


def line(what: str, graph: Graph, created: CompressionResult) -> None:
    """One row: accuracy of the uncut graph and of the cut one, and what is left."""
    macs = 100 * full_cost(created.model).macs / full_cost(graph).macs
    before, after = accuracy(graph), accuracy(created.model)
    kept = f"{created.channels[1]} of {created.channels[0]}"
    print(
        f"| {what} | {before:.2f} | {after:.2f} | {before - after:+.2f} | {macs:.1f} | {kept} |",
        flush=True,
    )


HEADER = (
    "| trained | ranked by | allocation | repair | kept multiple | uncut % | cut % | lost | MACs % | channels |\n"
    + "|---" * 10
    + "|"
)


def main() -> None:
    torch.set_num_threads(1)
    plain = original()
    print(
        f"original: {accuracy(plain):.2f} %; seed {SEED}, {RECIPE}, strength {STRENGTH}, batch {BATCH}"
    )
    sparse = trained("sparse", f"sparse:{STRENGTH}", RECIPE)
    gates = trained("gfr", f"gfr:strength={STRENGTH}", RECIPE)
    light = trained("light", f"gfr:strength={LIGHT_STRENGTH},light=true", LIGHT, light=True)
    error, largest = fold_error(gates)
    print(
        f"fold: logits differ by {error:.2e} at most, of {largest:.1f}\n\n50 % of the MACs:\n\n{HEADER}"
    )
    for round_to, repair, allocation in (
        (1, "bn", "global:mean"),
        (1, "least-squares", "global:mean"),
        (8, "bn", "global:mean"),
        (1, "bn", "global:none"),
    ):
        for what, graph, algorithm in (
            ("nothing", plain, "bn_scale"),
            ("gates alone", light, "gfr"),
            ("gates alone", light, "gfr:p=0"),
            ("scales", sparse, "bn_scale"),
            ("scales and gates", gates, "gfr"),
            ("scales and gates", gates, "gfr:q=0"),
            ("scales and gates", gates, "gfr:p=0"),
        ):
            created = compression(algorithm, round_to, repair, allocation).to_budget(
                graph, BUDGET
            )
            line(
                f"{what} | {algorithm} | {allocation} | {repair} | {round_to}",
                graph,
                created,
            )
    print(
        f"\nlargest cut that loses at most {TOLERANCE} points on held-out images:\n\n{HEADER}"
    )
    searched = {name: array[:SEARCHED] for name, array in split()[1].items()}
    for what, graph, algorithm in (
        ("nothing", plain, "bn_scale"),
        ("scales", sparse, "bn_scale"),
        ("scales and gates", gates, "gfr"),
    ):
        created = compression(algorithm).to_tolerance(
            graph, TOLERANCE, measure(searched, graph)
        )
        line(f"{what} | {algorithm} | global:mean | bn | 1", graph, created)
