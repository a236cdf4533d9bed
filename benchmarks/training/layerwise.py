"""Binary networks for time: alternate update and tuning against training through the quantizers; and what options give.

    pip install torch==2.13.0 && pip install prunegraph[bench,torch]
    python -m benchmarks.training layerwise [--images 20000] [--seeds 3] [--folder runs/hwgq] [NAME ...]

Tables: `start` from a network in full precision and from scratch; `time` from training through the quantizers;
`teacher` from a network in full precision; `options`; `parts`, what activations and weights cost each.

The network for Fashion-MNIST of `python -m benchmarks.training hwgq` on the first images of it, batches of 100; top-1
on the 10,000 test images, means over seeds. Seconds are of CPU time of one thread, with everything that a result
needs: the network it starts from, the teacher, and drawing data. Runs are kept in the folder and not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from onnx import helper

import prunegraph as pg
from benchmarks.tasks import fashion, fashion_accuracy
from benchmarks.training.hwgq import accuracy, packed, small_net
from prunegraph.graph.model import Graph
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.training import (
    Batches,
    GraphModule,
    TrainingConfig,
    cross_entropy,
    distillation,
    fit,
)
from prunegraph.training.binary import (
    ActivationsFirst,
    Quantizer,
    SampleSplit,
    Tuning,
    alternate_update,
    estimate_statistics,
    lower,
    to_binary,
    trainable,
)
from prunegraph.training.binary.network import binary_layers
from prunegraph.training.losses import Loss

#: Samples in a batch, and the learning rate that is best for 3 epochs of 0.02, 0.05, 0.1 and 0.2.
BATCH, RATE = 100, 0.05

#: Learning rates of AdamW: from a network that was trained through the quantizers, and from signs.
FINE, COARSE = 1e-3, 5e-3

#: Scales of a filter where it has several.
SCALES = 4

#: Images that an update uses, a third of them held out.
SAMPLES = 2000

#: Epochs of the runs that give the curve of plain training.
CURVE = (1, 3, 6, 10, 30)


@dataclass
class Made:
    """A network, its top-1 and the CPU seconds it took, those of what it was made from among them."""

    graph: Graph
    accuracy: float
    seconds: float
    note: str = ""


@dataclass
class Bench:
    """Runs on some images with one seed."""

    folder: Path
    images: int
    seed: int
    images_read: tuple[np.ndarray, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        images, labels = fashion("train")
        self.images_read = images[: self.images], labels[: self.images].astype(np.int64)
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def data(self) -> dict[str, np.ndarray]:
        return {"x": self.images_read[0], "labels": self.images_read[1]}

    def made(
        self, name: str, before: float, make: Callable[[], tuple[GraphModule, str]]
    ) -> Made:
        """A network by the name of how it was made: read from the folder, else made and measured.

        Args:
            name: of its files.
            before: seconds of all that it starts from.
            make: gives the module, and what to say of it.
        """
        stem = f"{name}-{self.images}-{self.seed}"
        path, record = self.folder / f"{stem}.onnx", self.folder / f"{stem}.json"
        if not record.exists():
            start = time.process_time()
            module, note = make()
            spent = time.process_time() - start
            with torch.no_grad():
                right = accuracy(module.eval())
            pg.save(module.write_back(), path, verify=False)
            record.write_text(
                json.dumps({"accuracy": right, "seconds": spent, "note": note})
            )
        known = json.loads(record.read_text())
        return Made(
            pg.load(path), known["accuracy"], before + known["seconds"], known["note"]
        )

    def plain(self, epochs: int, *, quantized: bool = True) -> Made:
        """Trained from scratch, through the quantizers or in full precision."""

        def make() -> tuple[GraphModule, str]:
            graph = small_net(self.seed)
            binary = to_binary(graph)[0]
            module = GraphModule(
                binary if quantized else graph,
                trainable=sorted(trainable(binary) & graph.weights.keys()),
            )
            self.fit(module, epochs)
            return module, ""

        return self.made(f"{'ste' if quantized else 'float'}{epochs}", 0.0, make)

    def fit(self, module: GraphModule, epochs: int, **options: object) -> None:
        batches = Batches(self.data, BATCH, seed=self.seed)
        recipe = TrainingConfig(epochs, lr=RATE, warmup=0.05, seed=self.seed)
        fit(module, batches, recipe, progress=False, **options)  # type: ignore[arg-type]

    def samples(self, graph: Graph) -> SampleSplit:
        return SampleSplit.of(self.data, graph, count=SAMPLES, seed=self.seed)

    def updated(self, name: str, start: Made, epochs: float, teacher: Made | None) -> Made:
        """The alternate update of a network; with epochs, what follows a layer is tuned after it."""

        def make() -> tuple[GraphModule, str]:
            graph = start.graph
            binary = graph if any(n.domain for n in graph.nodes) else to_binary(graph)[0]
            module = GraphModule(binary, trainable=trainable(binary, shifts=True))
            samples = self.samples(binary)
            records = alternate_update(
                module,
                samples,
                teacher=GraphModule(teacher.graph) if teacher is not None else None,
                targets="teacher" if teacher is not None else "descent",
                tuning=self._tuning(samples, epochs, teacher) if epochs else None,
            )
            kept = "".join("+" if record.kept else "-" for record in records)
            tuned = "".join("+" if record.tuning_kept else "-" for record in records)
            return module, f"{kept}/{tuned}"

        return self.made(name, start.seconds, make)

    def _tuning(self, samples: SampleSplit, epochs: float, teacher: Made | None) -> Tuning:
        rest = np.setdiff1d(np.arange(self.images), samples.numbers)
        data = {key: array[rest] for key, array in self.data.items()}
        batches = Batches(data, BATCH, seed=self.seed)
        return Tuning(
            batches, epochs, self.loss(teacher), FINE if teacher is None else COARSE
        )

    def loss(self, teacher: Made | None) -> Loss:
        if teacher is None:
            return cross_entropy()
        return distillation(GraphModule(teacher.graph), labels=0.5)

    def signs(
        self, start: Made, name: str = "signs", quantizer: Quantizer | None = None
    ) -> Made:
        """The signs of a network in full precision, normalisations estimated."""

        def make() -> tuple[GraphModule, str]:
            binary = to_binary(start.graph, quantizer)[0]
            module = GraphModule(binary).eval()
            estimate_statistics(module, self.samples(binary).fit)
            return module, ""

        return self.made(name, start.seconds, make)

    def all_together(
        self, name: str, start: Made, epochs: int, teacher: Made | None
    ) -> Made:
        """A short training of all layers at once: fine steps, or coarse ones towards a teacher."""

        def make() -> tuple[GraphModule, str]:
            module = GraphModule(start.graph, trainable=trainable(start.graph, shifts=True))
            recipe = TrainingConfig(epochs, lr=RATE, seed=self.seed)
            if teacher is None:
                recipe = replace(recipe, lr=FINE, optimizer="adamw")
            batches = Batches(self.data, BATCH, seed=self.seed + 1)
            fit(module, batches, recipe, loss=self.loss(teacher), progress=False)
            return module, ""

        return self.made(name, start.seconds, make)

    # -- from scratch, with an option each --------------------------------------------------

    def option(
        self,
        name: str,
        epochs: int,
        quantizer: Quantizer | None = None,
        *,
        shifts: bool = False,
        first: bool = False,
        scales: int = 1,
    ) -> Made:
        """Trained through the quantizers from scratch, with something changed."""

        def make() -> tuple[GraphModule, str]:
            binary = to_binary(small_net(self.seed), quantizer, scales=scales)[0]
            module = GraphModule(binary, trainable=trainable(binary, shifts=shifts))
            stage = ActivationsFirst(module) if first else None
            self.fit(module, epochs, callbacks=[stage] if stage is not None else [])
            if stage is not None:
                stage.end()
            return module, ""

        return self.made(f"{name}{epochs}", 0.0, make)

    def closed(
        self,
        name: str,
        quantizer: Quantizer | None = None,
        *,
        scales: int = 1,
        start: Made | None = None,
    ) -> Made:
        """The alternate update of a network in full precision, of 3 epochs by default; nothing trained."""
        start = start or self.plain(3, quantized=False)

        def make() -> tuple[GraphModule, str]:
            binary = to_binary(start.graph, quantizer, scales=scales)[0]
            module = GraphModule(binary)
            alternate_update(module, self.samples(binary), teacher=GraphModule(start.graph))
            return module, ""

        return self.made(f"closed{name}", start.seconds, make)

    def without(self, op: str, epochs: int) -> Made:
        """Trained from scratch with weights in full precision, or with activations."""

        def make() -> tuple[GraphModule, str]:
            binary = to_binary(small_net(self.seed))[0]
            weights = trainable(binary)
            module = GraphModule(_without(binary, op), trainable=sorted(weights))
            self.fit(module, epochs)
            return module, ""

        return self.made(f"no-{op}{epochs}", 0.0, make)

    def last_binary(self, name: str, start: Made, teacher: Made) -> Made:
        """A network's last layer made binary too, and updated; its top-1 is that of the packed file."""

        def make() -> tuple[GraphModule, str]:
            binary = to_binary(start.graph, last="binary")[0]
            module = GraphModule(binary, trainable=trainable(binary))
            teaching = GraphModule(teacher.graph)
            alternate_update(module, self.samples(binary), teacher=teaching)
            return module, ""

        made = self.made(name, start.seconds, make)
        return replace(made, accuracy=fashion_accuracy(lower(made.graph)))


