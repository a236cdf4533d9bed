"""The network of HWGQ with binary weights: bits counted, and bytes of files, with its last layer in 32, 8 and 1 bit.

    pip install torch==2.13.0 && pip install prunegraph[bench,torch]
    python -m benchmarks.training hwgq [--seed 0]

The network is that of HWGQ for CIFAR-10, and for Fashion-MNIST with a quarter of its width and stride 3 in the first
layer; neither is trained. `python -m benchmarks.training binary` trains the second. `PRUNEGRAPH_FASHION` names the
folder of Fashion-MNIST.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

import prunegraph as pg
from benchmarks.tasks import fashion
from prunegraph.graph.model import Graph
from prunegraph.training.binary import compression, lower, to_binary
from prunegraph.training.binary.network import final_layers

Array = np.ndarray

#: Filters of the first layer, and its stride.
WIDTH, STRIDE = 32, 3


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "benchmark",
        nargs="?",
        help="hwgq, where `python -m benchmarks.training` chooses by it",
    )
    parser.add_argument("--seed", type=int, default=0)
    sizes(parser.parse_args().seed)


if __name__ == "__main__":
    main()
