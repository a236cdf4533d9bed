"""Layers of low rank against their own reference: the same graph in which each has the product of its factors.

What is multiplied here is read off the file that is checked, by code that factorized nothing. How far a product is from
the weight it stands for is no question of this proof: that is the error that the decomposition reports.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from prunegraph.coupling.analysis import analyze
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import ExactnessError
from prunegraph.graph.external import write_graph
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_convolution
from prunegraph.proof.feeds import PairedInputs
from prunegraph.proof.result import Proof
from prunegraph.proof.verify import prove
from prunegraph.runtime.data import Batch

Array = np.ndarray


def prove_factors(
    graph: Graph,
    factored: Graph,
    layers: Sequence[str],
    *,
    data: Sequence[Batch] = (),
    seed: int = 0,
) -> Proof:
    """Show that a graph with layers of low rank computes what their products say.

    Args:
        graph: the graph before, with these layers whole.
        factored: the graph in which each of them is a chain of smaller ones.
        layers: their names.
        data: inputs to compare on besides random ones.
        seed: of the random inputs.

    Raises:
        ExactnessError: the outputs differ, or what is in a layer's place is no such chain.
    """
    reference = multiplied(graph, factored, layers)
    whole = Survivors(analyze(reference), {})
    try:
        proof = prove(whole, (), factored, PairedInputs(whole), data, seed)
    except ExactnessError as error:
        raise ExactnessError(f"layers of low rank: {error}") from error
    errors = {name: _error(graph, reference, name) for name in layers}
    worst = max(errors, key=errors.__getitem__)
    note = f"products differ from the weights they stand for by at most {errors[worst]:.3f} of these ({worst})"
    return replace(proof, notes=(*proof.notes, note))


def _error(graph: Graph, reference: Graph, layer: str) -> float:
    """Frobenius norm of the change of a layer's weight by that of the weight; 0 where both are zero."""
    old, new = (
        each.weights[each.node(layer).inputs[1]].read().astype(np.float64)
        for each in (graph, reference)
    )
    return float(np.linalg.norm(new - old) / max(float(np.linalg.norm(old)), 1e-300))


def multiplied(graph: Graph, factored: Graph, layers: Sequence[str]) -> Graph:
    """The graph with the products of factors as weights of some layers, and with the biases that these have there.

    Raises:
        ExactnessError: what is in a layer's place is no chain of parts, or does not multiply to its weight's shape.
    """
    given: dict[str, dict[int, Array]] = {}
    for name in layers:
        node = graph.node(name)
        parts = _parts(factored, node)
        if len(parts) == 1:  # no rank would pay: it has to be what it was
            continue
        given[node.outputs[0]] = {1: _product(graph, factored, node, parts)}
        bias = parts[-1].input(2)
        if bias in factored.weights and bias != node.input(2):
            given[node.outputs[0]][2] = factored.weights[bias].read()
    with tempfile.TemporaryDirectory(prefix="prunegraph-") as folder:
        path = Path(folder) / "reference.onnx"
        write_graph(graph, path)
        model = onnx.load(path)
    _give(model, given)
    return Graph(model, source=graph.source, intake=graph.intake)


def _give(model: onnx.ModelProto, given: Mapping[str, Mapping[int, Array]]) -> None:
    """Let nodes read other constants: by what a node makes and the number of its input."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for slot, values in given.get(node.output[0], {}).items():
            name = f"{node.output[0]}/reference/{slot}"
            model.graph.initializer.append(
                _tensor(name, values, held.get(node.input[slot]))
            )
            node.input[slot] = name


def _tensor(name: str, values: Array, like: onnx.TensorProto | None) -> onnx.TensorProto:
    """Values as a tensor, of the type of another one."""
    result = numpy_helper.from_array(np.ascontiguousarray(values), name)
    if like is not None and like.data_type == onnx.TensorProto.BFLOAT16:
        result.data_type = like.data_type
    return result


def _parts(factored: Graph, node: Node) -> list[Node]:
    """The nodes between a layer's input and its output, in order. Raises ExactnessError."""
    parts: list[Node] = []
    value = node.outputs[0]
    while value != node.inputs[0]:
        index = factored.producer.get(value)
        if index is None or len(parts) == 3:
            raise ExactnessError(
                f"{factored.source}: what makes {node.outputs[0]!r} is no chain of parts of layer {node.name!r}"
            )
        parts.insert(0, factored.nodes[index])
        value = parts[0].inputs[0]
    return parts


def _product(graph: Graph, factored: Graph, node: Node, parts: Sequence[Node]) -> Array:
    """What the weights of a chain multiply to, in the layout of the layer's own weight."""
    weight = graph.weights[node.inputs[1]]
    result: Array | None = None
    for part in parts:
        held = factored.weights.get(part.input(1))
        if held is None:
            raise ExactnessError(
                f"{factored.source}: part {part.name!r} of layer {node.name!r} has no constant weight"
            )
        factor = _factor(part, held.read().astype(np.float64))
        result = factor if result is None else factor @ result
    assert result is not None
    if is_convolution(node):
        result = np.moveaxis(result, (-2, -1), (0, 1))
    elif not node.attributes.get("transB"):
        result = result.T
    if result.shape != weight.shape:
        raise ExactnessError(
            f"{factored.source}: the parts of layer {node.name!r} multiply to {list(result.shape)}, "
            f"its weight is {list(weight.shape)}"
        )
    return result.astype(weight.dtype)


def _factor(part: Node, values: Array) -> Array:
    """A part's weight as a matrix [outputs, inputs]; of a convolution one for each place [*kernel, outputs, inputs].

    Along an axis at most one part has more places than one, so that products of these are the kernel of the chain.
    """
    if is_convolution(part):
        return np.moveaxis(values, (0, 1), (-2, -1))
    return values if part.attributes.get("transB") else values.T
