"""Source 001: factors of gates, what is ranked by them and cut (ALGORITHMS 2.7)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import prunegraph as pg
from prunegraph.cli import main
from prunegraph.coupling.sample import full_cost
from prunegraph.errors import BudgetError, DataError, ModelError, OptionError, TrainingError
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data
from prunegraph.selection.criteria.base import Context, score
from prunegraph.selection.criteria.factors import Factors, read_factors, with_factors
from prunegraph.training import (
    GraphModule,
    TrainingConfig,
    TrainingOptions,
    TrainResult,
    cross_entropy,
    distillation,
    train,
)
from prunegraph.training.compression import Compression
from prunegraph.training.gates import GatedModule
from prunegraph.training.gfr import FreezeGates
from tests.builders import Builder, residual_net
from tests.training.gated import answer, chain, unfolded, with_random_factors
from tests.training.mixed import inverted_residual
from tests.training.test_fit import accuracy, task

Array = np.ndarray


def setting(**options: object) -> TrainingOptions:
    given = {
        "data": Data.of(task()),
        "batch": 24,
        "loss": cross_entropy(),
        "recipe": TrainingConfig(epochs=3, lr=0.1),
    }
    return TrainingOptions(**{**given, **options})  # type: ignore[arg-type]


def scores(graph: Graph, algorithm: str) -> dict[str, Array]:
    return score(algorithm, Context(pg.analyze(graph)))


# -- the gate --------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [residual_net, inverted_residual])
def test_the_product_is_the_folded_scale(network: object) -> None:
    """In series, in parallel and alone (F1): with p = q the folded graph's scales say it all."""
    module = with_random_factors(network())  # type: ignore[operator]
    folded = with_factors(module.folded(), Factors(module.factors(), True))
    apart = with_factors(module.base, Factors(module.factors(), False))
    for group, expected in scores(folded, "bn_scale").items():
        np.testing.assert_allclose(scores(folded, "gfr")[group], expected, rtol=1e-6)
        np.testing.assert_allclose(scores(apart, "gfr")[group], expected, rtol=1e-5)
        np.testing.assert_allclose(
            scores(folded, "gfr:q=0")[group],
            scores(module.base, "bn_scale")[group],
            rtol=1e-5,
        )
        for exponents in ("p=2,q=0.5", "p=0,q=1", "p=1,q=3"):
            first, second = (
                scores(graph, f"gfr:{exponents}")[group] for graph in (folded, apart)
            )
            np.testing.assert_allclose(first, second, rtol=1e-4)


def test_a_penalty_closes_gates_of_every_layer() -> None:
    """Means of every layer's gates fall below those of a run without the penalty."""
    graph = residual_net(width=16)
    means = []
    for closing in (0.0, 3.0):
        done = train(
            graph,
            setting(recipe=TrainingConfig(epochs=6, lr=0.1)),
            f"gfr:strength=0,closing={closing},neutral=true",
        )
        result = read_factors(done.model)
        assert result is not None and result.folded
        means.append([float(each.mean()) for each in result.by_value.values()])
    assert all(closed < 0.9 * free for free, closed in zip(*means, strict=True))


@pytest.mark.parametrize("option", ["closing=-1", "closing=nan", "light=true,closing=1"])
def test_a_penalty_on_gates_that_cannot_be(option: str) -> None:
    with pytest.raises(OptionError, match="closing"):
        train(residual_net(), setting(), f"gfr:{option}")


def test_exponents() -> None:
    module = with_random_factors(chain())
    graph = with_factors(module.base, Factors(module.factors(), False))
    (sr,) = module.factors().values()
    gamma = abs(graph.weights[graph.node("bn").inputs[1]].read())
    (match,) = scores(graph, "gfr:p=2,q=0.5").values()
    np.testing.assert_allclose(match, gamma**2 * sr**0.5, rtol=1e-6)
    (match,) = scores(graph, "gfr:p=0,q=1").values()
    np.testing.assert_allclose(match, sr, rtol=1e-6)