def _without(graph: Graph, op: str) -> Graph:
    """A binary graph with weights as they are trained ("BinaryWeight"), or plain rectifiers ("HalfWave")."""
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        if node.op == "BinaryWeight" == op:
            rewriter.redirect(node.outputs[0], node.inputs[0])
            rewriter.replace(node, [])
        elif node.op == "HalfWave" == op:
            relu = helper.make_node("Relu", [node.inputs[0]], [node.outputs[0]])
            rewriter.replace(node, [relu])
    return rewriter.finish()


def _with_scales(graph: Graph, scales: int) -> Graph:
    """A binary graph whose filters get so many scales, where that divides a layer's channels."""
    rewriter = Rewriter(graph)
    for layer in binary_layers(graph):
        if graph.weights[layer.weight].shape[1] % scales == 0:
            maker = graph.nodes[graph.producer[layer.node.inputs[1]]]
            rewriter.edit(maker).attribute.append(helper.make_attribute("scales", scales))
    return rewriter.finish()


def starts_of(bench: Bench) -> dict[str, Made]:
    """All rows of the first table for one seed, by title."""
    result = {"full precision, 10 epochs": (teacher := bench.plain(10, quantized=False))}
    for epochs in (1, 3, 10, 30):
        title = f"trained through the quantizers from scratch, {epochs} epoch{'s' * (epochs > 1)}"
        result[title] = bench.plain(epochs)
    dead = Quantizer(deadzone=True)
    signs = bench.signs(teacher, "signs-ten")
    update = bench.closed("-ten", start=teacher)
    result["signs of the full precision network"] = signs
    result["alternate update of it, nothing trained"] = update
    result["signs with a dead zone"] = bench.signs(teacher, "signs-ten-dead", dead)
    result["alternate update with a dead zone"] = bench.closed(
        "-ten-dead", dead, start=teacher
    )
    result[f"alternate update with `--scales {SCALES}`"] = bench.closed(
        "-ten-scales", scales=SCALES, start=teacher
    )
    taught = "3 epochs towards the full precision network"
    result[f"signs, then {taught}"] = bench.all_together("signs-ten-all", signs, 3, teacher)
    tuned = bench.all_together("closed-ten-all", update, 3, teacher)
    result[f"alternate update, then {taught}"] = tuned
    result["that with a binary last layer, updated; the packed file in ONNX Runtime"] = (
        bench.last_binary("closed-ten-last", tuned, teacher)
    )
    return result


