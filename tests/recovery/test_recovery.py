"""Recovery without training."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.api import analyze
from prunegraph.errors import DataError, UnknownNameError
from prunegraph.recovery.least_squares import _stacked, repair
from prunegraph.recovery.passing import ActivationCurve, Rectifier, passing
from prunegraph.recovery.regression import Regression, behind
from prunegraph.runtime.data import Data, read_data
from prunegraph.runtime.session import run, session
from prunegraph.selection.plan import survivors
from tests.builders import Builder, residual_net
from tests.oracle import outputs, random_plan
from tests.paths import FIXTURES
from tests.training.mixed import attention, inputs


def test_golden_formula() -> None:
    """Refitting equals the closed form W' = W - G^-1[:,P] (G^-1[P,P])^-1 W[P] on the survivors (ALGORITHMS F4)."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 8)) @ rng.standard_normal((8, 8))
    w = rng.standard_normal((8, 3))
    gone, kept = [1, 4], [0, 2, 3, 5, 6, 7]
    inputs = x[None, :, kept].astype(np.float32)
    regression = Regression(inputs, centred=False, ridge=1e-6)
    anchor = np.zeros((1, len(kept), 3))
    match, intercept = (result[0] for result in regression.solve((x @ w)[None], anchor))
    g = np.linalg.inv(x.T @ x)
    closed = (w - g[:, gone] @ np.linalg.inv(g[np.ix_(gone, gone)]) @ w[gone])[kept]
    np.testing.assert_allclose(match, closed, rtol=1e-3, atol=1e-3)
    assert not intercept.any()


@pytest.mark.parametrize("lengths", [(4,), (4, 4, 2), (1, 9, 0, 30), (0, 3)])
def test_rows_of_batches_are_one_array(lengths: tuple[int, ...]) -> None:
    """Batches as long as the first, shorter ones, and longer ones where whole feeds differ in size."""
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((length, 2, 3)).astype(np.float32) for length in lengths]
    result = _stacked(iter(parts), len(parts))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.concatenate(parts))


