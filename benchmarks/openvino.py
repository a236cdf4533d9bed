"""Pruned and quantized models in OpenVINO, beside ONNX Runtime.

    python -m benchmarks.openvino latency [--depth both] [--fixed] [--threads 1] [--pairs 4] [--round-to 16] [NAME ...]
    python -m benchmarks.openvino depth [--latency 0.85] [--images 24] [--pairs 4] [--round-to 16]
    python -m benchmarks.openvino accuracy

`latency`: shares of the float original's latency in the same runtime at batch 1, each paired with it run by run
(median) over several pairs of opened models, all in turn. int8 is quantized for the runtime (`--target openvino`,
`cpu`), no layer is left in float. "gain / product" is the gain of pruned and int8 over the product of the two single
gains, with its standard error over pairs. Both runtimes compute floats in 32 bits; what OpenVINO chooses by itself
(bfloat16 where the processor has it) is in the last column. With `--depth auto` whole residual branches go beside
channels, for the same share of MACs; `--fixed` fixes the batch in all files.

`depth`: EfficientNet-Lite0 with its trained weights at one latency in OpenVINO, by width alone and with `--depth auto`:
latency in float and in int8 as shares of the float original's, and for how many of 96 photo crops the class is the
original's. Needs `python fixtures/packages.py`.

`accuracy`: top-1 of the Fashion-MNIST network in int8 on the 10,000 test images in both runtimes, and how far its
outputs are apart. Needs what `benchmarks.accuracy` needs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial

import numpy as np

import prunegraph as pg
from benchmarks.tasks import (
    PACKAGES,
    ROOT,
    fashion,
    fashion_calibration,
    photo_calibration,
)
from benchmarks.zoo import ZOO
from fixtures.light_models import load
from prunegraph.graph.model import Graph
from prunegraph.measuring.latency import Latency, Stopwatch, interleaved
from prunegraph.runtime.engine import Runtime
from prunegraph.runtime.runtimes import OnnxRuntime, OpenVino

MODELS = ("torchvision__resnet18", "torchvision__resnet50", "torchvision__mobilenet_v2")

#: Calibration images of `latency`, where the ranges do not count, and of `accuracy`.
FEW, MANY = 16, 256

#: Crops of photos that `depth` compares classes on, and the draw that they are of.
CROPS, OTHERS = 96, 1000

#: Images at a time.
BATCH = 500

COLUMNS = ("int8", "50 % MACs", "and int8")

#: What `--depth` measures.
DEPTHS = {"never": ("never",), "auto": ("auto",), "both": ("never", "auto")}


def rows(name: str, args: argparse.Namespace) -> Sequence[str]:
    """A line for each runtime and each way to prune; all models of a runtime run in turn."""
    model = load(ZOO / f"{name}.light.xz")
    graph = pg.load(model)
    if args.fixed:
        graph = pg.load(model, input_shapes={graph.inputs[0]: (1, 3, 224, 224)})
    rng = np.random.default_rng(0)
    data = {graph.inputs[0]: rng.standard_normal((FEW, 3, 224, 224)).astype(np.float32)}
    halves = {which: _half(graph, data, which, args) for which in DEPTHS[args.depth]}
    runtimes: tuple[tuple[str, Runtime], ...] = (
        ("openvino", OpenVino(threads=args.threads)),
        ("cpu", OnnxRuntime(threads=args.threads)),
    )
    lines: list[str] = []
    for target, runtime in runtimes:
        models = [_int8(graph, data, target)]
        for half in halves.values():
            models += [half, _int8(half, data, target)]
        figures = _latencies(graph, models, runtime, args)
        lines += [
            row(name, which, runtime, figures, place) for place, which in enumerate(halves)
        ]
    return lines


def _half(
    graph: Graph, data: dict[str, np.ndarray], which: str, args: argparse.Namespace
) -> Graph:
    """The network with half of its multiply-accumulates; data only where branches are looked at."""
    return pg.prune(
        graph,
        budget=pg.Budget(macs=0.5),
        algorithm="l2",
        allocation="global",
        round_to=args.round_to,
        data=data if which != "never" else None,
        depth=which,
        repair="none",
        verify=False,
    ).model


def _int8(graph: Graph, data: dict[str, np.ndarray], target: str) -> Graph:
    return pg.quantize(
        graph, data, target=target, method="minmax", bias_correction=False
    ).model


def _latencies(
    graph: Graph, models: Sequence[Graph], runtime: Runtime, args: argparse.Namespace
) -> Sequence[Latency]:
    """Models against the float original in one runtime; last, in OpenVINO, the original as that runs it by itself."""
    timer = Stopwatch(graph, runtime=runtime)
    races = [partial(timer.against, each) for each in models]
    if isinstance(runtime, OpenVino):
        races.append(partial(_by_itself, graph, args.threads))
    return interleaved(races, args.pairs)


def row(
    name: str, which: str, runtime: Runtime, figures: Sequence[Latency], place: int
) -> str:
    """Shares of the float original's latency: int8, one of the pruned networks, and that in int8."""
    quantized, pruned, joint = figures[0], *figures[1 + 2 * place : 3 + 2 * place]
    gain = quantized.kept * pruned.kept / joint.kept
    error = gain * math.hypot(quantized.error, pruned.error, joint.error)
    shares = "".join(f"{each.kept:>12.3f}" for each in (quantized, pruned, joint))
    is_last = len(figures) % 2 == 0
    chosen = f"{figures[-1].kept:>12.3f}" if is_last else f"{'':>12}"
    return (
        f"{name.partition('__')[2]:<14}{which:<7}{runtime.title:<14}{quantized.first:>10.2f}{shares}"
        f"{f'{gain:.2f} +- {error:.2f}':>18}{chosen}"
    )


