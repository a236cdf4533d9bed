"""Every operator with a rule, with the shapes and attributes of ONNX's own cases, inside a small network.

The data input of a case is made by a layer whose output channels are one of the input's axes; its
result is flattened and read by another layer. Whatever of that axis may go is pruned at random and
proved. `tests/ops/onnx_cases_left_out.txt` lists every case that is not proved so, with the reason:

    python -m tests.ops.test_networks > tests/ops/onnx_cases_left_out.txt
"""

from __future__ import annotations

import functools
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import prunegraph as pg
from prunegraph.errors import ModelError
from prunegraph.graph.onnx_io import from_model
from prunegraph.graph.order import captured
from prunegraph.ops import rule_for
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.session import run, session
from tests.builders import Builder
from tests.ops.test_onnx_cases import cases
from tests.oracle import random_plan

FLOAT = onnx.TensorProto.FLOAT
PARTS = 8
TABLE = Path(__file__).with_name("onnx_cases_left_out.txt")
VERSIONS = f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}"

#: Types that a Cast makes of floats.
NUMBERS = frozenset(
    getattr(onnx.TensorProto, name)
    for name in (
        "FLOAT",
        "FLOAT16",
        "BFLOAT16",
        "DOUBLE",
        "BOOL",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
    )
) | {getattr(onnx.TensorProto, name) for name in ("UINT8", "UINT16", "UINT32", "UINT64")}

PROVED = "proved"

#: Why a case is not proved; where axes of one case differ, the reason that is further down.
REASONS = (
    "it reads no tensor of numbers",
    "its result is no tensor of numbers",
    "it reads data that the case does not come with",
    "it is empty, or has no axis of two elements",
    "its operator has no rule, or is a barrier",
    "nothing of its data may go",
    "ONNX Runtime does not run it",
    "its result is not finite",
    PROVED,
)
NO_DATA, NO_RESULT, NO_VALUES, NO_AXIS, NO_RULE, FIXED, NOT_RUN, NOT_FINITE, _ = REASONS


@functools.cache
def newest_opset() -> int:
    """The newest opset that ONNX Runtime takes."""
    for opset in range(onnx.defs.onnx_opset_version(), 1, -1):
        b = Builder(opset=opset)
        try:
            session(b.graph(b.relu(b.input(1))), fast=False)
        except ModelError:
            continue
        return opset
    raise AssertionError("ONNX Runtime takes no opset")


class LeftOut(Exception):  # noqa: N818  (no error: the reason why a case says nothing)
    """A case that cannot be proved; the argument is the reason."""


def network(
    model: onnx.ModelProto, values: list[onnx.TensorProto], axis: int
) -> onnx.ModelProto:
    """The case's operator (or what it is written out as) between two layers, other inputs constant. Raises LeftOut."""
    graph = model.graph
    kinds = [
        info.type.tensor_type.elem_type for info in (*graph.input[:1], graph.output[0])
    ]
    if not graph.input or kinds[0] not in NUMBERS:
        raise LeftOut(NO_DATA)
    if kinds[1] not in NUMBERS:
        raise LeftOut(NO_RESULT)
    shape, output = (
        [d.dim_value for d in info.type.tensor_type.shape.dim]
        for info in (graph.input[0], graph.output[0])
    )
    total = math.prod(output)
    if axis >= len(shape) or shape[axis] < 2 or 0 in shape or not 0 < total < 100_000:
        raise LeftOut(NO_AXIS)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.ir_version = min(result.ir_version, 11)
    for opset in result.opset_import:
        # Operators hardly change between versions, and where they do the proof does not mind.
        opset.version = (
            min(opset.version, newest_opset()) if not opset.domain else opset.version
        )
    inner = result.graph
    rng = np.random.default_rng(len(shape) + total)
    x = graph.input[0].name
    last = [i for i in range(len(shape)) if i != axis] + [axis]
    before = [
        helper.make_node("MatMul", ["x/source", "x/made_by"], ["x/made"], name="maker"),
        helper.make_node(
            "Transpose",
            ["x/made"],
            ["x/placed"],
            perm=list(np.argsort(last)),
            name="to_place",
        ),
        helper.make_node("Cast", ["x/placed"], [x], to=kinds[0], name="to_kind"),
    ]
    after = [
        helper.make_node(
            "Cast", [graph.output[0].name], ["x/numbers"], to=FLOAT, name="to_float"
        ),
        helper.make_node(
            "Reshape", ["x/numbers", "x/flat"], ["x/flattened"], name="flatten"
        ),
        helper.make_node(
            "MatMul", ["x/flattened", "x/read_by"], ["x/scores"], name="reader"
        ),
    ]
    tensors = {
        "x/made_by": rng.standard_normal((5, shape[axis])).astype(np.float32),
        "x/read_by": rng.standard_normal((total, 3)).astype(np.float32) / math.sqrt(total),
        "x/flat": np.asarray([1, total], np.int64),
    }
    read = {value for node in graph.node for value in (*node.input, *captured(node))}
    del inner.node[:], inner.input[:], inner.output[:]
    inner.node.extend([*before, *graph.node, *after])
    inner.input.append(
        helper.make_tensor_value_info(
            "x/source", FLOAT, [*(shape[i] for i in last[:-1]), 5]
        )
    )
    inner.output.append(helper.make_tensor_value_info("x/scores", FLOAT, [1, 3]))
    inner.initializer.extend(
        numpy_helper.from_array(value, key) for key, value in tensors.items()
    )
    inner.initializer.extend(
        tensor for tensor in values if tensor.name in read and tensor.name != x
    )
    if read & {info.name for info in graph.input[1:]} - {t.name for t in inner.initializer}:
        raise LeftOut(NO_VALUES)
    return result


