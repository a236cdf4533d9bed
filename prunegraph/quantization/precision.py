"""Floats of 16 bits: a float32 graph in float16, or with its weights in bfloat16.

float16 is a graph's type: weights and activations, with conversions at the inputs and outputs, which stay float32.
ONNX Runtime's own converter writes it. What leaves float16's range on the samples stays in float32, and so do layers
that are named, operators that the converter leaves out, and nodes with subgraphs.

bfloat16 is the weights' type alone: they are converted to float32 where they are read, which ONNX Runtime does once, as
it loads the model. Its CPU has next to no kernels that compute in bfloat16.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from prunegraph.errors import ModelError, OptionError, UnknownNameError
from prunegraph.graph.external import without_weights
from prunegraph.graph.layer_names import named_layers
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.onnx_io import from_model
from prunegraph.graph.order import sort
from prunegraph.graph.shapes import shape_info
from prunegraph.measuring.sqnr import sqnr
from prunegraph.operators import is_cast, is_dequantize, is_quantize
from prunegraph.quantization.constants import conversion
from prunegraph.rewriting.opset import raise_opset
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.runtime.data import Batch, Data, Samples, random_inputs
from prunegraph.runtime.session import run, run_batches, session

Array = np.ndarray
Progress = Callable[[str], None]

#: What a graph's floats can become.
DTYPES = ("float16", "bfloat16")

#: Values up to half of float16's largest are taken to stay in its range on other samples, too.
LARGEST = float(np.finfo(np.float16).max) / 2

#: Samples on which ranges and errors are measured at most, one at a time.
SAMPLES = 16

#: Floats of 16 bits.
HALVES = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}

#: The first operator set whose Cast knows bfloat16.
BFLOAT16_OPSET = 13

#: A weight of less elements, or of one axis, is not worth a node.
ELEMENTS = 64

#: Bytes that a model may have to go through the converter in one piece.
BYTES = 2**31 - 2**20


@dataclass(frozen=True)
class PrecisionResult:
    """What came of a graph in 16-bit floats.

    Args:
        model: the graph.
        dtype: its new type.
        converted: how many nodes compute in it (float16), or how many weights are held in it (bfloat16).
        kept: nodes that stay in float32, with the reason.
        outputs: signal to noise of the outputs against the float32 graph in dB, of ONNX Runtime's default session.
        differences: the largest difference of each output, as a share of its largest value.
        samples: on how many samples both were measured.
    """

    model: Graph
    dtype: str
    converted: int
    kept: Mapping[str, str] = field(repr=False)
    outputs: Mapping[str, float]
    differences: Mapping[str, float]
    samples: int


def to_dtype(
    model: Graph,
    dtype: str,
    data: Samples | None = None,
    *,
    float_layers: Iterable[str] = (),
    progress: Progress = lambda stage: None,
) -> PrecisionResult:
    """A float32 graph in 16-bit floats; `model` is not touched.

    Args:
        model: the graph.
        dtype: "float16" or "bfloat16".
        data: inputs on which ranges and the error are measured; without them, random ones.
        float_layers: layers that stay in float32, by name or pattern (see `prunegraph.graph.layer_names`).
        progress: told what goes on.

    Raises:
        UnknownNameError: no such type or layer.
        ModelError: the graph is quantized, has no float32 weights, does not run, or overflows in 16 bits.
        DataError: the data do not fit the model.
    """
    check_dtype(dtype)
    if any(is_quantize(node) or is_dequantize(node) for node in model.nodes):
        raise ModelError(f"{model.source}: is quantized; give the float model")
    named = set(named_layers(model, float_layers))
    types = {weight.tensor.data_type for weight in model.weights.values()}
    if onnx.TensorProto.FLOAT not in types and types & HALVES:
        raise ModelError(f"{model.source}: has no float32 that could become {dtype}")
    batches = _batches(model, data)
    progress(f"convert to {dtype}")
    if dtype == "float16":
        kept = _kept(model, named, batches)
        result, converted = _float16(model, kept), len(_outer(model)) - len(kept)
    else:
        kept = dict.fromkeys(sorted(named), "asked for")
        result, converted = _bfloat16(model, named)
    if not converted:
        raise ModelError(f"{model.source}: has no float32 that could become {dtype}")
    progress("measure the error")
    outputs = {name: name for name in model.outputs}
    differences = _differences(model, result, batches)
    return PrecisionResult(
        result,
        dtype,
        converted,
        kept,
        sqnr(model, result, batches, outputs),
        differences,
        len(batches),
    )


def check_dtype(dtype: str | None, quantize: str | None = None) -> None:
    """Raise UnknownNameError or OptionError for a type that a result cannot have."""
    if dtype is None:
        return
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    if quantize is not None:
        raise OptionError(
            "give one of quantize and dtype: what is not quantized stays float32"
        )


def _batches(graph: Graph, data: Samples | None) -> list[Batch]:
    """Samples, one by one."""
    if data is None:
        return [random_inputs(graph, batch=1)]
    return list(Data.of(data).fit(graph).head(SAMPLES).batches(graph, 1))


def _outer(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.subgraph is None]


# -- float16 --------------------------------------------------------------------------------


def _kept(graph: Graph, named: set[str], batches: list[Batch]) -> dict[str, str]:
    """Nodes that stay in float32, with the reason."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

    large = {
        name
        for name, weight in graph.weights.items()
        if weight.tensor.data_type == onnx.TensorProto.FLOAT
        and np.abs(weight.read()).max(initial=0) > LARGEST
    }
    large |= _large(graph, batches)
    types = shape_info(graph).types
    result = {}
    for node in _outer(graph):
        if node.name in named:
            result[node.name] = "asked for"
        elif node.op in DEFAULT_OP_BLOCK_LIST:
            result[node.name] = f"{node.op} has no float16 in the converter"
        elif not _takes_float16(graph, node, types):
            result[node.name] = f"{node.op} has no float16 in the standard"
        elif node.subgraphs or node.captured:
            result[node.name] = "has a subgraph"
        elif large.intersection((*node.inputs, *node.outputs)):
            result[node.name] = f"values above {LARGEST:.0f} were seen"
    return result


