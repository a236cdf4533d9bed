"""The node graph: lossless, tolerant, and clear about what is wrong."""

from __future__ import annotations

from pathlib import Path

import networkx
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from prunegraph.api import analyze, apply, load, prune, save
from prunegraph.errors import ModelError
from prunegraph.graph.onnx_io import from_model
from prunegraph.graph.records import node_records
from prunegraph.graph.shapes import shape_info
from prunegraph.graph.surgeon import from_graphsurgeon, to_graphsurgeon
from prunegraph.graph.wire import pieces
from prunegraph.selection.budget import Budget
from prunegraph.selection.plan import make_plan
from tests.builders import Builder, residual_net
from tests.oracle import outputs, prove


def rich_model() -> onnx.ModelProto:
    """A model with every kind of fact that a careless tool loses."""
    b = Builder()
    x = b.conv(b.input("batch", 3, "height", "width"), 3, 8, name="first")
    model = b.model(b.head(b.relu(x), 8))
    model.producer_name, model.producer_version, model.domain, model.model_version = (
        "maker",
        "7",
        "here",
        3,
    )
    model.doc_string = "a model"
    model.metadata_props.add(key="licence", value="none")
    model.opset_import.add(domain="com.example", version=2)
    graph = model.graph
    graph.doc_string = "a graph"
    graph.node[0].doc_string = "a node"
    graph.node[0].metadata_props.add(key="namespace", value="net/first")
    graph.initializer[0].doc_string = "a weight"
    graph.value_info.append(
        helper.make_tensor_value_info("first.out", 1, ["batch", 8, "height", "width"])
    )
    annotation = graph.quantization_annotation.add(tensor_name="first.out")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="c1")
    return model


def test_load_and_save_lose_nothing(tmp_path: Path) -> None:
    model = rich_model()
    onnx.save(model, tmp_path / "a.onnx")
    save(load(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    assert onnx.load(tmp_path / "b.onnx") == model


def test_a_cut_keeps_what_it_does_not_touch() -> None:
    graph = from_model(rich_model())
    pruned, _ = prove(graph)
    for name in (
        "producer_name",
        "domain",
        "model_version",
        "doc_string",
        "metadata_props",
        "opset_import",
    ):
        assert getattr(pruned.model, name) == getattr(graph.model, name)
    assert [n.name for n in pruned.model.graph.node] == [
        n.name for n in graph.model.graph.node
    ]
    assert pruned.model.graph.node[0].doc_string == "a node"
    assert (
        pruned.model.graph.node[0].metadata_props
        == graph.model.graph.node[0].metadata_props
    )
    assert pruned.model.graph.initializer[0].doc_string == "a weight"
    assert pruned.model.graph.input == graph.model.graph.input
    # With the size it has now, and its symbols.
    (declared,) = pruned.model.graph.value_info
    dims = [dim.dim_param or dim.dim_value for dim in declared.type.tensor_type.shape.dim]
    assert dims == ["batch", pruned.node("first").channels.outputs, "height", "width"]
    assert pruned.node("first").channels.outputs == 4


def test_wire_pieces_are_the_deterministic_serialization() -> None:
    model = rich_model()
    assert b"".join(pieces(model)) == model.SerializeToString(deterministic=True)


def test_nodes_out_of_order() -> None:
    graph = residual_net()
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(graph.model)
    nodes = list(
        reversed(
            [onnx.NodeProto.FromString(n.SerializeToString()) for n in shuffled.graph.node]
        )
    )
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)
    result = from_model(shuffled)
    assert [n.name for n in result.model.graph.node] == [n.name for n in nodes]
    assert [g.layers for g in analyze(result).groups] == [
        g.layers for g in analyze(graph).groups
    ]
    created = set(result.inputs) | set(result.weights)
    for node in result.nodes:
        assert created.issuperset(node.inputs)
        created.update(node.outputs)
    prove(result)


def test_weights_in_constant_nodes() -> None:
    model = residual_net().model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.initializer[:], copy.graph.node[:]
    copy.graph.node.extend(
        helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer
    )
    copy.graph.node.extend(model.graph.node)
    graph = from_model(copy)
    assert len(analyze(graph).groups) == len(analyze(from_model(model)).groups)
    pruned, _ = prove(graph)
    assert not pruned.model.graph.initializer


def test_initializers_listed_as_inputs() -> None:
    model = residual_net().model
    old = onnx.ModelProto()
    old.CopyFrom(model)
    old.ir_version = 3
    old.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        for t in model.graph.initializer
    )
    graph = from_model(old)
    assert graph.inputs == ("x",)
    pruned, _ = prove(graph)
    declared = {
        i.name: [d.dim_value for d in i.type.tensor_type.shape.dim]
        for i in pruned.model.graph.input
    }
    for tensor in pruned.model.graph.initializer:
        assert declared[tensor.name] == list(tensor.dims)


def test_wrong_and_missing_declared_shapes() -> None:
    model = residual_net().model
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    wrong.graph.value_info.append(
        helper.make_tensor_value_info("stem.out", 1, [9, 9, 9, 9])
    )
    info = shape_info(from_model(wrong))
    assert info.shapes["stem.out"] == (1, 8, 8, 8)


