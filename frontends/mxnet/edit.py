"""Which attributes of a symbol change with a plan, read off the pruned ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.errors import ModelError
from prunegraph.frontends.mxnet.check import shapes_of
from prunegraph.frontends.mxnet.conversion import Converted
from prunegraph.frontends.mxnet.operators import label
from prunegraph.frontends.mxnet.operators.shape import walk
from prunegraph.frontends.mxnet.symbol import Symbol, SymbolNode
from prunegraph.frontends.mxnet.values import parse, whole, wholes

RECURRENT = ("LSTM", "GRU", "RNN")


class Pruned:
    """The pruned ONNX model: nodes by the MXNet node they belong to, constants, shapes."""

    def __init__(
        self,
        model: onnx.ModelProto,
        shapes: Mapping[str, tuple[int | None, ...]] | None = None,
    ):
        self.model = model
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.shapes = shapes_of(model) if shapes is None else shapes

    def nodes(self, name: str, *ops: str) -> list[onnx.NodeProto]:
        """ONNX nodes of an MXNet node, of these operators."""
        return [
            node
            for node in self.model.graph.node
            if node.op_type in ops
            and (node.name == name or node.name.startswith(f"{name}/"))
        ]

    def attribute(self, node: onnx.NodeProto, name: str, default: Any = None) -> Any:
        match = next((item for item in node.attribute if item.name == name), None)
        return default if match is None else helper.get_attribute_value(match)

    def constant(self, name: str) -> np.ndarray | None:
        return (
            numpy_helper.to_array(self.constants[name]) if name in self.constants else None
        )


@dataclass(frozen=True)
class Change:
    """A node, and where to look for what it becomes."""

    symbol: Symbol
    index: int
    converted: Converted
    pruned: Pruned
    params: Mapping[str, np.ndarray]

    @property
    def node(self) -> SymbolNode:
        return self.symbol.nodes[self.index]

    def fail(self, why: str) -> NoReturn:
        raise ModelError(f"{label(self.node)} cannot be pruned in MXNet's files: {why}")

    def weight(self, position: int) -> tuple[int, ...]:
        """The new shape of a parameter at an input."""
        variable = self.symbol.nodes[self.node.inputs[position].node]
        if not variable.is_variable or variable.name not in self.params:
            self.fail("its weight is no parameter")
        return self.params[variable.name].shape

    def only(self, *ops: str) -> onnx.NodeProto | None:
        """Its ONNX node of these operators, if there is one."""
        result = self.pruned.nodes(self.node.name, *ops)
        return result[0] if len(result) == 1 else None

    def old(self, position: int) -> tuple[int | None, ...]:
        source = self.node.inputs[position]
        return self.converted.shapes[
            f"{self.symbol.nodes[source.node].name}:{source.output}"
        ]

    def was(self) -> tuple[int | None, ...]:
        return self.converted.shapes[f"{self.node.name}:0"]

    def becomes(self) -> tuple[int | None, ...]:
        """The new shape of its first output."""
        for name in (f"{self.node.name}_output", f"{self.node.name}_output0"):
            if name in self.pruned.shapes:
                return self.pruned.shapes[name]
        return self.was()

    def integers(self, name: str) -> tuple[int, ...]:
        return (
            wholes(parse(self.node.attributes[name]))
            if name in self.node.attributes
            else ()
        )


def edits(
    symbol: Symbol, converted: Converted, pruned: Pruned, params: Mapping[str, np.ndarray]
) -> dict[int, dict[str, str]]:
    """New attributes by the position of a node. Raises ModelError for what an operator cannot say."""
    result: dict[int, dict[str, str]] = {}
    for index, node in enumerate(symbol.nodes):
        if node.is_variable:
            if "__shape__" in node.attributes and node.name in params:
                result[index] = {"__shape__": str(params[node.name].shape)}
            continue
        change = EDITORS.get(node.op)
        if change is not None:
            for where, attributes in change(
                Change(symbol, index, converted, pruned, params)
            ).items():
                result.setdefault(where, {}).update(attributes)
    return {
        where: _changed(symbol.nodes[where], attributes)
        for where, attributes in result.items()
    }


def _changed(node: SymbolNode, attributes: Mapping[str, str]) -> dict[str, str]:
    """The attributes that say something else than before."""
    return {
        name: value
        for name, value in attributes.items()
        if name not in node.attributes or parse(node.attributes[name]) != parse(value)
    }


Edit = dict[int, dict[str, str]]


def _convolution(change: Change) -> Edit:
    node = change.only("Conv", "ConvTranspose")
    if node is None:
        change.fail("the pruned model has no convolution of its name")
    groups = change.pruned.attribute(node, "group", 1)
    shape = change.weight(1)
    filters = shape[1] * groups if node.op_type == "ConvTranspose" else shape[0]
    result = {"num_filter": str(filters)}
    if groups != 1 or "num_group" in change.node.attributes:
        result["num_group"] = str(groups)
    return {change.index: result}


def _upsampling(change: Change) -> Edit:
    node = change.only("ConvTranspose")
    return (
        {change.index: {"num_filter": str(change.pruned.attribute(node, "group", 1))}}
        if node is not None
        else {}
    )


def _fully_connected(change: Change) -> Edit:
    return {change.index: {"num_hidden": str(change.weight(1)[0])}}


def _embedding(change: Change) -> Edit:
    rows, columns = change.weight(1)
    return {change.index: {"input_dim": str(rows), "output_dim": str(columns)}}


def _group_norm(change: Change) -> Edit:
    node = change.only("InstanceNormalization")
    scale = change.pruned.constant(node.input[1]) if node is not None else None
    if scale is None:
        change.fail("the pruned model has no normalisation of its name")
    return {change.index: {"num_groups": str(scale.size)}}


def _rnn(change: Change) -> Edit:
    """One size for all layers; initial states of zeros follow it."""
    nodes = change.pruned.nodes(change.node.name, *RECURRENT)
    sizes = {change.pruned.attribute(node, "hidden_size") for node in nodes}
    if len(sizes) != 1:
        change.fail(
            f"its layers keep different numbers of units ({sorted(sizes)}), and it has one state_size"
        )
    size = str(next(iter(sizes)))
    result: Edit = {change.index: {"state_size": size}}
    for source in change.node.inputs[2:4]:
        state = change.symbol.nodes[source.node]
        if state.op == "_zeros":
            shape = [*wholes(parse(state.attributes["shape"]))[:-1], int(size)]
            result[source.node] = {"shape": _tuple(shape)}
    return result


def zero_states(
    symbol: Symbol,
    changes: Mapping[int, Mapping[str, str]],
    params: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Initial states of zeros among the parameters, which the ONNX model leaves out, in their new size."""
    result = {}
    for index, node in enumerate(symbol.nodes):
        size = changes.get(index, {}).get("state_size")
        for source in node.inputs[2:4] if node.op == "RNN" and size else ():
            state = symbol.nodes[source.node]
            array = params.get(state.name) if state.is_variable else None
            if array is not None and not array.any():
                result[state.name] = array[..., : int(size or 0)].copy()
    return result


