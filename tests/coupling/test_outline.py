"""The groups file: what it says is what numpy and a run of the original say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import prunegraph as pg
from prunegraph.coupling.outline import outline
from prunegraph.graph.records import node_records
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run_values
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.budget import Meter
from tests.builders import Builder, residual_net
from tests.commands import in_process
from tests.training.mixed import NETWORKS, attention


def strict(text: str) -> Any:
    """JSON as every other language reads it: without NaN and Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def written(graph: pg.Graph, folder: Path, *options: str) -> dict[str, Any]:
    pg.save(graph, folder / "net.onnx")
    done = in_process("inspect", folder / "net.onnx", "--json", "-", *options)
    assert done.exit_code == 0, done.stderr
    return dict(strict(done.stdout))


def places(member: dict[str, Any], channels: int) -> list[list[int]]:
    return member.get("positions") or [
        [member["first"] + channel] for channel in range(channels)
    ]


def depthwise_net() -> pg.Graph:
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8, name="first", strides=[2, 2]))
    x = b.relu(b.conv(x, 8, 8, group=8, name="depthwise", dilations=[2, 2], pads=[2] * 4))
    x = b.conv(x, 8, 12, 1, name="point")
    return b.graph(b.head(b.op("MaxPool", x, kernel_shape=[2, 2]), 12))


NETS = {**NETWORKS, "residual": residual_net, "depthwise": depthwise_net}


