"""Latency of a model pruned, quantized, and both, beside `onnxruntime.quantization.quantize_static`.

    python -m benchmarks.latency [--threads 2] [--pairs 10] [--allocation global] [--round-to 16] [NAME ...]

Shares of the float original's latency in ONNX Runtime at batch 1, each paired with it run by run (median), over
several pairs of sessions, the models in turn. "theirs / ours" pairs the two int8 models with each other: above 1 ours
is faster. "gain / product" is the gain of pruned and int8 over the product of the two single gains, with its standard
error over pairs. Layers at the start that are faster in float are left there (`quantize --fastest`; how many is in
brackets). `quantize_static` gets its preprocessing (which folds BatchNormalization), uint8 activations and int8 weights
by channel.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import prunegraph as pg
from benchmarks.zoo import ZOO
from fixtures.light_models import load
from prunegraph.graph.model import Graph
from prunegraph.measuring.latency import Stopwatch, interleaved
from prunegraph.quantization.faster import faster_in_float
from prunegraph.runtime.data import Samples

MODELS = ("torchvision__resnet18", "torchvision__resnet50", "torchvision__mobilenet_v2")

#: Calibration images; what is measured does not depend on the ranges.
IMAGES = 8


class Reader:
    """What `quantize_static` reads its calibration data from."""

    def __init__(self, name: str, images: np.ndarray):
        self._batches = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def theirs(graph: Graph, images: np.ndarray) -> Graph:
    """The model as `onnxruntime.quantization` makes it."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        first, ready, out = (
            Path(folder) / name for name in ("first.onnx", "ready.onnx", "out.onnx")
        )
        pg.save(graph, first)
        quant_pre_process(str(first), str(ready), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(ready),
            str(out),
            Reader(graph.inputs[0], images),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return pg.load(pg.load(out).model)


def fastest(graph: Graph, data: Samples, threads: int) -> tuple[Graph, int]:
    """The model in integers, and how many layers at its start are left in float."""
    layers = faster_in_float(graph, data, threads=threads)
    return pg.quantize(graph, data, float_layers=layers).model, len(layers)


def row(name: str, threads: int, pairs: int, **choice: object) -> str:
    graph = pg.load(load(ZOO / f"{name}.light.xz"))
    images = (
        np.random.default_rng(0).standard_normal((IMAGES, 3, 224, 224)).astype(np.float32)
    )
    data = {graph.inputs[0]: images}
    one = {graph.inputs[0]: images[:1]}
    timer = Stopwatch(graph, one, threads=threads)
    int8, whole_float = fastest(graph, data, threads)
    other = theirs(graph, images)
    half = pg.prune(
        graph,
        budget=pg.Budget(macs=0.5),
        algorithm="l2",
        repair="none",
        verify=False,
        **choice,
    ).model
    both, half_float = fastest(half, data, threads)
    duel = Stopwatch(other, one, threads=threads)
    races = [
        *(partial(timer.against, each) for each in (int8, other, half, both)),
        partial(duel.against, int8),
    ]
    alone, quantized, pruned, joint, against = interleaved(races, pairs)
    gain = alone.kept * pruned.kept / joint.kept
    error = gain * math.hypot(alone.error, pruned.error, joint.error)
    shares = (
        (alone, f" ({whole_float})"),
        (quantized, ""),
        (pruned, ""),
        (joint, f" ({half_float})"),
    )
    return (
        f"{name:<28}{timer.original():>10.2f}"
        + "".join(f"{each.kept:>12.3f}{note}" for each, note in shares)
        + f"{against.ratio:>15.3f}{f'{gain:.2f} +- {error:.2f}':>18}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=MODELS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--allocation", default="global", help="of the pruned models")
    parser.add_argument(
        "--round-to",
        type=int,
        default=16,
        help="of the pruned models: int8 kernels like 16",
    )
    args = parser.parse_args()
    heads = ("    int8", "    ORT's int8", "50 % MACs", "    and int8")
    print(
        f"{'model':<28}{'float, ms':>10}"
        + "".join(f"{head:>12}" for head in heads)
        + f"{'theirs / ours':>15}"
        f"{'gain / product':>18}"
    )
    for name in args.names:
        print(
            row(
                name,
                args.threads,
                args.pairs,
                allocation=args.allocation,
                round_to=args.round_to,
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
