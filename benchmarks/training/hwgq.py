"""Binary weights and 2-bit activations on Fashion-MNIST: what alternate update gives, and what files weigh.

    pip install torch==2.13.0 && pip install prunegraph[bench,torch]
    python -m benchmarks.training hwgq [--part sizes|train|update] [--epochs 1,3,10,30] [--folder DIR] [--seed 0]

The network is that of HWGQ for CIFAR-10 with a quarter of its width and stride 3 in the first layer. Runs are kept in
the folder: one that is killed goes on, one that is done is not repeated. `PRUNEGRAPH_FASHION` names the folder of
Fashion-MNIST.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

import prunegraph as pg
from benchmarks.tasks import fashion, fashion_accuracy
from prunegraph.graph.model import Graph
from prunegraph.training import Batches, GraphModule, TrainingConfig, distillation, fit
from prunegraph.training.binary import (
    SampleSplit,
    alternate_update,
    compression,
    estimate_statistics,
    lower,
    to_binary,
    trainable,
)
from prunegraph.training.binary.network import final_layers

Array = np.ndarray

#: Filters of the first layer, its stride, and samples in a batch.
WIDTH, STRIDE, BATCH = 32, 3, 200

#: Training images that an update may use, a third of them held out.
SAMPLES = 2000


class Net:
    """Builds the network of HWGQ for CIFAR-10: conv-conv-pool, conv-conv-pool, conv-conv, pool, linear.

    Everything between the first and the last layer normalises without scale and shift, then rectifies; names are
    short since they are part of the file.
    """

    def __init__(
        self, width: int, image: tuple[int, int, int], stride: int = 1, seed: int = 0
    ):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        channels, side, _ = image
        side = (side - 1) // stride + 1
        value = self.conv("x", channels, width, stride)
        last = width
        for filters, pooled in ((1, True), (2, False), (2, True), (4, False), (4, False)):
            value = self.conv(
                self.op("Relu", self.normal(value, last)), last, width * filters
            )
            last = width * filters
            if pooled:
                value, side = self.pool(value), side // 2
        value = self.op("Flatten", self.pool(self.op("Relu", self.normal(value, last))))
        inputs = last * (side // 2) ** 2
        self.op(
            "Gemm",
            value,
            self.tensor(self.random(10, inputs)),
            self.tensor(np.zeros(10)),
            output="y",
            transB=1,
        )
        shape = ["n", *image]
        graph = helper.make_graph(
            self.nodes,
            "hwgq",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 10])],
            self.tensors,
        )
        self.model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8
        )

    def random(self, *shape: int) -> Array:
        return self.rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))

    def tensor(self, values: Array) -> str:
        name = f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def op(self, op: str, *inputs: str, output: str = "", **attributes: object) -> str:
        output = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def conv(self, value: str, inputs: int, outputs: int, stride: int = 1) -> str:
        weight = self.tensor(self.random(outputs, inputs, 3, 3))
        return self.op("Conv", value, weight, pads=[1] * 4, strides=[stride] * 2)

    def normal(self, value: str, channels: int) -> str:
        vectors = [self.tensor(np.full(channels, x)) for x in (1, 0, 0, 1)]
        return self.op("BatchNormalization", value, *vectors)

    def pool(self, value: str) -> str:
        return self.op("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])


def small_net(seed: int) -> Graph:
    return pg.load(Net(WIDTH, (1, 28, 28), STRIDE, seed).model)


def accuracy(module: torch.nn.Module) -> float:
    images, labels = fashion("t10k")
    created = [
        module(torch.from_numpy(images[i : i + 500]))[0].argmax(1)
        for i in range(0, len(images), 500)
    ]
    return float((torch.cat(created).numpy() == labels).mean())


def trained(
    graph: Graph,
    epochs: int,
    lr: float,
    folder: Path,
    name: str,
    seed: int,
    teacher: Graph | None = None,
) -> tuple[Graph, dict[str, float]]:
    """A trained graph, its test accuracy and the seconds it took; read from the folder if it is there.

    With a teacher, half of the loss is the distance from its outputs.
    """
    path, record = folder / f"{name}.onnx", folder / f"{name}.json"
    if record.exists():
        return pg.load(path), json.loads(record.read_text())
    binary = graph if any(node.domain for node in graph.nodes) else to_binary(graph)[0]
    module = GraphModule(graph, trainable=sorted(trainable(binary) & graph.weights.keys()))
    images, labels = fashion("train")
    batches = Batches({"x": images, "labels": labels.astype(np.int64)}, BATCH, seed=seed)
    clock = Clock()
    run = fit(
        module,
        batches,
        TrainingConfig(epochs, lr=lr, warmup=0.05, seed=seed),
        loss=distillation(GraphModule(teacher), labels=0.5)
        if teacher is not None
        else None,
        checkpoint=folder / f"{name}.pt",
        evaluate=clock.around(accuracy),
        progress=False,
    )
    result = {
        "accuracy": run.history[-1]["metric"],
        **clock.seconds(epochs),
        "epochs": epochs,
    }
    created = module.write_back()
    pg.save(created, path)
    record.write_text(json.dumps({**result, "history": run.history}))
    print(
        f"{name}: {result['accuracy']:.2%} after {epochs} epochs, {result['cpu']:.0f} s",
        flush=True,
    )
    return created, json.loads(record.read_text())


class Clock:
    """CPU seconds and wall seconds an epoch of this process, without what `around` measures after each."""

    def __init__(self) -> None:
        self.epochs = 0
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def around(self, function):  # type: ignore[no-untyped-def]
        def measured(module: torch.nn.Module) -> float:
            cpu, wall = time.process_time(), time.perf_counter()
            value = function(module)
            self.cpu += time.process_time() - cpu
            self.wall += time.perf_counter() - wall
            self.epochs += 1
            return value

        return measured

    def seconds(self, epochs: int) -> dict[str, float]:
        """For a run of some epochs; of one that was resumed, this process has seen the last ones only."""
        spent = {
            "cpu": time.process_time() - self.cpu,
            "wall": time.perf_counter() - self.wall,
        }
        return {
            name: value / self.epochs * epochs if self.epochs else value
            for name, value in spent.items()
        }


def sizes(seed: int) -> None:
    """Files of the narrow and of the full network, untrained: counted in bits, and on disk."""
    for title, net in (
        (f"Fashion-MNIST, width {WIDTH}", Net(WIDTH, (1, 28, 28), STRIDE, seed)),
        ("CIFAR-10 as published, width 128", Net(128, (3, 32, 32), 1, seed)),
    ):
        graph = pg.load(net.model)
        print(f"{title}: {file_size(graph):,} bytes in float")
        for last in ("float", "int8", "binary"):
            binary, _ = to_binary(graph, last=last)
            bits = {"float": 32, "int8": 8, "binary": 1}[last]
            counted = compression(binary)
            size = file_size(packed(binary, last))
            print(
                f"  last layer {bits:>2} bit: {size:>9,} bytes, {file_size(graph) / size:.2f} times smaller; counted "
                f"{counted.whole(bits):.2f}, binary layers alone {counted.layers:.2f}",
                flush=True,
            )


def packed(binary: Graph, last: str) -> Graph:
    names = [binary.nodes[index].name for index in final_layers(binary)]
    return lower(binary, int8=names if last == "int8" else ())


def file_size(graph: Graph) -> int:
    with tempfile.TemporaryDirectory() as folder:
        pg.save(graph, Path(folder) / "net.onnx")
        return (Path(folder) / "net.onnx").stat().st_size


def updated(
    title: str, binary: Graph, teacher: Graph, seed: int, **options: object
) -> tuple[Graph, dict[str, float]]:
    """A binary graph after alternate update towards the teacher; prints what it gave and took."""
    images, labels = fashion("train")
    module = GraphModule(binary, trainable=sorted(trainable(binary)))
    arrays = {"x": images, "labels": labels.astype(np.int64)}
    samples = SampleSplit.of(arrays, binary, count=SAMPLES, seed=seed)
    before = accuracy(module.eval())
    clock = Clock()
    records = alternate_update(module, samples, teacher=GraphModule(teacher), **options)  # type: ignore[arg-type]
    spent = clock.seconds(0)
    created = module.write_back()
    after = accuracy(module.eval())
    kept = "".join("+" if record.kept else "-" for record in records)
    errors = ", ".join(
        f"{record.error[0]:.2f}->{record.error[1]:.2f}" for record in records
    )
    print(
        f"{title}: {before:.2%} -> {after:.2%}, {spent['cpu']:.1f} s of CPU ({spent['wall']:.0f} s), layers {kept}, "
        f"errors {errors}",
        flush=True,
    )
    return created, {"accuracy": after, **spent}


def statistics_of(binary: Graph, seed: int) -> Graph:
    """A graph whose normalisations fit its binary weights."""
    images, labels = fashion("train")
    module = GraphModule(binary).eval()
    samples = SampleSplit.of(
        {"x": images, "labels": labels.astype(np.int64)}, binary, count=SAMPLES, seed=seed
    )
    estimate_statistics(module, samples.fit)
    return module.write_back()


def update(folder: Path, seed: int) -> None:
    """Alternate update from networks that were trained for 0, 1, 3, 10, 30 epochs; then files of the best."""
    teacher, record = trained(small_net(seed), 10, 0.1, folder, "float", seed)
    reported("float, 10 epochs", record)
    signs = statistics_of(to_binary(teacher)[0], seed)
    start, _ = updated(
        "signs of the float network, not trained; update", signs, teacher, seed
    )
    ready = [epochs for epochs in (1, 3, 10, 30) if (folder / f"ste{epochs}.json").exists()]
    for epochs in ready:
        binary, record = trained(
            to_binary(small_net(seed))[0], epochs, 0.1, folder, f"ste{epochs}", seed
        )
        reported(f"STE from scratch, {epochs} epochs", record)
        for targets in ("teacher", "descent"):
            updated(f"  update towards {targets}", binary, teacher, seed, targets=targets)
    for epochs, lr, taught in ((1, 0.02, False), (3, 0.02, False), (3, 0.05, True)):
        how = f"{epochs} epochs{' towards the float network' if taught else ''}"
        name = f"{'distil' if taught else 'ste'}{epochs}"
        for title, graph, first in (
            ("the signs of the float network", signs, "signs"),
            ("the update", start, "update"),
        ):
            given = teacher if taught else None
            tuned, record = trained(
                graph, epochs, lr, folder, f"{first}-{name}", seed, given
            )
            reported(f"training from {title}, {how}", record)
            tuned, _ = updated("  update", tuned, teacher, seed)
    files(tuned, teacher, seed)


def reported(title: str, record: dict[str, float]) -> None:
    print(
        f"{title}: {record['accuracy']:.2%}, {record['cpu']:.0f} s of CPU ({record['wall']:.0f} s)",
        flush=True,
    )


def files(binary: Graph, teacher: Graph, seed: int) -> None:
    """The trained network as a file, its last layer in 32, 8 and 1 bit, and its accuracy in ONNX Runtime."""
    before = file_size(teacher)
    print(f"float file: {before:,} bytes, {fashion_accuracy(teacher):.2%} in ONNX Runtime")
    for last, bits in (("float", 32), ("int8", 8), ("binary", 1)):
        graph = binary
        if last == "binary":
            graph, _ = updated(
                "  last layer binary, update",
                to_binary(binary, last="binary")[0],
                teacher,
                seed,
            )
        file = packed(graph, last)
        size, counted = file_size(file), compression(graph)
        print(
            f"last layer {bits:>2} bit: {size:,} bytes, {before / size:.2f} times smaller; counted "
            f"{counted.whole(bits):.2f}, binary layers alone {counted.layers:.2f}; {fashion_accuracy(file):.2%} in "
            "ONNX Runtime",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "benchmark",
        nargs="?",
        help="hwgq, where `python -m benchmarks.training` chooses by it",
    )
    parser.add_argument(
        "--part",
        choices=["sizes", "train", "update"],
        help="by default all, one after the other",
    )
    parser.add_argument(
        "--epochs",
        default="1,3,10,30",
        help="which runs `train` makes; 0 is the float network",
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/hwgq"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print(
        f"seed {args.seed}, {torch.get_num_threads()} thread, PyTorch {torch.__version__}",
        flush=True,
    )
    if args.part in (None, "sizes"):
        sizes(args.seed)
    if args.part in (None, "train"):
        for epochs in [int(word) for word in args.epochs.split(",")]:
            if epochs == 0:
                trained(small_net(args.seed), 10, 0.1, args.folder, "float", args.seed)
            else:
                trained(
                    to_binary(small_net(args.seed))[0],
                    epochs,
                    0.1,
                    args.folder,
                    f"ste{epochs}",
                    args.seed,
                )
    if args.part in (None, "update"):
        update(args.folder, args.seed)


if __name__ == "__main__":
    main()
