"""How nodes are written in newer operator sets of ONNX: operator by operator, version by version.

Most versions of an operator only take more types or have new attributes whose defaults are what was before; that can be
read off the operators' schemas. Where one says something else, a step of `STEPS` rewrites the node. A change that is
neither is not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from prunegraph.graph.names import Names

Array = np.ndarray

STANDARD = ("", "ai.onnx")


class UnknownChangeError(Exception):
    """A node means something in the newer operator set that is not known to be the same."""


@dataclass
class Upgrade:
    """What is known of a graph while its nodes are rewritten, and what is added to it.

    Args:
        names: gives fresh names.
        shapes: of values, where they are known.
        types: of values, where they are known.
        constants: values of constants by name; None for what is none.
        read: all values that anything reads, graph outputs included.
    """

    names: Names
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, int]
    constants: Callable[[str], Array | None]
    read: Collection[str]
    tensors: list[onnx.TensorProto] = field(default_factory=list)

    def inside(self) -> Upgrade:
        """The same for a subgraph, of whose values nothing is known (others may have its names)."""
        return replace(self, shapes={}, types={}, constants=lambda name: None)

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """The name of a new initializer; subgraphs read those of the main graph."""
        name = self.names.numbered("opset/c")
        self.tensors.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def value(self, name: str) -> Array | None:
        """The value of a constant, also of one that was added; None for what is none."""
        added = next((tensor for tensor in self.tensors if tensor.name == name), None)
        return self.constants(name) if added is None else numpy_helper.to_array(added)

    def like(self, value: float, other: str) -> str:
        """A scalar of the type of another value."""
        dtype = helper.tensor_dtype_to_np_dtype(
            self.types.get(other, onnx.TensorProto.FLOAT)
        )
        return self.constant(value, dtype)

    def run(self, node: onnx.NodeProto, old: int, new: int) -> list[onnx.NodeProto]:
        """The nodes in a node's place. Raises UnknownChangeError."""
        if node.op_type not in _history():
            raise UnknownChangeError(f"{node.op_type} is no operator of ONNX")
        before, after = [], [node]
        for version in _versions(node.op_type, old, new):
            step = STEPS.get((node.op_type, version))
            if step is not None:
                first, last = step(self, node)
                before += first
                after += last
            elif (reason := _difference(node.op_type, version)) is not None:
                raise UnknownChangeError(
                    f"{node.op_type} of operator set {version} {reason}"
                )
        return [*before, *after]


#: Nodes before and behind a node that has been rewritten.
Around = tuple[list[onnx.NodeProto], list[onnx.NodeProto]]
UpgradeStep = Callable[[Upgrade, onnx.NodeProto], Around]

STEPS: dict[tuple[str, int], UpgradeStep] = {}

NOTHING: Around = ([], [])


def step(version: int, *ops: str) -> Callable[[UpgradeStep], UpgradeStep]:
    """Register how operators are rewritten for a version of theirs."""

    def register(function: UpgradeStep) -> UpgradeStep:
        STEPS.update({(op, version): function for op in ops})
        return function

    return register