def data() -> dict[str, list[onnx.TensorProto]]:
    """Inputs of every case as named tensors."""
    if not _DATA:
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


def run_unpruned(graph: pg.Graph) -> None:
    """Raise LeftOut unless the network runs, and to finite numbers."""
    try:
        opened = session(graph, fast=False)
        values = [
            v for seed in (0, 1) for v in run(opened, random_inputs(graph, seed=seed))
        ]
    except ModelError:
        raise LeftOut(NOT_RUN) from None
    if not all(np.isfinite(value).all() for value in values):
        raise LeftOut(NOT_FINITE)


def prove(name: str, model: onnx.ModelProto, axis: int) -> None:
    """Prune what may go of an axis, and prove it. Raises LeftOut."""
    graph = from_model(network(model, data().get(name, []), axis))
    plan = random_plan(pg.analyze(graph), axis, 0.5)
    if not plan.remove:
        rules = [rule_for(node) for node in graph.nodes if node.op != "Constant"]
        raise LeftOut(
            FIXED if all(rule is not None and rule.propagate for rule in rules) else NO_RULE
        )
    run_unpruned(graph)
    pg.verify(graph, plan, pg.apply(graph, plan))


def outcome(name: str) -> str:
    """ "proved" if anything of any axis was pruned and proved, else why not."""
    largest = 0
    for axis in range(4):
        try:
            prove(name, cases()[name], axis)
            reason = PROVED
        except LeftOut as left:
            reason = str(left)
        except Exception as error:
            raise AssertionError(f"{name}, axis {axis}: {error}") from error
        largest = max(largest, REASONS.index(reason))
    return REASONS[largest]


def read_table() -> tuple[str, dict[str, str]]:
    """The versions that the table was made with, and the reason of every case left out."""
    versions, *lines = TABLE.read_text().splitlines()
    reasons, reason = {}, ""
    for line in lines:
        if line.startswith("  "):
            reasons.update(
                dict.fromkeys(
                    (f"test_{name}" for name in line.partition(":")[2].split()), reason
                )
            )
        else:
            reason = line
    return versions, reasons


def write_table() -> None:
    """The table on standard output: reasons, and below each the cases by operator."""
    result: dict[str, dict[str, list[str]]] = {}
    for name in sorted(cases()):
        reason = outcome(name)
        if reason != PROVED:
            nodes = cases()[name].graph.node
            operator = nodes[0].op_type if len(nodes) == 1 else "written out"
            result.setdefault(reason, {}).setdefault(operator, []).append(
                name.removeprefix("test_")
            )
    lines = [VERSIONS]
    for reason in sorted(result, key=REASONS.index):
        lines.append(reason)
        lines += [
            f"  {operator}: {' '.join(names)}"
            for operator, names in sorted(result[reason].items())
        ]
    sys.stdout.write("\n".join(lines) + "\n")


@pytest.mark.parametrize("part", range(PARTS))
def test_operators_in_networks(part: int) -> None:
    """Every case is proved or left out for the reason in the table; with other versions, for any of the reasons."""
    versions, reasons = read_table()
    result = {name: outcome(name) for name in sorted(cases())[part::PARTS]}
    assert sum(reason == PROVED for reason in result.values()) > 60
    if versions == VERSIONS:
        assert result == {name: reasons.get(name, PROVED) for name in result}


def test_the_table_names_cases_and_reasons() -> None:
    versions, reasons = read_table()
    assert set(reasons.values()) <= set(REASONS) - {PROVED}
    if versions == VERSIONS:
        assert set(reasons) <= set(cases())


if __name__ == "__main__":
    write_table()
