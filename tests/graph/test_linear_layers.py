"""Layers in every form a file can write them in: repaired, quantized, decomposed, folded, trained to what they were."""

from __future__ import annotations

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.graph.model import Graph
from prunegraph.recovery.repairs import find
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run, session
from prunegraph.selection.budget import Budget
from prunegraph.selection.plan import survivors
from tests.builders import Builder
from tests.graph.layer_forms import DEAD, FORMS, ROWS, Form, network, samples

Array = np.ndarray


def run_all(graph: Graph, x: dict[str, Array], rows: int | str) -> Array:
    """The first output for all samples, in batches where the graph takes so many."""
    opened, count = session(graph), rows if isinstance(rows, int) else len(x["x"])
    parts = [
        run(opened, {"x": x["x"][i : i + count]})[0] for i in range(0, len(x["x"]), count)
    ]
    return np.concatenate(parts)


def distance(
    first: Graph, second: Graph, x: dict[str, Array], rows: int | str = "n"
) -> float:
    """Root of the mean squared difference, relative to the first's deviation."""
    a, b = run_all(first, x, rows), run_all(second, x, rows)
    return float(np.sqrt(np.square(a - b).mean()) / a.std())


def is_finite(graph: Graph) -> bool:
    return all(
        np.isfinite(weight.read()).all()
        for weight in graph.weights.values()
        if weight.is_float
    )


def without_dead(graph: Graph) -> tuple[pg.Plan, Graph]:
    """The graph without the constant channels that the layer reads."""
    group = next(group for group in pg.analyze(graph).groups if "first" in group.layers)
    plan = pg.Plan(graph.sha256, {group.id: tuple(range(DEAD))})
    return plan, pg.apply(graph, plan)


REPAIRS = ("least-squares", "absorb", "bn")

#: Repairs of each form; "bn" sets running statistics, which are not those of the data here.
REPAIRED = [
    (form, repair)
    for form in FORMS
    for repair in REPAIRS
    if not (form.normal and repair == "bn")
]


@pytest.mark.parametrize(("form", "repair"), REPAIRED, ids=str)
def test_constant_channels_cost_nothing(form: Form, repair: str) -> None:
    """What constant channels gave is in the layer's bias afterwards, wherever that stands."""
    graph = network(form)
    x = samples(form)
    plan, pruned = without_dead(graph)
    data = Data.of(x)
    function = find(repair, data, graph)
    repaired = function(survivors(pg.analyze(graph), plan), pruned, data, lambda _: None)
    assert is_finite(repaired)
    cut, after = (distance(graph, each, x, form.rows) for each in (pruned, repaired))
    computed = form.bias == "computed" and not form.normal
    if computed or (form.op == "MatMul" and (form.bias == "none" or form.rows == ROWS)):
        assert after < 2 * cut  # there is no place for a bias
    else:
        assert cut > 0.02 and after < 2e-3


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_quantized(form: Form) -> None:
    graph, x = network(form), samples(form)
    result = pg.quantize(graph, x, reduce_range=True)
    layer = next(layer for layer in result.layers if layer.name == "layer")
    if form.op != "Conv" or form.bias != "computed":
        assert layer.weights == "int8", layer.reason
    a, b = run_all(graph, x, form.rows), run_all(result.model, x, form.rows)
    really = 10 * np.log10(np.square(a).sum() / np.square(a - b).sum())
    assert really > 25


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("form", [form for form in FORMS if form.op != "Conv"], ids=str)
def test_decomposed(form: Form, data: bool) -> None:
    """A weight of rank 2 is two factors of rank 2, and the layer does what it did."""
    graph, x = network(form, rank=2), samples(form)
    result = pg.decompose(
        graph,
        rank="energy:0.9999",
        round_to=1,
        data=x if data else None,
        keep=("first", "last"),
    )
    assert [row.name for row in result.layers] == ["layer"]
    assert is_finite(result.model)
    assert distance(graph, result.model, x, form.rows) < 1e-3


