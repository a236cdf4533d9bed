"""A newer operator set, where a type or operator needs it: the one place where graphs are converted.

Nodes are rewritten one by one (`upgrades`), those of subgraphs too; weights stay where they are. What comes out is run
beside the original on the same inputs, and refused where it does not give the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import onnx
from onnx import helper

from prunegraph.errors import DataError, ModelError, PrunegraphError
from prunegraph.graph import order
from prunegraph.graph.constants import is_constant
from prunegraph.graph.external import without_weights
from prunegraph.graph.model import Graph
from prunegraph.graph.names import Names
from prunegraph.graph.shapes import shape_info
from prunegraph.graph.sizes import symbolic_axes
from prunegraph.rewriting.upgrades import STANDARD, UnknownChangeError, Upgrade
from prunegraph.runtime.data import Batch, Data, fixed_batch, random_inputs
from prunegraph.runtime.session import run, run_values, session

#: Largest difference of an output of both, as a share of its largest value. Kernels of two versions may add in
#: another order.
TOLERANCE = 1e-4

ADVICE = "export it again with that operator set"


def raise_opset(graph: Graph, version: int, data: Data | None = None) -> Graph:
    """The same graph in a newer operator set of ONNX; as it is where it is new enough.

    Args:
        graph: the model.
        version: the operator set.
        data: inputs to compare both on; else they are random.

    Raises:
        ModelError: a node is not known to mean the same, or the result does not give the same.
    """
    old = graph.opsets.get("", graph.opsets.get("ai.onnx", 1))
    if old >= version:
        return graph
    key = "opset", version
    if key not in graph.cache:
        what = f"{graph.source}: cannot be raised from operator set {old} to {version}"
        raised = _rewritten(graph, old, version, what)
        _check(graph, raised, data, what)
        graph.cache[key] = raised
    result: Graph = graph.cache[key]
    return result


def _rewritten(graph: Graph, old: int, version: int, what: str) -> Graph:
    """The graph with every node written for the operator set."""
    known, fixed = shape_info(graph), not any(symbolic_axes(graph).values())

    def constant(name: str) -> np.ndarray | None:
        weight = graph.weights.get(name)
        if weight is not None:
            return weight.read()
        # What is known is known for one size of the inputs.
        return known.constant(name) if fixed or is_constant(graph, name) else None

    upgrade = Upgrade(
        Names(graph), known.shapes, known.types, constant, set(_read(graph.model.graph))
    )
    model = without_weights(graph.model)
    try:
        _upgrade(model.graph, upgrade, old, version)
    except UnknownChangeError as error:
        raise ModelError(f"{what}: {error}; {ADVICE}") from error
    for entry in model.opset_import:
        if entry.domain in STANDARD:
            entry.version = version
    if (
        model.ir_version < 4
    ):  # there, initializers are inputs too; from there on, such could be given from outside
        inputs = [
            _copied(entry) for entry in model.graph.input if entry.name in graph.inputs
        ]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    model.ir_version = max(
        model.ir_version, helper.find_min_ir_version_for(list(model.opset_import), True)
    )
    model.graph.initializer.extend([*graph.model.graph.initializer, *upgrade.tensors])
    return Graph(model, folder=graph.folder, source=graph.source, keeps=graph)


def _upgrade(subgraph: onnx.GraphProto, upgrade: Upgrade, old: int, new: int) -> None:
    """Rewrite the nodes of a graph or subgraph, and of the subgraphs in it."""
    nodes: list[onnx.NodeProto] = []
    for node in subgraph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for inner in order.subgraphs(copy):
            _upgrade(inner, upgrade.inside(), old, new)
        try:
            nodes += upgrade.run(copy, old, new) if copy.domain in STANDARD else [copy]
        except UnknownChangeError as error:
            raise UnknownChangeError(
                f"{error} (node {node.name or node.output[0]!r})"
            ) from error
    del subgraph.node[:]
    subgraph.node.extend(nodes)


def _read(subgraph: onnx.GraphProto) -> Iterator[str]:
    """Names of all values that something reads, in subgraphs too."""
    yield from (output.name for output in subgraph.output)
    for node in subgraph.node:
        yield from node.input
        for inner in order.subgraphs(node):
            yield from _read(inner)


def _copied(entry: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(entry)
    return copy


# -- the check ------------------------------------------------------------------------------


def _check(graph: Graph, raised: Graph, data: Data | None, what: str) -> None:
    """Run both on the same inputs. Raises ModelError where they do not give the same."""
    try:
        opened = session(graph, name=graph.source, fast=False)
        pairs = [(inputs, run(opened, inputs)) for inputs in _inputs(graph, data)]
    except (DataError, ModelError) as error:
        advice = "" if data is not None else ", or give --data"
        raise ModelError(
            f"{what}: the original does not run ({error}), so nothing can be compared{advice}"
        ) from error
    try:
        other = session(raised, name=raised.source, fast=False)
        for inputs, expected in pairs:
            if not _agree(expected, run(other, inputs)):
                where = _first_difference(graph, raised, inputs)
                raise ModelError(
                    f"{what}: {where or 'an output'} is not what it was; {ADVICE}"
                )
    except PrunegraphError as error:
        if str(error).startswith(what):
            raise
        raise ModelError(f"{what}: {error}; {ADVICE}") from error


def _inputs(graph: Graph, data: Data | None) -> Iterator[Batch]:
    """Inputs of both: some of the data, or random ones twice."""
    if data is None:
        yield from (random_inputs(graph, seed=seed) for seed in range(2))
    else:
        yield from islice(data.fit(graph).batches(graph, fixed_batch(graph) or 2), 2)


def _agree(expected: Iterable[object], given: Iterable[object]) -> bool:
    return all(_is_same(a, b) for a, b in zip(expected, given, strict=True))


def _is_same(a: object, b: object) -> bool:
    """Tell whether two values are the same but for the order of sums."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return (
            isinstance(a, list)
            and isinstance(b, list)
            and len(a) == len(b)
            and _agree(a, b)
        )
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind in "iubOSU":
        return bool((a == b).all())
    a, b = (x.astype(np.complex128 if x.dtype.kind == "c" else np.float64) for x in (a, b))
    there = np.isfinite(a)
    largest = float(np.abs(a[there]).max(initial=0.0))
    return bool(np.isclose(a, b, rtol=0, atol=TOLERANCE * largest, equal_nan=True).all())


def _first_difference(graph: Graph, raised: Graph, inputs: Batch) -> str:
    """The first node whose output differs, in words; "" where none can be fetched."""
    outer = graph.outer & raised.outer
    common = [
        node
        for node in graph.nodes
        if node.subgraph is None and node.outputs and node.outputs[0] in outer
    ]
    names = [node.outputs[0] for node in common]
    try:
        first, second = (run_values(each, inputs, names) for each in (graph, raised))
    except ModelError:
        return ""
    for node, name in zip(common, names, strict=True):
        if not _agree([first[name]], [second[name]]):
            return f"what {node.op} {node.name!r} makes"
    return ""
