"""Networks from MXNet, pruned with proof, and written back as MXNet's own files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import ModelError, PlanError
from prunegraph.frontends import mxnet
from prunegraph.frontends.mxnet import params as params_file
from prunegraph.frontends.mxnet.builder import Builder
from prunegraph.frontends.mxnet.trace import back_to_params
from prunegraph.selection.plan import Cut
from tests.frontends.mxnet import cases as cases

FOLDERS = cases.folders()

#: Networks of which a plan may leave what MXNet's operators cannot say.
REFUSED = {"shufflenet_tiny": "Gather"}

#: All of it reaches an output or a loss: nothing may go.
FIXED = ("attrs_shared", "foreach")


def pruned(folder: Path, seed: int = 0, algorithm: str = "l2") -> tuple[Any, pg.Graph]:
    graph = pg.load(cases.read(folder).model)
    return pg.prune(
        graph, algorithm=algorithm, budget=pg.Budget(ratio=0.5), round_to=1, seed=seed
    ), graph


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name: put.shape for name, put in cases.inputs(folder).items()}


def write(folder: Path, result: Any, to: Path) -> Path:
    mxnet.apply(
        str(folder / "model-symbol.json"),
        result.plan,
        result.model,
        str(to / "model-symbol.json"),
        str(to / "model-0000.params"),
        input_shapes=shapes(folder),
    )
    return to


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f"{f.parent.name}-{f.name}")
def test_pruned_with_proof_and_written_back(folder: Path, tmp_path: Path) -> None:
    result, graph = pruned(folder)
    assert result.proof is not None and result.proof.relative <= 1e-4
    assert result.model.outputs == graph.outputs
    if folder.name not in FIXED:
        assert result.after.params < 0.7 * result.before.params
    if folder.name in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[folder.name]):
            write(folder, result, tmp_path)
        assert not list(tmp_path.iterdir())
        return
    write(folder, result, tmp_path)
    given = cases.inputs(folder)
    again = mxnet.load(
        str(tmp_path / "model-symbol.json"),
        input_shapes={name: put.shape for name, put in given.items()},
    )
    assert (
        cases.difference(cases.run(again, given), cases.run(result.model.model, given))
        <= 1e-6
    )
    if folder.name not in FIXED:
        before = sum(
            a.size for a in params_file.load(folder / "model-0000.params").values()
        )
        after = sum(
            a.size for a in params_file.load(tmp_path / "model-0000.params").values()
        )
        assert after < 0.75 * before


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f"{f.parent.name}-{f.name}")
def test_a_plan_without_cuts_writes_the_same_files(folder: Path, tmp_path: Path) -> None:
    graph = pg.load(str(folder / "model-symbol.json"), input_shapes=shapes(folder))
    result = pg.prune(
        graph, algorithm="l2", budget=pg.Budget(ratio=0.5), round_to=1, verify=False
    )
    bare = dataclasses.replace(result, plan=pg.Plan(graph.sha256, result.plan.remove))
    created = []
    for number, each in enumerate((result, bare)):
        to = tmp_path / str(number)
        to.mkdir()
        if folder.name in REFUSED:
            with pytest.raises(ModelError, match=REFUSED[folder.name]):
                write(folder, each, to)
        else:
            write(folder, each, to)
        created.append({path.name: path.read_bytes() for path in to.iterdir()})
    assert created[0] == created[1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f"{f.parent.name}-{f.name}")
def test_pruned_at_random(folder: Path, seed: int, tmp_path: Path) -> None:
    result, _ = pruned(folder, seed, "random")
    assert result.proof is not None and result.proof.relative <= 1e-4
    if folder.name in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[folder.name]):
            write(folder, result, tmp_path)
    else:
        write(folder, result, tmp_path)


def test_attributes_follow(tmp_path: Path) -> None:
    """Filters, groups and annotated shapes are those of the pruned weights."""
    folder = cases.ROOT / "tiny" / "mobilenet_tiny"
    result, _ = pruned(folder)
    write(folder, result, tmp_path)
    nodes = json.loads((tmp_path / "model-symbol.json").read_text())["nodes"]
    arrays = {
        name[4:]: array
        for name, array in params_file.load(tmp_path / "model-0000.params").items()
    }
    checked = 0
    for node in nodes:
        attributes = node.get("attrs", {})
        if node["op"] == "Convolution":
            weight = arrays[nodes[node["inputs"][1][0]]["name"]]
            assert int(attributes["num_filter"]) == weight.shape[0]
            checked += (
                int(attributes["num_group"]) == weight.shape[0] and weight.shape[1] == 1
            )
        if node["op"] == "null" and node["name"] in arrays and "__shape__" in attributes:
            assert attributes["__shape__"] == str(arrays[node["name"]].shape)
    assert checked > 3, "depthwise convolutions"


def test_a_recurrent_layer_keeps_its_gate_order(tmp_path: Path) -> None:
    """Of each gate of MXNet's own packing the same units stay."""
    folder = cases.ROOT / "tiny" / "gluon_lstm_tiny"
    result, _ = pruned(folder)
    write(folder, result, tmp_path)
    old, new = (params_file.load(path / "model-0000.params") for path in (folder, tmp_path))
    name = "arg:lstm0_lstm0_l0_h2h_bias"
    before, after = old[name].reshape(4, -1), new[name].reshape(4, -1)
    kept = [
        [row.tolist().index(value) for value in short]
        for row, short in zip(before, after, strict=True)
    ]
    assert all(row == kept[0] for row in kept) and len(kept[0]) == 4