def test_a_closed_gate_goes_first_and_is_not_missed() -> None:
    module = with_random_factors(chain())
    (gate,) = module.gates
    with torch.no_grad():
        module.weight(gate.factors)[[1, 4]] = 0.0
    folded = with_factors(module.folded(), Factors(module.factors(), True))
    for algorithm in ("gfr", "gfr:q=0", "gfr:p=0", "gfr:p=2,q=1"):
        (match,) = scores(folded, algorithm).values()
        assert np.flatnonzero(match == 0).tolist() == [1, 4]
        done = pg.prune(
            folded,
            algorithm=algorithm,
            budget=pg.Budget(ratio=2 / 6),
            round_to=1,
            repair="none",
        )
        assert list(done.plan.remove.values()) == [(1, 4)]
        np.testing.assert_allclose(answer(done.model), answer(folded), rtol=1e-6, atol=1e-6)


def test_moving_a_factor_from_gate_to_scale_changes_nothing() -> None:
    """scale * a, shift * a, factor / a: the same outputs, the same ranking; not so for other exponents."""
    modules = [with_random_factors(residual_net()) for _ in range(2)]
    rng = np.random.default_rng(3)
    with torch.no_grad():
        for gate in modules[1].gates:
            a = torch.from_numpy(
                rng.uniform(0.2, 5, modules[1].weight(gate.factors).shape).astype(
                    np.float32
                )
            )
            for name in (gate.scale, gate.shift):
                modules[1].weight(name).mul_(a)
            modules[1].weight(gate.factors).div_(a)
    first, second = (with_factors(m.folded(), Factors(m.factors(), True)) for m in modules)
    np.testing.assert_allclose(answer(first), answer(second), rtol=1e-4, atol=1e-5)
    apart = [with_factors(unfolded(m), Factors(m.factors(), False)) for m in modules]
    for group, expected in scores(first, "gfr").items():
        for graph in (second, *apart):
            np.testing.assert_allclose(scores(graph, "gfr")[group], expected, rtol=1e-5)
            np.testing.assert_array_equal(
                np.argsort(scores(graph, "gfr")[group]), np.argsort(expected)
            )
            np.testing.assert_allclose(
                scores(graph, "gfr:p=2,q=2")[group],
                scores(first, "gfr:p=2,q=2")[group],
                rtol=1e-5,
            )
    assert any(
        abs(scores(second, "gfr:q=0")[g] - s).max() > 0.1
        for g, s in scores(first, "gfr:q=0").items()
    )


def test_factors_stay_with_the_file(tmp_path: Path) -> None:
    module = with_random_factors(residual_net())
    pg.save(
        with_factors(module.folded(), Factors(module.factors(), True)),
        tmp_path / "net.onnx",
    )
    result = read_factors(pg.load(tmp_path / "net.onnx"))
    assert result is not None and result.folded
    for value, factors in module.factors().items():
        np.testing.assert_array_equal(result.by_value[value].astype(np.float32), factors)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "other"}, "format 'other'"),
        ({"factors": {"nowhere": [1.0]}}, "names 'nowhere'"),
        ({"factors": {"bn.out": [1.0]}}, "before it was pruned"),
        ({"factors": {"bn.out": [-1.0] * 6}}, "negative"),
        ({"factors": 3}, "cannot be read"),
    ],
)
def test_factors_that_do_not_fit_are_an_error(change: dict[str, object], text: str) -> None:
    graph = chain()
    content = {
        "format": "prunegraph/gfr@1",
        "folded": True,
        "factors": {"bn.out": [1.0] * 6},
        **change,
    }
    graph.model.metadata_props.add(key="prunegraph.gfr", value=json.dumps(content))
    with pytest.raises(ModelError, match=text):
        scores(graph, "gfr")


def test_the_criterion_wants_factors_and_exponents() -> None:
    with pytest.raises(BudgetError, match="train --method gfr"):
        scores(chain(), "gfr")
    for exponents in ("p=0,q=0", "p=-1", "q=nan"):
        with pytest.raises(OptionError, match="exponents p and q"):
            scores(chain(), f"gfr:{exponents}")


# -- compression -----------------------------------------------------------------------------


