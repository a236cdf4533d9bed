"""Nodes and constants as an ONNX model, under names that are unique."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from prunegraph.frontends.mxnet.builder import IR_VERSION, OPSET, BuiltNode, Value


class UniqueNames:
    """Unique names; a name that is taken gets a number."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def take(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.taken or not name:
            name, number = f"{wanted}_{number}", number + 1
        self.taken.add(name)
        return name


def alive(entries: Sequence[BuiltNode], outputs: Sequence[Value]) -> list[BuiltNode]:
    """Nodes that an output depends on."""
    needed = {value.key for value in outputs}
    kept = []
    for entry in reversed(entries):
        if needed & {value.key for value in entry.outputs}:
            needed |= {value.key for value in entry.inputs if value is not None}
            kept.append(entry)
    return kept[::-1]


def model(
    entries: Sequence[BuiltNode],
    inputs: Mapping[str, Value],
    outputs: Sequence[Value],
    finals: Mapping[str, tuple[str, int, int]],
    shapes: Mapping[str, Sequence[int | str | None]],
    name: str,
    metadata: Mapping[str, str],
) -> tuple[onnx.ModelProto, dict[str, Value]]:
    """The model, and its initializers by name. Raises onnx.checker.ValidationError."""
    entries = alive(entries, outputs)
    constants = {
        v.key: v
        for entry in entries
        for v in entry.inputs
        if v is not None and v.data is not None
    }
    names = UniqueNames()
    called = {value.key: names.take(value.label) for value in inputs.values()}
    # Parameters as they are in the file come first: what is made of them takes another name.
    for value in sorted(constants.values(), key=lambda value: value.origin is not None):
        called[value.key] = names.take(value.label)
    for entry in entries:
        for position, value in enumerate(entry.outputs):
            called[value.key] = names.take(_value_name(entry, position, value, finals))
    graph = helper.make_graph(
        _nodes(entries, called),
        name,
        [_info(value, called[value.key], shapes[value.key]) for value in inputs.values()],
        [_info(value, called[value.key], shapes[value.key]) for value in outputs],
    )
    created = helper.make_model(
        graph,
        producer_name="prunegraph",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(created, {"source": "mxnet", **metadata})
    _check(created, {called[key]: value for key, value in constants.items()})
    for key, value in constants.items():
        _add_weight(created, called[key], value)
    return created, {called[key]: value for key, value in constants.items()}


def _check(created: onnx.ModelProto, constants: Mapping[str, Value]) -> None:
    """Check the model with inputs in place of weights: the checker copies what it checks."""
    light = onnx.ModelProto()
    light.CopyFrom(created)
    light.graph.input.extend(
        _info(value, name, value.shape) for name, value in constants.items()
    )
    onnx.checker.check_model(light)


def _add_weight(created: onnx.ModelProto, name: str, value: Value) -> None:
    """An initializer, written in place: weights are large."""
    if value.data is not None:
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        data = np.ascontiguousarray(value.data).tobytes()
        created.graph.initializer.add(
            name=name, data_type=kind, dims=value.data.shape, raw_data=data
        )


def _value_name(
    entry: BuiltNode,
    position: int,
    value: Value,
    finals: Mapping[str, tuple[str, int, int]],
) -> str:
    """MXNet's name of a node's output; what lies between has the ONNX operator's name behind the node's."""
    if value.key in finals:
        node, output, count = finals[value.key]
        return f"{node}_output{output if count > 1 else ''}"
    return f"{entry.origin}/{entry.op.lower()}{position or ''}"


def _nodes(entries: Sequence[BuiltNode], called: Mapping[str, str]) -> list[onnx.NodeProto]:
    """The last node of an operator has its name."""
    last = {entry.origin: index for index, entry in enumerate(entries)}
    names = UniqueNames()
    own = {index: names.take(origin) for origin, index in last.items()}
    return [
        helper.make_node(
            entry.op,
            [called[value.key] if value is not None else "" for value in entry.inputs],
            [called[value.key] for value in entry.outputs],
            own[index] if index in own else names.take(f"{entry.origin}/{entry.op}"),
            **entry.attributes,
        )
        for index, entry in enumerate(entries)
    ]


def _info(
    value: Value, name: str, shape: Sequence[int | str | None]
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(value.dtype), list(shape)
    )
