"""Keep, prune or decompose under one budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.coupling.sample import full_cost
from prunegraph.errors import (
    BudgetError,
    DataError,
    ModelError,
    OptionError,
    UnknownNameError,
)
from prunegraph.graph.model import Graph
from prunegraph.hybrid import mixes
from prunegraph.measuring.deviation import deviation
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run, session
from tests.builders import Builder, residual_net

METHODS = ("hybrid", "prune", "decompose")


def samples(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {
        "x": np.random.default_rng(seed)
        .standard_normal((count, 3, 8, 8))
        .astype(np.float32)
    }


def made_of(graph: Graph, data: dict[str, np.ndarray]) -> np.ndarray:
    return run(session(graph), data)[0]


@pytest.fixture(scope="module")
def net() -> Graph:
    return residual_net(width=16)


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("method", METHODS)
def test_a_budget_is_met_and_every_layer_accounted_for(
    net: Graph, method: str, kind: str
) -> None:
    result = pg.compress(net, method=method, data=samples(32), round_to=2, **{kind: 0.5})
    assert getattr(result.after, kind) <= 0.5 * getattr(result.before, kind)
    assert result.after == full_cost(result.model)
    assert [layer.name for layer in result.layers] == [node.name for node in net.layers]
    assert sum(layer.macs[0] for layer in result.layers) == result.before.macs
    assert sum(layer.macs[1] for layer in result.layers) == result.after.macs
    sizes = {
        name: net.weights[net.node(name).inputs[1]].size
        for name in (layer.name for layer in result.layers)
    }
    assert {layer.name: layer.params[0] for layer in result.layers} == sizes
    assert (result.proof is not None) == bool(result.plan.remove)
    assert (method == "decompose") <= (not result.plan.remove)
    assert {node.outputs[0] for node in net.layers} <= {
        v for node in result.model.nodes for v in node.outputs
    }


def test_actions_are_what_was_done(net: Graph) -> None:
    result = pg.compress(net, method="hybrid", data=samples(32), macs=0.4, round_to=2)
    parts = {node.name.rpartition("/")[0] for node in result.model.layers}
    smaller = {node.name: node for node in result.model.layers}
    for layer in result.layers:
        assert ("decompose" in layer.action) == (layer.name in parts) == bool(layer.method)
        assert ("prune" in layer.action) == (layer.outputs[1] < layer.outputs[0])
        if layer.action in ("keep", "prune"):
            assert (
                layer.params[1] == result.model.weights[smaller[layer.name].inputs[1]].size
            )
            assert layer.macs[1] < layer.macs[0] or layer.params[1] == layer.params[0]
        if layer.action == "keep":
            assert layer.reason


def test_the_mix_of_the_least_error_is_taken(net: Graph) -> None:
    result = pg.compress(net, macs=0.4, data=samples(64), round_to=2)
    *apart, together = result.mixes
    assert [mix.pruned for mix in apart] == list(mixes.SHARES) and together.together
    assert result.chosen in result.mixes and result.chosen is not None
    measured = [mix.error for mix in result.mixes if mix.error is not None]
    assert result.chosen.error == min(measured) and len(set(measured)) > 1
    for mix in result.mixes:
        assert mix.cost is not None and mix.cost.macs <= 0.4 * result.before.macs
    alone = pg.compress(
        net,
        macs=0.4,
        data=samples(64),
        round_to=2,
        method="prune" if result.chosen.pruned == 1 else "decompose",
    )
    if result.chosen.pruned in (0.0, 1.0) and not result.chosen.together:
        assert alone.model.sha256 == result.model.sha256
    assert (
        pg.compress(net, macs=0.4, data=samples(64), round_to=2).model.sha256
        == result.model.sha256
    )


def test_together_is_what_prune_does(net: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """One allocation for channels and ranks, by the damage at the outputs: what `prune` has in the same bases."""
    monkeypatch.setattr(mixes, "best", lambda tried: tried[-1])
    together = pg.compress(net, macs=0.4, data=samples(64), round_to=2)
    assert together.chosen is not None and together.chosen.together
    pruned = pg.prune(
        net,
        budget=pg.Budget(macs=0.4),
        data=samples(64),
        round_to=2,
        curvature="never",
    )
    assert together.model.sha256 == pruned.model.sha256
    assert together.plan.ranks == pruned.plan.ranks


def test_recovery_reaches_through_decomposed_layers(net: Graph) -> None:
    """Least squares go over the whole chain, and bring the outputs nearer to the original's on other samples."""
    errors = {}
    for repair in ("none", "least-squares"):
        result = pg.compress(
            net, macs=0.5, method="decompose", data=samples(256), round_to=2, repair=repair
        )
        errors[repair] = deviation(net, result.model, Data.of(samples(64, seed=1)))
    assert errors["least-squares"] < 0.8 * errors["none"]


def test_without_data_mixes_are_measured_on_random_inputs(net: Graph) -> None:
    result = pg.compress(net, params=0.6, round_to=2)
    assert result.repair == "none" and all(mix.error is not None for mix in result.mixes)