def _filled(change: Change) -> Edit:
    """A constant, whose shape the plan cuts as it cuts a weight; unknown sizes stay unknown."""
    pruned = change.pruned.constant(change.node.name)
    if pruned is None:
        return {}
    shape = change.integers("shape")
    return {
        change.index: {
            "shape": _tuple(
                [
                    new if old > 0 else old
                    for old, new in zip(shape, pruned.shape, strict=True)
                ]
            )
        }
    }


def _reshape(change: Change) -> Edit:
    """Sizes written as numbers."""
    was, becomes = change.was(), change.becomes()
    codes = list(change.integers("shape"))
    name = "shape" if codes else "target_shape"
    codes = codes or list(change.integers(name))
    if was == becomes or not any(code > 0 for code in codes):
        return {}
    if len(was) != len(becomes):
        change.fail(f"its result of shape {was} has another rank, {becomes}")
    if change.node.attributes.get("reverse", "0") in ("1", "True"):
        change.fail("a reversed shape has sizes that change")
    dims = walk(codes, change.old(0)) if name == "shape" else [None] * len(codes)
    for k, dim in enumerate(dims):
        at = dim.code if dim is not None else k
        new = becomes[k]
        if codes[at] > 0 and was[k] != new:
            if new is None:
                change.fail(f"the new size of axis {k} is not known")
            codes[at] = new
    return {change.index: {name: _tuple(codes)}}