@pytest.mark.parametrize("name", NETS)
def test_weights_of_every_channel(name: str, tmp_path: Path) -> None:
    content = written(NETS[name](), tmp_path)
    tensors = {
        t.name: numpy_helper.to_array(t)
        for t in onnx.load(tmp_path / "net.onnx").graph.initializer
    }
    assert content["groups"]
    for group in content["groups"]:
        for member in group["members"]:
            axis = np.moveaxis(
                tensors[member["weight"]].astype(np.float64), member["axis"], 0
            )
            assert (
                member["size"] == len(axis)
                and tuple(member["shape"]) == tensors[member["weight"]].shape
            )
            assert member["main"] == (
                member["role"] != "param" and len(member["shape"]) > 1
            )
            assert all(
                member["weight"] in content["nodes"][node]["inputs"]
                for node in member["nodes"]
            )
            for channel, indices in enumerate(places(member, group["channels"])):
                values = axis[indices].ravel()
                expected = {
                    "l1": np.abs(values).sum(),
                    "l2": np.linalg.norm(values),
                    "mean": values.mean(),
                    "variance": values.var(),
                }
                got = {key: member[key][channel] for key in expected}
                assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_macs_of_a_plan_follow_from_members(name: str) -> None:
    """A layer's MACs times what is left of each axis of its weight: exact wherever nodes contract weights."""
    coupling = pg.analyze(NETS[name]())
    content = strict(json.dumps(outline(coupling)))
    plan = {group.id: list(range(group.channels // 2)) for group in coupling.groups}
    shares: dict[tuple[int, str, int], float] = {}
    for group in content["groups"]:
        for member in group["members"]:
            for node in member["nodes"] if member["main"] else ():
                key = node, member["weight"], member["axis"]
                gone = len(plan[group["id"]]) * member["per_channel"] / member["size"]
                shares[key] = shares.get(key, 1.0) - gone
    with_weights = {node for node, _, _ in shares}
    macs = {node["index"]: node["macs"] for node in content["nodes"]}
    total = sum(
        macs[node]
        * np.prod([share for (other, _, _), share in shares.items() if other == node])
        for node in with_weights
    )
    rest = sum(count for node, count in macs.items() if node not in with_weights)
    measured = Meter(coupling).measure(plan).macs
    assert content["cost"]["macs"] == sum(macs.values()) == Meter(coupling).original.macs
    if name == "attention":  # two products of activations shrink too, which no weight tells
        assert total <= measured <= total + rest
    else:
        assert total + rest == pytest.approx(measured, rel=1e-9)


def test_macs_of_a_group_count_a_layer_once_for_each_side() -> None:
    """Layers that make the channels and layers that read them, whether they have a bias or not."""
    stem, block, head = 8 * 3 * 9 * 64, 16 * 8 * 9 * 64, 8 * 5
    groups = {group.id: group.macs for group in pg.analyze(residual_net()).groups}
    assert groups == {"g0": stem + 2 * block + head, "g1": 2 * block}


def test_activations_are_those_of_a_run(tmp_path: Path) -> None:
    graph = residual_net()
    x = np.random.default_rng(1).standard_normal((12, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    content = written(graph, tmp_path, "--data", str(tmp_path / "data.npz"))
    checked = set()
    for group in content["groups"]:
        for each in group["activations"]:
            value = run_values(graph, {"x": x}, [each["value"]])[each["value"]].astype(
                np.float64
            )
            rows = np.moveaxis(value, each["axis"], 0).reshape(
                value.shape[each["axis"]], -1
            )
            assert len(rows) == group["channels"]
            np.testing.assert_allclose(each["mean"], rows.mean(1), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(each["energy"], (rows**2).mean(1), rtol=1e-4)
            np.testing.assert_allclose(each["std"], rows.std(1), rtol=1e-4)
            np.testing.assert_allclose(
                each["inactive_share"], (rows <= 0).mean(1), rtol=1e-6
            )
            checked.update((each["role"], layer) for layer in each["layers"])
    assert checked >= {
        ("out", "stem"),
        ("out", "block1"),
        ("out", "block2"),
        ("in", "block1"),
        ("in", "block2"),
    }


def test_packed_heads_have_moments_of_whole_channels() -> None:
    graph = attention()
    (name,) = graph.inputs
    shape = pg.analyze(graph).shape_info.shapes[name]
    data = Data.of(
        {name: np.random.default_rng(0).standard_normal((4, *shape[1:])).astype(np.float32)}
    )
    coupling = pg.analyze(graph, attention="heads")
    content = outline(coupling, Statistics(graph, data))
    assert content["model"]["attention"] == "heads"
    assert all(
        len(each["mean"]) == g["channels"]
        for g in content["groups"]
        for each in g["activations"]
    )
    assert any(g["activations"] for g in content["groups"])


def test_nodes_say_what_an_onnx_reader_would(tmp_path: Path) -> None:
    pg.save(depthwise_net(), tmp_path / "net.onnx")
    done = in_process("inspect", tmp_path / "net.onnx", "--nodes", tmp_path / "nodes.json")
    assert done.exit_code == 0, done.stderr
    content = strict((tmp_path / "nodes.json").read_text())
    assert content["format"] == "prunegraph/nodes@1"
    assert content["inputs"][0]["name"] == "x"
    nodes = {node["name"]: node for node in content["nodes"]}
    first, depthwise = nodes["first"], nodes["depthwise"]
    assert (
        first["kernel"],
        first["stride"],
        first["dilation"],
        first["pads"],
        first["groups"],
    ) == (
        [3, 3],
        [2, 2],
        [1, 1],
        [1, 1, 1, 1],
        1,
    )
    assert (depthwise["groups"], depthwise["dilation"], depthwise["stride"]) == (
        8,
        [2, 2],
        [1, 1],
    )
    assert first["input_shapes"] == [[1, 3, 8, 8], [8, 3, 3, 3], [8]]
    assert first["output_shapes"] == [[1, 8, 4, 4]]
    assert first["macs"] == 8 * 3 * 9 * 16 and depthwise["macs"] == 8 * 9 * 16
    pool = next(node for node in content["nodes"] if node["op"] == "MaxPool")
    assert pool["kernel"] == [2, 2] and pool["layer"] == "point" and "groups" not in pool
    assert depthwise["parents"] == [[1, 0]] and content["nodes"][1]["op"] == "Relu"
    assert content["nodes"][1]["layer"] == "first"
    assert node_records(pg.load(tmp_path / "net.onnx")) == [
        {key: value for key, value in node.items() if key != "macs"}
        for node in content["nodes"]
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_null(value: float, tmp_path: Path) -> None:
    """A file that other languages can read, whatever the weights and attributes are."""
    b = Builder()
    x = b.linear(b.input("n", 4), 4, 6, name="a")
    x = b.op("ThresholdedRelu", x, alpha=float(value))
    graph = b.graph(b.linear(x, 6, 2, name="b"))
    weight = graph.nodes[0].inputs[1]
    array = graph.weights[weight].read().copy()
    array[2, 0] = value
    (tensor,) = [t for t in graph.model.graph.initializer if t.name == weight]
    tensor.CopyFrom(numpy_helper.from_array(array, weight))
    content = written(pg.load(graph.model), tmp_path)
    member = next(m for m in content["groups"][0]["members"] if m["weight"] == weight)
    assert [channel for channel, norm in enumerate(member["l2"]) if norm is None] == [2]
    node = next(node for node in content["nodes"] if node["op"] == "ThresholdedRelu")
    assert node["attributes"]["alpha"] == str(value)


def test_files_that_cannot_be_asked_for(tmp_path: Path) -> None:
    pg.save(residual_net(), tmp_path / "net.onnx")
    for words, message in (
        (["--json", "-", "--nodes", "-"], "cannot both be stdout"),
        (["--data", "x.npz"], "--data is for the groups file"),
        (["--nodes", str(tmp_path / "net.onnx")], "output and input are the same file"),
        (
            ["--nodes", str(tmp_path / "n.json"), "--json", str(tmp_path / "n.json")],
            "two outputs are the same file",
        ),
    ):
        done = in_process("inspect", tmp_path / "net.onnx", *words)
        assert done.exit_code == 2 and message in done.stderr, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx"}
