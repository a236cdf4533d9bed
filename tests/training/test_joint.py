"""Joint pruning and quantization-aware training: what is trained is what `quantize` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import prunegraph as pg
from prunegraph.errors import (
    BudgetError,
    DataError,
    ModelError,
    OptionError,
    UnknownNameError,
)
from prunegraph.graph.model import Graph
from prunegraph.measuring.sqnr import dequantized
from prunegraph.ops.cost import cost
from prunegraph.quantization.quantize import quantize
from prunegraph.quantization.scheme import TYPES, Params
from prunegraph.rewriting.fold import fold
from prunegraph.runtime.data import Data
from prunegraph.selection.budget import Budget
from prunegraph.training import (
    METHODS,
    Batches,
    GraphModule,
    TrainingConfig,
    TrainingOptions,
    cross_entropy,
    fit,
    train,
)
from prunegraph.training.fake import FakeQuantize, FakeRound
from prunegraph.training.fit import Callback, Run
from prunegraph.training.prune_stage import sampled
from prunegraph.training.qat import Phases, QuantizedModule
from tests.builders import Builder, residual_net
from tests.quantization.networks import random_net, run_fast, samples
from tests.training.test_fit import accuracy, task, weights

Array = np.ndarray


def setting(**other: object) -> TrainingOptions:
    result: dict[str, object] = {
        "data": Data.of(task()),
        "batch": 24,
        "loss": cross_entropy(),
        "recipe": TrainingConfig(epochs=4, lr=0.1),
        "evaluate": accuracy,
        "budget": Budget(macs=0.5),
    }
    return TrainingOptions(**{**result, **other})  # type: ignore[arg-type]


def trained(width: int = 16, epochs: int = 6) -> Graph:
    module = GraphModule(residual_net(width=width))
    fit(module, Batches(task(), 24), TrainingConfig(epochs=epochs, lr=0.1))
    return module.write_back()


def right(graph: Graph) -> float:
    """Accuracy in ONNX Runtime."""
    data = task(200, seed=1)
    (logits,) = run_fast(graph, {"x": data["x"]}).values()
    return float((logits.argmax(1) == data["labels"]).mean())


# -- fake quantization ----------------------------------------------------------------------------


def test_a_fake_quantizer_is_quantize_and_dequantize() -> None:
    params = Params(0.1, 100, TYPES["uint8"])
    part = FakeQuantize(params).eval()
    x = torch.linspace(-20, 20, 999, requires_grad=True)
    y = part(x)
    np.testing.assert_array_equal(
        y.detach().numpy(), params.values(params.codes(x.detach().numpy()))
    )
    y.sum().backward()
    assert x.grad is not None
    codes = (x.detach() / np.float32(0.1)).round() + 100
    inside = (codes >= 0) & (codes <= 255)
    assert (
        torch.equal(x.grad[inside], torch.ones(int(inside.sum())))
        and x.grad[~inside].abs().max() == 0
    )


def test_ranges_follow_what_is_seen() -> None:
    part = FakeQuantize(Params(1 / 255, 0, TYPES["uint8"])).train()
    for _ in range(100):
        part(torch.tensor([-3.0, 1.0]))
        part(torch.tensor([0.5, 2.0]))
        part.settle()
    low, high = -3 * (1 - 0.99**100), 2 + (1 - 2) * 0.99**100
    np.testing.assert_allclose(part.bounds.numpy(), [low, high], rtol=1e-6)
    scale = (high - low) / 255
    assert part.params.scale == pytest.approx(scale) and part.params.zero_point == round(
        -low / scale
    )
    part.observing = False
    part(torch.tensor([100.0]))
    part.settle()
    assert part.bounds[1] == pytest.approx(high)


def test_learnt_scales_have_the_gradient_of_lsq() -> None:
    """dq/ds = round(x / s) - x / s inside, the bound's code outside, over sqrt(elements * 255)."""
    part = FakeQuantize(Params(0.1, 0, TYPES["uint8"]), learn=True).train()
    x = torch.tensor([[0.234, 1.0, 99.0]])
    part(x).sum().backward()
    assert part.scale.grad is not None
    wanted = (round(2.34) - 2.34) + 0.0 + 255
    assert part.scale.grad.item() == pytest.approx(wanted / np.sqrt(3 * 255), rel=1e-4)