def _squeeze(change: Change) -> Edit:
    """Without axes all of size 1 go; one that the plan leaves with one channel has to stay."""
    remaining = any(
        old != 1 == new for old, new in zip(change.was(), change.becomes(), strict=True)
    )
    if not remaining or change.node.attributes.get("axis", "None") != "None":
        return {}
    return {
        change.index: {
            "axis": _tuple([axis for axis, size in enumerate(change.old(0)) if size == 1])
        }
    }


def _broadcast(change: Change) -> Edit:
    sizes = [
        new if old > 0 else old
        for old, new in zip(change.integers("shape"), change.becomes(), strict=True)
    ]
    return {change.index: {"shape": _tuple(sizes)}} if None not in sizes else {}


def _slice_axis(change: Change) -> Edit:
    starts, ends, axes = _bounds(change)
    if not axes or not _moved(change):
        return {}
    end = "None" if ends[0] >= np.iinfo(np.int64).max else str(ends[0])
    return {change.index: {"begin": str(starts[0]), "end": end}}


def _slice(change: Change) -> Edit:
    starts, ends, axes = _bounds(change)
    if not axes or not _moved(change):
        return {}
    begin, end = (list(_items(change.node.attributes[name])) for name in ("begin", "end"))
    for start, stop, axis in zip(starts, ends, axes, strict=True):
        begin[axis] = start if begin[axis] is not None else None
        end[axis] = stop if end[axis] is not None else None
    return {change.index: {"begin": _tuple(begin), "end": _tuple(end)}}


def _items(text: str) -> Sequence[int | None]:
    value = parse(text)
    return [
        None if item is None else whole(item)
        for item in (value if isinstance(value, tuple) else (value,))
    ]


def _bounds(change: Change) -> tuple[list[int], list[int], list[int]]:
    """Starts, ends and axes of the pruned model's slice; nothing where all is taken."""
    node = change.only("Slice")
    if node is None:
        return [], [], []
    parts = [change.pruned.constant(name) for name in node.input[1:4]]
    if len(parts) != 3 or any(part is None for part in parts):
        change.fail("the pruned model's slice has no constant bounds")
    starts, ends, axes = (part.tolist() for part in parts if part is not None)
    return starts, ends, axes


def _moved(change: Change) -> bool:
    """Tell whether the bounds in the pruned model are others than before."""
    before = Pruned(change.converted.model, shapes={})
    old, new = (
        before.nodes(change.node.name, "Slice"),
        change.pruned.nodes(change.node.name, "Slice"),
    )
    bounds = [
        [model.constant(name) for node in nodes for name in node.input[1:3]]
        for model, nodes in ((before, old), (change.pruned, new))
    ]
    return len(bounds[0]) != len(bounds[1]) or any(
        a is None or b is None or not np.array_equal(a, b)
        for a, b in zip(*bounds, strict=True)
    )


def _split(change: Change) -> Edit:
    """Parts of equal size stay so; others need the operator that takes indices."""
    node = change.only("Split")
    sizes = (
        change.pruned.constant(node.input[1])
        if node is not None and len(node.input) > 1
        else None
    )
    if node is None or sizes is None:
        return {}
    if change.node.op == "_split_v2":
        starts = np.cumsum([0, *sizes[:-1].tolist()]).tolist()
        return {change.index: {"indices": _tuple(starts), "sections": "0"}}
    if len(set(sizes.tolist())) > 1:
        change.fail(
            f"its parts keep {sizes.tolist()} channels, and it makes parts of one size"
        )
    return {}


def _tuple(items: Sequence[int | None]) -> str:
    return f"({', '.join(map(str, items))}{',' if len(items) == 1 else ''})"


EDITORS: dict[str, Callable[[Change], Edit]] = {
    **dict.fromkeys(("Convolution", "Convolution_v1", "Deconvolution"), _convolution),
    "FullyConnected": _fully_connected,
    **dict.fromkeys(("Embedding", "_contrib_SparseEmbedding"), _embedding),
    "UpSampling": _upsampling,
    "GroupNorm": _group_norm,
    "RNN": _rnn,
    **dict.fromkeys(("_zeros", "_ones", "_full"), _filled),
    "Reshape": _reshape,
    "squeeze": _squeeze,
    "broadcast_to": _broadcast,
    "slice_axis": _slice_axis,
    "slice": _slice,
    **dict.fromkeys(("SliceChannel", "_split_v2"), _split),
}
