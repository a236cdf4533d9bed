"""Shapes and numbers of one node after the other: what its inputs say of its outputs.

ONNX's own inference of the whole graph comes first. What it leaves open is asked node by node, and what
it does not know at all (Einsum, functions, sequences) is worked out here. Shape arithmetic is evaluated.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Container, Mapping
from functools import lru_cache

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from prunegraph.graph import flow
from prunegraph.graph.control import DOMAIN, Subgraph
from prunegraph.graph.evaluate import MAX_ELEMENTS, evaluate, is_arithmetic
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.numbers import read_as_numbers
from prunegraph.graph.shape_info import INT_TYPES, ITERATIONS, Shape, ShapeInfo, is_small
from prunegraph.operators import info as operator_info
from prunegraph.operators import is_constant


def shape_info_at(
    graph: Graph,
    sizes: Mapping[str, Shape],
    iterations: int = ITERATIONS,
    dead: frozenset[Subgraph] = frozenset(),
) -> ShapeInfo:
    """Infer all values for given shapes of the graph's inputs.

    Args:
        graph: the model.
        sizes: shapes of its inputs.
        iterations: how often a Loop runs that ends when it likes.
        dead: subgraphs that never run.
    """
    result = given(graph, sizes, iterations, dead)
    inferred = infer_all(graph, sizes)
    for node in graph.nodes:
        if not result.is_dead(node):
            visit(node, result, inferred)
    result.is_whole = True
    return result


def stepwise(
    graph: Graph, sizes: Mapping[str, Shape], dead: frozenset[Subgraph]
) -> tuple[ShapeInfo, Callable[[Node], None]]:
    """Begin with weights and inputs alone; the function given back adds a node's outputs.

    The function is called node by node, in the graph's order; shapes may be corrected in between.
    """
    result = given(graph, sizes, dead=dead)
    return result, lambda node: visit(node, result, {})


def given(
    graph: Graph,
    sizes: Mapping[str, Shape],
    iterations: int = ITERATIONS,
    dead: frozenset[Subgraph] = frozenset(),
) -> ShapeInfo:
    """Begin with weights and inputs, before any node is visited."""
    result = ShapeInfo({}, {}, {}, dict(sizes), graph, dead=dead, guess=iterations)
    for weight in graph.weights.values():
        result.shapes[weight.name] = weight.shape
        result.types[weight.name] = weight.tensor.data_type
    for sparse in graph.model.graph.sparse_initializer:
        result.shapes[sparse.values.name] = graph.sparse[sparse.values.name]
        result.types[sparse.values.name] = sparse.values.data_type
    for entry in graph.model.graph.input:
        if entry.name in sizes:
            result.shapes[entry.name] = tuple(sizes[entry.name])
            result.types[entry.name] = entry.type.tensor_type.elem_type
    return result


def element(sequence: str, index: int) -> str:
    """The name under which one element of a sequence is known."""
    return f"{sequence}[{index}]"


def elements(sequence: str, known: Container[str]) -> list[str]:
    """The names of all elements of a sequence, in order, as far as they are known."""
    names: list[str] = []
    while element(sequence, len(names)) in known:
        names.append(element(sequence, len(names)))
    return names


def visit(
    node: Node, result: ShapeInfo, inferred: Mapping[str, onnx.ValueInfoProto]
) -> None:
    """Add what is known of a node's outputs, with what ONNX's inference of the whole graph says."""
    if is_constant(node) and node.outputs[0] in result.shapes:
        return
    value = known_value(node, result)
    if value is not None:
        _note(value, node, result)
        return
    if node.op in ("SplitToSequence", "SequenceAt"):
        _visit_sequence(node, result)
        return
    if flow.is_control(node):
        infer_outputs(node, result)
        return
    missing = False
    for output in node.outputs:
        match = inferred.get(output)
        missing |= bool(output) and not (
            match is not None and _take(match.type.tensor_type, output, result)
        )
    if missing:
        infer_outputs(node, result)


def _note(value: np.ndarray, node: Node, result: ShapeInfo) -> None:
    """Keep what a node computes; of what is data the shape only."""
    output = node.outputs[0]
    result.shapes[output] = value.shape
    result.types[output] = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    if not _is_list(value):
        result.known[output] = value
    elif output in read_as_numbers(result.graph):
        from_file = all(
            v in result.graph.weights or v in result.folded for v in node.inputs if v
        )
        (result.folded if from_file else result.known)[output] = value


def _is_list(value: np.ndarray) -> bool:
    """Tell whether these are several numbers of a type that data have, too: floats, and what quantization makes."""
    return value.dtype not in INT_TYPES and value.size != 1


def known_value(node: Node, result: ShapeInfo) -> np.ndarray | None:
    """The output of a node that computes with known values only, or None."""
    if node.op == "Shape" and node.inputs[0] in result.shapes:
        start, end = node.attributes.get("start", 0), node.attributes.get("end")
        return np.asarray(result.shapes[node.inputs[0]], np.int64)[start:end]
    if node.op == "Size" and node.inputs[0] in result.shapes:
        return np.asarray(math.prod(result.shapes[node.inputs[0]]), np.int64)
    if not node.inputs or len(node.outputs) != 1 or not is_arithmetic(node):
        return None
    inputs = []
    is_operand = node.outputs[0] in read_as_numbers(result.graph)
    for name in node.inputs:
        number = result.constant(name) if name else None
        if name and (number is None or (_is_list(number) and not is_operand)):
            return None
        inputs.append(number)
    return evaluate(node, inputs)


def infer_outputs(node: Node, result: ShapeInfo) -> None:
    """Fill in what ONNX's inference of the whole graph left open at one node."""
    if flow.is_control(node):
        flow.hand_on(
            node,
            result,
            lambda inner: None if result.is_dead(inner) else visit(inner, result, {}),
        )
    elif operator_info(node).shape == "function" and node.inputs[0] in result.shapes:
        result.shapes[node.outputs[0]] = result.shapes[node.inputs[0]]
        result.types[node.outputs[0]] = result.types[node.inputs[0]]
    elif node.op == "Einsum" and not node.domain:
        _einsum_shape(node, result)
    elif node.op == "GatherND" and all(v in result.shapes for v in node.inputs):
        # ONNX's inference says nothing of a scalar.
        data, index = (result.shapes[v] for v in node.inputs)
        first = node.attributes.get("batch_dims", 0) + index[-1]
        result.shapes[node.outputs[0]] = (*index[:-1], *data[first:])
        result.types[node.outputs[0]] = result.types[node.inputs[0]]
    elif not _elementwise_shape(node, result):
        _infer_node(node, result)
        if node.op == "Attention" and not node.domain:
            _attention_shapes(node, result)


