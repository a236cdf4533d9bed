"""Files of binary networks: size, latency, load time, memory and accuracy, against those of the float network.

    pip install torch==2.13.0 && pip install prunegraph[bench,torch]
    python -m benchmarks.training binary [--pairs 4] [--loads 5] [--seeds 3] [--folder runs/hwgq] [NAME ...]

Shares of the float file's latency (ONNX Runtime, batch 1, one thread, CPU time, median over pairs of sessions that
run in turn), of the CPU time in which a session is made, and of what the process grows by at most while a session is
made and run once (fresh processes in turn, Linux only). The networks: that of HWGQ for CIFAR-10 at two widths,
untrained; the one for Fashion-MNIST, trained in full precision (kept in the folder, made first where it is missing, in
a minute) and updated; the residual network of the fixtures, from 256 images without labels.
Then accuracy for time, and what options give (`benchmarks.training.layerwise`), and the residual network (`shortcuts`):
updated, and trained on 5,000 images without labels. Any of the tables by its name.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

import prunegraph as pg
from benchmarks.tasks import ROOT, fashion, fashion_accuracy
from benchmarks.training.hwgq import Net, file_size
from benchmarks.training.layerwise import TABLES, Bench
from prunegraph.graph.model import Graph
from prunegraph.measuring.latency import Stopwatch
from prunegraph.training import GraphModule
from prunegraph.training.binary import (
    BinarizeOptions,
    Quantizer,
    binarize,
    estimate_statistics,
    lower,
    to_binary,
)
from prunegraph.training.binary.network import final_layers

Array = np.ndarray
Accuracy = Callable[[Graph], float]

#: Run in a fresh process: milliseconds of CPU time to make a session, and bytes that the process grew by at most. The
#: first session of a process does more than the others, so that a small one is made before.
OPEN = """
import re, sys, time
import numpy as np
import onnxruntime as ort

