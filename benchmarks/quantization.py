"""What int8 leaves of the quality of trained models, without labels and without training.

    python -m benchmarks.quantization methods    every calibration method, Fashion-MNIST network
    python -m benchmarks.quantization pruned     int8 after pruning to 50 % of the MACs, three draws
    python -m benchmarks.quantization tasks      models that packages ship, plain and with a tolerance
    python -m benchmarks.quantization memory     calibration of ResNet-50 by entropy: time and memory

Needs what `benchmarks.accuracy` needs.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import prunegraph as pg
from benchmarks.tasks import ROOT, TASKS, fashion_calibration
from fixtures import light_models
from prunegraph.graph.model import Graph
from prunegraph.quantization.ranges import METHODS
from prunegraph.runtime.data import Data

#: Calibration images of the Fashion-MNIST network.
IMAGES = 256

#: Relative squared error of the outputs that the tolerance of `tasks` allows.
TOLERANCE = 0.01

#: What is changed from the default, by the name of a row.
ROWS: dict[str, dict[str, object]] = {
    **{method: {"method": method} for method in METHODS},
    "mse, biases left": {"bias_correction": False},
    "mse, equalized": {"equalize": True},
    "mse, gptq": {"rounding": "gptq"},
    "mse, 8-bit weights": {"reduce_range": "no"},
    "int4 weights": {"weights": "int4"},
    "int4 weights alone": {"weights": "int4", "activations": "none"},
    "int16, uint16": {"weights": "int16", "activations": "uint16"},
}


def size(graph: Graph, *, compact: bool = False) -> int:
    """Bytes of a graph's file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        pg.save(graph, path, compact=compact)
        return path.stat().st_size


def methods() -> None:
    """A row for each way to quantize: accuracy on the 10,000 test images, noise, file."""
    task = TASKS[0]
    graph = task.load()
    whole, whole_size = task.quality(graph), size(graph)
    print(
        f"{task.name}: {whole:.2%} {task.measure} in float; {IMAGES} unlabelled images, one draw"
    )
    print(
        f"{'':<20}{task.measure:>8}{'points':>8}{'SQNR, dB':>10}{'file':>7}{'seconds':>9}"
    )
    for name, options in ROWS.items():
        start = time.perf_counter()
        quantized = pg.quantize(graph, fashion_calibration(IMAGES, 0), **options)
        spent = time.perf_counter() - start
        quality, noise = task.quality(quantized.model), min(quantized.outputs.values())
        share = size(quantized.model) / whole_size
        print(
            f"{name:<20}{quality:>8.2%}{100 * (quality - whole):>+8.2f}{noise:>10.1f}{share:>7.3f}{spent:>9.1f}",
            flush=True,
        )


def pruned() -> None:
    """int8 after the default recipe at 50 % of the MACs."""
    task = TASKS[0]
    graph = task.load()
    for seed in range(3):
        data = fashion_calibration(IMAGES, seed)
        alone = pg.quantize(graph, data)
        pruned = pg.prune(
            graph, data=data, budget=pg.Budget(macs=0.5), round_to=1, verify=False
        ).model
        both = pg.quantize(pruned, data)
        parts = (graph, alone.model, pruned, both.model)
        whole, int8, half, half_int8 = (task.quality(each) for each in parts)
        share, least = (
            size(both.model, compact=compact) / size(pruned) for compact in (False, True)
        )
        lost = 100 * (half - half_int8)
        print(
            f"draw {seed}: float {whole:.2%}, int8 {int8:.2%}; 50 % of MACs {half:.2%}, and int8 {half_int8:.2%} "
            f"({lost:.2f} points lost by int8; file {share:.3f} of the pruned one, compact {least:.3f})",
            flush=True,
        )


def tasks() -> None:
    """Quality of every shipped model in int8, and with layers in float where a tolerance asks for it."""
    for task in TASKS[1:]:
        graph, data = task.load(), task.calibration(64, 0)
        whole = task.quality(graph)
        plain = pg.quantize(graph, data)
        print(
            f"{task.name:<20} {task.measure} {whole:.1%} -> int8 {task.quality(plain.model):.1%}",
            flush=True,
        )
        if min(plain.outputs.values()) > -10 * np.log10(TOLERANCE):
            continue
        mixed = pg.quantize(graph, data, tolerance=TOLERANCE)
        names = [layer.name for layer in mixed.layers if "tolerance" in layer.reason]
        print(
            f"{'':<20} tolerance {TOLERANCE}: {task.quality(mixed.model):.1%}; in float: {', '.join(names) or '-'}"
        )


def memory() -> None:
    """ResNet-50 with random weights: what calibration by entropy costs."""
    graph = pg.load(
        light_models.load(ROOT / "fixtures" / "zoo" / "torchvision__resnet50.light.xz")
    )
    rng = np.random.default_rng(0)

    def images() -> object:
        for _ in range(16):
            yield {
                graph.inputs[0]: rng.standard_normal((16, 3, 224, 224)).astype(np.float32)
            }

    start = time.perf_counter()
    pg.quantize(graph, Data(images), method="entropy")
    seconds, peak = (
        time.perf_counter() - start,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    )
    print(
        f"ResNet-50, 256 images of 224 x 224, entropy: {seconds:.0f} s, peak {peak:.2f} GB"
    )


COMMANDS: dict[str, Callable[[], None]] = {
    "methods": methods,
    "pruned": pruned,
    "tasks": tasks,
    "memory": memory,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or COMMANDS:
        COMMANDS[name]()