def test_weights_keep_their_gradients() -> None:
    w = torch.randn(4, 3, requires_grad=True)
    FakeRound.apply(
        w, w.detach().abs().amax(1, keepdim=True) / 127, -127.0, 127.0
    ).sum().backward()
    assert w.grad is not None and torch.equal(w.grad, torch.ones(4, 3))


# -- the module ---------------------------------------------------------------------------------


def codes_apart(graph: Graph, module: QuantizedModule, x: Array) -> dict[str, Array]:
    """By how many codes ONNX Runtime's integers and the module differ, by value; outputs in float in 255ths."""
    match, ranges = module.quantized(), module.ranges()
    pairs = dequantized(match)
    inner = {
        name: pairs.get(name, name)
        for name in ranges
        if pairs.get(name, name) in match.outer
    }
    fast = run_fast(
        match,
        {"x": x},
        [v for v in inner.values() if v not in (*match.outputs, *match.inputs)],
    )
    with torch.no_grad():
        own = {
            **module.values(list(inner), {"x": x}),
            **dict(zip(graph.outputs, module(x), strict=True)),
        }
    apart = {}
    for name, value in own.items():
        other = fast.get(inner.get(name, name))
        if other is not None:
            wide = float(value.max() - value.min()) / 255 or 1.0
            apart[name] = np.abs(value.numpy() - other) / (
                ranges[name]["scale"] if name in ranges else wide
            )
    return apart


@pytest.mark.parametrize("seed", range(12))
def test_the_module_gives_what_onnx_runtime_gives_in_integers(seed: int) -> None:
    graph, data = random_net(seed), samples(64, seed=seed)
    module = QuantizedModule(graph, data)
    fit(
        module,
        Batches({**data, "labels": np.arange(64) % 5}, 16),
        TrainingConfig(epochs=2, lr=0.01),
        callbacks=[Phases(module, 8)],
    )
    apart = codes_apart(graph, module.eval(), samples(16, seed=100)["x"])
    assert set(graph.outputs) <= apart.keys() and len(apart) > 3
    every = np.concatenate([value.reshape(-1) for value in apart.values()])
    assert (every < 1.01).mean() >= 0.99


@pytest.mark.parametrize("seed", range(12))
def test_places_are_those_of_quantize(seed: int) -> None:
    """The same values, layers and scales, and the quantized graph has the same nodes."""
    graph, data = random_net(seed), samples(32, seed=seed)
    wanted = quantize(graph, data, bias_correction=False)
    module = QuantizedModule(graph, data)
    assert module.ranges() == wanted.ranges
    result = module.quantized()
    assert [(n.op, n.outputs) for n in result.nodes] == [
        (n.op, n.outputs) for n in wanted.model.nodes
    ]
    assert len(module.fake_layers()) == sum(
        layer.weights == "int8" for layer in wanted.layers
    )
    one = result.weights
    for name, weight in wanted.model.weights.items():
        gap = np.abs(weight.read().astype(np.float64) - one[name].read())
        assert (
            gap.max(initial=0) <= (1e-6 if weight.is_float else 1)
            and (gap > 1e-6).mean() < 0.01
        )


def test_learnt_ranges_are_the_exported_ones() -> None:
    module = QuantizedModule(residual_net(), task())
    before = module.ranges()
    fit(
        module,
        Batches(task(), 24),
        TrainingConfig(epochs=2, lr=0.05),
        callbacks=[Phases(module, 20)],
    )
    after, match = module.ranges(), module.quantized()
    assert before.keys() == after.keys() and before != after
    pairs = dequantized(match)
    for value, entry in after.items():
        name = pairs.get(value, value)
        reader = (
            next(
                node
                for node in match.nodes
                if node.op == "DequantizeLinear" and name in node.outputs
            )
            if name in match.producer
            else None
        )
        if reader is not None and reader.op == "DequantizeLinear":
            assert float(match.weights[reader.inputs[1]].read()) == pytest.approx(
                entry["scale"], rel=1e-7
            )
            assert int(match.weights[reader.inputs[2]].read()) == entry["zero_point"]


