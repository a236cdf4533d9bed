"""What is known of every value before anything runs: shape, type, and small constants.

Symbolic sizes are made concrete (batch 1, other axes a common image size), so that every
later stage works on plain numbers. Declared shapes of inner values and outputs are
ignored: files in the wild declare wrong ones.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from prunegraph.graph import flow
from prunegraph.graph.control import DOMAIN, Body
from prunegraph.graph.evaluate import MAX_ELEMENTS, evaluate, is_arithmetic
from prunegraph.graph.model import Graph, Node, Weight

Shape = tuple[int, ...]

#: Sizes tried for symbolic axes other than the batch, until shapes fit.
SIZES = (64, 224, 32, 128, 16, 1)

#: How often a Loop runs for which that is decided at run time.
TURNS = 3

#: Float constants above this size are weights; they never take part in shape arithmetic.
MAX_FLOAT = 16

INT_TYPES = (np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.bool_))


#: Operators that ONNX defines as functions, which its inference does not open: outputs are like the first input.
LIKE_INPUT = frozenset(
    {
        "GroupNormalization", "MeanVarianceNormalization", "RMSNormalization", "RotaryEmbedding",
    }
)  # fmt: skip


#: Operators whose one output is like the first input, and those that broadcast: known without asking ONNX's inference.
UNARY = frozenset(
    {
        "Abs", "BatchNormalization", "Ceil", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
        "HardSwish", "Identity", "LayerNormalization", "LeakyRelu", "Log", "Neg", "Reciprocal", "Relu", "Round",
        "Sigmoid", "Sin", "Softmax", "Softplus", "Sqrt", "Tanh",
    }
)  # fmt: skip
BINARY = frozenset({"Add", "Div", "Mul", "Pow", "Sub"})

#: Operators whose outputs depend on more than their inputs.
CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass
class Facts:
    """Shapes of values (concrete), and values of shape arithmetic.

    `known` holds results of chains such as Shape-Gather-Concat, `folded` results computed
    from float constants alone (scales of a Resize, but also a bias plus one: these keep
    their labels). `constant` reads both, and small constants of the file. The elements of
    a sequence are named by `element`. Of control flow: `dead` are bodies that never run, `varying`
    values whose shape changes from turn to turn, `turns` how often a body runs, where that is known;
    for the `guessed` others `guess` is taken.
    """

    shapes: dict[str, Shape]
    types: dict[str, int]
    known: dict[str, np.ndarray]
    sizes: dict[str, Shape]
    graph: Graph = field(repr=False)
    folded: dict[str, np.ndarray] = field(default_factory=dict)
    dead: frozenset[Body] = frozenset()
    varying: set[str] = field(default_factory=set)
    turns: dict[Body, int] = field(default_factory=dict)
    guess: int = TURNS
    guessed: set[Body] = field(default_factory=set)
    _read: dict[str, np.ndarray | None] = field(default_factory=dict, repr=False)
    _other: Facts | None = field(default=None, repr=False)
    _is_whole: bool = field(default=False, repr=False)

    def constant(self, value: str) -> np.ndarray | None:
        """The number(s) behind a value: shape arithmetic, or a small constant of the file."""
        found = self.known.get(value)
        if found is None:
            found = self.folded.get(value)
        if found is not None:
            return found
        if value not in self._read:
            weight = self.graph.weights.get(value)
            self._read[value] = weight.read() if weight is not None and _is_small(weight) else None
        return self._read[value]

    def is_dead(self, node: Node) -> bool:
        """Whether a node is in a body that never runs."""
        body = node.body if self.dead else None
        while body is not None and body not in self.dead:
            body = body.parent
        return body is not None

    def varies(self, value: str) -> np.ndarray:
        """Which elements of a known value depend on sizes that are only known at run time."""
        here = self.known.get(value)
        symbolic = symbolic_axes(self.graph)
        if here is None or not (self.guessed or any(symbolic.values())):
            constant = self.constant(value)
            return np.zeros(() if constant is None else constant.shape, bool)
        there = self._elsewhere(value, symbolic)
        if there is None or there.shape != here.shape:
            return np.ones(here.shape, bool)
        return np.asarray(here != there)

    def _elsewhere(self, value: str, symbolic: Mapping[str, list[int]]) -> np.ndarray | None:
        """A known value at other sizes of the symbolic axes. Only nodes it is computed from are looked at."""
        if self._other is None:
            sizes = next(s for s in candidate_sizes(self.graph, batch=3) if self._differs(s, symbolic))
            # Through bodies of control flow values do not travel one by one.
            whole = bool(self.graph.bodies)
            self._other = facts_at(self.graph, sizes, TURNS + 1) if whole else _given(self.graph, sizes)
        if not self._other._is_whole:
            above = _above(self.graph, value, self._other)
            for node in above:
                _visit(node, self._other, {})
            if self._other.constant(value) is None or any(node.op in CONTROL for node in above):
                self._other = facts_at(self.graph, self._other.sizes)
        return self._other.constant(value)

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
        best = _best_facts(graph)
        # What a dead branch does not blur may show that another one is dead.
        while graph.bodies and (dead := flow.dead_branches(best)) != best.dead:
            graph.cache["dead"] = dead
            best = _best_facts(graph)
        graph.cache["facts"] = best
    result: Facts = graph.cache["facts"]
    return result


def _best_facts(graph: Graph) -> Facts:
    """Facts at the first sizes at which all shapes are known, else at those that tell most."""
    best: Facts | None = None
    for sizes in candidate_sizes(graph):
        found = facts_at(graph, sizes)
        if best is None or len(found.shapes) > len(best.shapes):
            best = found
        unknown = graph.producer.keys() - found.shapes.keys()
        if all(_is_left_open(graph.nodes[graph.producer[output]], found) for output in unknown):
            break
    assert best is not None
    return best


def _is_left_open(node: Node, found: Facts) -> bool:
    """Whether other sizes would not tell more about a node."""
    return node.op == "If" or flow.is_control(node) or found.is_dead(node)


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


def facts_at(graph: Graph, sizes: Mapping[str, Shape], turns: int = TURNS) -> Facts:
    """Facts for given shapes of the graph's inputs, and turns of a Loop that ends when it likes."""
    result = _given(graph, sizes, turns)
    inferred = _infer(graph, sizes)
    for node in graph.nodes:
        if not result.is_dead(node):
            _visit(node, result, inferred)
    result._is_whole = True
    return result


