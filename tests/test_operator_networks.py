"""Every operator with a rule, with the shapes and attributes of ONNX's own cases, inside a small network.

The data input of a case is made by a layer whose output channels are one of the input's axes;
its result is flattened and read by another layer. Whatever of that axis may go is pruned at
random and proved. Cases that ONNX Runtime does not run by themselves are left out.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import prunegraph as pg
from prunegraph.errors import ModelError
from prunegraph.graph.onnx_io import from_model
from prunegraph.ops import rule_for
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.session import run, session
from tests.oracle import random_plan
from tests.test_onnx_cases import cases

FLOAT = onnx.TensorProto.FLOAT
PARTS = 8


def network(name: str, model: onnx.ModelProto, axis: int) -> onnx.ModelProto | None:
    """The case's operator between two layers, or None where it does not fit there."""
    graph = model.graph
    if len(graph.node) != 1 or not graph.input or graph.input[0].name != graph.node[0].input[0]:
        return None
    shapes = [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.input]
    kinds = [i.type.tensor_type.elem_type for i in graph.input]
    if kinds[0] != FLOAT or axis >= len(shapes[0]) or shapes[0][axis] < 2 or 0 in shapes[0]:
        return None
    if graph.output[0].type.tensor_type.elem_type != FLOAT or any(k == onnx.TensorProto.UNDEFINED for k in kinds):
        return None
    rng = np.random.default_rng(len(name))
    rank, width = len(shapes[0]), shapes[0][axis]
    last = [i for i in range(rank) if i != axis] + [axis]
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.ir_version = min(result.ir_version, 10)
    inner = result.graph
    source = [shapes[0][i] for i in last[:-1]] + [5]
    x = graph.input[0].name
    before = [
        helper.make_node("MatMul", ["source", "made_by"], ["made"], name="maker"),
        helper.make_node("Transpose", ["made"], [x], perm=list(np.argsort(last)), name="to_place"),
    ]
    after = [
        helper.make_node("Reshape", [graph.output[0].name, "flat"], ["flattened"], name="flatten"),
        helper.make_node("MatMul", ["flattened", "read_by"], ["scores"], name="reader"),
    ]
    total = math.prod(d.dim_value for d in graph.output[0].type.tensor_type.shape.dim)
    if not 0 < total < 100_000:
        return None
    tensors = {
        "made_by": rng.standard_normal((5, width)).astype(np.float32),
        "read_by": rng.standard_normal((total, 3)).astype(np.float32) / math.sqrt(total),
        "flat": np.asarray([1, total], np.int64),
    }
    node = onnx.NodeProto()
    node.CopyFrom(graph.node[0])
    del inner.node[:], inner.input[:], inner.output[:]
    inner.node.extend([*before, node, *after])
    inner.input.append(helper.make_tensor_value_info("source", FLOAT, source))
    inner.output.append(helper.make_tensor_value_info("scores", FLOAT, [1, 3]))
    inner.initializer.extend(numpy_helper.from_array(value, key) for key, value in tensors.items())
    return result


def with_constants(model: onnx.ModelProto, name: str) -> onnx.ModelProto | None:
    """The case's other inputs as constants, with the values the case comes with."""
    values = data()[name]
    for tensor in values:
        if tensor.name and tensor.name in model.graph.node[2].input[1:]:
            model.graph.initializer.append(tensor)
    given = {t.name for t in model.graph.initializer} | {"", model.graph.node[2].input[0]}
    return model if given.issuperset(model.graph.node[2].input) else None


def data() -> dict[str, list[onnx.TensorProto]]:
    """Inputs of every case as named tensors."""
    if not _DATA:
        import warnings

        from onnx.backend.test.case.node import collect_testcases

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for case in collect_testcases(None):
                if case.model is not None and case.data_sets:
                    names = [i.name for i in case.model.graph.input]
                    arrays = case.data_sets[0][0]
                    _DATA[case.name] = [
                        numpy_helper.from_array(np.asarray(a), n)
                        for n, a in zip(names, arrays, strict=False)
                        if isinstance(a, (np.ndarray, np.generic))
                    ]
    return _DATA


_DATA: dict[str, list[onnx.TensorProto]] = {}


def runs(graph: pg.Graph) -> bool:
    """Whether the network runs unpruned, and to finite numbers."""
    try:
        opened = session(graph, fast=False)
        values = [v for seed in (0, 1) for v in run(opened, random_inputs(graph, seed=seed))]
        return all(np.isfinite(value).all() for value in values)
    except ModelError:
        return False


def exercise(name: str, model: onnx.ModelProto) -> set[str]:
    """Operators proved with something pruned."""
    proved = set()
    for axis in range(4):
        built = network(name, model, axis)
        built = with_constants(built, name) if built is not None else None
        if built is None:
            continue
        graph = from_model(built)
        rule = rule_for(graph.nodes[2])
        if rule is None or rule.spread is None:
            continue
        plan = random_plan(pg.analyze(graph), axis, 0.5)
        if not plan.remove or not runs(graph):
            continue
        small = pg.apply(graph, plan)
        assert pg.verify(graph, plan, small) is not None
        proved.add(graph.nodes[2].op)
    return proved


@pytest.mark.parametrize("part", range(PARTS))
def test_operators_in_networks(part: int) -> None:
    names = sorted(cases())[part::PARTS]
    proved: set[str] = set()
    for name in names:
        if name in data():
            try:
                proved |= exercise(name, cases()[name])
            except Exception as error:
                raise AssertionError(f"{name}: {error}") from error
    assert len(proved) > 20