@pytest.mark.parametrize("size", [1, 2])
def test_squeezed_axes_are_those_of_the_original(size: int, tmp_path: Path) -> None:
    """Without axes all of size 1 go; where one filter was left, it went with them, or was refused."""
    nodes = [
        {"op": "null", "name": "data", "inputs": []},
        {"op": "null", "name": "a_weight", "inputs": []},
        {
            "op": "Convolution",
            "name": "a",
            "inputs": [[0, 0, 0], [1, 0, 0]],
            "attrs": {"kernel": "(1, 1)", "num_filter": "4", "no_bias": "True"},
        },
        {"op": "squeeze", "name": "squeezed", "inputs": [[2, 0, 0]]},
        {"op": "null", "name": "b_weight", "inputs": []},
        {
            "op": "FullyConnected",
            "name": "b",
            "inputs": [[3, 0, 0], [4, 0, 0]],
            "attrs": {"num_hidden": "3", "no_bias": "True"},
        },
    ]
    symbol = {
        "nodes": nodes,
        "arg_nodes": [0, 1, 4],
        "heads": [[5, 0, 0]],
        "attrs": {"mxnet_version": ["int", 10901]},
    }
    (tmp_path / "net-symbol.json").write_text(json.dumps(symbol))
    rng = np.random.default_rng(0)
    arrays = {"a_weight": (4, 3, 1, 1), "b_weight": (3, 4 * size**2)}
    params_file.save(
        {
            f"arg:{name}": rng.standard_normal(shape).astype(np.float32)
            for name, shape in arrays.items()
        },
        tmp_path / "net-0000.params",
    )
    shape = {"data": (2, 3, size, size)}
    graph = mxnet.load(str(tmp_path / "net-symbol.json"), input_shapes=shape)
    result = pg.prune(
        pg.load(graph), budget=pg.Budget(ratio=0.75), algorithm="l2", round_to=1
    )
    assert result.model.node("a").channels.outputs == 1
    pruned = str(tmp_path / "small-symbol.json")
    mxnet.apply(
        str(tmp_path / "net-symbol.json"),
        result.plan,
        result.model,
        pruned,
        str(tmp_path / "small-0000.params"),
        input_shapes=shape,
    )
    again, given = (
        mxnet.load(pruned, input_shapes=shape),
        {"data": np.ones(shape["data"], np.float32)},
    )
    assert (
        cases.difference(cases.run(again, given), cases.run(result.model.model, given))
        <= 1e-6
    )


# -- plans that cannot be written -------------------------------------------------------------


def test_a_weight_of_another_model(tmp_path: Path) -> None:
    folder = cases.ROOT / "sym" / "mlp"
    result, _ = pruned(folder)
    plan = dataclasses.replace(result.plan, cuts=(Cut("nobody", 0, (0,)),))
    with pytest.raises(ModelError, match="'nobody'"):
        mxnet.apply(
            str(folder / "model-symbol.json"),
            plan,
            result.model,
            str(tmp_path / "a-symbol.json"),
            str(tmp_path / "a.params"),
            input_shapes={"data": cases.inputs(folder)["data"].shape},
        )
    assert not list(tmp_path.iterdir())