def wide() -> Graph:
    module = with_random_factors(residual_net(width=50))
    return with_factors(module.folded(), Factors(module.factors(), True))


def compression(**options: object) -> Compression:
    given = {"round_to": 1, "allocation": "global:none", **options}
    return Compression(Data.of({"x": task(64)["x"]}), "gfr", **given)  # type: ignore[arg-type]


def test_the_whole_network_is_one_list() -> None:
    """floor(p * total) channels go, the lowest of all; where widths are rounded it says how many really do."""
    graph = wide()
    every = scores(graph, "gfr")
    for share in (0.1, 0.33, 0.5):
        created = compression().to_budget(graph, pg.Budget(ratio=share))
        total = sum(len(each) for each in every.values())
        assert created.channels == (total, total - int(share * total))
        removed = np.concatenate(
            [every[g][list(channels)] for g, channels in created.plan.remove.items()]
        )
        kept = np.concatenate(
            [np.delete(each, created.plan.remove.get(g, ())) for g, each in every.items()]
        )
        assert removed.max() <= kept.min()
    seen: list[str] = []
    created = compression(round_to=8, progress=seen.append).to_budget(
        graph, pg.Budget(ratio=0.33)
    )
    gone = sum(len(channels) for channels in created.plan.remove.values())
    assert gone <= int(0.33 * total) and created.channels == (total, total - gone)
    assert seen[-1] == f"{gone} of {total} channels in groups removed"


@pytest.mark.parametrize("method", ["grid", "bisection"])
def test_the_search_stops_before_the_cliff(method: str) -> None:
    """A metric that falls by two points a hundredth of the channels beyond 42 %; half a point is tolerated."""
    graph = wide()
    total = sum(group.channels for group in pg.analyze(graph).groups)

    def evaluate(module: torch.nn.Module) -> float:
        assert isinstance(module, GraphModule) and not module.training
        gone = total - sum(group.channels for group in pg.analyze(module.graph).groups)
        return 93.0 - 200 * max(0.0, gone / total - 0.42)

    created = compression(repair="none").to_tolerance(graph, 0.5, evaluate, method=method)
    assert created.search is not None and created.search.best.strength == 42
    assert created.channels == (total, total - int(0.42 * total))
    with pytest.raises(BudgetError, match="no cut stays within the tolerance"):
        compression(repair="none").to_tolerance(
            graph, 0.0, lambda m: float(full_cost(m.graph).macs), method=method
        )


# -- training --------------------------------------------------------------------------------


def test_train_fold_and_cut_within_a_budget() -> None:
    """Without fine-tuning, as published."""
    graph = residual_net(width=16)
    done = train(
        graph,
        setting(
            recipe=TrainingConfig(epochs=12, lr=0.1),
            budget=pg.Budget(macs=0.5),
            evaluate=accuracy,
        ),
        "gfr:strength=0.1,round_to=1,tune=false",
    )
    assert full_cost(done.model).macs <= 0.5 * full_cost(graph).macs
    assert read_factors(done.model) is None
    assert [record["stage"] for record in done.history] == ["gfr"] * 12 + ["prune"]
    trained, cut = (record["metric"] for record in done.history[-2:])
    assert cut == accuracy(GraphModule(done.model).eval())
    assert trained > 0.95 and cut >= trained - 0.03


@pytest.mark.parametrize("light", [False, True])
def test_what_was_cut_is_trained_on(light: bool) -> None:
    """The stage is the same cut, trained: it starts where the cut ends, and comes out with a smaller loss."""
    graph = residual_net(width=16)
    options = f"gfr:round_to=1,light={light}"

    def done(more: str) -> TrainResult:
        given = setting(
            recipe=TrainingConfig(epochs=2, lr=0.05),
            budget=pg.Budget(macs=0.4),
            evaluate=accuracy,
        )
        return train(graph, given, options + more)

    cut, tuned = done(",tune=false"), done(",tune_epochs=5")
    assert [r["stage"] for r in tuned.history] == ["gfr"] * 2 + ["prune"] + ["tune"] * 5
    assert tuned.history[:3] == cut.history
    assert full_cost(tuned.model) == full_cost(cut.model)
    batch = {name: torch.from_numpy(array) for name, array in task().items()}
    losses = []
    for model in (cut.model, tuned.model):
        with torch.no_grad():
            outputs = GraphModule(model).eval()(batch["x"])
        losses.append(float(cross_entropy()(outputs, batch)))
    assert losses[1] < losses[0]
    assert len(done("").history) == 5