def stepwise(graph: Graph, sizes: Mapping[str, Shape]) -> tuple[Facts, Callable[[Node], None]]:
    """Facts of weights and inputs alone, and a function that adds those of a node's outputs.

    The function is called node by node, in the graph's order; shapes may be corrected in between.
    """
    result = _given(graph, sizes)
    return result, lambda node: _visit(node, result, {})


def _given(graph: Graph, sizes: Mapping[str, Shape], turns: int = TURNS) -> Facts:
    """What is known of weights and inputs, before any node is visited."""
    result = Facts({}, {}, {}, dict(sizes), graph, dead=graph.cache.get("dead", frozenset()), guess=turns)
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


def _above(graph: Graph, value: str, known: Facts) -> list[Node]:
    """Nodes that a value is computed from and that have not been visited, in topological order."""
    found: set[int] = set()
    queue = [graph.producer[value]]
    while queue:
        index = queue.pop()
        if index not in found and not all(o in known.shapes for o in graph.nodes[index].outputs if o):
            found.add(index)
            queue += (parent for parent, _ in graph.nodes[index].parents)
    return [graph.nodes[index] for index in sorted(found)]


def element(sequence: str, index: int) -> str:
    """The name under which one element of a sequence is known."""
    return f"{sequence}[{index}]"


def elements(sequence: str, known: Container[str]) -> list[str]:
    """The names of all elements of a sequence, in order, as far as they are known."""
    names: list[str] = []
    while element(sequence, len(names)) in known:
        names.append(element(sequence, len(names)))
    return names


def _visit(node: Node, result: Facts, inferred: Mapping[str, onnx.ValueInfoProto]) -> None:
    if node.op == "Constant" and node.outputs[0] in result.shapes:
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
        found = inferred.get(output)
        missing |= bool(output) and not (found is not None and _take(found.type.tensor_type, output, result))
    if missing:
        infer_outputs(node, result)


def _note(value: np.ndarray, node: Node, result: Facts) -> None:
    """Keep what a node computes; of larger floats the shape only, they are data."""
    output = node.outputs[0]
    result.shapes[output] = value.shape
    result.types[output] = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    if value.dtype in INT_TYPES or value.size == 1:
        result.known[output] = value
    elif value.size <= MAX_FLOAT and node.op != "ConstantOfShape":
        # A filled tensor is data as well: its rule lets it follow what it is used with.
        from_file = all(v in result.graph.weights or v in result.folded for v in node.inputs if v)
        (result.folded if from_file else result.known)[output] = value