@pytest.mark.parametrize(
    "opset", [7, 8, 9, 10, 11, 12, 13, 15, 18, 20, 21, 22, 23, 24, 25, 26]
)
def test_every_opset(opset: int) -> None:
    b = Builder(opset=opset, ir_version=3 if opset < 9 else 8 if opset < 22 else 10)
    x = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, 8), 8))
    y = b.op("Concat", x, b.conv(x, 8, 6), axis=1)
    y = b.conv(b.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]), 14, 8)
    graph_input = b.head(y, 8)
    model = b.model(graph_input)
    if opset < 9:
        model.graph.input.extend(
            helper.make_tensor_value_info(t.name, t.data_type, t.dims)
            for t in model.graph.initializer
        )
    graph = from_model(model)
    pruned, _ = prove(graph)
    assert sum(w.size for w in pruned.weights.values()) < 0.6 * sum(
        w.size for w in graph.weights.values()
    )


def test_local_functions_are_inlined() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 8, 8), 3, 8)
    x = b.op("Twice", x, domain="local")
    model = b.model(b.head(x, 8), domains=[("local", 1)])
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(
        helper.make_function(
            "local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]
        )
    )
    graph = from_model(model)
    assert {node.op for node in graph.nodes} == {
        "Conv",
        "Add",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    }
    prove(graph)


def test_external_data(tmp_path: Path) -> None:
    graph = residual_net()
    onnx.save(
        onnx.ModelProto.FromString(graph.model.SerializeToString()),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.bin",
        size_threshold=16,
    )
    result = load(tmp_path / "m.onnx")
    (tmp_path / "out").mkdir()
    pruned, _ = prove(result)
    save(pruned, tmp_path / "out" / "small.onnx")
    again = load(tmp_path / "out" / "small.onnx")
    for a, b in zip(outputs(pruned), outputs(again), strict=True):
        np.testing.assert_array_equal(a, b)
    (tmp_path / "m.bin").unlink()
    with pytest.raises(ModelError, match=r"m\.bin.*missing"):
        load(tmp_path / "m.onnx")


def test_node_records() -> None:
    records = node_records(residual_net())
    stem = records[0]
    assert (stem["index"], stem["name"], stem["op"], stem["layer"]) == (
        0,
        "stem",
        "Conv",
        "stem",
    )
    assert stem["channels"]["outputs"] == 8
    assert stem["channels"]["weights"]["weight"]["shape"] == [8, 3, 3, 3]
    assert records[1]["op"] == "BatchNormalization"
    assert records[1]["parents"] == [[0, 0]]
    assert records[1]["layer"] == "stem"
    assert set(records[1]["channels"]["weights"]) == {"scale", "bias", "mean", "variance"}


def test_to_networkx() -> None:
    graph = residual_net()
    digraph = graph.to_networkx()
    assert networkx.is_directed_acyclic_graph(digraph)
    assert digraph.edges[0, 1]["value"] == "stem.out"


def test_graphsurgeon_round_trip() -> None:
    graph = from_model(rich_model())
    again = from_graphsurgeon(to_graphsurgeon(graph), like=graph)
    assert again.model.metadata_props == graph.model.metadata_props
    assert again.model.graph.node[0].doc_string == "a node"
    for a, b in zip(outputs(graph), outputs(again), strict=True):
        np.testing.assert_array_equal(a, b)


def broken(kind: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(residual_net().model)
    if kind == "dangling":
        model.graph.node[1].input[0] = "nowhere"
    elif kind == "cycle":
        model.graph.node[0].input[0] = model.graph.node[-2].output[0]
    elif kind == "value":
        model.graph.node[1].output[0] = model.graph.node[0].output[0]
    elif kind == "initializer":
        model.graph.initializer.append(
            numpy_helper.from_array(np.zeros(1, np.float32), "c1")
        )
    elif kind == "output":
        model.graph.output[0].name = "nowhere"
    return model


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("dangling", "'nowhere'.*nothing makes"),
        ("cycle", "cycle: .* -> "),
        ("value", "made twice"),
        ("initializer", "two initializers are named 'c1'"),
        ("output", "output 'nowhere' is made by no node"),
    ],
)
def test_invalid_graphs(kind: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_model(broken(kind))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is a folder, not a model file"):
        load(tmp_path)
    (tmp_path / "text.onnx").write_text("not a model at all")
    with pytest.raises(ModelError, match="not an ONNX file"):
        load(tmp_path / "text.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="not an ONNX file"):
        load(tmp_path / "empty.onnx")
    data = residual_net().model.SerializeToString()
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError):
        load(tmp_path / "cut.onnx")


def test_apply_leaves_the_model_alone() -> None:
    graph = residual_net()
    before = graph.model.SerializeToString(deterministic=True)
    prove(graph)
    assert graph.model.SerializeToString(deterministic=True) == before
    assert apply(graph, make_plan(analyze(graph), {})) is graph


def test_shapes_that_are_declared_for_weights_go_with_them() -> None:
    """Exporters list initializers among the values that have shapes."""
    graph = residual_net()
    for weight in graph.weights.values():
        graph.model.graph.value_info.append(
            onnx.helper.make_tensor_value_info(weight.name, 1, weight.shape)
        )
    pruned = prune(graph, budget=Budget(ratio=0.5), round_to=1).model
    assert not {entry.name for entry in pruned.model.graph.value_info} & set(pruned.weights)