def depth(args: argparse.Namespace) -> None:
    """A line for width alone, and one with whole branches gone beside it."""
    graph = pg.load(PACKAGES / "efficientnet_lite0.onnx")
    crops = photo_calibration(CROPS, OTHERS)
    [images] = next(crops.batches(graph, CROPS)).values()
    expected = _outputs(OnnxRuntime(), graph, images).argmax(1)
    timer = Stopwatch(graph, runtime=OpenVino(threads=args.threads))
    data = photo_calibration(args.images, 0)

    def agreement(model: Graph) -> float:
        classes = _outputs(OnnxRuntime(), model, images).argmax(1)
        return float((classes == expected).mean())

    models: list[Graph] = []
    print(f"{'':<24}{'branches':>9}{'MACs':>7}{'same class':>12}{'int8':>8}", flush=True)
    for which in ("never", "auto"):
        result = pg.prune(
            graph,
            data=data,
            budget=pg.Budget(latency=args.latency),
            runtime="openvino",
            depth=which,
            allocation="global",
            curvature="never",
            round_to=args.round_to,
            verify=False,
        )
        models += [result.model, pg.quantize(result.model, data, target="openvino").model]
        shares = [agreement(each) for each in models[-2:]]
        print(
            f"--depth {which:<16}{len(result.plan.branches):>9}{result.after.macs / result.before.macs:>7.3f}"
            f"{shares[0]:>12.1%}{shares[1]:>8.1%}",
            flush=True,
        )
    models.append(pg.quantize(graph, data, target="openvino").model)
    print(f"whole, int8: {agreement(models[-1]):.1%}", flush=True)
    races = [partial(timer.against, each) for each in models]
    *pruned, whole = interleaved(races, args.pairs)
    print(f"latency of the original: {whole.first:.2f} ms, in int8 {whole.kept:.3f}")
    for which, single, joint in zip(
        ("never", "auto"), pruned[::2], pruned[1::2], strict=True
    ):
        print(
            f"--depth {which:<16}{single.kept:.3f} +- {single.error:.3f}, "
            f"in int8 {joint.kept:.3f} +- {joint.error:.3f}"
        )


def _by_itself(graph: Graph, threads: int) -> Latency:
    """The float original as OpenVINO runs it by itself, against itself in 32 bits."""
    from prunegraph.measuring.latency import measure_pair
    from prunegraph.runtime.data import random_inputs

    runtimes = OpenVino(threads=threads), OpenVino(threads=threads, precision=None)
    models = [each.open(graph) for each in runtimes]
    return measure_pair(models, random_inputs(graph, batch=1), runtime=runtimes[0])


def latency(args: argparse.Namespace) -> None:
    heads = "".join(f"{head:>12}" for head in COLUMNS)
    print(
        f"{'model':<14}{'depth':<7}{'runtime':<14}{'float, ms':>10}{heads}{'gain / product':>18}{'by itself':>12}"
    )
    for name in args.names or MODELS:
        for line in rows(name, args):
            print(line, flush=True)


def accuracy() -> None:
    graph = pg.load(ROOT / "fixtures" / "fashion_resnet.onnx")
    data = fashion_calibration(MANY, 0)
    half = pg.prune(graph, data=data, budget=pg.Budget(macs=0.5), verify=False).model
    images, labels = fashion("t10k")
    print(
        f"{'':<22}{'ONNX Runtime':>14}{'OpenVINO':>10}{'points':>8}{'same class':>12}{'SQNR, dB':>10}"
    )
    for title, base in (("whole", graph), ("50 % of the MACs", half)):
        for kind, model in (
            ("float", base),
            ("int8", pg.quantize(base, data, target="openvino").model),
        ):
            first, second = (
                _outputs(runtime, model, images) for runtime in (OnnxRuntime(), OpenVino())
            )
            right = [float((each.argmax(1) == labels).mean()) for each in (first, second)]
            same = float((first.argmax(1) == second.argmax(1)).mean())
            noise = np.square(first).sum() / max(np.square(first - second).sum(), 1e-30)
            print(
                f"{title + ', ' + kind:<22}{right[0]:>14.2%}{right[1]:>10.2%}{100 * (right[1] - right[0]):>+8.2f}"
                f"{same:>12.2%}{10 * math.log10(noise):>10.1f}",
                flush=True,
            )


def _outputs(runtime: Runtime, graph: Graph, images: np.ndarray) -> np.ndarray:
    opened = runtime.open(graph)
    name = graph.inputs[0]
    parts = [
        opened.run({name: images[start : start + BATCH]})[0]
        for start in range(0, len(images), BATCH)
    ]
    return np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["latency", "depth", "accuracy"])
    parser.add_argument("names", nargs="*", help="of graphs in the zoo")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--round-to", type=int, default=16, help="of the pruned models")
    parser.add_argument("--depth", choices=list(DEPTHS), default="never")
    parser.add_argument("--fixed", action="store_true", help="the batch, in all files")
    parser.add_argument("--latency", type=float, default=0.85, help="share, of `depth`")
    parser.add_argument("--images", type=int, default=24, help="of `depth`: the data")
    args = parser.parse_intermixed_args()
    if args.what == "latency":
        latency(args)
    elif args.what == "depth":
        depth(args)
    else:
        accuracy()


if __name__ == "__main__":
    main()