@pytest.mark.parametrize("form", [form for form in FORMS if form.op == "Gemm"], ids=str)
def test_folded(form: Form) -> None:
    """A factor and a shift behind a layer go into it, or stay."""
    from prunegraph.rewriting.fold import fold

    graph, x = network(form), samples(form)
    folded = fold(graph)
    assert is_finite(folded) and distance(graph, folded, x, form.rows) < 1e-5
    if form.normal and form.bias != "computed":
        assert not any(node.op == "BatchNormalization" for node in folded.nodes)


def test_gemms_in_plain_form() -> None:
    from prunegraph.rewriting.gemm import plain_gemms

    for form in (each for each in FORMS if each.op == "Gemm"):
        graph, x = network(form), samples(form)
        plain = plain_gemms(graph)
        assert distance(graph, plain, x, form.rows) < 1e-6
        gemms = [node for node in plain.nodes if node.op == "Gemm"]
        assert all(
            n.attributes.get("alpha", 1) == 1 and not n.attributes.get("transA")
            for n in gemms
        )
        assert all(n.attributes.get("beta", 1) == 1 or not n.input(2) for n in gemms)
        assert plain.node("layer").channels.outputs == graph.node("layer").channels.outputs


def test_half_precision_is_not_folded_beyond_its_range() -> None:
    b = Builder()
    x = b.input("n", 8, kind=10)
    half = [
        b.const(value, np.float16)
        for value in (np.full((8, 4), 300.0), np.zeros(4), np.full(4, 1000.0))
    ]
    y = b.op(
        "Mul", b.op("Gemm", b.op("Mul", x, b.const(1e-3, np.float16)), *half[:2]), half[2]
    )
    model = b.model(y)
    model.graph.output[0].type.tensor_type.elem_type = 10
    from prunegraph.graph.onnx_io import from_model
    from prunegraph.rewriting.fold import fold

    assert is_finite(fold(from_model(model)))


def constant_times_constant(extra: bool) -> Graph:
    """A product of two constants beside a layer's weight; the first may be computed."""
    b = Builder()
    x = b.input("n", 12)
    down = b.op("Neg", b.weight(12, 4)) if extra else b.weight(12, 4)
    weight = b.op(
        "Add", b.weight(12, 20), b.op("MatMul", down, b.weight(4, 20), name="lora")
    )
    x = b.relu(b.op("MatMul", x, weight, name="merged"))
    return b.graph(
        b.linear(b.relu(b.linear(x, 20, 16, name="second")), 16, 5, name="third")
    )


@pytest.mark.parametrize("extra", [False, True])
def test_layers_of_constants_are_left_out(extra: bool) -> None:
    graph = constant_times_constant(extra)
    x = {"x": np.random.default_rng(0).standard_normal((64, 12)).astype(np.float32)}
    for criterion in ("l1", "wanda", "thinet", "obs", "chip", "hrank", "apoz"):
        assert is_finite(
            pg.prune(
                graph, budget=Budget(ratio=0.5), round_to=1, data=x, algorithm=criterion
            ).model
        )
    for options in ({"rounding": "gptq"}, {"weights": "int4"}, {"activations": "none"}):
        assert pg.quantize(graph, x, **options).outputs  # type: ignore[arg-type]
    result = pg.decompose(graph, macs=0.8, round_to=1, data=x)
    assert result.skipped["lora"] == "its input is a constant"
    pg.compress(graph, params=0.6, round_to=1, data=x)