def starts(folder: Path, images: int, seeds: int) -> Iterator[str]:
    """Lines of the first table."""
    paths = [starts_of(Bench(folder, images, seed)) for seed in range(seeds)]
    yield "| network | top-1 | by seed | seconds |"
    yield "|---|--:|---|--:|"
    for title in paths[0]:
        rows = [path[title] for path in paths]
        yield f"| {title} | {told(rows)} | {means(rows)[1]:.1f} |"


def parts(folder: Path, images: int, seeds: int, epochs: int = 3) -> Iterator[str]:
    """Lines of the table of what quantized activations and binary weights cost, each alone and both."""
    benches = [Bench(folder, images, seed) for seed in range(seeds)]
    yield f"| weights | activations | top-1 after {epochs} epochs | by seed |"
    yield "|---|---|--:|---|"
    for title, rows in (
        ("1 bit | 2 bits", [bench.plain(epochs) for bench in benches]),
        ("full | 2 bits", [bench.without("BinaryWeight", epochs) for bench in benches]),
        ("1 bit | full", [bench.without("HalfWave", epochs) for bench in benches]),
        ("full | full", [bench.plain(epochs, quantized=False) for bench in benches]),
    ):
        yield f"| {title} | {told(rows)} |"


def told(rows: list[Made]) -> str:
    """Mean top-1, and that of each seed."""
    each = ", ".join(f"{100 * row.accuracy:.2f}" for row in rows)
    return f"{means(rows)[0]:.2%} | {each}"


