"""Graph -> Graph: layers get binary weights and quantized inputs, in the form in which they are trained.

A layer becomes binary if its input is a rectifier's output: its weights pass through `BinaryWeight`, the rectifier
becomes `HalfWave` for it. The quantizer is made for N(0, 1), so a BatchNormalization has to be before it; where there
is none, or others read the rectifier too, the layer gets one of its own. The first layer, layers that no other comes
after, and grouped convolutions stay as they are.
Source: Cai, He, Sun, Vasconcelos 2017 and its released configurations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx
from onnx import helper

from prunegraph.errors import ModelError, OptionError
from prunegraph.graph import linear
from prunegraph.graph.bounds import bounds
from prunegraph.graph.layer_names import named_layers
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import (
    is_batch_normalization,
    is_convolution,
    is_matmul,
    is_transpose,
    passes,
)
from prunegraph.rewriting.gemm import plain_gemms
from prunegraph.rewriting.opset import raise_opset
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.runtime.data import Data
from prunegraph.training.binary.levels import BITS, half_wave_step
from prunegraph.training.binary.operators import BACKWARDS, DOMAIN
from prunegraph.training.binary.rectifiers import (
    real_rectifiers,
    shifted,
    weights_of_shifted,
)
from prunegraph.training.roles import trainable_names

#: The operator set with BitwiseAnd, which unpacks binary weights in the end.
OPSET = 18

#: A filter of fewer inputs gets too little from one bit each.
MIN_INPUTS = 64

Last = Literal["float", "int8", "binary"]


@dataclass(frozen=True)
class Quantizer:
    """The half-wave quantizer of activations.

    Args:
        bits: 1 to 4.
        deadzone: plain rounding, with a zero bin for small positive inputs too.
        backward: what stands in for its gradient: "clipped", "relu" or "log".

    Raises:
        OptionError: a value that it cannot have.
    """

    bits: int = 2
    deadzone: bool = False
    backward: str = "clipped"

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise OptionError(
                f"activations of binary layers have 1 to 4 bits, not {self.bits}"
            )
        if self.backward not in BACKWARDS:
            raise OptionError(
                f"backward is one of {', '.join(BACKWARDS)}, not {self.backward!r}"
            )

    @property
    def step(self) -> float:
        """In single precision, as every runtime has it."""
        return float(np.float32(half_wave_step(self.bits, self.deadzone)))

    def node(self, value: str, output: str, name: str) -> onnx.NodeProto:
        return helper.make_node(
            "HalfWave",
            [value],
            [output],
            name=name,
            domain=DOMAIN,
            bits=self.bits,
            step=self.step,
            deadzone=int(self.deadzone),
            backward=self.backward,
        )


@dataclass(frozen=True)
class BinaryLayer:
    """A layer with binary weights in a graph that is trained.

    `node` is the layer, `weight` the name of the trained weights, `axis` that of its filters; `quantized` says whether
    its input is, too. A filter has `scales` of them, each for a group of inputs.
    """

    node: Node
    weight: str
    axis: int
    quantized: bool
    scales: int = 1


def binary_layers(graph: Graph) -> list[BinaryLayer]:
    """Layers with binary weights, in the order in which they run."""
    created = {
        n.outputs[0]: n
        for n in graph.nodes
        if n.domain == DOMAIN and n.op == "BinaryWeight"
    }
    return [
        BinaryLayer(
            node,
            maker.inputs[0],
            maker.attributes.get("axis", 0),
            _is_quantized(graph, node),
            maker.attributes.get("scales", 1),
        )
        for node in graph.nodes
        if (maker := created.get(node.input(1))) is not None
    ]


def _is_quantized(graph: Graph, node: Node) -> bool:
    value = node.inputs[0]
    while value in graph.producer:
        maker = graph.nodes[graph.producer[value]]
        if not passes(maker, "levels"):
            return maker.domain == DOMAIN
        value = maker.inputs[0]
    return False


def trainable(graph: Graph, *, shifts: bool = False) -> set[str]:
    """Weights of a binary graph that are trained: those of layers, but not what is left of a plain normalisation.

    Scale 1 and shift 0 of a BatchNormalization before a quantizer stay so: such a layer has none.

    Args:
        graph: a binary graph.
        shifts: train those too; each channel learns where its levels begin and how far apart they are. It costs
            nothing when the network is used. Source: Liu, Shen, Savvides, Cheng 2020 (ReActNet, RSign).
    """
    names = trainable_names(graph, "layers") | {
        layer.weight for layer in binary_layers(graph)
    }
    names |= set(weights_of_shifted(graph))
    if shifts:
        return names
    plain = (
        node
        for node in _normals(graph)
        if is_plain(graph, node) and _feeds_quantizers(graph, node.outputs[0])
    )
    return names - {value for node in plain for value in node.inputs[1:3]}


def _feeds_quantizers(graph: Graph, value: str) -> bool:
    """Tell whether a value ends in quantizers only, maybe after pools."""
    readers = [graph.nodes[index] for index, _ in graph.consumers.get(value, ())]
    return (
        bool(readers)
        and value not in graph.outputs
        and all(
            n.domain == DOMAIN
            or (
                passes(n, "normals")
                and not n.domain
                and _feeds_quantizers(graph, n.outputs[0])
            )
            for n in readers
        )
    )


def _normals(graph: Graph) -> Iterator[Node]:
    return (
        node
        for node in graph.nodes
        if is_batch_normalization(node) and not node.domain and node.subgraph is None
    )


def is_plain(graph: Graph, node: Node) -> bool:
    """Tell whether a BatchNormalization only normalises: scale 1, shift 0."""
    scale, shift = (graph.weights.get(value) for value in node.inputs[1:3])
    return (
        scale is not None
        and shift is not None
        and bool((scale.read() == 1).all() and (shift.read() == 0).all())
    )


def to_binary(
    graph: Graph,
    quantizer: Quantizer | None = None,
    *,
    affine: bool = True,
    last: Last = "float",
    keep: Sequence[str] = (),
    min_inputs: int = MIN_INPUTS,
    scales: int = 1,
    rprelu: bool = False,
    data: Data | None = None,
) -> tuple[Graph, dict[str, str]]:
    """The graph in its binary form for training, and why layers are not binary, by name.

    Statistics of normalisations that are new have to be estimated (`estimate_statistics`) before it is of use.

    Args:
        graph: the model; it is not changed.
        quantizer: of activations; 2 bits as published by default.
        affine: keep scale and shift of a BatchNormalization before a quantizer, brought to a mean square of 1 over
            its channels; else they become 1 and 0, as in networks that are made for this.
        last: what becomes of layers that no other comes after: "binary" gives them binary weights, their inputs
            stay as they are. "int8" is seen to when the graph is written.
        keep: names of layers that stay as they are.
        min_inputs: layers whose filters have fewer inputs stay as they are.
        scales: of each filter, at most, each for as many input channels that follow each other; the largest number that
            divides a layer's channels.
        rprelu: rectifiers behind binary layers whose outputs stay real-valued (before shortcuts and last layers) get
            shifts and slopes of their own, 0 until they are trained; see `rectifiers`.
        data: inputs on which a conversion to a newer operator set is checked; else they are random.

    Raises:
        UnknownNameError: no layer of a name in `keep`.
        OptionError: `last` or `scales` has a value it cannot have.
        ModelError: no layer can become binary, or the graph cannot be raised to operator set 18.
    """
    if last not in ("float", "int8", "binary"):
        raise OptionError(f"last is float, int8 or binary, not {last!r}")
    if scales < 1:
        raise OptionError(f"a filter has at least 1 scale, not {scales}")
    kept = set(named_layers(graph, keep))
    graph = plain_gemms(raise_opset(graph, OPSET, data))
    plan = _Plan.of(graph, kept, last, min_inputs)
    if not plan.chains and not plan.ends:
        reasons = "; ".join(
            f"{name}: {reason}" for name, reason in list(plan.skipped.items())[:5]
        )
        raise ModelError(
            f"{graph.source}: no layer can become binary ({reasons or 'there are none'})"
        )
    writer = _BinaryWriter(graph, plan, quantizer or Quantizer(), affine, scales, rprelu)
    return writer.run(), plan.skipped


@dataclass
class _Plan:
    """What becomes binary.

    `chains` are, for each layer's index, the nodes from its rectifier to its input; `ends` the layers that only get
    binary weights; `whole` the rectifiers that nothing but binary layers reads.
    """

    chains: dict[int, list[Node]] = field(default_factory=dict)
    ends: set[int] = field(default_factory=set)
    whole: set[int] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, keep: set[str], last: Last, min_inputs: int) -> _Plan:
        plan, known = cls(), shape_info(graph)
        first, final = _ends(graph, {node.index for node in graph.layers})
        for node in graph.layers:
            reason = "kept" if node.name in keep else obstacle(graph, node, min_inputs)
            chain = None if reason or node.index in first | final else _chain(graph, node)
            if node.index in final and not reason and last == "binary":
                plan.ends.add(node.index)
            elif reason or chain is None:
                place = (
                    "the first layer"
                    if node.index in first
                    else "the last layer"
                    if node.index in final
                    else ""
                )
                plan.skipped[node.name] = (
                    place or reason or "its input is not the output of a rectifier"
                )
            elif not _has_channels(known, node, chain):
                plan.skipped[node.name] = "its rectifier's input has no known channel axis"
            else:
                plan.chains[node.index] = chain
        rectifiers = {chain[0].index for chain in plan.chains.values()}
        plan.whole = {
            index for index in rectifiers if plan.read_alone(graph, graph.nodes[index])
        }
        return plan

    def read_alone(self, graph: Graph, node: Node) -> bool:
        """Tell whether a node's output ends in binary layers only."""
        value = node.outputs[0]
        if value in graph.outputs:
            return False
        readers = [
            (graph.nodes[index], slot) for index, slot in graph.consumers.get(value, ())
        ]
        return all(
            slot == 0
            and (
                n.index in self.chains
                or (passes(n, "levels") and self.read_alone(graph, n))
            )
            for n, slot in readers
        )