def _attention_shapes(node: Node, result: ShapeInfo) -> None:
    """Keys, values and scores that an Attention returns: ONNX's inference leaves them open."""
    query, key, value = (result.shapes.get(node.input(slot), ()) for slot in range(3))
    if not (query and len(query) == len(key) == len(value)):
        return
    heads, groups = query[1], key[1]
    if len(query) == 3:
        heads, groups = node.attributes["q_num_heads"], node.attributes["kv_num_heads"]
    past = result.shapes.get(node.input(4), (0, 0, 0))[2] if node.input(4) else 0
    total = past + key[-2]
    merged = groups if len(query) == 3 else 1
    shapes = [
        (),
        (key[0], groups, total, key[-1] // merged),
        (value[0], groups, total, value[-1] // merged),
        (query[0], heads, query[-2], total),
    ]
    for output, shape in list(zip(node.outputs, shapes, strict=False))[1:]:
        result.shapes[output] = shape
        result.types[output] = result.types[node.inputs[0]]


def _elementwise_shape(node: Node, result: ShapeInfo) -> bool:
    """The output's shape, where an operator works on every element by itself; False for all others."""
    kind = operator_info(node).shape
    if node.domain or len(node.outputs) != 1 or kind not in ("input", "broadcast"):
        return False
    shapes = [result.shapes.get(v) for v in node.inputs[: 1 if kind == "input" else 2]]
    first, last = shapes[0], shapes[-1]
    if first is None or last is None or not (first == last or () in shapes):
        return False
    result.shapes[node.outputs[0]] = first or last
    result.types[node.outputs[0]] = result.types[node.inputs[0]]
    return True


def einsum_terms(equation: str) -> tuple[list[str], str]:
    """Operands and output of an equation; an output that is left out has the letters that occur once, sorted."""
    remaining, arrow, right = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = sorted({c for c in remaining if c.isalpha() and remaining.count(c) == 1})
        right = ("..." if "..." in remaining else "") + "".join(letters)
    return remaining.split(","), right


def _einsum_shape(node: Node, result: ShapeInfo) -> None:
    """The output's shape, where all operands fit the equation."""
    operands, output = einsum_terms(node.attributes["equation"].decode())
    sizes: dict[str, int] = {}
    passing: Shape = ()
    for operand, value in zip(operands, node.inputs, strict=True):
        shape = result.shapes.get(value)
        letters = operand.replace("...", "")
        spare = len(shape) - len(letters) if shape is not None else -1
        if shape is None or spare < 0 or (spare and "..." not in operand):
            return
        start = operand.index("...") if "..." in operand else len(letters)
        passing = max(passing, shape[start : start + spare], key=len)
        sizes.update(zip(letters, shape[:start] + shape[start + spare :], strict=True))
    before, dots, after = output.partition("...")
    shape = (
        *(sizes[c] for c in before),
        *(passing if dots else ()),
        *(sizes[c] for c in after),
    )
    result.shapes[node.outputs[0]] = shape
    result.types[node.outputs[0]] = result.types[node.inputs[0]]


def split_sizes(node: Node, result: ShapeInfo) -> list[int] | None:
    """Sizes that a SplitToSequence cuts its axis into, or None where they are not known."""
    shape, split = result.shapes.get(node.inputs[0]), result.constant(node.input(1))
    if (
        shape is None
        or (split is None and node.input(1))
        or (split is None and not node.attributes.get("keepdims", 1))
    ):
        return None
    total = shape[node.attributes.get("axis", 0)]
    if split is None:
        return [1] * total
    if split.ndim:
        return [int(s) for s in split]
    size = int(split)
    return [min(size, total - start) for start in range(0, total, size)]


def _visit_sequence(node: Node, result: ShapeInfo) -> None:
    source = node.inputs[0]
    if node.op == "SequenceAt":
        position, names = result.constant(node.inputs[1]), elements(source, result.shapes)
        if position is not None and -len(names) <= position < len(names):
            result.shapes[node.outputs[0]] = result.shapes[names[int(position)]]
            result.types[node.outputs[0]] = result.types[names[int(position)]]
        return
    axis = node.attributes.get("axis", 0)
    for index, size in enumerate(split_sizes(node, result) or ()):
        shape = list(result.shapes[source])
        shape[axis] = size
        result.shapes[element(node.outputs[0], index)] = tuple(shape)
        result.types[element(node.outputs[0], index)] = result.types[source]


def infer_all(graph: Graph, sizes: Mapping[str, Shape]) -> dict[str, onnx.ValueInfoProto]:
    """ONNX's own inference on a copy without weight bytes."""
    model = skeleton(graph)
    for value in model.graph.input:
        if value.name in sizes:
            tensor = value.type.tensor_type
            del tensor.shape.dim[:]
            for size in sizes[value.name]:
                tensor.shape.dim.add(dim_value=size)
    # A graph that inference refuses as a whole is walked node by node afterwards.
    with contextlib.suppress(Exception):
        model = shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    return {v.name: v for v in values}


def skeleton(graph: Graph, *, keep_declared: bool = False) -> onnx.ModelProto:
    """A copy of the model for ONNX's inference: without the bytes of large weights, and without Einsum.

    That inference never ends where the ranks of an Einsum do not fit; `_einsum_shape` does it instead.
    Nodes with subgraphs that are inlined are there with `keep_declared` only; else `graph.flow` does it.
    """
    source = graph.model
    copy = onnx.ModelProto(ir_version=source.ir_version)
    copy.opset_import.extend(source.opset_import)
    copy.graph.name = source.graph.name or "graph"
    copy.graph.input.extend(source.graph.input)
    copy.graph.output.extend(source.graph.output)
    copy.graph.sparse_initializer.extend(source.graph.sparse_initializer)
    if keep_declared:
        copy.graph.value_info.extend(source.graph.value_info)
    else:
        for output in copy.graph.output:
            output.type.tensor_type.ClearField("shape")
    copy.graph.initializer.extend(_hollow(tensor) for tensor in source.graph.initializer)
    protos = []
    for node in graph.nodes:
        if node.subgraph is not None or (
            flow.is_control(node) and not (keep_declared and node.domain != DOMAIN)
        ):
            continue
        if (
            is_constant(node)
            and (weight := graph.weights.get(node.outputs[0]))
            and weight.size > MAX_ELEMENTS
        ):
            hollow = _hollow(weight.tensor)
            hollow.name = node.outputs[0]
            copy.graph.initializer.append(hollow)
        elif node.op != "Einsum":
            protos.append(node.proto)
    copy.graph.node.extend(protos)
    return copy


def _hollow(tensor: onnx.TensorProto) -> onnx.TensorProto:
    dims = tensor.dims[:]
    if math.prod(dims) <= 256 and tensor.data_location != onnx.TensorProto.EXTERNAL:
        return tensor
    return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=dims)


def _take(tensor: onnx.TypeProto.Tensor, value: str, result: ShapeInfo) -> bool:
    """Note a value's inferred type; False where it has no shape, or sizes are open."""
    dims = tensor.shape.dim[:]
    shape = tuple([d.dim_value for d in dims])
    # An open size reads as 0, a missing shape as ().
    if (not shape or 0 in shape) and not (
        tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims)
    ):
        return False
    result.shapes[value], result.types[value] = shape, tensor.elem_type
    return True


