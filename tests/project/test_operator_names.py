"""What an operator is stands beside its rule: few other files name it."""

from __future__ import annotations

import ast
from collections import defaultdict

import onnx
import pytest

from prunegraph import operators
from prunegraph.errors import PluginError
from prunegraph.operators import OperatorInfo, describe, info, lookup
from prunegraph.ops.rule import rules
from tests.paths import ROOT

#: Files besides these that may name one operator.
MOST = 8

#: Rules with the records, and tables of functions that run or read operators.
HOMES = ("prunegraph/ops/", "prunegraph/training/operators/", "frontends/mxnet/operators/")


def named() -> dict[str, set[str]]:
    """Files that name an operator as a whole text, by operator."""
    known = {
        schema.name
        for schema in onnx.defs.get_all_schemas_with_history()
        if schema.domain == ""
    } | {op for _, op in operators.described()}
    result = defaultdict(set)
    for folder in ("prunegraph", "frontends"):
        for path in (ROOT / folder).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith((*HOMES, "prunegraph/frontends/")):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and node.value in known:
                    result[node.value].add(name)
    return result


def test_few_files_name_an_operator() -> None:
    many = {op: sorted(files) for op, files in named().items() if len(files) > MOST}
    assert not many, f"ask prunegraph.operators instead: {many}"


def test_records_are_of_operators_that_there_are() -> None:
    """A record that nothing asks for, for want of an operator of that name, would go unnoticed."""
    schemas = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    known = {op for _, op in rules()} | schemas
    assert {op for _, op in operators.described()} <= known


def test_a_record_serves_other_domains_unless_they_have_their_own() -> None:
    assert lookup("Conv", "com.example") is lookup("Conv")
    assert (
        lookup("Attention", "com.microsoft").is_layer and not lookup("Attention").is_layer
    )
    assert lookup("NoSuchOperator") == OperatorInfo()


def test_nodes_of_graphs_and_of_files_are_asked_alike() -> None:
    proto = onnx.helper.make_node("Conv", ["x", "w"], ["y"], domain="ai.onnx")
    assert operators.is_convolution(proto) and info(proto).roles[1] == "weight"


def test_an_operator_is_described_once() -> None:
    assert lookup("Conv").is_layer
    with pytest.raises(PluginError, match=r"ai\.onnx::Conv is described twice"):
        describe(OperatorInfo(), "Conv")