def test_without_a_budget_the_folded_network_is_the_result() -> None:
    graph = residual_net(width=16)
    done = train(
        graph,
        setting(evaluate=accuracy, recipe=TrainingConfig(epochs=4, lr=0.1)),
        "gfr:mode=batch",
    )
    assert full_cost(done.model) == full_cost(graph)
    assert accuracy(GraphModule(done.model).eval()) == done.history[-1]["metric"]
    result = read_factors(done.model)
    assert result is not None and result.folded and len(result.by_value) == 3
    assert all((each > 0).all() and (each < 1).all() for each in result.by_value.values())


@pytest.mark.parametrize("measured", [True, False])
def test_a_tolerance_instead_of_a_budget(measured: bool) -> None:
    graph = residual_net(width=16)
    given = setting(
        recipe=TrainingConfig(epochs=8, lr=0.1),
        evaluate=(lambda m: 100 * accuracy(m)) if measured else None,
    )
    done = train(graph, given, "gfr:strength=0.1,round_to=1,tolerance=3,repair=absorb")
    assert full_cost(done.model).macs < 0.9 * full_cost(graph).macs
    if measured:
        assert (
            100 * accuracy(GraphModule(done.model).eval()) >= done.history[-1]["metric"] - 3
        )


def test_the_light_form_trains_gates_alone() -> None:
    """Labels are not needed, no weight of the network changes, a penalty closes gates, factors are not folded."""
    graph = train(
        residual_net(width=16), setting(recipe=TrainingConfig(epochs=6, lr=0.1))
    ).model
    data = Data.of({"x": task()["x"]})
    means = []
    for strength in (0, 5):
        given = setting(
            data=data,
            loss=distillation(GraphModule(graph)),
            recipe=TrainingConfig(epochs=4, lr=0.1),
        )
        done = train(graph, given, f"gfr:strength={strength},light=true")
        for name, weight in graph.weights.items():
            assert done.model.weights[name].read().tobytes() == weight.read().tobytes()
        matches = read_factors(done.model)
        assert matches is not None and not matches.folded
        means.append(np.concatenate(list(matches.by_value.values())).mean())
    assert means[1] < means[0] - 0.05
    result = train(
        graph,
        setting(
            data=data, loss=distillation(GraphModule(graph)), budget=pg.Budget(macs=0.7)
        ),
        "gfr:strength=5,light=true,round_to=1",
    )
    assert full_cost(result.model).macs <= 0.7 * full_cost(graph).macs
    assert accuracy(GraphModule(result.model).eval()) > 0.9


def test_what_is_behind_the_cut_is_refitted_unless_it_is_left_out() -> None:
    """Least squares is the default."""
    graph = residual_net(width=16)

    def weights(options: str) -> dict[str, bytes]:
        given = setting(
            recipe=TrainingConfig(epochs=1, lr=0.05), budget=pg.Budget(macs=0.7)
        )
        model = train(graph, given, f"gfr:round_to=1,tune=false{options}").model
        return {name: weight.read().tobytes() for name, weight in model.weights.items()}

    refitted = weights("")
    assert refitted == weights(",repair=least-squares")
    counted, absorbed = weights(",repair=bn"), weights(",repair=absorb")
    assert refitted != counted and counted != absorbed and refitted != absorbed


class KilledError(Exception):
    pass


