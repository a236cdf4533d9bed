"""Every operator with a rule, one of its inputs made of numbers that come from sizes alone.

Such numbers carry no channels: a rule must neither ask for their labels in vain nor take them for data.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import onnx
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import prunegraph as pg
from prunegraph.errors import ModelError
from prunegraph.graph.shapes import shape_info
from tests.ops.networks import Network, networks, prove_network
from tests.ops.test_properties import CASES, FEW, OPERATORS
from tests.oracle import outputs, random_plan

#: Operators that are analysed and cut, but not proved here, and why.
NOT_PROVED = {
    (
        "",
        "BatchNormalization",
    ): "in training mode ONNX Runtime updates constant statistics in place, run by run",
}

THREE = settings(FEW, max_examples=3)


def with_sizes(
    graph: pg.Graph, operator: tuple[str, str], slot: int, whole: bool
) -> pg.Graph | None:
    """The graph with an input of the operator replaced by whole numbers counted up, or by the same as floats."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    nodes = list(model.graph.node)
    index = next(
        i for i, node in enumerate(nodes) if (node.domain, node.op_type) == operator
    )
    fixed = {tensor.name for tensor in model.graph.initializer} | {
        n.output[0] for n in nodes if n.op_type == "Constant"
    }
    slots = [
        i for i, value in enumerate(nodes[index].input) if value and value not in fixed
    ]
    if not slots:
        return None
    slot = slots[slot % len(slots)]
    value = nodes[index].input[slot]
    kind = shape_info(graph).types.get(value)
    if kind is None:
        return None
    names = iter(f"sizes{i}" for i in range(9))
    added: list[onnx.NodeProto] = []

    def add(op: str, *inputs: str, **attributes: object) -> str:
        added.append(helper.make_node(op, list(inputs), [next(names)], **attributes))
        return str(added[-1].output[0])

    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(number, np.int64), f"number{number}")
        for number in (0, 1, 3)
    )
    shape = add("Shape", value)
    counted = add("Range", "number0", add("Size", value), "number1")
    numbers = add("Mod", add("Reshape", counted, shape), "number3")
    nodes[index].input[slot] = numbers if whole else add("Cast", numbers, to=kind)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:index], *added, *nodes[index:]])
    return pg.load(model)


@OPERATORS
def test_an_input_comes_from_sizes(operator: tuple[str, str]) -> None:
    @THREE
    @given(networks(CASES[operator]), st.integers(0, 4), st.booleans())
    def prove(network: Network, slot: int, whole: bool) -> None:
        graph = with_sizes(network.graph, operator, slot, whole)
        if graph is None:
            return  # all it reads are weights, or sequences
        pg.analyze(graph, attention=network.attention)
        try:
            outputs(graph)
        except ModelError:
            return  # the operator does not take such numbers
        if operator in NOT_PROVED:
            pg.apply(graph, random_plan(pg.analyze(graph), network.seed, network.ratio))
            return
        prove_network(replace(network, graph=graph), *operator)

    seed(zlib.crc32(".".join(operator).encode()))(prove)()