def other_kind(kind: str) -> Graph:
    """A layer that is no plain matrix product, between two others."""
    b = Builder()
    x = b.input("n", 8, *((3, 3) if "Conv" in kind else ()))
    given = (b.weight(12, 8, 1, 1) if "Conv" in kind else b.weight(8, 12), b.weight(12))
    x = b.op("Sigmoid", b.op("Conv" if "Conv" in kind else "Gemm", x, *given, name="first"))
    microsoft = {"name": "layer", "domain": "com.microsoft"}
    if kind == "FusedConv":
        y = b.op(
            "FusedConv",
            x,
            b.weight(6, 12, 1, 1),
            b.weight(6),
            activation="Relu",
            **microsoft,
        )
    elif kind == "ConvTranspose":
        y = b.op("ConvTranspose", x, b.weight(12, 6, 2, 2), b.weight(6), name="layer")
    elif kind == "FusedGemm":
        y = b.op(
            "FusedGemm",
            x,
            b.weight(12, 6),
            b.weight(6),
            activation="Relu",
            alpha=0.5,
            **microsoft,
        )
    elif kind == "FusedMatMul":
        y = b.op("FusedMatMul", x, b.weight(6, 12), alpha=0.5, transB=1, **microsoft)
    elif kind == "left":
        y = b.op(
            "Transpose", b.op("MatMul", b.weight(6, 12), b.op("Transpose", x), name="layer")
        )
    elif kind == "batched":
        y = b.op(
            "ReduceMean",
            b.op("MatMul", x, b.weight(3, 12, 6), name="layer"),
            axes=[0],
            keepdims=0,
        )
    else:
        weight = np.random.default_rng(0).standard_normal((12, 6)).astype(np.float32)
        weight[0, 0] = np.inf
        # What is not finite is bounded again.
        limits = b.const(-9.0, np.float32), b.const(9.0, np.float32)
        y = b.op("Clip", b.op("MatMul", x, b.const(weight), name="layer"), *limits)
    y = b.op("Flatten", b.op("GlobalAveragePool", y)) if "Conv" in kind else y
    return b.graph(b.linear(y, 6, 5, name="last"), domains=[("com.microsoft", 1)])


KINDS = [
    "FusedConv",
    "ConvTranspose",
    "FusedGemm",
    "FusedMatMul",
    "left",
    "batched",
    "infinite",
]


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_keep_their_weights(kind: str) -> None:
    """What is not understood is left to the layers behind it, and nothing gets worse by that."""
    graph = other_kind(kind)
    shape = (64, 8, 3, 3) if "Conv" in kind else (64, 8)
    x = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    plain = pg.prune(
        graph, budget=Budget(ratio=0.5), round_to=1, data=x, repair="none"
    ).model
    for repair in ("least-squares", "absorb", "bn"):
        result = pg.prune(
            graph, budget=Budget(ratio=0.5), round_to=1, data=x, repair=repair
        )
        old = {name: weight.read() for name, weight in plain.weights.items()}
        name = next(
            value
            for value in result.model.node("layer").inputs
            if value in result.model.weights
        )
        if (
            kind != "infinite"
        ):  # the cut takes the infinite weight away: a plain layer is left
            np.testing.assert_array_equal(result.model.weights[name].read(), old[name])
        if repair == "least-squares":
            assert distance(graph, result.model, x) < distance(graph, plain, x) + 1e-6
    quantized = pg.quantize(
        graph, x, activations="none" if kind == "infinite" else None, reduce_range=True
    )
    (reason,) = (layer.reason for layer in quantized.layers if layer.name == "layer")
    assert reason
    a, b = run_all(graph, x, "n"), run_all(quantized.model, x, "n")
    assert 10 * np.log10(np.square(a).sum() / np.square(a - b).sum()) > 25
    decomposed = pg.decompose(graph, rank="energy:0.99", round_to=1, data=x)
    assert "layer" in decomposed.skipped


def test_a_constant_layer_in_measurements() -> None:
    """Sensitivities and candidates of a model with a layer of constants."""
    graph = constant_times_constant(extra=False)
    x = {"x": np.random.default_rng(0).standard_normal((16, 12)).astype(np.float32)}
    assert pg.sensitivity(graph, data=x, ratios=(0.5,), jobs=1)