def test_learnt_scales_are_the_exported_ones() -> None:
    module = QuantizedModule(residual_net(), task(), learn_scales=True)
    before = module.ranges()
    fit(
        module,
        Batches(task(), 24),
        TrainingConfig(epochs=2, lr=0.05),
        callbacks=[Phases(module, 20)],
    )
    after = module.ranges()
    assert all(
        after[value]["zero_point"] == before[value]["zero_point"] for value in before
    )
    assert any(after[value]["scale"] != before[value]["scale"] for value in before)
    scales = [
        float(w.read())
        for w in module.quantized().weights.values()
        if w.is_float and w.shape == ()
    ]
    assert set(np.float32([entry["scale"] for entry in after.values()])) <= set(
        np.float32(scales)
    )


def test_batch_statistics_of_a_folded_layer_are_those_of_batch_normalisation() -> None:
    """With weights that 127 codes hold exactly, train mode gives what BatchNormalization gives, and its statistics."""
    graph = residual_net()
    plain = GraphModule(graph).train()
    module = QuantizedModule(graph, task()).train()
    module.set_phase(normalised=True, rounded=False, observing=False)
    for layer in module.fake_layers():
        layer.limit = 2**22
    x = {"x": torch.from_numpy(task(32)["x"])}
    wanted, match = plain(x)[0], module(x)[0]
    torch.testing.assert_close(match, wanted, rtol=1e-3, atol=1e-3)
    for name in (
        node.inputs[slot]
        for node in graph.nodes
        if node.op == "BatchNormalization"
        for slot in (3, 4)
    ):
        torch.testing.assert_close(
            module.weight(name), plain.weight(name), rtol=1e-3, atol=1e-4
        )
    for each in (plain, module):
        each.zero_grad()
    wanted.square().mean().backward()
    match.square().mean().backward()
    for name, weight in plain.weights().items():
        if weight.grad is not None and weight.grad.abs().max() > 1e-4:
            torch.testing.assert_close(
                module.weight(name).grad, weight.grad, rtol=0.02, atol=2e-3
            )


def test_a_scale_of_zero_is_a_constant() -> None:
    graph = residual_net()
    names = [node.inputs[1] for node in graph.nodes if node.op == "BatchNormalization"]
    module = GraphModule(graph)
    with torch.no_grad():
        module.weight(names[1])[:5] = 0
    module = QuantizedModule(module.write_back(), task())
    fit(
        module,
        Batches(task(), 24),
        TrainingConfig(epochs=1, lr=0.05),
        callbacks=[Phases(module, 10)],
    )
    assert all(torch.isfinite(weight).all() for weight in module.weights().values())


def test_phases_follow_the_steps() -> None:
    module = QuantizedModule(residual_net(), task())
    seen = []

    class Watch(Callback):
        def before_step(self, run: Run) -> None:
            part, layer = module.quantizers()[0], module.fake_layers()[0]
            seen.append((layer.batch, part.active, part.observing))

    fit(
        module,
        Batches(task(), 24),
        TrainingConfig(epochs=3),
        callbacks=[Watch(), Phases(module, 30)],
    )
    assert seen == [(step < 10, step >= 3, step < 24) for step in range(30)]


def test_nodes_that_are_kept_are_not_folded() -> None:
    graph = residual_net()
    normal = next(node for node in graph.nodes if node.op == "BatchNormalization")
    assert [
        n.outputs for n in fold(graph, normal.outputs).nodes if n.op == "BatchNormalization"
    ] == [normal.outputs]


# -- the methods --------------------------------------------------------------------------------


def test_joint_meets_both_budgets_and_runs_in_integers() -> None:
    graph = trained()
    done = train(
        graph,
        setting(),
        "joint:strength=0.05,params=0.4,round_to=1,min_channels=2,qat_epochs=3",
    )
    stages = [record["stage"] for record in done.history]
    assert stages == ["sparse"] * 4 + ["prune"] + ["tune"] * 4 + ["qat"] * 3 + ["int8"]
    remaining, before = next(r for r in done.history if r["stage"] == "prune"), cost(graph)
    assert (
        remaining["macs"] <= 0.5 * before.macs
        and remaining["params"] <= 0.4 * before.params
    )
    assert sum(node.op == "QuantizeLinear" for node in done.model.nodes) > 3
    assert right(done.model) >= right(graph) - 0.1
    assert (
        abs(done.history[-1]["metric"] - right(done.model)) < 0.02
        and abs(done.history[-2]["metric"] - right(done.model)) < 0.02
    )