def test_a_plan_with_a_branch_is_refused(tmp_path: Path) -> None:
    folder = cases.ROOT / "sym" / "mlp"
    result, _ = pruned(folder)
    deeper = dataclasses.replace(result.plan, branches=("plus0",))
    with pytest.raises(PlanError, match="drops branch 'plus0'"):
        write(folder, dataclasses.replace(result, plan=deeper), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_plan_with_blocks_of_their_own_is_refused(tmp_path: Path) -> None:
    folder = cases.ROOT / "sym" / "mlp"
    result, _ = pruned(folder)
    first = result.plan.cuts[0]
    blocks = ((0,), (1,))
    own = dataclasses.replace(first, removed=(), over=1 - first.axis, blocks=blocks)
    plan = dataclasses.replace(result.plan, cuts=(own, *result.plan.cuts[1:]))
    with pytest.raises(PlanError, match="other channels in each block"):
        write(folder, dataclasses.replace(result, plan=plan), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_plan_that_is_not_the_pruned_models(tmp_path: Path) -> None:
    folder = cases.ROOT / "sym" / "mlp"
    (l2, _), (other, _) = pruned(folder), pruned(folder, 1, "random")
    with pytest.raises(ModelError, match="would not be in MXNet's files what it is"):
        mxnet.apply(
            str(folder / "model-symbol.json"),
            l2.plan,
            other.model,
            str(tmp_path / "a-symbol.json"),
            str(tmp_path / "a.params"),
            input_shapes={"data": cases.inputs(folder)["data"].shape},
        )
    assert not list(tmp_path.iterdir())


def test_a_plan_without_cuts_for_another_model(tmp_path: Path) -> None:
    folder = cases.ROOT / "sym" / "mlp"
    result, _ = pruned(folder)
    bare = dataclasses.replace(result, plan=pg.Plan("0" * 64, result.plan.remove))
    with pytest.raises(PlanError, match="the plan is for another model"):
        write(folder, bare, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_name_of_the_symbol() -> None:
    with pytest.raises(ModelError, match=r"ends in -symbol\.json"):
        mxnet.apply(
            "a-symbol.json",
            pg.Plan("", {}),
            pg.load(cases.read(FOLDERS[0]).model),
            "b.json",
            "b.params",
        )


def test_positions_are_followed_through_what_import_does() -> None:
    build = Builder()
    packed = build.parameter(np.arange(12.0, dtype=np.float32), "packed")
    turned = build.fold(lambda flat: flat.reshape(3, 4)[[2, 0, 1]], packed, label="turned")
    kept = back_to_params({"turned": turned}, {"turned": {0: [0], 1: [3]}})
    assert kept["packed"][0].tolist() == [0, 1, 2, 4, 5, 6]
    repeated = build.fold(lambda flat: np.repeat(flat, 2), packed, label="repeated")
    kept = back_to_params({"repeated": repeated}, {"repeated": {0: [0, 1, 2]}})
    assert kept["packed"][0].tolist() == list(range(1, 12))


def test_what_is_left_must_be_an_array() -> None:
    build = Builder()
    square = build.parameter(np.zeros((2, 2), np.float32), "square")
    flat = build.fold(np.ravel, square, label="flat")
    with pytest.raises(ModelError, match="'square' is no array"):
        back_to_params({"flat": flat}, {"flat": {0: [0]}})
    with pytest.raises(ModelError, match="index 7 of an axis of 4"):
        back_to_params({"flat": flat}, {"flat": {0: [7]}})


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from prunegraph.cli import main

    monkeypatch.chdir(tmp_path)
    net = str(cases.ROOT / "tiny" / "resnet_v1_basic_tiny" / "model-symbol.json")
    runner, shape = CliRunner(), ["--input-shape", "data=1,3,32,32"]
    for words in (
        [
            "prune",
            net,
            "-o",
            "small.onnx",
            "--ratio",
            "0.5",
            "--round-to",
            "1",
            "--save-plan",
            "plan.json",
            *shape,
        ],
        ["apply", net, "plan.json", "-o", "small-symbol.json", *shape],
        ["convert", "small-symbol.json", "-o", "again.onnx", *shape],
    ):
        created = runner.invoke(main, words)
        assert created.exit_code == 0, created.output
    again, pruned = pg.load("again.onnx"), pg.load("small.onnx")
    assert {
        name: weight.shape for name, weight in again.weights.items() if weight.is_float
    } == {name: weight.shape for name, weight in pruned.weights.items() if weight.is_float}
    for words, messages in (
        (
            ["apply", "small.onnx", "plan.json", "-o", "x-symbol.json"],
            "only a model from MXNet",
        ),
        (["convert", net, "-o", "x.onnx", "--input-shape", "data"], "is not NAME=SIZE"),
        (
            ["convert", net, "-o", "x.onnx", "--params-file", "nowhere.params"],
            "nowhere.params: no such file",
        ),
        (
            ["convert", "again.onnx", "-o", "x.onnx", "--params-file", "small-0000.params"],
            "is read without 'params_file'",
        ),
    ):
        failed = runner.invoke(main, words)
        assert failed.exit_code == 2 and messages in " ".join(failed.output.split()), (
            failed.output
        )
    assert not list(tmp_path.glob("x*"))
