"""The masked original: the meaning of a plan, without any cutting.

Every removed channel is zeroed where a layer makes it and where one consumes it. Where it is
consumed by a sum over activations, it is zeroed right there; where by a mean or a
normalisation, the statistics are taken over the survivors only.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.coupling.analysis import Reduction
from prunegraph.coupling.survivors import Survivors
from prunegraph.coupling.uses import Use
from prunegraph.graph.external import without_graph, write_stream
from prunegraph.graph.model import Node
from prunegraph.rewriting.cut import place_weights
from prunegraph.rewriting.nest import Nest, Rewritten
from prunegraph.rewriting.weights import Axes, WeightEditor, zeroed

#: Where removed channels are zeroed: where a layer makes them, and where one consumes them.
EVERYWHERE = frozenset({"out", "in"})

SKIP_NORM, SKIP_RMS = "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"

#: Normalisations that leave the mean alone.
RMS = frozenset({"RMSNormalization", "SimplifiedLayerNormalization", SKIP_RMS})

#: Output slots of the mean and of the inverse standard deviation, where a normalisation has them.
STATISTICS = {
    "LayerNormalization": (1, 2),
    "SimplifiedLayerNormalization": (None, 1),
    SKIP_NORM: (1, 2),
    SKIP_RMS: (1, 2),
}

#: What changes nothing, by kind of reduction.
NEUTRAL = {"max": -np.inf, "min": np.inf, "product": 1}

#: Types that ONNX Runtime computes with in few operators, and (in some releases) not in those of a mask: these compute
#: in another that holds all of their values.
WIDER: dict[int, int] = {
    onnx.TensorProto.BFLOAT16: onnx.TensorProto.FLOAT,
    **dict.fromkeys((onnx.TensorProto.INT8, onnx.TensorProto.INT16, onnx.TensorProto.UINT16), onnx.TensorProto.INT32),
    onnx.TensorProto.UINT32: onnx.TensorProto.INT64,
}

#: Enough by itself, for models in which a zero would be divided by.
CONSUMED = frozenset({"in"})


def write_masked(survivors: Survivors, path: Path, roles: Set[str] = EVERYWHERE) -> None:
    """Write a model of the original's shape that computes what the pruned one must."""
    graph = survivors.coupling.graph
    editor = WeightEditor(survivors.coupling, lambda use: _layer_axes(survivors, use, roles), zeroed)
    editor.run()
    reductions: dict[int, list[Reduction]] = {}
    for reduction in survivors.coupling.reductions:
        labels = survivors.coupling.labels_at(reduction)
        if any(survivors.kept(labels[axis]) is not None for axis in reduction.axes):
            reductions.setdefault(reduction.node, []).append(reduction)

    def rewrite(node: Node) -> Rewritten:
        masked = _Masked(survivors, node, editor)
        for reduction in reductions.get(node.index, ()):
            masked.apply(reduction)
        return [*masked.before, *masked.nodes], masked.tensors

    model = without_graph(graph.model)
    nest = Nest(survivors.coupling.facts, editor, rewrite)
    model.graph.node.extend(nest.nodes())
    write_stream(model, place_weights(model, graph, nest.outside()), path, graph.folder)


def _layer_axes(survivors: Survivors, use: Use, roles: Set[str]) -> Axes:
    """Only what layers contract is zeroed; scales, slopes and the like stay as they are."""
    is_float = survivors.coupling.graph.weights[use.weight].is_float
    return [
        survivors.kept(labels) if is_float and use.roles.get(axis) in roles else None
        for axis, labels in enumerate(use.labels)
    ]


def _neutral(kind: str, dtype: np.dtype) -> np.ndarray:
    """What a largest, a smallest or a product of numbers of a type does not notice."""
    if kind == "product" or dtype.kind not in "iub":
        return np.asarray(NEUTRAL[kind], dtype)
    if dtype.kind == "b":
        return np.asarray(kind == "min")
    limits = np.iinfo(dtype)
    return np.asarray(limits.min if kind == "max" else limits.max, dtype)