def test_joint_in_float_and_in_rounds() -> None:
    calls = []

    def augment(arrays: dict[str, Array], rng: np.random.Generator) -> dict[str, Array]:
        calls.append(rng.random())
        return arrays

    chosen = setting(recipe=TrainingConfig(epochs=1), augment=augment)
    done = train(
        trained(epochs=2), chosen, "joint:quantize=none,min_channels=2,round_to=1,rounds=2"
    )
    assert [r["stage"] for r in done.history] == [
        "sparse",
        "prune1",
        "tune1",
        "prune2",
        "tune2",
    ] and len(calls) == 30
    assert done.history[1]["macs"] > done.history[3]["macs"]
    assert not any(node.op == "QuantizeLinear" for node in done.model.nodes)


def test_joint_prunes_what_has_no_normalisation() -> None:
    """Strength 0 leaves sparse training out; the criterion then goes by deviations on data."""
    method = "joint:strength=0,min_channels=2,round_to=1,tune_epochs=1,qat_epochs=1,learn_scales=true"
    done = train(fold(trained()), setting(recipe=TrainingConfig(epochs=1, lr=0.01)), method)
    assert {r["stage"] for r in done.history} == {"prune", "tune", "qat", "int8"} and right(
        done.model
    ) > 0.5


def test_the_last_stage_takes_small_steps() -> None:
    """A tenth of the learning rate, and gradients clipped at a norm of 1, or less where the recipe says so."""
    seen: list[tuple[float, float | None]] = []

    class Watching(TrainingOptions):
        def fit(self, module: GraphModule, stage: str, **other: object) -> Run:
            if stage == "qat":
                seen.append((self.recipe.lr, self.recipe.clip))
            return super().fit(module, stage, **other)  # type: ignore[arg-type]

    method = "joint:strength=0,min_channels=2,round_to=1"
    for clip in (None, 5.0, 0.5):
        chosen = Watching(
            **vars(
                setting(recipe=TrainingConfig(epochs=1, lr=0.02, clip=clip), evaluate=None)
            )
        )
        train(residual_net(), chosen, method)
    assert seen == [
        (pytest.approx(0.002), 1.0),
        (pytest.approx(0.002), 1.0),
        (pytest.approx(0.002), 0.5),
    ]


class StopError(Exception):
    pass


@pytest.mark.parametrize("stage", ["sparse", "tune", "qat"])
def test_a_run_that_was_killed_goes_on(tmp_path: Path, stage: str) -> None:
    graph, method = residual_net(width=16), "joint:min_channels=2,round_to=1"
    recipe = TrainingConfig(epochs=3, lr=0.05)
    whole = train(graph, setting(recipe=recipe), method)
    calls = {"left": {"sparse": 2, "tune": 6, "qat": 9}[stage]}

    def dies(module: torch.nn.Module) -> float:
        calls["left"] -= 1
        if not calls["left"]:
            raise StopError
        return accuracy(module)

    checkpoint = tmp_path / "run.pt"
    with pytest.raises(StopError):
        train(graph, setting(recipe=recipe, evaluate=dies, checkpoint=checkpoint), method)
    assert (tmp_path / f"run.pt.{stage}").exists()
    again = train(graph, setting(recipe=recipe, checkpoint=checkpoint), method)
    assert again.model.sha256 == whole.model.sha256 and again.history == whole.history


@pytest.mark.parametrize("algorithm", ["l2", "taylor", "fisher", "obs"])
def test_cycles_prune_and_train_in_turns(algorithm: str) -> None:
    graph = trained()
    method = f"cycles:algorithm={algorithm},steps=3,epochs=2,round_to=1,samples=48"
    # Narrow networks jump at the rate of the others.
    recipe = TrainingConfig(epochs=4, lr=0.03)
    done = train(graph, setting(budget=Budget(macs=0.3), recipe=recipe), method)
    remaining = [
        r["macs"] / cost(graph).macs for r in done.history if r["stage"].startswith("prune")
    ]
    assert [r["stage"] for r in done.history[:4]] == ["prune1", "tune1", "tune1", "prune2"]
    for share, bound in zip(remaining, (0.3 ** (1 / 3), 0.3 ** (2 / 3), 0.3), strict=True):
        assert bound - 0.12 < share <= bound
    assert right(done.model) > 0.8


