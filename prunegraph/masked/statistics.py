"""Nodes of the masked original: sums, means and normalisations over the survivors only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.coupling.coupling import Reduction
from prunegraph.coupling.survivors import Survivors
from prunegraph.graph.model import Node
from prunegraph.labels.blocks import Blocks
from prunegraph.masked.blocks import Origin, mask_of, origins, staying

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

#: Types that ONNX Runtime computes with in few operators, and (in some releases) not in those of a
#: mask: these compute in another that holds all of their values.
WIDER: dict[int, int] = {
    onnx.TensorProto.BFLOAT16: onnx.TensorProto.FLOAT,
    **dict.fromkeys(
        (onnx.TensorProto.INT8, onnx.TensorProto.INT16, onnx.TensorProto.UINT16),
        onnx.TensorProto.INT32,
    ),
    onnx.TensorProto.UINT32: onnx.TensorProto.INT64,
}


def neutral(kind: str, dtype: np.dtype) -> np.ndarray:
    """The number that a largest, a smallest or a product of numbers of a type does not notice."""
    if kind == "product" or dtype.kind not in "iub":
        return np.asarray(NEUTRAL[kind], dtype)
    if dtype.kind == "b":
        return np.asarray(kind == "min")
    limits = np.iinfo(dtype)
    return np.asarray(limits.min if kind == "max" else limits.max, dtype)


class Masking:
    """One node of the masked original.

    Args:
        survivors: what is left of every value.
        node: the node as the analysis knows it.
        proto: its copy in the masked original, edited in place; its names are the file's.
        fresh: gives a name that nothing has.

    `before` are nodes that go in front, `nodes` what the node itself becomes, `tensors` what these read.
    """

    def __init__(
        self,
        survivors: Survivors,
        node: Node,
        proto: onnx.NodeProto,
        fresh: Callable[[], str],
    ):
        self.survivors, self.node, self.proto, self.fresh = survivors, node, proto, fresh
        self.before: list[onnx.NodeProto] = []
        self.nodes: list[onnx.NodeProto] = [proto]
        self.tensors: list[onnx.TensorProto] = []
        #: Types of the masked input, and of the mask's arithmetic.
        self.kind = self.wide = int(onnx.TensorProto.FLOAT)
        self.dtype = np.dtype(np.float32)

    def apply(self, reduction: Reduction) -> None:
        """Let one reduction of the node be over the survivors."""
        self.kind = self.survivors.coupling.shape_info.types[
            self.node.inputs[reduction.slot]
        ]
        self.wide = WIDER.get(self.kind, self.kind)
        self.dtype = helper.tensor_dtype_to_np_dtype(self.wide)
        mask, fraction = self._mask(reduction)
        rank = len(self.survivors.coupling.labels_at(reduction))
        if self.dtype.kind in "iu" and reduction.kind not in NEUTRAL:
            self._mask_integers(reduction, mask)
            return
        if reduction.kind in NEUTRAL:
            narrow = helper.tensor_dtype_to_np_dtype(self.kind)
            self._fill(
                reduction.slot, mask, neutral(reduction.kind, narrow).astype(self.dtype)
            )
            return
        if reduction.kind in ("sum", "mean"):
            masked = self._add("Mul", self._widened(reduction.slot), mask)
            self.proto.input[reduction.slot] = self._narrowed(masked)
        if reduction.kind == "mean":
            self._rescale(1 / fraction)
        elif reduction.kind == "norm":
            self._normalise(list(reduction.axes), mask, fraction, rank)
        elif reduction.kind == "groups":
            self._normalise_groups(mask, fraction, rank)

    def zero(self, slot: int) -> None:
        """Let the node read zeros of its input's shape at a slot."""
        kind = self.survivors.coupling.shape_info.types[self.node.inputs[slot]]
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        self.proto.input[slot] = self._add(
            "Mul", self.proto.input[slot], self._tensor(np.zeros((), dtype))
        )

    def _mask(self, reduction: Reduction) -> tuple[str, float]:
        """Ones for what stays, broadcast against the input; and the share of elements that stays."""
        labels = self.survivors.coupling.labels_at(reduction)
        mask, fraction, others = np.ones([1] * len(labels), self.dtype), 1.0, []
        for axis in reduction.axes:
            blocks = self.survivors.coupling.channels.blocks_of(labels[axis])
            if blocks is not None:
                name, share = self._blocks_mask(blocks, reduction)
                others.append(name)
                fraction *= share
                continue
            kept = self.survivors.kept(labels[axis])
            if kept is not None:
                one = np.zeros(labels[axis].size, self.dtype)
                one[kept] = 1
                mask = mask * one.reshape(
                    [-1 if i == axis else 1 for i in range(len(labels))]
                )
                fraction *= len(kept) / labels[axis].size
        if not others or mask.size > 1:
            others.append(self._tensor(mask))
        both = "And" if self.dtype.kind == "b" else "Mul"
        return reduce(lambda a, b: self._add(both, a, b), others), fraction

    def _blocks_mask(self, blocks: Blocks, reduction: Reduction) -> tuple[str, float]:
        """Ones for what stays of blocks that lose channels of their own, and the share of each block that stays."""
        coupling = self.survivors.coupling
        own = Origin(self.node.inputs[reduction.slot])
        places = origins(coupling, own.value) if self.node.subgraph is None else [own]
        for place in places:
            axes = coupling.value_labels(place.value, reduction.node, reduction.slot) or ()
            mask = mask_of(self.survivors, blocks, axes, self.dtype)
            if mask is not None:
                share = float(staying(self.survivors, blocks).mean(axis=1).min())
                return self._moved(self._tensor(mask), place), share
        raise AssertionError("an axis with the channels of a block has blocks beside it")

    def _moved(self, mask: str, place: Origin) -> str:
        """A mask of an earlier value, moved as that is."""
        if place.moves:
            mask = self._add("Expand", mask, self._add("Shape", place.value))
        for node in place.moves:
            copy = onnx.NodeProto()
            copy.CopyFrom(node.proto)
            copy.name = copy.output[0] = self.fresh()
            copy.input[0] = mask
            self.before.append(copy)
            mask = copy.output[0]
        return mask

    def _mask_integers(self, reduction: Reduction, mask: str) -> None:
        """Integers that stand for zero are the zero point."""
        slot = reduction.zero
        zero = self._widened(slot) if slot is not None and self.node.input(slot) else ""
        self._fill(reduction.slot, mask, np.zeros((), self.dtype), zero)

    def _fill(self, slot: int, mask: str, value: np.ndarray, given: str = "") -> None:
        """Replace what goes by a value, or by another input."""
        if self.dtype.kind == "b":
            # ONNX Runtime has no Where of booleans.
            op, mask = ("Or", self._add("Not", mask)) if value else ("And", mask)
            self.proto.input[slot] = self._add(op, self.proto.input[slot], mask)
            return
        filling = given or self._tensor(value)
        stays = self._add("Cast", mask, to=onnx.TensorProto.BOOL)
        masked = self._add("Where", stays, self._widened(slot), filling)
        self.proto.input[slot] = self._narrowed(masked)

    def _rescale(self, factor: float) -> None:
        """Multiply the node's output: a mean over all, made one over the survivors."""
        output = self.proto.output[0]
        whole, wide, scaled = self.fresh(), self.fresh(), self.fresh()
        self.proto.output[0] = whole
        self.nodes.append(helper.make_node("Cast", [whole], [wide], to=self.wide))
        self.nodes.append(
            helper.make_node(
                "Mul", [wide, self._tensor(np.asarray(factor, self.dtype))], [scaled]
            )
        )
        self.nodes.append(self._given(scaled, 0, output))

    def _normalise(
        self, axes: Sequence[int], mask: str, fraction: float, rank: int
    ) -> None:
        """Replace a normalisation by its definition, with statistics over the survivors."""
        self.proto.input[:] = [self._widened(slot) for slot in range(len(self.proto.input))]
        if self.node.op in (SKIP_NORM, SKIP_RMS):
            self._sum_first()
        samples = [0] if self.node.op == "BatchNormalization" else []
        y, mean, deviation = self._standardise(
            self.proto.input[0], [*samples, *axes], mask, fraction, self.node.op not in RMS
        )
        self._affine(
            y,
            per_channel=self.node.op in ("InstanceNormalization", "BatchNormalization"),
            rank=rank,
        )
        self._give_statistics(mean, deviation)

    def _give_statistics(self, mean: str, deviation: str) -> None:
        """Mean and inverse standard deviation over the survivors, as outputs of their own."""
        mean_slot, deviation_slot = STATISTICS.get(self.node.op, (None, None))
        if mean_slot is not None and self._has_output(mean_slot):
            self.nodes.append(self._given(mean, mean_slot))
        if deviation_slot is not None and self._has_output(deviation_slot):
            self.nodes.append(
                self._given(self._add("Reciprocal", deviation), deviation_slot)
            )

    def _has_output(self, slot: int) -> bool:
        return slot < len(self.proto.output) and bool(self.proto.output[slot])

    def _sum_first(self) -> None:
        """The sum that a Skip... normalisation takes in; its inputs become those of a plain one."""
        inputs = [*self.proto.input, "", "", ""]
        total = self._add("Add", inputs[0], inputs[1])
        beta, bias = (
            (inputs[3], inputs[4]) if self.node.op == SKIP_NORM else ("", inputs[3])
        )
        if bias:
            total = self._add("Add", total, bias)
        del self.proto.input[:]
        self.proto.input.extend([total, inputs[2], beta])
        if self._has_output(3):
            self.before.append(self._given(total, 3))

    def _normalise_groups(self, mask: str, fraction: float, rank: int) -> None:
        """GroupNormalization whose groups lose channels (all the same number of them)."""
        groups = int(self.node.attributes["num_groups"])
        labels, _ = self.survivors.coupling.attributes[self.node.index]["num_groups"]
        if self.survivors.kept(labels) is not None:
            return  # whole groups go: the others' statistics do not change
        self.proto.input[:] = [self._widened(slot) for slot in range(len(self.proto.input))]
        x = self.proto.input[0]
        shape = self._add("Shape", x)
        grouped = self._tensor(np.asarray([0, groups, -1], np.int64))
        ones = self._add("Expand", mask, shape)
        x3, m3 = (self._add("Reshape", value, grouped) for value in (x, ones))
        y3, _, _ = self._standardise(x3, [2], m3, fraction, True)
        self._affine(
            self._add("Reshape", y3, shape), per_channel=self.node.version >= 21, rank=rank
        )

    def _standardise(
        self, x: str, axes: Sequence[int], mask: str, fraction: float, centred: bool
    ) -> tuple[str, str, str]:
        """A value minus its mean, over its standard deviation; also the mean ("" without one) and the deviation."""
        default = 1e-12 if self.node.op in (SKIP_NORM, SKIP_RMS) else 1e-5
        epsilon = self._tensor(
            np.asarray(self.node.attributes.get("epsilon", default), self.dtype)
        )
        scale = self._tensor(np.asarray(1 / fraction, self.dtype))
        mean = ""
        if centred:
            mean = self._add("Mul", self._mean(self._add("Mul", x, mask), axes), scale)
            x = self._add("Sub", x, mean)
        kept = self._add("Mul", x, mask)
        variance = self._add("Mul", self._mean(self._add("Mul", kept, kept), axes), scale)
        deviation = self._add("Sqrt", self._add("Add", variance, epsilon))
        return self._add("Div", x, deviation), mean, deviation

    def _mean(self, x: str, axes: Sequence[int]) -> str:
        if self.survivors.coupling.graph.opsets.get("", 1) >= 18:
            return self._add("ReduceMean", x, self._tensor(np.asarray(axes, np.int64)))
        return self._add("ReduceMean", x, axes=list(axes))

    def _affine(self, y: str, *, per_channel: bool, rank: int) -> None:
        """Scale and shift, ending in the node's own output; replaces the node."""
        inputs = list(self.proto.input)[1:3]
        if per_channel:
            inputs = [self._per_channel(name, rank) for name in inputs]
        elif self.node.op == "GroupNormalization":
            inputs = [self._per_group(name, rank) for name in inputs]
        for op, name in zip(("Mul", "Add"), inputs, strict=False):
            if name:
                y = self._add(op, y, name)
        self.nodes = [self._given(y, 0)]

    def _per_channel(self, name: str, rank: int) -> str:
        return self._add(
            "Reshape", name, self._tensor(np.asarray([-1] + [1] * (rank - 2), np.int64))
        )

    def _per_group(self, name: str, rank: int) -> str:
        """One value a group, repeated over the group's channels."""
        channels = self.survivors.coupling.shape_info.shapes[self.node.inputs[0]][1]
        groups = int(self.node.attributes["num_groups"])
        index = self._tensor(np.repeat(np.arange(groups), channels // groups))
        return self._per_channel(self._add("Gather", name, index), rank)

    def _widened(self, slot: int) -> str:
        """An input, in the type that the mask computes in."""
        x = self.proto.input[slot]
        kind = self.survivors.coupling.shape_info.types.get(
            self.node.inputs[slot], self.kind
        )
        return self._add("Cast", x, to=self.wide) if x and self.wide != kind else x

    def _narrowed(self, x: str) -> str:
        return self._add("Cast", x, to=self.kind) if self.wide != self.kind else x

    def _given(self, value: str, slot: int, output: str = "") -> onnx.NodeProto:
        """The node that gives a value as an output of the original, in that output's type."""
        kind = self.survivors.coupling.shape_info.types.get(
            self.node.outputs[slot], self.kind
        )
        return helper.make_node(
            "Cast", [value], [output or self.proto.output[slot]], to=kind
        )

    def _add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = self.fresh()
        self.before.append(
            helper.make_node(op, list(inputs), [name], name=name, **attributes)
        )
        return name

    def _tensor(self, value: np.ndarray) -> str:
        name = self.fresh()
        self.tensors.append(numpy_helper.from_array(value, name))
        return name
