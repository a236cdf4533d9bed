"""What is known of every value before anything runs: shape, type, and small constants.

Symbolic sizes are made concrete (batch 1, other axes a common image size), so that every
later stage works on plain numbers. Declared shapes of inner values and outputs are
ignored: files in the wild declare wrong ones.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from prunegraph.graph.evaluate import MAX_ELEMENTS, evaluate
from prunegraph.graph.model import Graph, Node, Weight

Shape = tuple[int, ...]

#: Sizes tried for symbolic axes other than the batch, until shapes fit.
SIZES = (64, 224, 32, 128, 16, 1)

#: Float constants above this size are weights; they never take part in shape arithmetic.
MAX_FLOAT = 16

INT_TYPES = (np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.bool_))


#: Operators that ONNX defines as functions, which its inference does not open: outputs are like the first input.
LIKE_INPUT = frozenset(
    {
        "GroupNormalization", "MeanVarianceNormalization", "RMSNormalization", "RotaryEmbedding",
    }
)  # fmt: skip


@dataclass
class Facts:
    """Shapes of values (concrete), and values of shape arithmetic.

    `known` holds results of chains such as Shape-Gather-Concat, `folded` results computed
    from float constants alone (scales of a Resize, but also a bias plus one: these keep
    their labels). `constant` reads both, and small constants of the file. The elements of
    a sequence are named by `element`.
    """

    shapes: dict[str, Shape]
    types: dict[str, int]
    known: dict[str, np.ndarray]
    sizes: dict[str, Shape]
    graph: Graph = field(repr=False)
    folded: dict[str, np.ndarray] = field(default_factory=dict)
    _read: dict[str, np.ndarray | None] = field(default_factory=dict, repr=False)

    def constant(self, value: str) -> np.ndarray | None:
        """The number(s) behind a value: shape arithmetic, or a small constant of the file."""
        for results in (self.known, self.folded):
            if value in results:
                return results[value]
        if value not in self._read:
            weight = self.graph.weights.get(value)
            self._read[value] = weight.read() if weight is not None and _is_small(weight) else None
        return self._read[value]

    def varies(self, value: str) -> np.ndarray:
        """Which elements of a known value depend on sizes that are only known at run time."""
        here = self.known.get(value)
        symbolic = symbolic_axes(self.graph)
        if here is None or not any(symbolic.values()):
            constant = self.constant(value)
            return np.zeros(() if constant is None else constant.shape, bool)
        if "other_facts" not in self.graph.cache:
            sizes = (s for s in candidate_sizes(self.graph, batch=3) if self._differs(s, symbolic))
            self.graph.cache["other_facts"] = facts_at(self.graph, next(sizes))
        there = self.graph.cache["other_facts"].constant(value)
        if there is None or there.shape != here.shape:
            return np.ones(here.shape, bool)
        return np.asarray(here != there)

    def _differs(self, sizes: Mapping[str, Shape], symbolic: Mapping[str, list[int]]) -> bool:
        """Whether input shapes differ from these in every symbolic axis."""
        return all(sizes[n][axis] != self.sizes[n][axis] for n, axes in symbolic.items() for axis in axes)


def _is_small(weight: Weight) -> bool:
    if weight.is_float:
        return weight.size <= MAX_FLOAT
    return weight.dtype in INT_TYPES and weight.size <= MAX_ELEMENTS


def facts(graph: Graph) -> Facts:
    """Facts at the smallest sizes that fit (cached on the graph)."""
    if "facts" not in graph.cache:
        best: Facts | None = None
        for sizes in candidate_sizes(graph):
            found = facts_at(graph, sizes)
            if best is None or len(found.shapes) > len(best.shapes):
                best = found
            if all(o in found.shapes for node in graph.nodes for o in node.outputs if o and node.op != "If"):
                break
        graph.cache["facts"] = best
    result: Facts = graph.cache["facts"]
    return result


def candidate_sizes(graph: Graph, batch: int = 1) -> Iterator[dict[str, Shape]]:
    """Concrete shapes for the graph's inputs, most likely first."""
    declared = {i.name: i.type.tensor_type for i in graph.model.graph.input if i.name in graph.inputs}
    seen = []
    for size in SIZES:
        shapes = {name: _concrete(tensor, size, batch) for name, tensor in declared.items()}
        if shapes not in seen:
            seen.append(shapes)
            yield shapes


