"""`joint` on Fashion-MNIST: at least 70 % of the parameters and 50 % of the MACs go, then 8-bit integers.

    python -m benchmarks.training joint

A network like VGG, which is trained here first, and the residual fixture. Nothing is chosen by the test images: they
are only counted after every stage. Weights and epochs are kept in PRUNEGRAPH_TRAINED (by default a folder for
temporary files), and a run that was killed goes on there. A process with one thread for each network.
"""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import prunegraph as pg
from benchmarks.tasks import ROOT, fashion, fashion_accuracy
from fixtures import train_fashion
from prunegraph.graph.model import Graph
from prunegraph.ops.cost import cost
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run, session
from prunegraph.selection.budget import Budget
from prunegraph.training import (
    GraphModule,
    TrainingConfig,
    TrainingOptions,
    TrainResult,
    distillation,
    measure,
    train,
)
from prunegraph.training.batches import Arrays

Array = np.ndarray

FOLDER = Path(
    os.environ.get("PRUNEGRAPH_TRAINED", Path(tempfile.gettempdir()) / "prunegraph-trained")
)

#: Shares that may be left. With more parameters than a quarter the file is not 12 times smaller.
MACS, PARAMS = 0.5, 0.25

SEEDS = (0,)


@dataclass(frozen=True)
class Case:
    """A network, and how it is trained by `joint`."""

    name: str
    epochs: tuple[int, int, int]
    strength: float
    lr: float = 0.05

    def method(self) -> str:
        sparse, tune, qat = self.epochs
        return (
            f"joint:strength={self.strength},sparse_epochs={sparse},tune_epochs={tune},qat_epochs={qat},"
            f"params={PARAMS},allocation=uniform,round_to=1,min_channels=4"
        )


CASES = (Case("vgg", (3, 20, 4), 2.5e-2), Case("residual", (3, 12, 3), 2.5e-2))


class Vgg(nn.Module):
    """Seven 3x3 convolutions with BatchNormalization, pooled in between, and a classifier: 295,058 parameters."""

    WIDTHS = ((24,), (32, 32), (64, 64), (128, 128))

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for stage in self.WIDTHS:
            for width in stage:
                layers += [
                    nn.Conv2d(inputs, width, 3, 1, 1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                inputs = width
            if stage is not self.WIDTHS[-1]:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(y, 1))


def original(name: str) -> Path:
    """The trained float network's file."""
    return (
        ROOT / "fixtures" / "fashion_resnet.onnx" if name == "residual" else trained_vgg()
    )


def trained_vgg(epochs: int = 12) -> Path:
    """The VGG-like network, trained as the residual fixture is, unless that was done before."""
    path = FOLDER / "vgg.onnx"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        images, labels = fashion("train")
        model = Vgg()
        train_fashion.train(
            model,
            torch.from_numpy(images),
            torch.from_numpy(labels.astype(np.int64)),
            epochs,
        )
        export(model.eval(), path)
    return path


def export(model: nn.Module, path: Path) -> None:
    beside = path.with_suffix(".part")
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, 28, 28),),
        str(beside),
        dynamo=False,
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    os.replace(beside, path)


def augment(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    """Horizontal flips and crops from a border of two pixels, one draw a sample."""
    images = arrays["image"]
    flip = rng.random(len(images)) < 0.5
    images = np.where(flip[:, None, None, None], images[..., ::-1], images)
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    rows = rng.integers(0, 5, len(images))[:, None] + np.arange(28)
    columns = rng.integers(0, 5, len(images))[:, None] + np.arange(28)
    samples = np.arange(len(images))[:, None, None]
    return {
        **arrays,
        "image": padded[samples, 0, rows[:, :, None], columns[:, None, :]][:, None],
    }


def setting(graph: Graph, case: Case, seed: int) -> TrainingOptions:
    """All of the training images; the loss is half of the labels' and half of the original's outputs."""
    images, labels = fashion("train")
    tests, answers = fashion("t10k")
    FOLDER.mkdir(parents=True, exist_ok=True)
    return TrainingOptions(
        data=Data.of({"image": images, "labels": labels.astype(np.int64)}),
        batch=128,
        loss=distillation(GraphModule(graph), labels=0.5),
        recipe=TrainingConfig(epochs=1, lr=case.lr, seed=seed, warmup=0.05, clip=5.0),
        evaluate=measure(
            {"image": tests, "labels": answers.astype(np.int64)}, graph, "top1", size=500
        ),
        budget=Budget(macs=MACS),
        augment=augment,
        checkpoint=FOLDER / f"{case.name}-{seed}.pt",
        progress=lambda stage: print(f"{case.name}, seed {seed}: {stage}", flush=True),
    )


def within_a_code(quantized: Graph, images: Array) -> float:
    """Share of outputs on which ONNX Runtime's integers and fake quantization are a code apart at most.

    The float output has no codes of its own: one is a 255th of its range.
    """
    result = run(session(quantized), {"image": images})[0]
    with torch.no_grad():
        wanted = GraphModule(quantized).eval()(image=torch.from_numpy(images))[0].numpy()
    return float((np.abs(result - wanted) <= (wanted.max() - wanted.min()) / 255).mean())


def last(done: TrainResult, stage: str) -> float:
    """The metric after a stage's last epoch, in percent."""
    return [record["metric"] for record in done.history if record["stage"] == stage][-1]


def measured(case: Case, seed: int) -> list[str]:
    """A row of the table."""
    torch.set_num_threads(1)
    path = original(case.name)
    graph, start = pg.load(path), time.time()
    done = train(graph, setting(graph, case, seed), case.method())
    minutes = (time.time() - start) / 60
    pruned = FOLDER / f"{case.name}-{seed}.onnx"
    pg.save(done.model, pruned)
    match = next(record for record in done.history if record["stage"] == "prune")
    before, top1 = cost(graph), 100 * fashion_accuracy(graph)
    stages = [f"{last(done, stage):.2f}" for stage in ("sparse", "prune", "tune", "qat")]
    return [
        case.name,
        str(seed),
        f"{top1:.2f}",
        *stages,
        f"{100 * fashion_accuracy(done.model):.2f}",
        f"{match['params'] / before.params:.1%}",
        f"{match['macs'] / before.macs:.1%}",
        f"{path.stat().st_size / pruned.stat().st_size:.1f}",
        f"{within_a_code(done.model, fashion('t10k')[0]):.2%}",
        f"{minutes:.0f}",
    ]


def main() -> None:
    table = Table(title="joint on Fashion-MNIST, top-1 in percent on 10,000 test images")
    for name in (
        "network",
        "seed",
        "float",
        "sparse",
        "pruned",
        "tuned",
        "QAT",
        "integers",
        "params",
        "MACs",
        "file: times smaller",
        "within a code",
        "minutes",
    ):
        table.add_column(name, justify="left" if name == "network" else "right")
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for row in pool.map(
            measured, *zip(*((case, seed) for case in CASES for seed in SEEDS), strict=True)
        ):
            table.add_row(*row)
    Console(width=140).print(table)