def test_cycles_share_a_ratio_among_the_rounds() -> None:
    graph = residual_net(width=16)
    done = train(
        graph,
        setting(budget=Budget(ratio=0.75), recipe=TrainingConfig(epochs=1)),
        "cycles:steps=2,round_to=1",
    )
    widths = [w.shape[0] for w in done.model.weights.values() if len(w.shape) == 4]
    assert sorted(widths) == sorted(
        w.shape[0] // 4 for w in graph.weights.values() if len(w.shape) == 4
    )


def test_rounds_that_remove_nothing_are_said() -> None:
    """A quarter in four rounds is no eight of 16 channels in any of them."""
    graph = residual_net(width=16)
    chosen = setting(budget=Budget(ratio=0.25), recipe=TrainingConfig(epochs=1))
    done = train(graph, chosen, "cycles")
    assert cost(done.model) == cost(graph)
    assert any(
        "nothing was removed: kept channels are a multiple of 8" in n for n in done.notes
    )
    assert train(graph, chosen, "cycles:round_to=1").notes == ()


def test_samples_are_drawn_once_each() -> None:
    data = Data.of([{"x": np.arange(i, i + 10)} for i in range(0, 50, 10)])
    values = np.concatenate([chunk["x"] for chunk in sampled(data, 7, 1).chunks()])
    assert (
        len(set(values)) == 7
        and (np.diff(values) > 0).all()
        and sampled(data, 50, 1) is data
    )


def test_what_is_wrong_is_said_before_the_work() -> None:
    graph = residual_net()
    quick = setting(recipe=TrainingConfig(epochs=1))
    assert {"joint", "cycles"} <= set(METHODS)
    for changed, method, error, text in (
        ({"budget": None}, "joint", BudgetError, "no budget"),
        (
            {"budget": Budget(latency="5ms")},
            "joint",
            BudgetError,
            "cannot prune to latency",
        ),
        ({"budget": Budget(ratio="auto")}, "cycles", BudgetError, "ratio auto"),
        ({}, "joint:params=-1", BudgetError, "params must be a positive"),
        ({}, "joint:qat_lr=0", OptionError, "qat_lr must be above 0"),
        ({}, "joint:quantize=int3", OptionError, "must be one of int8, none"),
        ({}, "cycles:steps=0", OptionError, "at least 1"),
        ({}, "cycles:repair=glue", UnknownNameError, "glue"),
        ({}, "joint:algorithm=magic", UnknownNameError, "magic"),
        ({}, "joint:allocation=fair", UnknownNameError, "fair"),
        ({}, "joint:min_channels=0", BudgetError, "min_channels"),
        ({}, "cycles:algorithm=best", UnknownNameError, "best"),
        ({}, "joint:power=2", UnknownNameError, "power"),
        ({"budget": Budget(params=1e-9)}, "cycles", BudgetError, "cannot fall"),
    ):
        with pytest.raises(error, match=text):
            train(graph, TrainingOptions(**{**vars(quick), **changed}), method)
    with pytest.raises(ModelError, match="quantized already"):
        train(quantize(graph, task()).model, quick, "joint")
    with pytest.raises(ModelError, match="quantized already"):
        QuantizedModule(quantize(graph, task()).model, task())
    with pytest.raises(DataError, match="no array for model input"):
        QuantizedModule(graph, {"y": np.zeros((4, 3, 8, 8), np.float32)})
    b = Builder()
    inner = b.relu(b.op("MatMul", b.input("n", 3, 8, 8), b.weight(8, 6)))
    with pytest.raises(DataError, match="no removable channel"):
        train(b.graph(b.op("MatMul", inner, b.weight(6, 5))), quick, "joint")
    assert weights(GraphModule(graph)) == weights(GraphModule(residual_net())) and pg.load
