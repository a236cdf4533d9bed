"""How long analysis takes, against ONNX's own loading and shape inference, and as graphs grow.

    python -m benchmarks.analysis [--zoo]

`--zoo` compares every graph of the zoo instead of a few. Every comparison is a ratio of
medians measured alternately in one run.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

import prunegraph as pg
from benchmarks.zoo import ZOO, names
from fixtures.light_models import load
from prunegraph.graph.onnx_io import from_model

ROUNDS = 3


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def against_onnx(name: str, folder: Path) -> tuple[float, float]:
    """Seconds of analysis of a file (loading not counted), and of onnx.load + infer_shapes of the same file."""
    path = folder / f"{name}.onnx"
    onnx.save(load(ZOO / f"{name}.light.xz"), path)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        theirs.append(seconds(lambda: onnx.shape_inference.infer_shapes(onnx.load(path))))
        graph = pg.load(path)
        ours.append(seconds(lambda graph=graph: pg.analyze(graph)))  # type: ignore[misc]
    path.unlink()
    return statistics.median(ours), statistics.median(theirs)


def compare(chosen: list[str]) -> None:
    """One row a model, and the median ratio."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            a, b = against_onnx(name, Path(folder))
            ratios.append(a / b)
            print(
                f"{name:44} analyze {a:7.3f} s, onnx.load + infer_shapes {b:7.3f} s, ratio {a / b:.2f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.2f}, largest {max(ratios):.2f}")


def chain(blocks: int, channels: int) -> onnx.ModelProto:
    """A residual chain: Conv, Relu, Conv, Add for every block, depthwise so that weights stay small."""
    nodes, tensors = [], []
    weight = np.zeros((channels, 1, 1, 1), np.float32)
    value = "x"
    for index in range(blocks):
        for part in ("a", "b"):
            tensors.append(onnx.numpy_helper.from_array(weight, f"w{index}{part}"))
        nodes += [
            helper.make_node(
                "Conv",
                [value, f"w{index}a"],
                [f"c{index}"],
                name=f"conv{index}a",
                group=channels,
            ),
            helper.make_node("Relu", [f"c{index}"], [f"r{index}"]),
            helper.make_node(
                "Conv",
                [f"r{index}", f"w{index}b"],
                [f"d{index}"],
                name=f"conv{index}b",
                group=channels,
            ),
            helper.make_node("Add", [f"d{index}", value], [f"y{index}"]),
        ]
        value = f"y{index}"
    tensors.append(
        onnx.numpy_helper.from_array(np.zeros((channels, 1, 1, 1), np.float32), "first")
    )
    tensors.append(
        onnx.numpy_helper.from_array(np.zeros((1, channels, 1, 1), np.float32), "last")
    )
    nodes[0:0] = [helper.make_node("Conv", ["image", "first"], ["x"], name="first")]
    nodes.append(helper.make_node("Conv", [value, "last"], ["out"], name="last"))
    image = helper.make_tensor_value_info("image", 1, ["n", 1, 8, 8])
    out = helper.make_tensor_value_info("out", 1, None)
    graph = helper.make_graph(nodes, "chain", [image], [out], tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


def grow(nodes: int, channels: int) -> None:
    """Analyse one chain in this process and print seconds and peak memory beside the model."""
    graph = from_model(chain(nodes // 4, channels))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = seconds(lambda: pg.analyze(graph))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    groups = len(pg.analyze(graph).groups)
    size = f"{len(graph.nodes):6} nodes x {channels:5} channels"
    print(f"{size}: {spent:6.2f} s, {(after - before) / 1024:5.0f} MB, {groups} groups")


def main() -> None:
    compare(
        [
            "torchvision__resnet50",
            "torchvision__densenet121",
            "torchvision__swin_t",
            "ultralytics__yolov8n",
        ]
    )
    for nodes, channels in (
        (1000, 64),
        (2500, 64),
        (5000, 64),
        (10_000, 64),
        (10_000, 512),
        (10_000, 4096),
    ):
        subprocess.run(
            [sys.executable, "-m", "benchmarks.analysis", str(nodes), str(channels)],
            check=True,
        )


if __name__ == "__main__":
    if sys.argv[1:] == ["--zoo"]:
        compare(names())
    elif len(sys.argv) == 3:
        grow(int(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