def _takes_float16(graph: Graph, node: Node, types: Mapping[str, int]) -> bool:
    """Tell whether an operator's schema, where one is known, lets all that is float32 of a node be float16."""
    try:
        schema = defs.get_schema(node.op, graph.opsets[node.domain], node.domain)
    except (defs.SchemaError, KeyError):
        return True
    allowed = {
        each.type_param_str: each.allowed_type_strs for each in schema.type_constraints
    }
    for values, formal in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for place, value in enumerate(values):
            # What may be repeated comes last.
            kind = formal[min(place, len(formal) - 1)].type_str
            is_float = types.get(value) == onnx.TensorProto.FLOAT
            if is_float and "tensor(float16)" not in allowed.get(kind, (kind,)):
                return False
    return True


def _large(graph: Graph, batches: list[Batch]) -> set[str]:
    """Values that leave float16's range on some sample."""
    types = shape_info(graph).types
    names = [
        value
        for node in _outer(graph)
        for value in node.outputs
        if types.get(value) == onnx.TensorProto.FLOAT and value in graph.outer
    ]
    result: set[str] = set()
    for values in run_batches(graph, batches, names):
        for name, array in zip(names, values, strict=True):
            finite = array[np.isfinite(array)]
            if finite.size and np.abs(finite).max() > LARGEST:
                result.add(name)
    return result