def test_kept_layers_keep_their_outputs(net: Graph) -> None:
    name = net.layers[1].name
    result = pg.compress(net, macs=0.5, data=samples(32), round_to=2, keep=[name])
    layer = next(each for each in result.layers if each.name == name)
    assert layer.action == "keep" and layer.outputs[0] == layer.outputs[1]


def test_a_mix_that_is_impossible_is_left_out_with_its_reason() -> None:
    """A network whose channels are all fixed can only be decomposed."""
    b = Builder()
    x = b.conv(b.input(1, 32, 8, 8), 32, 32, name="only")
    graph = b.graph(x)
    result = pg.compress(graph, macs=0.5)
    assert result.chosen is not None and result.chosen.pruned == 0
    assert all("cannot fall" in mix.reason for mix in result.mixes if mix.pruned == 1)
    with pytest.raises(BudgetError, match="cannot fall"):
        pg.compress(graph, macs=0.5, method="prune")
    with pytest.raises(BudgetError, match=r"cannot fall.*; .*cannot fall"):
        pg.compress(graph, macs=0.001)


def test_files_quantization_and_a_proof_turned_off(net: Graph, tmp_path: Path) -> None:
    pg.save(net, tmp_path / "net.onnx")
    out = tmp_path / "out.onnx"
    result = pg.compress(
        tmp_path / "net.onnx",
        out,
        macs=0.6,
        data=samples(32),
        quantize="int8",
        method="prune",
        verify=False,
    )
    assert result.quantized is not None and result.proof is None
    assert pg.load(out).sha256 == result.model.sha256
    assert any(node.op == "DequantizeLinear" for node in pg.load(out).nodes)
    assert made_of(result.model, samples(2)).shape == made_of(net, samples(2)).shape


def test_bad_input(net: Graph, tmp_path: Path) -> None:
    for options, error, message in (
        ({}, BudgetError, "give a budget"),
        ({"macs": 0.5, "params": 0.5}, BudgetError, "not both"),
        ({"macs": 0.5, "method": "both"}, UnknownNameError, "source-004"),
        ({"macs": 0.5, "rank": "evbmf"}, OptionError, "of method 'source-004'"),
        ({"macs": 0.5, "cluster": "paper"}, OptionError, "of method 'source-004'"),
        ({"method": "source-004", "cluster": "best"}, UnknownNameError, "robust"),
        ({"method": "source-004", "rank": "most"}, OptionError, "energy:E"),
        (
            {"method": "source-004", "algorithm": "l2"},
            OptionError,
            "leave the algorithm out",
        ),
        ({"method": "source-004", "rank": "evbmf", "params": 0.5}, OptionError, "not both"),
        ({"macs": 0.5, "keep": ["nothing"]}, UnknownNameError, "nothing"),
        ({"macs": 0.5, "quantize": "int8"}, DataError, "needs data"),
        ({"macs": 0.5, "repair": "least-squares"}, DataError, "needs data"),
        ({"macs": 0.5, "round_to": 0}, BudgetError, "round_to"),
        ({"macs": "much"}, BudgetError, "much"),
    ):
        with pytest.raises(error, match=message):
            pg.compress(net, tmp_path / "out.onnx", **options)
    with pytest.raises(ModelError, match="folder"):
        pg.compress(net, tmp_path / "no" / "out.onnx", macs=0.5)
    assert not list(tmp_path.iterdir())


# -- samples that are kept for measuring ----------------------------------------------------


def numbered(count: int) -> Data:
    x = np.arange(count, dtype=np.float32)[:, None, None, None] * np.ones(
        (1, 3, 8, 8), np.float32
    )
    return Data.of([{"x": x[: count // 2]}, {"x": x[count // 2 :]}])


def numbers(data: Data) -> list[int]:
    return [int(row[0, 0, 0]) for chunk in data.chunks() for row in chunk["x"]]


def test_every_fourth_sample_is_kept_for_measuring(net: Graph) -> None:
    fitting, held = mixes.parts(net, numbered(18))
    assert fitting is not None
    assert numbers(held) == [3, 7, 11, 15]
    assert numbers(fitting) == [n for n in range(18) if n % 4 != 3]
    few = numbered(5)
    assert mixes.parts(net, few) == (few, few), "a quarter of them is one"


def test_a_fixed_batch_that_a_quarter_would_not_fill() -> None:
    b = Builder()
    graph = b.graph(b.conv(b.input(8, 3, 8, 8), 3, 8, name="conv"))
    data = numbered(24)
    assert mixes.parts(graph, data) == (data, data)
    fitting, held = mixes.parts(graph, numbered(32))
    assert len(numbers(held)) == 8 and fitting is not None and len(numbers(fitting)) == 24


def test_the_error_is_zero_for_the_original(net: Graph) -> None:
    data = Data.of(samples(8))
    assert deviation(net, net, data) == 0
    assert deviation(net, pg.prune(net, budget=pg.Budget(ratio=0.5)).model, data) > 0