def _concrete(tensor: onnx.TypeProto.Tensor, size: int, batch: int) -> Shape:
    dims = tensor.shape.dim
    return tuple(d.dim_value if d.dim_value > 0 else (batch if axis == 0 else size) for axis, d in enumerate(dims))


def symbolic_axes(graph: Graph) -> dict[str, list[int]]:
    """Axes of graph inputs that have no fixed size."""
    return {
        i.name: [axis for axis, d in enumerate(i.type.tensor_type.shape.dim) if d.dim_value <= 0]
        for i in graph.model.graph.input
        if i.name in graph.inputs
    }


def facts_at(graph: Graph, sizes: Mapping[str, Shape]) -> Facts:
    """Facts for given shapes of the graph's inputs."""
    inferred = _infer(graph, sizes)
    result = Facts({}, {}, {}, dict(sizes), graph)
    for weight in graph.weights.values():
        result.shapes[weight.name] = weight.shape
        result.types[weight.name] = weight.tensor.data_type
    for sparse in graph.model.graph.sparse_initializer:
        result.shapes[sparse.values.name] = graph.sparse[sparse.values.name]
        result.types[sparse.values.name] = sparse.values.data_type
    for name in graph.inputs:
        result.shapes[name] = tuple(sizes[name])
        result.types[name] = inferred[name].elem_type
    for node in graph.nodes:
        _visit(node, result, inferred)
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


def _visit(node: Node, result: Facts, inferred: Mapping[str, onnx.TypeProto.Tensor]) -> None:
    if node.op == "Constant" and node.outputs[0] in result.shapes:
        return
    value = known_value(node, result)
    if value is not None:
        from_file = all(v in result.graph.weights or v in result.folded for v in node.inputs if v)
        is_chain = value.dtype in INT_TYPES or value.size == 1 or not from_file
        (result.known if is_chain else result.folded)[node.outputs[0]] = value
        result.shapes[node.outputs[0]] = value.shape
        result.types[node.outputs[0]] = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        return
    if node.op in ("SplitToSequence", "SequenceAt"):
        _visit_sequence(node, result)
        return
    missing = False
    for output in node.outputs:
        shape = _fixed(inferred.get(output))
        if shape is not None:
            result.shapes[output] = shape
            result.types[output] = inferred[output].elem_type
        missing |= shape is None and bool(output)
    if missing:
        infer_outputs(node, result)


def infer_outputs(node: Node, result: Facts) -> None:
    """Fill in what ONNX's inference of the whole graph left open at one node."""
    if node.op in LIKE_INPUT and node.inputs[0] in result.shapes:
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
    else:
        _infer_node(node, result)
        if node.op == "Attention" and not node.domain:
            _attention_shapes(node, result)


def _attention_shapes(node: Node, result: Facts) -> None:
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