def _float16(graph: Graph, kept: Mapping[str, str]) -> Graph:
    """The graph as ONNX Runtime's converter writes it. Raises ModelError where that fails."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = _complete(graph)
    names = {node.outputs[0]: node.name for node in _outer(graph) if node.outputs}
    for proto in model.graph.node:
        proto.name = names.get(next(iter(proto.output), ""), proto.name)
    level = logging.getLogger("onnxruntime.transformers.float16")
    try:
        level.disabled = True
        converted = convert_float_to_float16(
            model,
            keep_io_types=True,
            disable_shape_infer=True,
            node_block_list=sorted(kept),
        )
    except Exception as error:
        raise ModelError(
            f"{graph.source}: ONNX Runtime's converter to float16 fails: {error!r}"
        ) from error
    finally:
        level.disabled = False
    del converted.graph.value_info[:]
    _sort(converted.graph, graph.source)
    own = {node.name for node in graph.nodes}
    return _without_detours(from_model(converted, source=graph.source), own)


def _without_detours(graph: Graph, own: set[str]) -> Graph:
    """Nodes that stay in float32 read one another's float32, not what the converter made float16 on the way.

    `own` are names of the original's nodes, whose conversions mean something.
    """
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        if not _converts(node, onnx.TensorProto.FLOAT) or node.subgraph is not None:
            continue
        maker = graph.producer.get(node.inputs[0])
        before = graph.nodes[maker] if maker is not None else None
        if (
            before is not None
            and before.name not in own
            and _converts(before, onnx.TensorProto.FLOAT16)
            and node.outputs[0] not in graph.outputs
        ):
            rewriter.redirect(node.outputs[0], before.inputs[0])
    return graph if rewriter.is_idle else rewriter.finish()


def _converts(node: Node, kind: int) -> bool:
    return is_cast(node) and node.attributes.get("to") == kind


def _sort(graph: onnx.GraphProto, source: str) -> None:
    """Put nodes in topological order, in place: the converter appends its own."""
    given = {entry.name for entry in (*graph.input, *graph.initializer)}
    given.update(sparse.values.name for sparse in graph.sparse_initializer)
    ordered = [
        onnx.NodeProto.FromString(proto.SerializeToString())
        for proto in sort(graph, given, source)
    ]
    del graph.node[:]
    graph.node.extend(ordered)


def _complete(graph: Graph) -> onnx.ModelProto:
    """A copy of the model with its weights, and types and shapes of all values. Raises ModelError if too large."""
    if sum(weight.tensor.ByteSize() for weight in graph.weights.values()) > BYTES:
        raise ModelError(f"{graph.source}: is too large for the converter to float16")
    model = without_weights(graph.model)
    held = {tensor.name for tensor in graph.model.graph.initializer}
    for name in held:
        model.graph.initializer.append(
            numpy_helper.from_array(graph.weights[name].read(), name)
        )
    known = shape_info(graph)
    del model.graph.value_info[:]
    given = {*graph.inputs, *graph.outputs}
    model.graph.value_info.extend(
        # Without shapes: those of the analysis hold for one batch size.
        helper.make_tensor_value_info(value, known.types[value], None)
        for node in _outer(graph)
        for value in node.outputs
        if value and value not in given and value in known.types
    )
    return model


# -- bfloat16 -------------------------------------------------------------------------------


def _bfloat16(graph: Graph, named: set[str]) -> tuple[Graph, int]:
    """The graph with its weights in bfloat16, and how many those are."""
    graph = raise_opset(graph, BFLOAT16_OPSET)
    rewriter, count = Rewriter(graph), 0
    whole = {graph.main_weight(graph.node(name)) for name in named}
    for name in _initializers(graph):
        weight = graph.weights[name]
        if name in whole or len(weight.shape) < 2 or np.prod(weight.shape) < ELEMENTS:
            continue
        values = weight.read().astype(
            helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
        )
        held = rewriter.add_initializer(f"{name}_bfloat16", values)
        wide = rewriter.names.new(f"{name}_float32")
        node = rewriter.names.new(f"{name}_cast")
        rewriter.insert_first(conversion(held, wide, onnx.TensorProto.FLOAT, node))
        rewriter.redirect(name, wide)
        count += 1
    return rewriter.finish() if count else graph, count


def _initializers(graph: Graph) -> Iterator[str]:
    """Names of the float32 weights that are initializers of the main graph and no outputs."""
    for tensor in graph.model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name not in graph.outputs:
            yield tensor.name


# -- what it costs --------------------------------------------------------------------------


def _differences(graph: Graph, result: Graph, batches: Iterable[Batch]) -> dict[str, float]:
    """The largest difference of each output as a share of its largest value.

    Raises:
        ModelError: ONNX Runtime does not open the result, outputs are infinite that were not, or all of one were.
    """
    first, second = (session(each, name=graph.source) for each in (graph, result))
    far, largest = dict.fromkeys(graph.outputs, 0.0), dict.fromkeys(graph.outputs, 0.0)
    for batch in batches:
        for name, a, b in zip(
            graph.outputs, run(first, batch), run(second, batch), strict=True
        ):
            if a.dtype.kind != "f" or a.shape != b.shape:
                far[name] = max(far[name], 0.0 if np.array_equal(a, b) else float("inf"))
                continue
            if np.isfinite(a).all() and not np.isfinite(b).all():
                raise ModelError(
                    f"{graph.source}: output {name!r} overflows in 16 bits: keep layers before it in float32"
                )
            seen = np.isfinite(a)
            if a.size and not seen.any():
                raise ModelError(
                    f"{graph.source}: output {name!r} is infinite or not a number all over before the conversion: "
                    "nothing can be measured; give data on which it is not"
                )
            far[name] = max(far[name], float(np.abs(a - b)[seen].max(initial=0.0)))
            largest[name] = max(largest[name], float(np.abs(a[seen]).max(initial=0.0)))
    return {name: far[name] / (largest[name] or 1.0) for name in graph.outputs}
