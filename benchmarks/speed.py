"""How long `prune --data` takes, against one pass of ONNX Runtime over the same data, and its memory.

    python -m benchmarks.speed                            ResNet-50 with random weights, 256 images, half its MACs
    python -m benchmarks.speed MODEL.onnx DATA.npz 0.8    another model, its data, the share of its MACs that is left

A pass has two threads and a session of its own; so has what is measured, where the machine has two cores. Seconds
of the processor are added up over threads, and say more on a machine that others share.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

import prunegraph as pg
from benchmarks.tasks import ROOT
from fixtures import light_models
from prunegraph.graph.model import Graph
from prunegraph.runtime.session import run, session

#: Samples of a pass that run together.
BATCH = 32


def forward(graph: Graph, arrays: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Seconds of a pass over the data: of the clock, and of the processor."""
    opened = session(graph, threads=2)
    feeds = [
        {name: arrays[name][start : start + BATCH] for name in graph.inputs}
        for start in range(0, len(next(iter(arrays.values()))), BATCH)
    ]
    run(opened, feeds[0])
    start, used = time.perf_counter(), time.process_time()
    for feed in feeds:
        run(opened, feed)
    return time.perf_counter() - start, time.process_time() - used


def resnet() -> tuple[Graph, dict[str, np.ndarray], float]:
    model = light_models.load(ROOT / "fixtures" / "zoo" / "torchvision__resnet50.light.xz")
    graph = pg.load(model)
    shape = (256, 3, 224, 224)
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return graph, {next(iter(graph.inputs)): images}, 0.5


def peak() -> float:
    """The most memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main(arguments: list[str]) -> None:
    if arguments:
        path, data, share = arguments
        graph, name = pg.load(path), Path(path).name
        arrays, left = dict(np.load(data)), float(share)
    else:
        (graph, arrays, left), name = resnet(), "ResNet-50"
    once, once_used = forward(graph, arrays)
    before = peak()
    start, used = time.perf_counter(), time.process_time()
    pg.prune(graph, data=arrays, budget=pg.Budget(macs=left))
    seconds, used = time.perf_counter() - start, time.process_time() - used
    samples = len(next(iter(arrays.values())))
    print(
        f"{name}, {samples} samples, {left:.0%} of its MACs: {seconds:.0f} s ({used:.0f} s of the processor); "
        f"a pass of ONNX Runtime {onnxruntime.__version__} {once:.1f} s ({once_used:.1f} s); "
        f"ratio {seconds / once:.0f} ({used / once_used:.0f}); peak {peak():.2f} GB, {before:.2f} GB of it before"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