def _ends(graph: Graph, layers: set[int]) -> tuple[set[int], set[int]]:
    """Of layers, by index, those that no other is above, and those that no other is below."""
    above: set[str] = set()
    below: set[str] = set()
    first = set()
    for node in graph.nodes:
        reached = any(value in above for value in (*node.inputs, *node.captured))
        if node.index in layers and not reached:
            first.add(node.index)
        if node.index in layers or reached:
            above.update(node.outputs)
    final = set()
    for node in reversed(graph.nodes):
        reached = any(value in below for value in node.outputs)
        if node.index in layers and not reached:
            final.add(node.index)
        if node.index in layers or reached:
            below.update((*node.inputs, *node.captured))
    return first, final


def final_layers(graph: Graph) -> list[int]:
    """Indices of layers that no other layer comes after; in a binary graph too."""
    layers = {node.index for node in graph.layers} | {
        layer.node.index for layer in binary_layers(graph)
    }
    return sorted(_ends(graph, layers)[1])


def obstacle(graph: Graph, node: Node, min_inputs: int) -> str:
    """Why a layer cannot have binary weights, or ''."""
    if reason := linear.LinearLayer(graph, node).no_bits():
        return reason
    size = linear.matrix_size(node, graph.weights[node.inputs[1]].shape)
    return (
        f"its filters have {size} inputs, fewer than {min_inputs}"
        if size < min_inputs
        else ""
    )


