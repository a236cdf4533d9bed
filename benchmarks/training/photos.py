"""A folder of JPEGs from four command lines: calibrate, prune, distil, quantize. Peak memory with 500 and with 2,000.

    python -m benchmarks.training photos

The residual network of Fashion-MNIST with its test images in place of photos (those after the 1,000 by which the
results are judged), and a small network with random weights that takes photos of 224 x 224, of which 2,000 would take
1.2 GB in memory. Peaks are those of the command's own process and of the largest of its workers (Linux).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import prunegraph as pg
from benchmarks.scenes import table
from benchmarks.tasks import ROOT, fashion
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from prunegraph.runtime.session import run, session

COUNTS = (500, 2000)

#: Images by which results are judged; they are not among the JPEGs.
JUDGED = 1000

COMMANDS = {
    "data": "data {photos} --model {model} --show seen.png",
    "prune": "prune {model} -o half.onnx --macs 0.5 --data {photos}",
    "train": "train half.onnx -o tuned.onnx --original {model} --data {photos} --loss distill --epochs 1 --force",
    "quantize": "quantize tuned.onnx -o int8.onnx --data {photos}",
}

#: Runs a command line, then says the most memory that it took, in kB. That of the process is from Linux's own page: the
#: peak of `getrusage` begins with what the process had that started this one.
MEASURED = """
import re, resource, sys
from prunegraph.cli import main
try:
    main(sys.argv[1:])
finally:
    own = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    print("peak", own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def render(folder: Path, count: int) -> Path:
    """So many of Fashion-MNIST's test images as JPEGs of 112 x 112, a folder for each class."""
    images, labels = (part[JUDGED : JUDGED + count] for part in fashion("t10k"))
    for number, (pixels, kind) in enumerate(zip(images, labels, strict=True)):
        image = Image.fromarray((pixels[0] * 255).round().astype(np.uint8))
        place = folder / str(kind) / f"{number:04}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.resize((112, 112)).save(place)
    return folder


def photos(folder: Path, count: int) -> Path:
    """Smooth noise in colours as JPEGs of 256 x 320, all in one folder."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        small = rng.integers(0, 256, (8, 10, 3)).astype(np.uint8)
        Image.fromarray(small).resize((320, 256)).save(folder / f"{number:04}.jpg")
    return folder


def network(size: int = 224) -> Graph:
    """Three convolutions of stride 4, 2 and 2 with BatchNormalization, ten classes; random weights."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 4), (16, 32, 2), (32, 32, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    graph = pg.load(net.eval(), torch.zeros(1, 3, size, size))
    return from_model(graph.model)


def peak(command: str, folder: Path) -> int:
    """Most memory that a command line takes, in bytes, of its own process and of the largest of its workers."""
    words = [sys.executable, "-c", MEASURED, *command.split()]
    done = subprocess.run(words, cwd=folder, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stdout}\n{done.stderr}")
    numbers = [int(n) for n in done.stdout.rpartition("peak")[2].split()]
    return 1024 * max(numbers)


def accuracy(path: Path) -> float:
    """Top-1 in percent of the images that no JPEG shows."""
    images, labels = (part[:JUDGED] for part in fashion("t10k"))
    graph = pg.load(path)
    scores = run(session(graph), {graph.inputs[0]: images})[0]
    return 100 * float((scores.argmax(1) == labels).mean())


def main() -> None:
    columns = ("network", "JPEGs", *(f"{name}, MB" for name in COMMANDS))
    columns += ("top-1: start", *list(COMMANDS)[1:])
    lines: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pg.save(network(), folder / "small.onnx")
        fashion_net = ROOT / "fixtures" / "fashion_resnet.onnx"
        for what, model, make in (
            ("Fashion-MNIST, 28 x 28", fashion_net, render),
            ("random weights, 224 x 224", folder / "small.onnx", photos),
        ):
            for count in COUNTS:
                source = make(folder / f"{model.stem}-{count}", count)
                places = {"photos": source, "model": model}
                peaks = [peak(c.format(**places), folder) for c in COMMANDS.values()]
                files = [model, *(folder / f"{n}.onnx" for n in ("half", "tuned", "int8"))]
                judged = [f"{accuracy(f):.2f}" if make is render else "" for f in files]
                row = [what, f"{count:,}", *(f"{p / 1e6:.0f}" for p in peaks), *judged]
                print(*row, sep=" | ", file=sys.stderr, flush=True)
                lines.append(row)
    table(columns, lines)