def einsum_terms(equation: str) -> tuple[list[str], str]:
    """Operands and output of an equation; an output that is left out has the letters that occur once, sorted."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = sorted({c for c in left if c.isalpha() and left.count(c) == 1})
        right = ("..." if "..." in left else "") + "".join(letters)
    return left.split(","), right


def _einsum_shape(node: Node, result: Facts) -> None:
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
    shape = (*(sizes[c] for c in before), *(passing if dots else ()), *(sizes[c] for c in after))
    result.shapes[node.outputs[0]] = shape
    result.types[node.outputs[0]] = result.types[node.inputs[0]]


def split_sizes(node: Node, result: Facts) -> list[int] | None:
    """Sizes that a SplitToSequence cuts its axis into, or None where they are not known."""
    shape, split = result.shapes.get(node.inputs[0]), result.constant(node.input(1))
    if shape is None or (split is None and node.input(1)) or (split is None and not node.attributes.get("keepdims", 1)):
        return None
    total = shape[node.attributes.get("axis", 0)]
    if split is None:
        return [1] * total
    if split.ndim:
        return [int(s) for s in split]
    size = int(split)
    return [min(size, total - start) for start in range(0, total, size)]


def _visit_sequence(node: Node, result: Facts) -> None:
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


def known_value(node: Node, result: Facts) -> np.ndarray | None:
    """The output of a node of shape arithmetic, or None."""
    if node.op == "Shape" and node.inputs[0] in result.shapes:
        start, end = node.attributes.get("start", 0), node.attributes.get("end")
        return np.asarray(result.shapes[node.inputs[0]], np.int64)[start:end]
    if node.op == "Size" and node.inputs[0] in result.shapes:
        return np.asarray(math.prod(result.shapes[node.inputs[0]]), np.int64)
    if not node.inputs or len(node.outputs) != 1:
        return None
    inputs = [result.constant(v) if v else None for v in node.inputs]
    if any(value is None for value, name in zip(inputs, node.inputs, strict=True) if name):
        return None
    value = evaluate(node, inputs)
    if value is None or (value.dtype not in INT_TYPES and value.size > MAX_FLOAT):
        return None
    return value


def _infer(graph: Graph, sizes: Mapping[str, Shape]) -> dict[str, onnx.TypeProto.Tensor]:
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
    return {v.name: v.type.tensor_type for v in values if v.type.HasField("tensor_type")}


def skeleton(graph: Graph, *, keep_declared: bool = False) -> onnx.ModelProto:
    """A copy of the model for ONNX's inference: without the bytes of large weights, and without Einsum.

    That inference never ends where the ranks of an Einsum do not fit; `_einsum_shape` does it instead.
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
    for tensor in source.graph.initializer:
        copy.graph.initializer.append(_hollow(tensor))
    for node in graph.nodes:
        if node.op == "Constant" and (weight := graph.weights.get(node.outputs[0])) and weight.size > MAX_ELEMENTS:
            hollow = _hollow(weight.tensor)
            hollow.name = node.outputs[0]
            copy.graph.initializer.append(hollow)
        elif node.op != "Einsum":
            copy.graph.node.append(node.proto)
    return copy


def _hollow(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if math.prod(tensor.dims) <= 256 and tensor.data_location != onnx.TensorProto.EXTERNAL:
        return tensor
    return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _fixed(tensor: onnx.TypeProto.Tensor | None) -> Shape | None:
    if tensor is None or not tensor.HasField("shape"):
        return None
    if not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)


def _infer_node(node: Node, result: Facts) -> None:
    """One node's output shapes from its inputs' shapes and known values."""
    if not all(v in result.shapes for v in node.inputs if v) or node.captured:
        return
    try:
        schema = onnx.defs.get_schema(node.op, node.version, node.domain)
        types = {v: onnx.helper.make_tensor_type_proto(result.types[v], result.shapes[v]) for v in node.inputs if v}
        data = {
            v: numpy_helper.from_array(np.ascontiguousarray(constant), v)
            for v in node.inputs
            if v and (constant := result.constant(v)) is not None
        }
        opsets = [onnx.helper.make_opsetid(domain, v) for domain, v in result.graph.opsets.items()]
        found = shape_inference.infer_node_outputs(schema, node.proto, types, data, opset_imports=opsets)
    except Exception:  # no schema, or the node does not fit: its outputs stay unknown
        return
    for output, kind in found.items():
        shape = _fixed(kind.tensor_type) if kind.HasField("tensor_type") else None
        if shape is not None:
            result.shapes[output] = shape
            result.types[output] = kind.tensor_type.elem_type