def _infer_node(node: Node, result: ShapeInfo) -> None:
    """One node's output shapes from its inputs' shapes and known values."""
    if not all(v in result.shapes for v in node.inputs if v) or node.captured:
        return
    try:
        schema = onnx.defs.get_schema(node.op, node.version, node.domain)
        types = {
            v: _tensor_type(result.types[v], result.shapes[v]) for v in node.inputs if v
        }
        data = {
            v: tensor
            for v in node.inputs
            if v and (tensor := _tensor(v, result)) is not None
        }
        opsets = [
            onnx.helper.make_opsetid(domain, v) for domain, v in result.graph.opsets.items()
        ]
        matches = shape_inference.infer_node_outputs(
            schema, node.proto, types, data, opset_imports=opsets
        )
    except Exception:  # no schema, or the node does not fit: its outputs stay unknown
        return
    for output, kind in matches.items():
        _take(kind.tensor_type, output, result)


def _tensor(value: str, result: ShapeInfo) -> onnx.TensorProto | None:
    """A known value as a tensor, for inference to read."""
    weight = result.graph.weights.get(value)
    if weight is not None and weight.tensor.data_location != onnx.TensorProto.EXTERNAL:
        return weight.tensor if is_small(weight) else None
    constant = result.constant(value)
    return (
        None
        if constant is None
        else numpy_helper.from_array(np.ascontiguousarray(constant), value)
    )


@lru_cache(maxsize=1024)
def _tensor_type(kind: int, shape: Shape) -> onnx.TypeProto:
    """A type for inference to read; the same few occur all over a graph."""
    return onnx.helper.make_tensor_type_proto(kind, shape)
