"""A symbol with its parameters as an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from prunegraph.errors import ModelError, UnknownNameError
from prunegraph.frontends.mxnet import assemble
from prunegraph.frontends.mxnet.bind import Input, find_inputs, needs_shape
from prunegraph.frontends.mxnet.builder import (
    Builder,
    BuiltNode,
    Shape,
    UnknownShapeError,
    Value,
)
from prunegraph.frontends.mxnet.operators import OPERATORS, SymbolCall, label
from prunegraph.frontends.mxnet.symbol import Symbol, SymbolOutput

#: The name of a batch axis of any size.
BATCH = "batch"


@dataclass
class Converted:
    """A model, and what became of the symbol.

    `shapes` has the shape of every node's outputs by "name:output", `weights` what each
    initializer was made from.
    """

    model: onnx.ModelProto
    shapes: dict[str, Shape]
    weights: dict[str, Value]


@dataclass
class Pass:
    """One conversion for one set of input shapes."""

    inputs: dict[str, Value]
    outputs: list[Value]
    entries: list[BuiltNode]
    results: list[list[Value]]
    finals: dict[str, tuple[str, int, int]] = field(default_factory=dict)


def convert(
    symbol: Symbol,
    params: Mapping[str, np.ndarray],
    input_shapes: Mapping[str, Sequence[int | None]] | None = None,
    name: str = "mxnet",
) -> Converted:
    """An ONNX model of a symbol, with the names of its variables and nodes.

    The first axis of the inputs stays of any size ("batch") where nothing depends on it: the
    network is converted for two sizes, and both must give the same.

    Raises ModelError: an operator is not known, shapes do not fit or are not known, parameters
    are missing.
    """
    inputs = find_inputs(symbol, params, input_shapes or {})
    batches = {put.shape[0] for put in inputs if put.shape}
    rest_known = all(None not in put.shape[1:] for put in inputs)
    if not rest_known or not batches or len(batches) > 1:
        done = run(symbol, params, inputs)
        return _finish(symbol, done, done if rest_known else None, name)
    size = next(iter(batches))
    first = run(symbol, params, _with_batch(inputs, size or 2))
    second = _try(symbol, params, _with_batch(inputs, (size or 2) + 1))
    if second is not None and _same(first, second):
        return _finish(symbol, first, second, name)
    if size is None:
        raise ModelError(
            f"{symbol.source}: it depends on the batch size; {needs_shape(inputs[0].name)}"
        )
    return _finish(symbol, first, first, name)


def _with_batch(inputs: Sequence[Input], size: int) -> list[Input]:
    return [
        replace(put, shape=(size, *put.shape[1:])) if put.shape else put for put in inputs
    ]


def _try(
    symbol: Symbol, params: Mapping[str, np.ndarray], inputs: Sequence[Input]
) -> Pass | None:
    try:
        return run(symbol, params, inputs)
    except ModelError:
        return None


def run(symbol: Symbol, params: Mapping[str, np.ndarray], inputs: Sequence[Input]) -> Pass:
    """Convert every node, for inputs of these shapes. Raises ModelError."""
    build = Builder()
    variables = {put.name: build.input(put.name, put.shape, put.dtype) for put in inputs}
    known = {node.name for node in symbol.nodes if node.is_variable}
    variables |= {
        name: build.parameter(array, name)
        for name, array in params.items()
        if name in known
    }
    names = [put.name for put in inputs if None in put.shape] or [
        put.name for put in inputs[:1]
    ]
    results = _convert_nodes(symbol, build, variables, names)
    done = Pass(
        {put.name: variables[put.name] for put in inputs}, [], build.entries, results
    )
    for node, values in zip(symbol.nodes, results, strict=True):
        for output, value in enumerate(() if node.is_variable else values):
            done.finals.setdefault(value.key, (node.name, output, len(values)))
    taken = {value.key for value in done.inputs.values()}
    for head in symbol.heads:
        value = _read(symbol, results, head)
        if value.data is not None or value.key in taken:
            build.origin = symbol.nodes[head.node].name
            value = build.emit("Identity", value)
            done.finals[value.key] = (build.origin, 0, 1)
        taken.add(value.key)
        done.outputs.append(value)
    return done


def _convert_nodes(
    symbol: Symbol,
    build: Builder,
    variables: Mapping[str, Value],
    names: Sequence[str],
    prefix: str = "",
) -> list[list[Value]]:
    """The values of all nodes. `names` are the inputs whose shapes to ask for."""
    results: list[list[Value]] = [[] for _ in symbol.nodes]
    # Variables first: those that were left out of the file come last in it.
    for index, node in sorted(
        enumerate(symbol.nodes), key=lambda row: not row[1].is_variable
    ):
        if node.is_variable:
            results[index] = [variables[node.name]] if node.name in variables else []
            continue
        # A label that only training reads has no value.
        given = [
            _read(symbol, results, source)
            for source in node.inputs
            if results[source.node] or not symbol.nodes[source.node].is_variable
        ]
        build.origin = prefix + node.name
        if node.op == "_foreach" and len(node.subgraphs) == 1:
            results[index] = _unroll(
                SymbolCall(build, node, tuple(given), symbol.numpy_shapes), names, prefix
            )
        else:
            results[index] = _convert_node(
                SymbolCall(build, node, tuple(given), symbol.numpy_shapes), names
            )
    return results


def _convert_node(call: SymbolCall, names: Sequence[str]) -> list[Value]:
    node = call.node
    if node.subgraphs:
        call.fail("this control flow is not supported")
    try:
        converter = OPERATORS.get(node.op)
    except UnknownNameError:
        raise ModelError(
            f"{label(node)}: this operator is not known; see docs/mxnet.md for those that are"
        ) from None
    try:
        created = converter(call)
    except UnknownShapeError as error:
        raise ModelError(
            f"{label(node)} needs {error}; {needs_shape(', '.join(names))}"
        ) from error
    except ModelError as error:
        raise ModelError(
            str(error)
            if str(error).startswith("MXNet operator ")
            else f"{label(node)}: {error}"
        ) from error
    except (IndexError, ValueError, TypeError, ArithmeticError) as error:
        raise ModelError(
            f"{label(node)}: its inputs or attributes do not fit it: {error}"
        ) from error
    return [created] if isinstance(created, Value) else list(created)


def _unroll(call: SymbolCall, names: Sequence[str], prefix: str) -> list[Value]:
    """A loop over the first axis of its data, step by step; results are stacked, states handed on."""
    build, node, body = call.builder, call.node, call.node.subgraphs[0]
    slots = [inner.name for inner in body.nodes if inner.is_variable]
    data, states, rest = (
        call.integers(f"{kind}_locs", ()) for kind in ("in_data", "in_state", "remain")
    )
    count = call.integer("num_out_data")
    outputs = len(body.heads)
    if (
        len(data) + len(states) + len(rest) != len(call.inputs)
        or not data
        or count + len(states) != outputs
    ):
        call.fail("its inputs do not fit its subgraph")
    try:
        values = {
            slots[slot]: value
            for slot, value in zip((*data, *states, *rest), call.inputs, strict=True)
        }
        steps = call.x.size(0)
    except (IndexError, UnknownShapeError) as error:
        call.fail(f"its inputs do not fit its subgraph: {error}")
    sequences = [values[slots[slot]] for slot in data]
    rows: list[list[Value]] = [[] for _ in range(count)]
    for step in range(steps):
        build.origin = f"{prefix}{node.name}/{step}"
        now = {
            slots[s]: build.emit("Gather", x, np.array(step), axis=0)
            for s, x in zip(data, sequences, strict=True)
        }
        results = _convert_nodes(
            body, build, values | now, names, f"{prefix}{node.name}/{step}/"
        )
        created = [_read(body, results, head) for head in body.heads]
        for row, value in zip(rows, created[:count], strict=True):
            row.append(build.emit("Unsqueeze", value, [0]))
        values |= {
            slots[slot]: value for slot, value in zip(states, created[count:], strict=True)
        }
    build.origin = prefix + node.name
    return [
        *(build.emit("Concat", *row, axis=0) for row in rows),
        *(values[slots[slot]] for slot in states),
    ]


def _read(
    symbol: Symbol, results: Sequence[Sequence[Value]], source: SymbolOutput
) -> Value:
    result = results[source.node]
    if source.output >= len(result):
        node = symbol.nodes[source.node]
        raise ModelError(
            f"{label(node)}: its output {source.output} is used, which is not converted"
        )
    return result[source.output]


def _same(first: Pass, second: Pass) -> bool:
    """Tell whether two passes gave the same network. Keys count up alike in both."""
    return len(first.entries) == len(second.entries) and all(
        a.op == b.op
        and a.attributes == b.attributes
        and len(a.inputs) == len(b.inputs)
        and all(_same_value(x, y) for x, y in zip(a.inputs, b.inputs, strict=True))
        for a, b in zip(first.entries, second.entries, strict=True)
    )


def _same_value(a: Value | None, b: Value | None) -> bool:
    if a is None or b is None:
        return a is b
    if a.data is None or b.data is None:
        return a.key == b.key and a.data is b.data
    return a.data is b.data or (
        a.dtype == b.dtype and np.array_equal(a.data, b.data, equal_nan=a.dtype.kind == "f")
    )


def _finish(symbol: Symbol, done: Pass, other: Pass | None, name: str) -> Converted:
    """The model. Sizes that differ between two passes are open, and so is what is not known."""
    twins = other or done
    pairs = [
        *zip(done.inputs.values(), twins.inputs.values(), strict=True),
        *zip(done.outputs, twins.outputs, strict=True),
    ]
    shapes = {mine.key: _open(mine, theirs) for mine, theirs in pairs}
    version = {"mxnet_version": str(symbol.version)} if symbol.version else {}
    try:
        model, weights = assemble.model(
            done.entries, done.inputs, done.outputs, done.finals, shapes, name, version
        )
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(
            f"{symbol.source}: the converted model is invalid: {' '.join(str(error).split())}"
        ) from error
    result = {
        f"{node.name}:{output}": value.shape
        for node, values in zip(symbol.nodes, done.results, strict=True)
        for output, value in enumerate(values)
    }
    return Converted(model, result, weights)


def _open(mine: Value, theirs: Value) -> list[int | str | None]:
    """A shape with the name of the batch axis in place of a size that follows the batch."""
    if mine.rank and mine is theirs and mine.shape[0] is None:
        return [BATCH, *mine.shape[1:]]
    pairs = zip(mine.shape, theirs.shape, strict=True)
    return [
        a if a == b else BATCH if a is not None and b == a + 1 else None for a, b in pairs
    ]
