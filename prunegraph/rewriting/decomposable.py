"""Layers that can be written as several smaller ones: which, what that costs, and the nodes that result."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node, Weight
from prunegraph.operators import is_convolution
from prunegraph.ops.rule import Shape
from prunegraph.rewriting.factorize import Form, Spatial, Svd, Tucker2

Array = np.ndarray

METHODS = ("tucker2", "svd", "spatial", "auto")

#: Parts of a layer by method, in the order in which they are applied.
PARTS = {
    "tucker2": ("first", "core", "last"),
    "svd": ("first", "last"),
    "spatial": ("first", "last"),
}

FORMS: dict[str, type[Form]] = {"tucker2": Tucker2, "svd": Svd, "spatial": Spatial}


@dataclass(frozen=True)
class DecomposableLayer:
    """A layer that can be decomposed.

    `shape` is that of its weight as [O, I, *kernel]. `before` and `behind` are the spatial sizes of its input and
    output, samples included; None where they are not known.
    """

    node: Node
    weight: Weight
    shape: Shape
    before: Shape | None
    behind: Shape | None

    @property
    def is_matrix(self) -> bool:
        """Tell whether it is a matrix product at every position: no convolution, or one of a single element."""
        return math.prod(self.shape[2:]) == 1

    def tensor(self) -> Array:
        """The weight as [O, I, *kernel], in double precision."""
        values = self.weight.read().astype(np.float64)
        return values.T if linear.output_axis(self.node) else values

    def methods(self, wanted: str) -> tuple[str, ...]:
        """Methods that fit this layer. A matrix has one; the spatial split needs a kernel with two extents."""
        if self.is_matrix:
            return ("svd",)
        splits = len(self.shape) == 4 and min(self.shape[2:]) > 1
        fitting = [each for each in PARTS if each != "spatial" or splits]
        return tuple(each for each in fitting if wanted in (each, "auto"))

    def cost(self) -> tuple[int, int]:
        """Elements of the weight and MACs; 0 MACs where shapes are not known."""
        size = math.prod(self.shape)
        return size, size * math.prod(self.behind) if self.behind is not None else 0

    def cost_with(self, method: str, ranks: Sequence[int]) -> tuple[int, int]:
        """Elements and MACs of the parts at some ranks."""
        outputs, inputs, *kernel = self.shape
        if self.before is None or self.behind is None:
            old, new, half = 0, 0, 0
        else:
            old, new = math.prod(self.before), math.prod(self.behind)
            half = math.prod((*self.behind[:-1], self.before[-1]))
        extent = math.prod(kernel)
        if method == "tucker2":
            outer, inner = ranks
            parts = [
                (inner * inputs, old),
                (outer * inner * extent, new),
                (outputs * outer, new),
            ]
        elif method == "spatial":
            parts = [
                (ranks[0] * inputs * kernel[0], half),
                (outputs * ranks[0] * kernel[1], new),
            ]
        else:
            parts = [(ranks[0] * inputs * extent, new), (outputs * ranks[0], new)]
        return sum(size for size, _ in parts), sum(
            size * positions for size, positions in parts
        )


def layers(
    graph: Graph, shapes: Mapping[str, Shape]
) -> Iterator[tuple[Node, DecomposableLayer | str]]:
    """Every layer with a weight: as a `DecomposableLayer`, or with the reason why it stays whole."""
    for node in graph.nodes:
        if node.layer == node.name:
            yield (
                node,
                linear.LinearLayer(graph, node).no_parts() or _layer(graph, node, shapes),
            )


def _layer(graph: Graph, node: Node, shapes: Mapping[str, Shape]) -> DecomposableLayer:
    weight = graph.weights[node.inputs[1]]
    shape = weight.shape[::-1] if linear.output_axis(node) else weight.shape
    before = shapes.get(node.inputs[0])
    if before is not None and linear.LinearLayer(graph, node).is_transposed:
        before = before[::-1]
    before, behind = (
        _positions(node, each) for each in (before, shapes.get(node.outputs[0]))
    )
    return DecomposableLayer(node, weight, shape, before, behind)


def _positions(node: Node, shape: Shape | None) -> Shape | None:
    """A value's shape without its channels."""
    if shape is None:
        return None
    return (shape[0], *shape[2:]) if is_convolution(node) else shape[:-1]


def nodes(
    layer: DecomposableLayer,
    method: str,
    names: Sequence[str],
    weights: Sequence[str],
    values: Sequence[str],
) -> list[onnx.NodeProto]:
    """The nodes in a layer's place, in order.

    Args:
        layer: what they replace.
        method: one of `PARTS`.
        names: of the nodes.
        weights: the weights they read, as `stored` makes them.
        values: what they make, without the last, which makes the layer's output.
    """
    reads, makes = (layer.node.inputs[0], *values), (*values, layer.node.outputs[0])
    created = []
    for part, name in enumerate(names):
        is_last = part == len(names) - 1
        inputs = [reads[part], weights[part], *(layer.node.inputs[2:] if is_last else ())]
        if is_convolution(layer.node):
            node = helper.make_node("Conv", inputs, [makes[part]], name=name)
            node.attribute.extend(_attributes(layer, method, part))
        elif is_last:
            node = onnx.NodeProto()
            node.CopyFrom(layer.node.proto)
            node.name, node.input[:] = name, inputs
            for attribute in [each for each in node.attribute if each.name == "transA"]:
                node.attribute.remove(attribute)
        elif layer.node.attributes.get("transA"):
            node = helper.make_node("Gemm", inputs, [makes[part]], name=name, transA=1)
        else:
            node = helper.make_node("MatMul", inputs, [makes[part]], name=name)
        created.append(node)
    return created


def stored(layer: DecomposableLayer, method: str, factors: Sequence[Array]) -> list[Array]:
    """Factors in the shapes in which the nodes read them, in the type of the layer's weight."""
    created = []
    for part, factor in enumerate(factors):
        values = factor
        if is_convolution(layer.node) and factor.ndim == 2:
            values = factor.reshape(*factor.shape, *(1 for _ in layer.shape[2:]))
        elif not is_convolution(layer.node) and not (
            part == 1 and layer.node.attributes.get("transB")
        ):
            values = factor.T
        created.append(np.ascontiguousarray(values.astype(layer.weight.dtype)))
    return created


def _attributes(
    layer: DecomposableLayer, method: str, part: int
) -> list[onnx.AttributeProto]:
    """Attributes of a convolution's part. Zero padding may come late because only the last part has a bias."""
    given = layer.node.attributes
    rank = len(layer.shape) - 2
    if method == "spatial":
        high, wide = layer.shape[2:]
        result: dict[str, Sequence[int]] = {
            "kernel_shape": (1, wide) if part else (high, 1)
        }
        for name, default in (("strides", 1), ("dilations", 1)):
            both = given.get(name, [default, default])
            result[name] = (default, both[1]) if part else (both[0], default)
        if "pads" in given:
            top, remaining, bottom, right = given["pads"]
            result["pads"] = (0, remaining, 0, right) if part else (top, 0, bottom, 0)
        created = [
            helper.make_attribute(name, list(value)) for name, value in result.items()
        ]
        return created + [
            each for each in layer.node.proto.attribute[:] if each.name == "auto_pad"
        ]
    if part == PARTS[method].index("core" if method == "tucker2" else "first"):
        return list(layer.node.proto.attribute[:])
    return [helper.make_attribute("kernel_shape", [1] * rank)]