# -- schemas --------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _history() -> dict[str, dict[int, defs.OpSchema]]:
    """Schemas by operator and the operator set that brought them."""
    history: dict[str, dict[int, defs.OpSchema]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain in STANDARD:
            history.setdefault(schema.name, {})[schema.since_version] = schema
    return history


def _versions(op: str, old: int, new: int) -> Iterator[int]:
    """Versions of an operator that a node passes; of one that is deprecated, its successor's from there on."""
    while True:
        known = sorted(_history().get(op, {}))
        ahead = [version for version in known if old < version <= new]
        successor = {"Upsample": ("Resize", 10), "Scatter": ("ScatterElements", 11)}.get(op)
        yield from (
            version for version in ahead if successor is None or version <= successor[1]
        )
        if successor is None or new < successor[1]:
            return
        op, old = successor[0], successor[1]


def _difference(op: str, version: int) -> str | None:
    """In what an operator's version differs from the one before so that a node may mean something else, or None."""
    history = _history()[op]
    before = max((each for each in history if each < version), default=0)
    if not before or history[version].deprecated:
        return "is deprecated" if history[version].deprecated else "is new"
    old, new = history[before], history[version]
    for name, attribute in old.attributes.items():
        other = new.attributes.get(name)
        if (
            other is None
            or other.type != attribute.type
            or other.default_value != attribute.default_value
        ):
            return f"has another attribute {name!r}"
    added = [each for name, each in new.attributes.items() if name not in old.attributes]
    if any(each.required for each in added):
        return "has a new attribute that is required"
    for one, two in ((old.inputs, new.inputs), (old.outputs, new.outputs)):
        options = [(a.option, b.option) for a, b in zip(one, two, strict=False)]
        optional = defs.OpSchema.FormalParameterOption.Optional
        if len(two) < len(one) or any(a != b and b != optional for a, b in options):
            return "has other inputs or outputs"
        if any(each.option != optional for each in two[len(one) :]):
            return "has a new input or output that is required"
    return None


# -- steps ----------------------------------------------------------------------------------


def _taken(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value; the node has it no more."""
    for attribute in node.attribute:
        if attribute.name == name:
            value = helper.get_attribute_value(attribute)
            node.attribute.remove(attribute)
            return value
    return default


def _given(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    return next(
        (helper.get_attribute_value(each) for each in node.attribute if each.name == name),
        default,
    )


def _set(node: onnx.NodeProto, **attributes: Any) -> None:
    for name, value in attributes.items():
        _taken(node, name)
        node.attribute.append(helper.make_attribute(name, value))


def _put(node: onnx.NodeProto, slot: int, value: str) -> None:
    """Let a node read a value at a slot."""
    while len(node.input) <= slot:
        node.input.append("")
    node.input[slot] = value


@step(13, "Squeeze", "Unsqueeze", "ReduceSum")
@step(
    18,
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)
def _axes(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    axes = _taken(node, "axes")
    if axes is not None:
        _put(node, 1, upgrade.constant(axes))
    return NOTHING


@step(13, "Split")
def _split(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    sizes = _taken(node, "split")
    if sizes is not None:
        _put(node, 1, upgrade.constant(sizes))
    return NOTHING


@step(18, "Split")
def _split_evenly(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    if len(node.input) < 2 or not node.input[1]:
        _set(node, num_outputs=len(node.output))
    return NOTHING


@step(11, "Clip")
def _clip(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    for slot, name in ((1, "min"), (2, "max")):
        bound = _taken(node, name)
        if bound is not None:
            _put(node, slot, upgrade.like(bound, node.input[0]))
    return NOTHING


@step(11, "Pad")
def _pad(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    _put(node, 1, upgrade.constant(_taken(node, "pads")))
    value = _taken(node, "value", 0.0)
    if value:
        _put(node, 2, upgrade.like(value, node.input[0]))
    return NOTHING


@step(10, "Slice")
def _slice(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    starts, ends, axes = (_taken(node, name) for name in ("starts", "ends", "axes"))
    axes = list(range(len(starts))) if axes is None else axes
    for slot, values in enumerate((starts, ends, axes), 1):
        _put(node, slot, upgrade.constant(values))
    return NOTHING


@step(10, "TopK")
def _top(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    _put(node, 1, upgrade.constant([_taken(node, "k")]))
    return NOTHING


@step(9, "Upsample")
def _upsample(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    _put(node, 1, upgrade.constant(_taken(node, "scales"), np.float32))
    return NOTHING


@step(10, "Upsample")
def _resize_of_upsample(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    node.op_type = "Resize"
    mode = _given(node, "mode", b"nearest")
    if mode == b"bilinear":
        _set(node, mode="linear")
    return NOTHING


@step(11, "Resize")
def _resize(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    """Until there, coordinates are those of the corners; of the nearest ones, the lower, or the upper in shrinking."""
    scales = upgrade.value(node.input[1])
    nearest = _given(node, "mode", b"nearest") == b"nearest"
    shrinks = scales is not None and bool((scales < 1).any())
    if nearest and scales is None:
        raise UnknownChangeError("a Resize of operator set 10 whose scales are computed")
    if nearest and scales is not None and shrinks and bool((scales > 1).any()):
        raise UnknownChangeError(
            "a Resize of operator set 10 that makes one axis larger and another one smaller"
        )
    _set(node, coordinate_transformation_mode="asymmetric")
    if nearest:
        _set(node, nearest_mode="ceil" if shrinks else "floor")
    _put(node, 2, node.input[1])
    node.input[1] = upgrade.constant([], np.float32)
    return NOTHING


@step(13, "Softmax", "LogSoftmax", "Hardmax")
def _softmax(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    """Until there, all axes from the one that is named on are one."""
    axis, shape = _taken(node, "axis", 1), upgrade.shapes.get(node.input[0])
    _set(node, axis=-1)
    if axis == -1 or (shape is not None and axis == len(shape) - 1):
        return NOTHING
    source, result = node.input[0], node.output[0]
    flat, size, output = (upgrade.names.numbered("opset/v") for _ in range(3))
    node.input[0], node.output[0] = flat, output
    before = [
        helper.make_node("Shape", [source], [size]),
        helper.make_node("Flatten", [source], [flat], axis=axis),
    ]
    return before, [helper.make_node("Reshape", [output, size], [result])]


@step(10, "Dropout")
def _dropout_mask(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    """From there on, the mask is of booleans."""
    if len(node.output) > 1 and node.output[1] in upgrade.read:
        raise UnknownChangeError("a Dropout whose mask is read")
    del node.output[1:]
    return NOTHING


@step(7, "Dropout")
def _dropout_in_training(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    if not _taken(node, "is_test", 0):
        raise UnknownChangeError("a Dropout in the form for training")
    return NOTHING


@step(12, "Dropout")
def _dropout(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    _taken(node, "ratio")
    return NOTHING


@step(9, "BatchNormalization")
def _spatial(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    if _taken(node, "spatial", 1) != 1:
        raise UnknownChangeError("a BatchNormalization with statistics of each position")
    return NOTHING


@step(14, "BatchNormalization")
def _training_outputs(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    if any(node.output[1:]):
        raise UnknownChangeError("a BatchNormalization in the form for training")
    del node.output[1:]
    return NOTHING


@step(20, "DFT")
def _dft(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    _put(node, 2, upgrade.constant(_taken(node, "axis", 1)))
    return NOTHING


@step(20, "GridSample")
def _grid_sample(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    mode = _taken(node, "mode", b"bilinear")
    _set(node, mode={b"bilinear": b"linear", b"bicubic": b"cubic"}.get(mode, mode))
    return NOTHING


@step(16, "RoiAlign")
def _roi_align(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    _set(node, coordinate_transformation_mode="output_half_pixel")
    return NOTHING


@step(21, "GroupNormalization")
def _group_normalization(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    """From there on, scale and shift are of channels, not of groups."""
    shape, groups = upgrade.shapes.get(node.input[0]), _given(node, "num_groups")
    for slot in (1, 2):
        values = upgrade.value(node.input[slot])
        if shape is None or values is None or shape[1] % groups:
            raise UnknownChangeError(
                "a GroupNormalization whose scale or shift is computed"
            )
        node.input[slot] = upgrade.constant(
            np.repeat(values, shape[1] // groups), values.dtype
        )
    return NOTHING


@step(11, "Scatter")
def _scatter(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    node.op_type = "ScatterElements"
    return NOTHING


@step(9, "Scan")
def _scan(upgrade: Upgrade, node: onnx.NodeProto) -> Around:
    raise UnknownChangeError("a Scan of operator set 8")
