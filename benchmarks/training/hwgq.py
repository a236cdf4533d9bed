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
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

import prunegraph as pg
from benchmarks.tasks import fashion
from prunegraph.graph.model import Graph
from prunegraph.training import Batches, GraphModule, Recipe, fit
from prunegraph.training.binary.network import to_binary, trainable

Array = np.ndarray

#: Filters of the first layer, its stride, and samples in a batch.
WIDTH, STRIDE, BATCH = 32, 3, 200


class Net:
    """Builds the network of HWGQ for CIFAR-10: conv-conv-pool, conv-conv-pool, conv-conv, pool, linear.

    Everything between the first and the last layer normalises without scale and shift, then rectifies; names are
    short since they are part of the file.
    """

    def __init__(self, width: int, image: tuple[int, int, int], stride: int = 1, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        channels, side, _ = image
        side = (side - 1) // stride + 1
        value = self.conv("x", channels, width, stride)
        last = width
        for filters, pooled in ((1, True), (2, False), (2, True), (4, False), (4, False)):
            value = self.conv(self.op("Relu", self.normal(value, last)), last, width * filters)
            last = width * filters
            if pooled:
                value, side = self.pool(value), side // 2
        value = self.op("Flatten", self.pool(self.op("Relu", self.normal(value, last))))
        inputs = last * (side // 2) ** 2
        self.op("Gemm", value, self.tensor(self.random(10, inputs)), self.tensor(np.zeros(10)), output="y", transB=1)
        shape = ["n", *image]
        graph = helper.make_graph(
            self.nodes, "hwgq", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 10])], self.tensors,
        )  # fmt: skip
        self.model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

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
    made = [module(torch.from_numpy(images[i : i + 500]))[0].argmax(1) for i in range(0, len(images), 500)]
    return float((torch.cat(made).numpy() == labels).mean())


def trained(graph: Graph, epochs: int, lr: float, folder: Path, name: str, seed: int) -> tuple[Graph, dict[str, float]]:
    """A trained graph, its test accuracy and the seconds it took; read from the folder if it is there."""
    path, record = folder / f"{name}.onnx", folder / f"{name}.json"
    if record.exists():
        return pg.load(path), json.loads(record.read_text())
    binary = graph if any(node.domain for node in graph.nodes) else to_binary(graph)[0]
    module = GraphModule(graph, trainable=sorted(trainable(binary) & graph.weights.keys()))
    images, labels = fashion("train")
    batches = Batches({"x": images, "labels": labels.astype(np.int64)}, BATCH, seed=seed)
    clock = Clock()
    run = fit(
        module, batches, Recipe(epochs, lr=lr, warmup=0.05, seed=seed),
        checkpoint=folder / f"{name}.pt", evaluate=clock.around(accuracy), progress=False,
    )  # fmt: skip
    found = {"accuracy": run.history[-1]["metric"], **clock.seconds(epochs), "epochs": epochs}
    made = module.write_back()
    pg.save(made, path)
    record.write_text(json.dumps({**found, "history": run.history}))
    print(f"{name}: {found['accuracy']:.2%} after {epochs} epochs, {found['cpu']:.0f} s", flush=True)
    return made, json.loads(record.read_text())


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
        spent = {"cpu": time.process_time() - self.cpu, "wall": time.perf_counter() - self.wall}
        return {name: value / self.epochs * epochs for name, value in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["sizes", "train", "update"])
    parser.add_argument("--epochs", default="1,3,10,30")
    parser.add_argument("--folder", type=Path, default=Path("runs/hwgq"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for epochs in [int(word) for word in args.epochs.split(",")]:
        if epochs == 0:
            trained(small_net(args.seed), 10, 0.1, args.folder, "float", args.seed)
        else:
            trained(to_binary(small_net(args.seed))[0], epochs, 0.1, args.folder, f"ste{epochs}", args.seed)


if __name__ == "__main__":
    main()