def path_of(bench: Bench) -> dict[str, Made]:
    """All rows of the table of times for one seed, by title."""
    result = {
        f"trained through the quantizers, {epochs} epoch{'s' * (epochs > 1)}": bench.plain(
            epochs
        )
        for epochs in CURVE
    }
    for epochs in (1, 3, 10, 30):
        start, name = bench.plain(epochs), f"ste{epochs}"
        title = f"after {epochs} epoch{'s' * (epochs > 1)} of it:"
        tuned = bench.updated(f"{name}-tuned", start, 1, None)
        result[f"{title} update, 1 epoch of tuning layer by layer"] = tuned
        result[f"{title} the same, then 1 epoch of all layers"] = bench.all_together(
            f"{name}-tuned-all", tuned, 1, None
        )
        if epochs == 3:
            update = bench.updated(f"{name}-update", start, 0, None)
            result[f"{title} update alone"] = update
            result[f"{title} 2 epochs of all layers, no update"] = bench.all_together(
                f"{name}-all2", start, 2, None
            )
        if epochs in (3, 30):
            finer = replace(start, graph=_with_scales(start.graph, SCALES))
            update = bench.updated(f"{name}-scales-update", finer, 0, None)
            more = f"{title} {SCALES} scales a filter,"
            result[f"{more} update alone"] = update
            result[f"{more} update, then 2 epochs of all layers"] = bench.all_together(
                f"{name}-scales-update-all2", update, 2, None
            )
            result[f"{more} no update, 2 epochs of all layers"] = bench.all_together(
                f"{name}-scales-all2", finer, 2, None
            )
    for epochs in (3, 4):
        result[f"with `--bits 4 --shifts`, {epochs} epochs"] = bench.option(
            "bits-shifts", epochs, Quantizer(bits=4), shifts=True
        )
    result[f"with `--bits 4 --shifts --scales {SCALES}`, 3 epochs"] = bench.option(
        "bits-shifts-scales", 3, Quantizer(bits=4), shifts=True, scales=SCALES
    )
    return result


def from_float(bench: Bench) -> dict[str, Made]:
    """All rows of the table that starts from a network in full precision, for one seed, by title."""
    result = {}
    teacher = bench.plain(3, quantized=False)
    result["full precision, 3 epochs"] = teacher
    signs = bench.signs(teacher)
    result["of that: signs"] = signs
    result["of that: signs, then 2 epochs of all layers"] = bench.all_together(
        "signs-all", signs, 2, teacher
    )
    update = bench.updated("float-update", teacher, 0, teacher)
    result["of that: update alone"] = update
    result["of that: update, then 2 epochs of all layers"] = bench.all_together(
        "float-update-all", update, 2, teacher
    )
    tuned = bench.updated("float-tuned", teacher, 1, teacher)
    result["of that: update, 1 epoch of tuning layer by layer"] = tuned
    result["of that: the same, then 1 epoch of all layers"] = bench.all_together(
        "float-tuned-all", tuned, 1, teacher
    )
    return result