def _chain(graph: Graph, node: Node) -> list[Node] | None:
    """The nodes from the rectifier to a layer's input, or None without one."""
    chain: list[Node] = []
    value = node.inputs[0]
    while value in graph.producer:
        maker = graph.nodes[graph.producer[value]]
        if maker.subgraph is not None or maker.domain or value != maker.outputs[0]:
            return None
        chain.insert(0, maker)
        if _is_rectifier(graph, maker):
            return chain
        if not passes(maker, "levels") or any(maker.outputs[1:]):
            return None
        value = maker.inputs[0]
    return None


def _is_rectifier(graph: Graph, node: Node) -> bool:
    """Tell whether a node is max(x, 0), whatever it does to large values."""
    limits = bounds(graph, node)
    return limits is not None and limits[0] == 0


def _has_channels(known: ShapeInfo, node: Node, chain: Sequence[Node]) -> bool:
    """Tell whether axis 1 of what the rectifier reads is known to hold channels, over which to normalise.

    It does where there are two axes, and above convolutions (or a Gemm) as long as nothing is transposed; the rows of a
    MatMul have their channels elsewhere.
    """
    shape = known.shapes.get(chain[0].inputs[0])
    if shape is None or len(shape) < 2:
        return False
    return len(shape) == 2 or (
        not is_matmul(node) and all(not is_transpose(mover) for mover in chain[1:])
    )