def infer_outputs(node: Node, result: Facts) -> None:
    """Fill in what ONNX's inference of the whole graph left open at one node."""
    if flow.is_control(node):
        flow.hand_on(node, result, lambda inner: None if result.is_dead(inner) else _visit(inner, result, {}))
    elif node.op in LIKE_INPUT and node.inputs[0] in result.shapes:
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


def _elementwise_shape(node: Node, result: Facts) -> bool:
    """The output's shape, where an operator works on every element by itself; False for all others."""
    if node.domain or len(node.outputs) != 1 or not (node.op in UNARY or node.op in BINARY):
        return False
    shapes = [result.shapes.get(v) for v in node.inputs[: 1 if node.op in UNARY else 2]]
    first, last = shapes[0], shapes[-1]
    if first is None or last is None or not (first == last or () in shapes):
        return False
    result.shapes[node.outputs[0]] = first or last
    result.types[node.outputs[0]] = result.types[node.inputs[0]]
    return True


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
    """The output of a node that computes with known values only, or None."""
    if node.op == "Shape" and node.inputs[0] in result.shapes:
        start, end = node.attributes.get("start", 0), node.attributes.get("end")
        return np.asarray(result.shapes[node.inputs[0]], np.int64)[start:end]
    if node.op == "Size" and node.inputs[0] in result.shapes:
        return np.asarray(math.prod(result.shapes[node.inputs[0]]), np.int64)
    if not node.inputs or len(node.outputs) != 1 or not is_arithmetic(node):
        return None
    inputs = []
    for name in node.inputs:
        inputs.append(result.constant(name) if name else None)
        if name and inputs[-1] is None:
            return None
    return evaluate(node, inputs)


def _infer(graph: Graph, sizes: Mapping[str, Shape]) -> dict[str, onnx.ValueInfoProto]:
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
    Nodes with bodies that are laid open are there with `keep_declared` only; else `graph.flow` does it.
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
        if node.body is not None or (flow.is_control(node) and not (keep_declared and node.domain != DOMAIN)):
            continue
        if node.op == "Constant" and (weight := graph.weights.get(node.outputs[0])) and weight.size > MAX_ELEMENTS:
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


def _take(tensor: onnx.TypeProto.Tensor, value: str, result: Facts) -> bool:
    """Note a value's inferred type; False where it has no shape, or sizes are open."""
    dims = tensor.shape.dim[:]
    shape = tuple([d.dim_value for d in dims])
    # An open size reads as 0, a missing shape as ().
    if (not shape or 0 in shape) and not (tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims)):
        return False
    result.shapes[value], result.types[value] = shape, tensor.elem_type
    return True


def _infer_node(node: Node, result: Facts) -> None:
    """One node's output shapes from its inputs' shapes and known values."""
    if not all(v in result.shapes for v in node.inputs if v) or node.captured:
        return
    try:
        schema = onnx.defs.get_schema(node.op, node.version, node.domain)
        types = {v: _tensor_type(result.types[v], result.shapes[v]) for v in node.inputs if v}
        data = {v: tensor for v in node.inputs if v and (tensor := _tensor(v, result)) is not None}
        opsets = [onnx.helper.make_opsetid(domain, v) for domain, v in result.graph.opsets.items()]
        found = shape_inference.infer_node_outputs(schema, node.proto, types, data, opset_imports=opsets)
    except Exception:  # no schema, or the node does not fit: its outputs stay unknown
        return
    for output, kind in found.items():
        _take(kind.tensor_type, output, result)


def _tensor(value: str, result: Facts) -> onnx.TensorProto | None:
    """What `Facts.constant` says of a value, for inference to read."""
    weight = result.graph.weights.get(value)
    if weight is not None and weight.tensor.data_location != onnx.TensorProto.EXTERNAL:
        return weight.tensor if _is_small(weight) else None
    constant = result.constant(value)
    return None if constant is None else numpy_helper.from_array(np.ascontiguousarray(constant), value)


@lru_cache(maxsize=1024)
def _tensor_type(kind: int, shape: Shape) -> onnx.TypeProto:
    """A type for inference to read; the same few occur all over a graph."""
    return onnx.helper.make_tensor_type_proto(kind, shape)
