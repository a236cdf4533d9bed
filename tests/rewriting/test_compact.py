"""Short names: the same numbers from a smaller file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.graph.model import Graph
from prunegraph.rewriting.short_names import LETTERS, compact
from tests.builders import residual_net
from tests.coupling.test_control import branching, finished, recurrent
from tests.oracle import outputs, prove
from tests.paths import FIXTURES
from tests.proof.test_properties import SLOW
from tests.random_graphs import draw_graph

FASHION = FIXTURES / "fashion_resnet.onnx"


def same(graph: Graph) -> Graph:
    """The compact graph, which gives what the graph gives, bit by bit, under the same names."""
    pruned = compact(graph)
    assert (pruned.inputs, pruned.outputs) == (graph.inputs, graph.outputs)
    for match, wanted in zip(outputs(pruned), outputs(graph), strict=True):
        np.testing.assert_array_equal(match, wanted)
    return pruned


@settings(SLOW, max_examples=40)
@given(draw_graph(), st.integers(0, 2**16))
def test_a_compact_graph_is_the_graph(graph: Graph, seed: int) -> None:
    compact_and_prove(graph, seed)


@pytest.mark.slow
@pytest.mark.often
@settings(SLOW, max_examples=150)
@given(draw_graph(), st.integers(0, 2**16))
def test_many_compact_graphs_are_the_graph(graph: Graph, seed: int) -> None:
    compact_and_prove(graph, seed)


def compact_and_prove(graph: Graph, seed: int) -> None:
    before = graph.model.SerializeToString(deterministic=True)
    pruned = same(graph)
    assert len(pruned.model.SerializeToString()) < len(before)
    assert graph.model.SerializeToString(deterministic=True) == before
    prove(pruned, seed, 0.5)


def test_names_in_subgraphs_follow() -> None:
    for graph in (
        finished(branching()),
        finished(recurrent()),
        finished(recurrent(scanned=True)),
    ):
        same(graph)


def test_kept_names_are_not_given_again() -> None:
    graph = residual_net()
    model = onnx.ModelProto.FromString(graph.model.SerializeToString())
    first = {model.graph.input[0].name: LETTERS[0], model.graph.output[0].name: LETTERS[1]}
    for value in (*model.graph.input, *model.graph.output):
        value.name = first[value.name]
    for node in model.graph.node:
        for slots in (node.input, node.output):
            for slot, name in enumerate(slots):
                slots[slot] = first.get(name, name)
    pruned = same(Graph(model))
    assert not {LETTERS[0], LETTERS[1]} & set(pruned.weights)


def test_the_quantized_file_of_a_pruned_network_is_a_quarter(tmp_path: Path) -> None:
    """At most 0.27 of the float file with the same channels, and the same outputs as with the long names."""
    data = dict(np.load(FASHION.with_name("fashion_calibration.npz")))
    budget = pg.Budget(macs=0.5)
    pruned = pg.prune(pg.load(FASHION), budget=budget, data=data, ranks="never").model
    result = pg.quantize(pruned, data).model
    for graph, name, short in (
        (pruned, "float", False),
        (result, "int8", False),
        (result, "short", True),
    ):
        pg.save(graph, tmp_path / f"{name}.onnx", compact=short)
    sizes = {path.stem: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["short"] <= 0.27 * sizes["float"] and sizes["short"] < sizes["int8"]
    for got, wanted in zip(
        outputs(pg.load(tmp_path / "short.onnx")), outputs(result), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)


def test_attributes_that_hold_defaults_are_left_out() -> None:
    graph = residual_net()
    model = onnx.ModelProto.FromString(graph.model.SerializeToString())
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    del conv.attribute[:]
    given_values: dict[str, object] = {
        "group": 1,
        "strides": [1, 1],
        "dilations": [1, 1],
        "auto_pad": "NOTSET",
        "pads": [1, 1, 1, 1],
        "kernel_shape": [3, 3],
    }
    conv.attribute.extend(
        onnx.helper.make_attribute(name, value) for name, value in given_values.items()
    )
    pruned = same(Graph(model))
    match = next(node for node in pruned.model.graph.node if node.op_type == "Conv")
    assert {attribute.name for attribute in match.attribute} == {"pads", "kernel_shape"}


def test_notes_of_this_project_go_and_others_stay() -> None:
    graph = residual_net()
    for key in ("prunegraph.gfr", "stride"):
        graph.model.metadata_props.add(key=key, value="1")
    assert [entry.key for entry in compact(graph).model.metadata_props] == ["stride"]


@pytest.mark.parametrize("external", [True, False])
def test_weights_beside_the_file_stay_there(tmp_path: Path, external: bool) -> None:
    graph = residual_net(width=64)
    before = outputs(graph)
    onnx.save(
        graph.model, tmp_path / "net.onnx", save_as_external_data=external, size_threshold=0
    )
    pg.save(pg.load(tmp_path / "net.onnx"), tmp_path / "small.onnx", compact=True)
    assert (tmp_path / "small.onnx.data").exists() == external
    for got, wanted in zip(outputs(pg.load(tmp_path / "small.onnx")), before, strict=True):
        np.testing.assert_array_equal(got, wanted)