def times(folder: Path, images: int, seeds: int) -> Iterator[str]:
    """Lines of the table that starts from training through the quantizers."""
    return _compared(
        [path_of(Bench(folder, images, seed)) for seed in range(seeds)], folder, images
    )


def teachers(folder: Path, images: int, seeds: int) -> Iterator[str]:
    """Lines of the table that starts from a network in full precision, whose time counts."""
    return _compared(
        [from_float(Bench(folder, images, seed)) for seed in range(seeds)], folder, images
    )


def _compared(paths: list[dict[str, Made]], folder: Path, images: int) -> Iterator[str]:
    """Lines of a table; its last column is plain training's top-1 after as many seconds, by interpolation."""
    benches = [Bench(folder, images, seed) for seed in range(len(paths))]
    curve = [means([bench.plain(epochs) for bench in benches]) for epochs in CURVE]
    yield "| network | top-1 | by seed | seconds | plain training in that time |"
    yield "|---|--:|---|--:|--:|"
    for title in paths[0]:
        rows = [path[title] for path in paths]
        right, seconds = means(rows)
        known = (right, seconds) not in curve and seconds <= curve[-1][1]
        same = f"{_at(curve, seconds):.2%}" if known else ""
        yield f"| {title} | {told(rows)} | {seconds:.1f} | {same} |"


def _at(curve: list[tuple[float, float]], seconds: float) -> float:
    """Top-1 of plain training after some seconds: linear in the logarithm of time between runs."""
    rights, times_ = zip(*curve, strict=True)
    return float(np.interp(np.log(seconds), np.log(times_), rights))


def means(rows: list[Made]) -> tuple[float, float]:
    """Mean top-1 and seconds."""
    return (
        float(np.mean([row.accuracy for row in rows])),
        float(np.mean([row.seconds for row in rows])),
    )


def options(folder: Path, images: int, seeds: int, epochs: int = 3) -> Iterator[str]:
    """Lines of the table of options, all trained from scratch for the same epochs."""
    finer = Quantizer(bits=4)
    yield f"| option | from scratch, {epochs} epochs | by seed | update of a float network |"
    yield "|---|--:|---|--:|"
    for title, name, quantizer, words in (
        ("as published", "ste", None, {}),
        ("`--shifts`", "shifts", None, {"shifts": True}),
        ("`--deadzone`", "dead", Quantizer(deadzone=True), {}),
        ("`--bits 4`", "bits", finer, {}),
        ("`--bits 4 --shifts`", "bits-shifts", finer, {"shifts": True}),
        ("`--activations-first`", "first", None, {"first": True}),
        (f"`--scales {SCALES}`", "scales", None, {"scales": SCALES}),
        (
            f"`--deadzone --shifts --scales {SCALES}`",
            "dead-shifts-scales",
            Quantizer(deadzone=True),
            {"shifts": True, "scales": SCALES},
        ),
    ):
        benches = [Bench(folder, images, seed) for seed in range(seeds)]
        rows = [bench.option(name, epochs, quantizer, **words) for bench in benches]
        closed = ""
        if not words.keys() - {"scales"}:
            scales = words.get("scales", 1)
            updates = [b.closed(name, quantizer, scales=scales) for b in benches]
            closed = f"{means(updates)[0]:.2%}"
        yield f"| {title} | {told(rows)} | {closed} |"
    rows = [bench.plain(epochs) for bench in benches]
    for bits in (32, 8):
        right = [
            fashion_accuracy(packed(row.graph, "int8" if bits == 8 else "float"))
            for row in rows
        ]
        each = ", ".join(f"{100 * share:.2f}" for share in right)
        yield f"| as published, file with a last layer of {bits} bits | {np.mean(right):.2%} | {each} | |"


TABLES: dict[str, Callable[[Path, int, int], Iterator[str]]] = {
    "start": starts,
    "time": times,
    "teacher": teachers,
    "options": options,
    "parts": parts,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", nargs="?", help="layerwise, where chosen by its name")
    parser.add_argument("names", nargs="*", help=f"{', '.join(TABLES)}; all by default")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/hwgq"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for number, name in enumerate(given.names or TABLES):
        print("\n" * bool(number), end="")
        for line in TABLES[name](given.folder, given.images, given.seeds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