class _BinaryWriter:
    """Collects nodes and tensors of the binary graph."""

    def __init__(
        self,
        graph: Graph,
        plan: _Plan,
        quantizer: Quantizer,
        affine: bool,
        scales: int,
        rprelu: bool,
    ):
        self.graph, self.plan, self.quantizer, self.affine = graph, plan, quantizer, affine
        self.scales, self.rprelu = scales, rprelu
        self.shapes = shape_info(graph).shapes
        self.rewriter = Rewriter(graph)
        self.names = self.rewriter.names
        self.copies: dict[str, str] = {}
        self.seen: set[int] = set()

    def run(self) -> Graph:
        for index, chain in self.plan.chains.items():
            node = self.graph.nodes[index]
            self._quantize(node, chain)
            self._binarize(node)
        for index in self.plan.ends:
            self._binarize(self.graph.nodes[index])
        if self.rprelu:
            for node in real_rectifiers(self.graph, self.plan.chains, self.plan.whole):
                self.rewriter.replace(node, shifted(self.rewriter, node))
        return self.rewriter.finish(change=_declare)

    def _binarize(self, node: Node) -> None:
        axis = linear.output_axis(node)
        name = self.names.new(f"{node.name}/binary")
        created = helper.make_node(
            "BinaryWeight", [node.inputs[1]], [name], name=name, domain=DOMAIN, axis=axis
        )
        channels = self.graph.weights[node.inputs[1]].shape[1 - axis]
        scales = max(n for n in range(1, self.scales + 1) if channels % n == 0)
        if scales > 1:
            created.attribute.append(helper.make_attribute("scales", scales))
        self.rewriter.insert_before(node, created)
        self.rewriter.set_input(node, 1, name)
        normal = linear.batch_normalization(self.graph, node)
        bias = self.graph.weights.get(node.input(2))
        if bias is not None and normal is not None and is_convolution(node):
            # What the normalisation behind takes away again.
            mean = (
                self.graph.weights[normal.inputs[3]].read().astype(np.float64) - bias.read()
            )
            self.rewriter.set_input(normal, 3, self._tensor(f"{node.name}/mean", mean))
            del self.rewriter.edit(node).input[2:]

    def _quantize(self, node: Node, chain: list[Node]) -> None:
        rectifier = chain[0]
        normal = self._normal(rectifier)
        if normal is not None and rectifier.index in self.plan.whole:
            if rectifier.index not in self.seen:
                self.seen.add(rectifier.index)
                self._settle(normal)
                proto = self.quantizer.node(
                    rectifier.inputs[0], rectifier.outputs[0], rectifier.name
                )
                self.rewriter.replace(rectifier, [proto])
            return
        self.rewriter.set_input(node, 0, self._copied(chain))

    def _normal(self, rectifier: Node) -> Node | None:
        """The BatchNormalization that a rectifier alone reads, maybe after a pool."""
        value = rectifier.inputs[0]
        while value in self.graph.producer and value not in self.graph.outputs:
            if len(self.graph.consumers[value]) != 1:
                return None
            maker = self.graph.nodes[self.graph.producer[value]]
            known = all(name in self.graph.weights for name in maker.inputs[1:])
            if is_batch_normalization(maker) and not maker.domain:
                return (
                    maker
                    if known and not maker.attributes.get("training_mode", 0)
                    else None
                )
            if not passes(maker, "normals") or maker.subgraph is not None:
                return None
            value = maker.inputs[0]
        return None

    def _settle(self, normal: Node) -> None:
        """Scale and shift before a quantizer: none, or such that channels have a mean square of 1."""
        scale, shift = (
            self.graph.weights[value].read().astype(np.float64)
            for value in normal.inputs[1:3]
        )
        size = math.sqrt(float((scale**2 + shift**2).mean()))
        if self.affine and size > 0:
            scale, shift = scale / size, shift / size
        else:
            scale, shift = np.ones_like(scale), np.zeros_like(shift)
        for slot, role, values in ((1, "scale", scale), (2, "shift", shift)):
            if not np.array_equal(values, self.graph.weights[normal.inputs[slot]].read()):
                self.rewriter.set_input(
                    normal, slot, self._tensor(f"{normal.name}/{role}", values)
                )

    def _copied(self, chain: list[Node]) -> str:
        """A normalisation, a quantizer, and copies of what moves its output, once for all layers that share them."""
        source, rectifier = chain[0].inputs[0], chain[0]
        if rectifier.outputs[0] not in self.copies:
            channels = self.shapes[source][1]
            base = f"{rectifier.name}/half_wave"
            vectors = [
                self._tensor(f"{base}/{role}", np.full(channels, value))
                for role, value in (
                    ("scale", 1.0),
                    ("shift", 0.0),
                    ("mean", 0.0),
                    ("variance", 1.0),
                )
            ]
            normal, output = self.names.new(f"{base}/normal"), self.names.new(base)
            self.rewriter.insert_before(
                rectifier,
                helper.make_node(
                    "BatchNormalization", [source, *vectors], [normal], name=normal
                ),
                self.quantizer.node(normal, output, output),
            )
            self.copies[rectifier.outputs[0]] = output
        value = self.copies[rectifier.outputs[0]]
        for mover in chain[1:]:
            if mover.outputs[0] not in self.copies:
                copy = onnx.NodeProto()
                copy.CopyFrom(mover.proto)
                copy.name = self.names.new(f"{mover.name}/half_wave")
                copy.input[0] = value
                copy.output[0] = copy.name
                self.rewriter.insert_before(mover, copy)
                self.copies[mover.outputs[0]] = copy.name
            value = self.copies[mover.outputs[0]]
        return value

    def _tensor(self, name: str, values: np.ndarray) -> str:
        return self.rewriter.add_initializer(name, np.ascontiguousarray(values, np.float32))


def _declare(model: onnx.ModelProto) -> None:
    """Name the domain of binary operators in a model."""
    if DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def normals_below(graph: Graph) -> list[Node]:
    """BatchNormalizations whose input depends on something binary, and new ones, in the order in which they run."""
    touched: set[str] = set()
    for node in graph.nodes:
        if node.domain == DOMAIN or any(value in touched for value in node.inputs):
            touched.update(node.outputs)
    own = [
        node
        for node in _normals(graph)
        if all(name in graph.weights for name in node.inputs[3:5])
    ]
    return [node for node in own if node.inputs[0] in touched or _is_new(graph, node)]


def _is_new(graph: Graph, node: Node) -> bool:
    """Tell whether a normalisation before a quantizer has mean 0 and variance 1: it has not seen data yet."""
    mean, variance = (graph.weights[name].read() for name in node.inputs[3:5])
    plain = is_plain(graph, node) and _feeds_quantizers(graph, node.outputs[0])
    return plain and bool((mean == 0).all() and (variance == 1).all())
