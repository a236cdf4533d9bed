"""Accuracy for time: alternate update with what follows tuned, against training through the quantizers; and options.

    pip install torch==2.13.0 && pip install prunegraph[bench,torch]
    python -m benchmarks.training layerwise [--images 20000] [--seeds 3] [--folder runs/hwgq] [time] [teacher] [options]

The network of `python -m benchmarks.training hwgq` on the first images of Fashion-MNIST, batches of 100; top-1 on the
10,000 test images, means over seeds. Seconds are of CPU time of one thread, with everything that a result needs: the
network it starts from, the teacher, and drawing data. Runs are kept in the folder and not repeated.
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

import prunegraph as pg
from benchmarks.tasks import fashion, fashion_accuracy
from benchmarks.training.hwgq import accuracy, packed, small_net
from prunegraph.graph.model import Graph
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
    to_binary,
    trainable,
)
from prunegraph.training.losses import Loss

#: Samples in a batch, and the learning rate that is best for 3 epochs of 0.02, 0.05, 0.1 and 0.2.
BATCH, RATE = 100, 0.05

#: Learning rates of AdamW: from a network that was trained through the quantizers, and from signs.
FINE, COARSE = 1e-3, 5e-3

#: Images that an update uses, a third of them held out.
SAMPLES = 2000

#: Epochs of the runs that give the curve of plain training.
CURVE = (1, 3, 6, 10)


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

    def signs(self, start: Made) -> Made:
        """The signs of a network in full precision, normalisations estimated."""

        def make() -> tuple[GraphModule, str]:
            binary = to_binary(start.graph)[0]
            module = GraphModule(binary).eval()
            estimate_statistics(module, self.samples(binary).fit)
            return module, ""

        return self.made("signs", start.seconds, make)

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
    ) -> Made:
        """Trained through the quantizers from scratch, with something changed."""

        def make() -> tuple[GraphModule, str]:
            binary = to_binary(small_net(self.seed), quantizer)[0]
            module = GraphModule(binary, trainable=trainable(binary, shifts=shifts))
            stage = ActivationsFirst(module) if first else None
            self.fit(module, epochs, callbacks=[stage] if stage is not None else [])
            if stage is not None:
                stage.end()
            return module, ""

        return self.made(f"{name}{epochs}", 0.0, make)

    def closed(self, name: str, quantizer: Quantizer | None) -> Made:
        """The alternate update of a network in full precision, nothing trained."""
        start = self.plain(3, quantized=False)

        def make() -> tuple[GraphModule, str]:
            binary = to_binary(start.graph, quantizer)[0]
            module = GraphModule(binary)
            alternate_update(module, self.samples(binary), teacher=GraphModule(start.graph))
            return module, ""

        return self.made(f"closed{name}", start.seconds, make)


def path_of(bench: Bench) -> dict[str, Made]:
    """All rows of the table of times for one seed, by title."""
    result = {
        f"trained through the quantizers, {epochs} epoch{'s' * (epochs > 1)}": bench.plain(
            epochs
        )
        for epochs in CURVE
    }
    for epochs in (1, 3, 10):
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
    for epochs in (3, 4):
        result[f"with `--bits 4 --shifts`, {epochs} epochs"] = bench.option(
            "bits-shifts", epochs, Quantizer(bits=4), shifts=True
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
        each = ", ".join(f"{100 * row.accuracy:.2f}" for row in rows)
        known = (right, seconds) not in curve and seconds <= curve[-1][1]
        same = f"{_at(curve, seconds):.2%}" if known else ""
        yield f"| {title} | {right:.2%} | {each} | {seconds:.1f} | {same} |"


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
    ):
        benches = [Bench(folder, images, seed) for seed in range(seeds)]
        rows = [bench.option(name, epochs, quantizer, **words) for bench in benches]
        each = ", ".join(f"{100 * row.accuracy:.2f}" for row in rows)
        told = (
            "" if words else f"{means([b.closed(name, quantizer) for b in benches])[0]:.2%}"
        )
        yield f"| {title} | {means(rows)[0]:.2%} | {each} | {told} |"
    rows = [bench.plain(epochs) for bench in benches]
    for bits in (32, 8):
        right = [
            fashion_accuracy(packed(row.graph, "int8" if bits == 8 else "float"))
            for row in rows
        ]
        each = ", ".join(f"{100 * share:.2f}" for share in right)
        yield f"| as published, file with a last layer of {bits} bits | {np.mean(right):.2%} | {each} | |"


TABLES: dict[str, Callable[[Path, int, int], Iterator[str]]] = {
    "time": times,
    "teacher": teachers,
    "options": options,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", nargs="?", help="layerwise, where chosen by its name")
    parser.add_argument("names", nargs="*", help="time, teacher, options; all by default")
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