def test_what_a_rectifier_drops_need_not_be_right() -> None:
    """Behind a ReLU the alternating fit is nearer to the original than the plain one, and never uses other inputs."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 4000, 12)).astype(np.float32)
    y = x @ rng.standard_normal((12, 6)).astype(np.float32)
    seen = np.ascontiguousarray(x[:, :, :8])
    regression, anchor = Regression(seen), np.zeros((1, 8, 6))
    plain = regression.predict(*regression.solve(y, anchor))
    fitted = regression.predict(*behind(regression, y, anchor, Rectifier()))
    errors = [
        float(((np.maximum(output, 0) - np.maximum(y, 0)) ** 2).mean())
        for output in (plain, fitted)
    ]
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("ceiling", [np.inf, 6.0, 0.3])
@pytest.mark.parametrize("strength", [0.1, 1.0])
def test_targets_behind_a_rectifier_are_the_best_there_are(
    strength: float, ceiling: float
) -> None:
    """No value on a fine grid costs less than the target that is pulled."""
    y, made = np.random.default_rng(0).standard_normal((2, 1, 200, 5)) * 3

    def cost(z: np.ndarray) -> np.ndarray:
        passes = np.clip(y, 0, ceiling) - np.clip(z, 0, ceiling)
        return passes**2 + strength * (z - made) ** 2

    pulled = cost(Rectifier(ceiling).pulled(y, made, strength))
    grid = np.linspace(-12, 12, 4001)
    best = np.min([cost(np.full_like(y, z)) for z in grid], axis=0)
    assert (pulled <= best + 1e-6).all()


@pytest.mark.parametrize("kind", ["sum", "relu"])
def test_what_stands_behind_the_add_of_a_bias_counts(kind: str) -> None:
    """A MatMul whose bias is added behind it is fitted like a Gemm that has its bias: to the sum, to what passes."""

    def net(gemm: bool) -> pg.Graph:
        b = Builder()
        x = b.input("n", 12)
        w1, b1, w2, b2 = b.weight(12, 24), b.weight(24), b.weight(24, 12), b.weight(12)

        def layer(value: str, weight: str, bias: str, name: str) -> str:
            if gemm:
                return b.op("Gemm", value, weight, bias, name=name)
            return b.op("Add", b.op("MatMul", value, weight, name=name), bias)

        x = b.relu(layer(x, w1, b1, "first"))
        z = layer(x, w2, b2, "second")
        if kind == "sum":
            z = b.op(
                "Add", z, b.op("Sin", b.op("MatMul", x, b.weight(24, 12), name="side"))
            )
        return b.graph(b.op("MatMul", b.relu(z), b.weight(12, 3), name="last"))

    x = np.random.default_rng(0).standard_normal((500, 12)).astype(np.float32)
    first, second = (
        pg.prune(
            net(gemm),
            data={"x": x},
            budget=pg.Budget(ratio=0.5),
            round_to=1,
            keep=("second",),
        )
        for gemm in (True, False)
    )
    one, two = (run(session(each.model), {"x": x})[0] for each in (first, second))
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)


def test_redundant_channels_cost_nothing() -> None:
    """Every second channel repeats its neighbour: what is removed is made up for by what stays."""
    rng = np.random.default_rng(0)
    b = Builder()
    first = rng.standard_normal((4, 3, 3, 3)).repeat(2, axis=0).astype(np.float32)
    x = b.op("Conv", b.input("n", 3, 8, 8), b.const(first), pads=[1, 1, 1, 1], name="a")
    graph = b.graph(b.head(b.relu(b.conv(b.relu(x), 8, 6, name="b")), 6))
    coupling = analyze(graph)
    group = next(g for g in coupling.groups if g.layers == ("a",))
    plan = pg.Plan(graph.sha256, {group.id: (1, 3, 5, 7)})
    pruned = pg.apply(graph, plan)
    batches = [
        {"x": rng.standard_normal((32, 3, 8, 8)).astype(np.float32)} for _ in range(4)
    ]
    fixed = repair(survivors(coupling, plan), pruned, Data.of(batches))
    expected, cut, refitted = (outputs(g, seed=5)[0] for g in (graph, pruned, fixed))
    assert abs(cut - expected).max() > 0.1 * abs(expected).max()
    assert abs(refitted - expected).max() < 0.01 * abs(expected).max()


def test_a_normalisation_of_large_values_is_looked_through() -> None:
    """A layer may make values of any size, the BatchNormalization behind it brings them back. One channel is dead."""
    fitted = [_behind_normalisation(scale) for scale in (1.0, 1e5)]
    np.testing.assert_allclose(fitted[1], fitted[0], rtol=0.01, atol=1e-3)


def _behind_normalisation(scale: float) -> np.ndarray:
    """The refitted weights of a layer whose weights and standard deviations were scaled, divided by the scale."""
    rng = np.random.default_rng(0)
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 12, name="a"))
    weight = (scale * rng.standard_normal((6, 12, 1, 1)) / 4).astype(np.float32)
    gamma = np.float32([1, 0.5, 2, 1, 0, 1])
    normal = [
        b.const(each.astype(np.float32))
        for each in (gamma, 0.1 * gamma, 0 * gamma, 0 * gamma + scale**2)
    ]
    x = b.op(
        "BatchNormalization",
        b.op("Conv", x, b.const(weight), name="b"),
        *normal,
        epsilon=0.0,
    )
    graph = b.graph(b.head(b.relu(x), 6))
    coupling = analyze(graph)
    group = next(g for g in coupling.groups if g.layers == ("a",))
    pruned = pg.apply(graph, pg.Plan(graph.sha256, {group.id: (1, 3, 5, 7)}))
    batches = [
        {"x": rng.standard_normal((32, 3, 8, 8)).astype(np.float32)} for _ in range(4)
    ]
    fixed = repair(
        survivors(coupling, pg.Plan(graph.sha256, {group.id: (1, 3, 5, 7)})),
        pruned,
        Data.of(batches),
    )
    layer = next(node for node in fixed.nodes if node.name == "b")
    return fixed.weights[layer.inputs[1]].read() / scale


def test_layers_come_closer_to_the_original() -> None:
    rng = np.random.default_rng(0)
    graph = residual_net(width=16)
    plan = random_plan(analyze(graph), 0, 0.3)
    pruned = pg.apply(graph, plan)
    batches = [
        {"x": rng.standard_normal((32, 3, 8, 8)).astype(np.float32)} for _ in range(8)
    ]
    fixed = repair(survivors(analyze(graph), plan), pruned, Data.of(batches))
    assert {n: w.shape for n, w in fixed.weights.items()} == {
        n: w.shape for n, w in pruned.weights.items()
    }
    expected, cut, refitted = (
        outputs(g, seed=9, batch=64)[0] for g in (graph, pruned, fixed)
    )
    assert np.square(refitted - expected).mean() < 0.3 * np.square(cut - expected).mean()


def test_a_matmul_is_refitted_with_the_bias_behind_it() -> None:
    """Linear layers of transformers are a MatMul and an Add: what they lose on average goes into the Add."""
    graph = attention()
    x = inputs(graph, 64)
    group = next(g for g in analyze(graph).groups if "fc1" in g.layers)
    plan = pg.Plan(graph.sha256, {group.id: tuple(range(12))})
    pruned = pg.apply(graph, plan)
    fixed = repair(survivors(analyze(graph), plan), pruned, Data.of(x))
    expected, cut, refitted = (
        run(session(g), x)[0].mean(axis=0) for g in (graph, pruned, fixed)
    )
    # fc2, a sum, a mean and a linear layer follow, so that a fitted intercept makes means equal.
    np.testing.assert_allclose(refitted, expected, atol=1e-4)
    assert np.abs(cut - expected).max() > 1e-2


def test_fashion_network_keeps_its_accuracy(tmp_path: Path) -> None:
    """Half the MACs, 256 unlabelled images, no training."""
    data = read_data(str(FIXTURES / "fashion_calibration.npz"))
    model = pg.load(FIXTURES / "fashion_resnet.onnx")
    result = pg.prune(
        model,
        tmp_path / "half.onnx",
        budget=pg.Budget(macs=0.5),
        round_to=1,
        data=list(data.batches(model, 64)),
    )
    assert result.proof is not None
    matches = pg.compare(
        model, result.model, data=read_data(str(FIXTURES / "fashion_eval.npz")), runs=1
    )
    assert matches.accuracy is not None
    assert matches.accuracy[1] > matches.accuracy[0] - 0.02
    pg.load(tmp_path / "half.onnx")


def test_wrong_requests() -> None:
    graph = residual_net()
    with pytest.raises(DataError, match="needs data"):
        pg.prune(graph, budget=pg.Budget(ratio=0.5), repair="least-squares")
    with pytest.raises(UnknownNameError, match="least-squares"):
        pg.prune(graph, budget=pg.Budget(ratio=0.5), repair="least-square")


def gelu(b: Builder, x: str) -> str:
    """GELU as exporters spell it."""
    scaled = b.op("Erf", b.op("Div", x, b.const(np.sqrt(2), np.float32)))
    inner = b.op("Mul", x, b.op("Add", scaled, b.const(1, np.float32)))
    return b.op("Mul", inner, b.const(0.5, np.float32))


def silu(b: Builder, x: str) -> str:
    return b.op("Mul", b.op("Sigmoid", x), x)


FUNCTIONS = {
    "gelu": (gelu, lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))),
    "silu": (silu, lambda x: x / (1 + np.exp(-x))),
    "hardswish": (
        lambda b, x: b.op("HardSwish", x),
        lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_are_told_however_they_are_spelled(name: str) -> None:
    build, formula = FUNCTIONS[name]
    b = Builder()
    x = b.input("n", 4)
    graph = b.graph(b.op("MatMul", build(b, x), b.weight(4, 2)))
    curve = passing(graph, x, activations=True)
    assert isinstance(curve, ActivationCurve)
    at = np.linspace(-40, 40, 1001).astype(np.float32)
    np.testing.assert_allclose(curve.of(at), formula(at.astype(np.float64)), atol=1e-3)
    assert passing(graph, x) is None


@pytest.mark.parametrize("op", ["Softmax", "ReduceMean", "Identity", "Neg"])
def test_what_is_no_activation(op: str) -> None:
    """Elements that look at others, and those that all pass; nor where something reads the value itself."""
    b = Builder()
    x = b.input("n", 4)
    options = {"axes": [1], "keepdims": 1} if op == "ReduceMean" else {}
    value = b.op("Mul", b.op(op, x, **options), b.const(2, np.float32))
    assert passing(b.graph(b.op("Flatten", value)), x, activations=True) is None
    b = Builder()
    x = b.input("n", 4)
    both = b.op("Add", silu(b, x), b.op("MatMul", x, b.weight(4, 4)))
    assert passing(b.graph(both), x, activations=True) is None


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fits_look_at_what_passes_an_activation(name: str) -> None:
    """The fit that looks at the activation is nearer behind it than the plain one."""
    build, formula = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 4000, 12)).astype(np.float32)
    y = 3 * x @ rng.standard_normal((12, 6)).astype(np.float32)
    b = Builder()
    value = b.input("n", 6)
    curve = passing(b.graph(build(b, value)), value, activations=True)
    assert curve is not None
    regression, anchor = Regression(np.ascontiguousarray(x[:, :, :8])), np.zeros((1, 8, 6))
    plain = regression.predict(*regression.solve(y, anchor))
    fitted = regression.predict(*behind(regression, y, anchor, curve))
    errors = [np.square(formula(each) - formula(y)).mean() for each in (plain, fitted)]
    assert errors[1] < 0.97 * errors[0]