class _Masked:
    """One node of the masked original."""

    def __init__(self, survivors: Survivors, node: Node, editor: WeightEditor):
        self.survivors, self.node = survivors, node
        self.before: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.proto = onnx.NodeProto()
        self.proto.CopyFrom(node.proto)
        for slot in range(len(node.inputs)):
            if (node.index, slot) in editor.renamed:
                self.proto.input[slot] = editor.renamed[node.index, slot]
        self.nodes = [self.proto]
        #: Types of the masked input, and of the mask's arithmetic.
        self.kind = self.wide = int(onnx.TensorProto.FLOAT)
        self.dtype = np.dtype(np.float32)

    def apply(self, reduction: Reduction) -> None:
        labels = self.survivors.coupling.labels_at(reduction)
        facts = self.survivors.coupling.facts
        self.kind = facts.types[self.node.inputs[reduction.slot]]
        self.wide = WIDER.get(self.kind, self.kind)
        self.dtype = helper.tensor_dtype_to_np_dtype(self.wide)
        rank = len(labels)
        mask = np.ones([1] * rank, self.dtype)
        fraction = 1.0
        for axis in reduction.axes:
            kept = self.survivors.kept(labels[axis])
            if kept is not None:
                one = np.zeros(labels[axis].size, self.dtype)
                one[kept] = 1
                mask = mask * one.reshape([-1 if i == axis else 1 for i in range(rank)])
                fraction *= len(kept) / labels[axis].size
        if self.dtype.kind in "iu" and reduction.kind not in NEUTRAL:
            self._mask_integers(reduction, mask)
            return
        if reduction.kind in NEUTRAL:
            narrow = helper.tensor_dtype_to_np_dtype(self.kind)
            self._fill(reduction.slot, mask, _neutral(reduction.kind, narrow).astype(self.dtype))
            return
        name = self._tensor(f"mask_{reduction.slot}", mask)
        if reduction.kind in ("sum", "mean"):
            x = self._widened(reduction.slot)
            masked = self._add("Mul", x, name, tag=f"masked_{reduction.slot}")
            self.proto.input[reduction.slot] = self._narrowed(masked)
        if reduction.kind == "mean":
            self._rescale(1 / fraction)
        elif reduction.kind == "norm":
            self._normalise(list(reduction.axes), name, fraction, rank)
        elif reduction.kind == "groups":
            self._normalise_groups(name, fraction, rank)

    def _mask_integers(self, reduction: Reduction, mask: np.ndarray) -> None:
        """Integers that stand for zero are the zero point."""
        slot = reduction.zero
        zero = self._widened(slot) if slot is not None and self.node.input(slot) else ""
        self._fill(reduction.slot, mask, np.zeros((), self.dtype), zero)

    def _fill(self, slot: int, mask: np.ndarray, value: np.ndarray, given: str = "") -> None:
        """Replace what goes by a value, or by another input."""
        if self.dtype.kind == "b":
            # ONNX Runtime has no Where of booleans.
            op, mask = ("Or", mask == 0) if value else ("And", mask != 0)
            name = self._tensor(f"mask_{slot}", mask)
            self.proto.input[slot] = self._add(op, self.proto.input[slot], name, tag=f"masked_{slot}")
            return
        filling = given or self._tensor(f"filling_{slot}", value)
        condition = self._tensor(f"mask_{slot}", mask.astype(bool))
        masked = self._add("Where", condition, self._widened(slot), filling, tag=f"masked_{slot}")
        self.proto.input[slot] = self._narrowed(masked)

    def _rescale(self, factor: float) -> None:
        """Multiply the node's output: a mean over all, made one over the survivors."""
        output = self.proto.output[0]
        self.proto.output[0] = f"{output}/all"
        scale = self._tensor("survivors", np.asarray(factor, self.dtype))
        self.nodes.append(helper.make_node("Cast", [self.proto.output[0]], [f"{output}/wide"], to=self.wide))
        self.nodes.append(helper.make_node("Mul", [f"{output}/wide", scale], [f"{output}/scaled"]))
        self.nodes.append(self._given(f"{output}/scaled", output))

    def _normalise(self, axes: Sequence[int], mask: str, fraction: float, rank: int) -> None:
        """Replace a normalisation by its definition, with statistics over the survivors."""
        centred = self.node.op not in RMS
        self.proto.input[:] = [self._widened(slot) for slot in range(len(self.proto.input))]
        if self.node.op in (SKIP_NORM, SKIP_RMS):
            self._sum_first()
        samples = [0] if self.node.op == "BatchNormalization" else []
        y = self._standardise(self.proto.input[0], [*samples, *axes], mask, fraction, centred)
        self._affine(y, per_channel=self.node.op in ("InstanceNormalization", "BatchNormalization"), rank=rank)
        self._give_statistics()

    def _give_statistics(self) -> None:
        """Mean and inverse standard deviation over the survivors, as outputs of their own."""
        mean, deviation = STATISTICS.get(self.node.op, (None, None))
        for slot, tag in ((mean, "mean_kept"), (deviation, "deviation")):
            if slot is not None and slot < len(self.node.outputs) and self.node.outputs[slot]:
                value = f"{self.node.name}/masked/{tag}"
                if slot == deviation:
                    value = self._add("Reciprocal", value, tag="inverse")
                self.nodes.append(self._given(value, self.node.outputs[slot]))

    def _sum_first(self) -> None:
        """The sum that a Skip... normalisation takes in; its inputs become those of a plain one."""
        inputs = [*self.proto.input, "", "", ""]
        total = self._add("Add", inputs[0], inputs[1], tag="sum")
        beta, bias = (inputs[3], inputs[4]) if self.node.op == SKIP_NORM else ("", inputs[3])
        if bias:
            total = self._add("Add", total, bias, tag="sum_bias")
        del self.proto.input[:]
        self.proto.input.extend([total, inputs[2], beta])
        if len(self.node.outputs) > 3 and self.node.outputs[3]:
            self.before.append(self._given(total, self.node.outputs[3]))

    def _normalise_groups(self, mask: str, fraction: float, rank: int) -> None:
        """GroupNormalization whose groups lose channels (all the same number of them)."""
        groups = int(self.node.attributes["num_groups"])
        labels, _ = self.survivors.coupling.attributes[self.node.index]["num_groups"]
        if self.survivors.kept(labels) is not None:
            return  # whole groups go: the others' statistics do not change
        self.proto.input[:] = [self._widened(slot) for slot in range(len(self.proto.input))]
        x = self.proto.input[0]
        shape = self._add("Shape", x, tag="shape")
        grouped_shape = self._tensor("grouped", np.asarray([0, groups, -1], np.int64))
        ones = self._add("Expand", mask, shape, tag="mask_full")
        x3, m3 = (self._add("Reshape", v, grouped_shape, tag=t) for v, t in ((x, "x3"), (ones, "m3")))
        y3 = self._standardise(x3, [2], m3, fraction, True)
        self._affine(self._add("Reshape", y3, shape, tag="y"), per_channel=self.node.version >= 21, rank=rank)

    def _standardise(self, x: str, axes: Sequence[int], mask: str, fraction: float, centred: bool) -> str:
        default = 1e-12 if self.node.op in (SKIP_NORM, SKIP_RMS) else 1e-5
        epsilon = self._tensor("epsilon", np.asarray(self.node.attributes.get("epsilon", default), self.dtype))
        scale = self._tensor("survivors", np.asarray(1 / fraction, self.dtype))
        if centred:
            mean = self._mean(self._add("Mul", x, mask, tag="kept"), axes, "mean")
            mean = self._add("Mul", mean, scale, tag="mean_kept")
            x = self._add("Sub", x, mean, tag="centred")
        kept = self._add("Mul", x, mask, tag="centred_kept")
        square = self._add("Mul", kept, kept, tag="square")
        variance = self._add("Mul", self._mean(square, axes, "variance"), scale, tag="variance_kept")
        deviation = self._add("Sqrt", self._add("Add", variance, epsilon, tag="shifted"), tag="deviation")
        return self._add("Div", x, deviation, tag="normal")

    def _mean(self, x: str, axes: Sequence[int], tag: str) -> str:
        name = f"{self.node.name}/masked/{tag}"
        if self.survivors.coupling.graph.opsets.get("", 1) >= 18:
            node = helper.make_node("ReduceMean", [x, self._tensor(f"{tag}_axes", np.asarray(axes, np.int64))], [name])
        else:
            node = helper.make_node("ReduceMean", [x], [name], axes=list(axes))
        self.before.append(node)
        return name

    def _affine(self, y: str, *, per_channel: bool, rank: int) -> None:
        """Scale and shift, ending in the node's own output; replaces the node."""
        inputs = list(self.proto.input)[1:3]
        if per_channel:
            inputs = [self._per_channel(name, rank) for name in inputs]
        elif self.node.op == "GroupNormalization":
            inputs = [self._per_group(name, rank) for name in inputs]
        steps = [(op, name) for op, name in zip(("Mul", "Add"), inputs, strict=False) if name]
        self.nodes = []
        for op, name in steps:
            y = self._add(op, y, name, tag=f"affine_{op}")
        self.nodes = [self._given(y, self.node.outputs[0])]

    def _per_channel(self, name: str, rank: int) -> str:
        shape = self._tensor("per_channel", np.asarray([-1] + [1] * (rank - 2), np.int64))
        return self._add("Reshape", name, shape, tag=f"channel_{name}")

    def _per_group(self, name: str, rank: int) -> str:
        """One value a group, repeated over the group's channels."""
        channels = self.survivors.coupling.facts.shapes[self.node.inputs[0]][1]
        groups = int(self.node.attributes["num_groups"])
        index = self._tensor("group_of", np.repeat(np.arange(groups), channels // groups))
        return self._per_channel(self._add("Gather", name, index, tag=f"group_{name}"), rank)

    def _widened(self, slot: int) -> str:
        """An input, in the type that the mask computes in."""
        x = self.proto.input[slot]
        kind = self.survivors.coupling.facts.types.get(self.node.inputs[slot], self.kind)
        return self._add("Cast", x, tag=f"wide_{slot}", to=self.wide) if x and self.wide != kind else x

    def _narrowed(self, x: str) -> str:
        return self._add("Cast", x, tag=f"narrow_{x}", to=self.kind) if self.wide != self.kind else x

    def _given(self, value: str, output: str) -> onnx.NodeProto:
        """The node that gives a value as an output of the original, in that output's type."""
        kind = self.survivors.coupling.facts.types.get(output, self.kind)
        return helper.make_node("Cast", [value], [output], to=kind)

    def _add(self, op: str, *inputs: str, tag: str, **attributes: Any) -> str:
        name = f"{self.node.name}/masked/{tag}"
        self.before.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def _tensor(self, tag: str, value: np.ndarray) -> str:
        name = f"{self.node.name}/masked/{tag}"
        self.tensors.append(numpy_helper.from_array(value, name))
        return name