def memory(what):
    return 1024 * int(re.search(what + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

options = ort.SessionOptions()
options.intra_op_num_threads = 1
ort.InferenceSession(sys.argv[2], options, ["CPUExecutionProvider"])
open("/proc/self/clear_refs", "w").write("5")
before, start = memory("VmRSS"), time.process_time()
session = ort.InferenceSession(sys.argv[1], options, ["CPUExecutionProvider"])
seconds = time.process_time() - start
value = session.get_inputs()[0]
shape = [n if isinstance(n, int) else 1 for n in value.shape]
session.run(None, {value.name: np.zeros(shape, np.float32)})
print(1e3 * seconds, memory("VmHWM") - before)
"""


@dataclass
class Forms:
    """A network in float and what is compared with it, by name; accuracy where the network has learned something."""

    title: str
    original: Graph
    others: list[tuple[str, Graph]]
    accuracy: Accuracy | None = None


def lowered(binary: Graph) -> list[tuple[str, Graph]]:
    """A binary network's forms of files, its last layer in 32 bits, and in 8."""
    last = [binary.nodes[index].name for index in final_layers(binary)]
    return [
        ("binary, floats", lower(binary, runtime="packed")),
        ("binary, integers", lower(binary)),
        ("the same, last layer 8 bit", lower(binary, int8=last)),
    ]


def settled(binary: Graph, images: Array) -> Graph:
    """A binary network whose normalisations have seen data."""
    module = GraphModule(binary).eval()
    estimate_statistics(module, [{binary.inputs[0]: torch.from_numpy(images)}])
    return module.write_back()


def untrained(width: int) -> Forms:
    graph = pg.load(Net(width, (3, 32, 32)).model)
    images = np.random.default_rng(0).standard_normal((64, 3, 32, 32)).astype(np.float32)
    int8 = pg.quantize(graph, {"x": images}).model
    others = lowered(settled(to_binary(graph)[0], images))
    ends = settled(to_binary(graph, last="binary")[0], images)
    others.append(("the same, last layer 1 bit", lower(ends)))
    scales = settled(to_binary(graph, scales=4)[0], images)
    others.append(("last layer 8 bit, `--scales 4`", lowered(scales)[-1][1]))
    title = f"for CIFAR-10, width {width}, untrained"
    return Forms(title, graph, [("int8", int8), *others])


def learned(folder: Path, count: int) -> Forms:
    """The network for Fashion-MNIST: trained in full precision, then updated; the last layer too."""
    bench = Bench(folder, count, 0)
    teacher = bench.plain(10, quantized=False)
    graph, update = teacher.graph, bench.closed("-ten", start=teacher)
    scales = bench.closed("-ten-scales", scales=4, start=teacher)
    ends = bench.last_binary("closed-last", update, teacher).graph
    int8 = pg.quantize(graph, {"x": fashion("train")[0][:256]}).model
    others = [
        ("int8", int8),
        *lowered(update.graph),
        ("the same, last layer 1 bit", lower(ends)),
        ("last layer 8 bit, `--scales 4`", lowered(scales.graph)[-1][1]),
    ]
    title = "for Fashion-MNIST, width 32, nothing trained but the float network"
    return Forms(title, graph, others, fashion_accuracy)


def residual() -> Forms:
    graph, images = fixture()
    binary = binarize(graph, images, BinarizeOptions(Quantizer(deadzone=True))).trained
    others = [("int8", pg.quantize(graph, images).model), *lowered(binary)]
    return Forms(
        "residual, 16 to 64 wide, nothing trained",
        graph,
        others,
        fashion_accuracy,
    )


def fixture() -> tuple[Graph, dict[str, Array]]:
    """The residual network of the fixtures, and its 256 images without labels."""
    graph = pg.load(ROOT / "fixtures" / "fashion_resnet.onnx")
    file = ROOT / "fixtures" / "fashion_calibration.npz"
    return graph, {"image": np.load(file)["image"]}


def shortcuts(seeds: int, pairs: int, images: int = 5000, epochs: int = 2) -> Iterator[str]:
    """Lines of the table of the residual network: from few images, and trained towards the original for a while."""
    graph, few = fixture()
    many = {"image": fashion("train")[0][:images]}
    dead = Quantizer(deadzone=True)
    plain = BinarizeOptions(dead, update=False, epochs=epochs)
    watch = Stopwatch(graph)
    yield "| network | divergence | top-1 | by seed | bytes | latency |"
    yield "|---|--:|--:|---|--:|--:|"
    yield (
        f"| original | 0 | {fashion_accuracy(graph):.2%} | | {file_size(graph):,} | "
        f"{watch.original():.2f} ms |"
    )
    for title, data, options in (
        ("signs", few, BinarizeOptions(update=False)),
        ("update", few, BinarizeOptions()),
        ("signs, `--deadzone`", few, BinarizeOptions(dead, update=False)),
        ("update, `--deadzone`", few, BinarizeOptions(dead)),
        ("update, `--deadzone --scales 4`", few, BinarizeOptions(dead, scales=4)),
        (f"`--deadzone --no-update --epochs {epochs}`", many, plain),
        ("the same with `--rprelu`", many, replace(plain, rprelu=True)),
    ):
        drawn = range(seeds if options.epochs else 1)
        results = [binarize(graph, data, replace(options, seed=seed)) for seed in drawn]
        losses = [list(result.losses.values())[-1] for result in results]
        rights = [fashion_accuracy(result.model) for result in results]
        each = ", ".join(f"{100 * right:.2f}" for right in rights) if len(drawn) > 1 else ""
        model = results[0].model
        yield (
            f"| {title} | {np.mean(losses):.3f} | {np.mean(rights):.2%} | {each} | {file_size(model):,} | "
            f"{watch.against(model, pairs).kept:.2f} |"
        )


def opened(paths: list[Path], trivial: Path, count: int) -> Array:
    """Milliseconds and bytes of a session [count, files, 2], files in turn."""
    rows = []
    for _ in range(count):
        for path in paths:
            words = [sys.executable, "-c", OPEN, str(path), str(trivial)]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            rows.append([float(word) for word in done.stdout.split()])
    return np.array(rows).reshape(count, len(paths), 2)


def rows(forms: Forms, pairs: int, loads: int) -> Iterator[str]:
    """Lines of the table."""
    watch = Stopwatch(forms.original)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for graph in [forms.original, *(graph for _, graph in forms.others)]:
            paths.append(Path(folder) / f"{len(paths)}.onnx")
            pg.save(graph, paths[-1])
        trivial = Path(folder) / "trivial.onnx"
        pg.save(pg.load(Net(1, (1, 8, 8)).model), trivial)
        measured = opened(paths, trivial, loads)
        shares = np.median(measured / measured[:, :1], axis=0)
        bare = np.median(measured[:, 0], axis=0)
        size = paths[0].stat().st_size
        accuracy = forms.accuracy
        right = f"{accuracy(forms.original):.2%}" if accuracy else ""
        yield (
            f"| {forms.title} | float | {size:,} | 1 | {watch.original():.2f} ms | {bare[0]:.0f} ms | "
            f"{bare[1] / 1e6:.1f} MB | {right} |"
        )
        for path, (name, graph), (load, memory) in zip(
            paths[1:], forms.others, shares[1:], strict=True
        ):
            kept = watch.against(graph, pairs).kept
            right = f"{accuracy(graph):.2%}" if accuracy else ""
            small = path.stat().st_size
            yield (
                f"| | {name} | {small:,} | {size / small:.2f} | {kept:.2f} | {load:.2f} | {memory:.2f} | {right} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", nargs="?", help="binary, where chosen by its name")
    parser.add_argument(
        "names",
        nargs="*",
        help=f"wide, narrow, fashion, residual, {', '.join(TABLES)}, shortcuts; all by default",
    )
    parser.add_argument(
        "--pairs", type=int, default=4, help="pairs of sessions for a latency"
    )
    parser.add_argument(
        "--loads", type=int, default=5, help="processes for load and memory"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/hwgq"))
    parser.add_argument(
        "--images", type=int, default=20_000, help="of Fashion-MNIST that are trained on"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of trainings")
    given = parser.parse_args()
    torch.set_num_threads(1)
    networks: dict[str, Callable[[], Forms]] = {
        "wide": lambda: untrained(128),
        "narrow": lambda: untrained(32),
        "fashion": lambda: learned(given.folder, given.images),
        "residual": residual,
    }
    tables = {
        name: partial(make, given.folder, given.images, given.seeds)
        for name, make in TABLES.items()
    }
    tables["shortcuts"] = partial(shortcuts, given.seeds, given.pairs)
    asked = given.names or [*networks, *tables]
    files = [name for name in asked if name in networks]
    if files:
        print(
            "| network | file | bytes | times smaller | latency | load | memory | top-1 |"
        )
        print("|---|---|--:|--:|--:|--:|--:|--:|")
    for name in files:
        with contextlib.redirect_stdout(sys.stderr):
            forms = networks[name]()
        for line in rows(forms, given.pairs, given.loads):
            print(line, flush=True)
    for name in asked:
        if name in tables:
            print("\n" * bool(files or name != asked[0]), end="")
            for line in tables[name]():
                print(line, flush=True)


if __name__ == "__main__":
    main()