@pytest.mark.parametrize("epoch", [2, 5])
def test_a_killed_training_goes_on_exactly(tmp_path: Path, epoch: int) -> None:
    """Before the gates are frozen (epoch 2) and after (epoch 5 begins in the last tenth)."""
    recipe = TrainingConfig(epochs=5, lr=0.1)
    whole = train(
        residual_net(), setting(recipe=recipe, evaluate=lambda m: 0.0), "gfr:strength=0.01"
    )
    calls = []

    def dies(module: torch.nn.Module) -> float:
        calls.append(1)
        if len(calls) == epoch:
            raise KilledError
        return 0.0

    with pytest.raises(KilledError):
        train(
            residual_net(),
            setting(recipe=recipe, evaluate=dies, checkpoint=tmp_path / "run.pt"),
            "gfr:strength=0.01",
        )
    again = setting(recipe=recipe, evaluate=lambda m: 0.0, checkpoint=tmp_path / "run.pt")
    resumed = train(residual_net(), again, "gfr:strength=0.01")
    assert resumed.history == whole.history
    assert resumed.model.model.SerializeToString() == whole.model.model.SerializeToString()
    with pytest.raises(TrainingError, match="another recipe"):
        train(residual_net(seed=1), again, "gfr:strength=0.01")


def test_frozen_is_kept_in_a_checkpoint() -> None:
    module, other = GatedModule(chain()), GatedModule(chain())
    module.freeze()
    FreezeGates(other, 100).load_state_dict(FreezeGates(module, 100).state_dict())
    assert other.train().frozen and float(other.weight(other._live)) == 0


def test_what_is_wrong_is_said_before_the_training() -> None:
    b = Builder()
    plain = b.op("MatMul", b.input("n", 3, 8, 8), b.weight(8, 6))
    plain = b.graph(b.op("MatMul", b.relu(plain), b.weight(6, 5)))

    def never(outputs: object, batch: object) -> object:
        raise AssertionError("it trains")

    given = setting(loss=never)
    for graph, options, error, text in (
        (
            plain,
            "",
            DataError,
            "no removable channel has a BatchNormalization to put a gate behind",
        ),
        (chain(), ":strength=-1", OptionError, "'strength'"),
        (chain(), ":tolerance=nan", OptionError, "'tolerance'"),
        (chain(), ":reduction=0", OptionError, "reduction"),
        (chain(), ":momentum=1", OptionError, "momentum"),
        (chain(), ":p=0,q=0", OptionError, "exponents"),
        (chain(), ":mode=other", OptionError, "sample, batch"),
    ):
        with pytest.raises(error, match=text):
            train(graph, given, f"gfr{options}")
    for budget, options, error in (
        (pg.Budget(macs=0.5), ":tolerance=1", OptionError),
        (pg.Budget(latency=0.5), "", BudgetError),
    ):
        with pytest.raises(error):
            train(chain(), setting(loss=never, budget=budget), f"gfr{options}")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pg.save(residual_net(width=16), tmp_path / "net.onnx")
    np.savez(tmp_path / "train.npz", **task())
    words = ["train", "net.onnx", "--data", "train.npz", "--epochs", "2", "--batch", "24"]
    done = CliRunner().invoke(
        main,
        [*words, "-o", "half.onnx", "--macs", "0.5", "--method", "gfr:0.05,round_to=1"],
    )
    assert done.exit_code == 0, done.stderr
    assert (
        full_cost(pg.load(tmp_path / "half.onnx")).macs
        <= 0.5 * full_cost(pg.load(tmp_path / "net.onnx")).macs
    )
    done = CliRunner().invoke(main, [*words, "-o", "gated.onnx", "--method", "gfr"])
    assert (
        done.exit_code == 0 and read_factors(pg.load(tmp_path / "gated.onnx")) is not None
    )
    done = CliRunner().invoke(
        main,
        [
            "prune",
            "gated.onnx",
            "-o",
            "small.onnx",
            "--algorithm",
            "gfr:p=1,q=2",
            "--ratio",
            "0.25",
        ],
    )
    assert done.exit_code == 0, done.stderr
    done = CliRunner().invoke(
        main, [*words, "-o", "no.onnx", "--macs", "0.5", "--method", "gfr:tolerance=1"]
    )
    assert (
        done.exit_code == 2
        and done.stderr.startswith("error: ")
        and not (tmp_path / "no.onnx").exists()
    )
