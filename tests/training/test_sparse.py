"""Sparse training: the proximal step, and that it leaves what can be removed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import prunegraph as pg
from prunegraph.errors import DataError, OptionError
from prunegraph.training.batches import Batches
from prunegraph.training.fit import Run, TrainingConfig, fit
from prunegraph.training.methods import train
from prunegraph.training.module import GraphModule
from prunegraph.training.sparse import Sparsify
from tests.builders import Builder, residual_net
from tests.training.test_fit import accuracy, task


def chain() -> GraphModule:
    """One removable group with one BatchNormalization."""
    b = Builder()
    y = b.relu(b.bn(b.conv(b.input("n", 3, 6, 6), 3, 6), 6, name="bn"))
    return GraphModule(b.graph(b.head(y, 6)))


def run(module: GraphModule, lr: float) -> Run:
    return Run(module, torch.optim.SGD(module.parameters(), lr), TrainingConfig(epochs=1))


def test_a_scale_reaches_zero_and_stays() -> None:
    """0.02 with lr * strength = 1e-4: 0 after 200 steps (ALGORITHMS 1.7)."""
    module = chain()
    scale = module.graph.node("bn").inputs[1]
    with torch.no_grad():
        module.weight(scale).copy_(torch.tensor([0.02, -0.02, 0.5, 0, 1e-5, 1]))
    sparsify, state = Sparsify(module, 1e-2), run(module, 1e-2)
    for _ in range(200 - 1):
        sparsify.after_step(state)
    assert (module.weight(scale)[:2] != 0).all()
    for _ in range(3):
        sparsify.after_step(state)
    assert module.weight(scale)[[0, 1, 3, 4]].tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(
        module.weight(scale)[[2, 5]].detach().numpy(), [0.4798, 0.9798], rtol=1e-4
    )
    assert sparsify.gone() == pytest.approx(4 / 6)


def test_coupled_scales_shrink_together() -> None:
    """Stem and second convolution of the block meet in an Add: their scales go to 0 at the same step."""
    module = GraphModule(residual_net())
    normals = [n.inputs[1] for n in module.graph.nodes if n.op == "BatchNormalization"]
    stem, inner, last = normals
    before = [module.weight(name).detach().clone() for name in normals]
    Sparsify(module, 2.0).after_step(run(module, 0.05))
    norm = np.sqrt(before[0].numpy() ** 2 + before[2].numpy() ** 2)
    factor = np.maximum(0, 1 - 0.1 * np.sqrt(2) / norm)
    np.testing.assert_allclose(
        module.weight(stem).detach(), before[0].numpy() * factor, rtol=1e-5
    )
    np.testing.assert_allclose(
        module.weight(last).detach(), before[2].numpy() * factor, rtol=1e-5
    )
    np.testing.assert_allclose(
        module.weight(inner).detach(), before[1].numpy() - 0.1, rtol=1e-5
    )
    Sparsify(module, 100.0).after_step(run(module, 0.05))
    assert not any(module.weight(name).any() for name in normals)


def test_what_is_not_trained_stays() -> None:
    module = chain()
    scale = module.graph.node("bn").inputs[1]
    before = module.weight(scale).detach().clone()
    others = [p for p in module.parameters() if p is not module.weight(scale)]
    Sparsify(module, 1.0).after_step(
        Run(module, torch.optim.SGD(others, 1.0), TrainingConfig(epochs=1))
    )
    assert torch.equal(module.weight(scale), before)


def test_sparse_training_leaves_channels_that_cost_nothing() -> None:
    """Channels with scale 0 are constants, which the next layers' statistics take over: nothing is lost."""
    module = GraphModule(residual_net(width=16))
    sparsify = Sparsify(module, 0.2)
    fit(
        module, Batches(task(), 24), TrainingConfig(epochs=12, lr=0.1), callbacks=[sparsify]
    )
    trained = accuracy(module.eval())
    gone = sparsify.gone()
    assert trained > 0.95 and gone > 0.3
    pruned = pg.prune(
        module.write_back(),
        algorithm="bn_scale",
        allocation="global",
        budget=pg.Budget(ratio=gone),
        round_to=1,
        repair="bn",
    ).model
    assert accuracy(GraphModule(pruned).eval()) >= trained - 0.03


def test_enough_ends_the_run() -> None:
    module = chain()
    data = {
        name: array[..., :6, :6] if name == "x" else array
        for name, array in task(48).items()
    }
    state = fit(
        module,
        Batches(data, 24),
        TrainingConfig(epochs=5),
        callbacks=[Sparsify(module, 1e3, enough=0.9)],
    )
    assert state.epoch == 1


def test_without_normalisation_there_is_nothing_to_shrink() -> None:
    b = Builder()
    module = GraphModule(b.graph(b.head(b.relu(b.conv(b.input("n", 3, 6, 6), 3, 6)), 6)))
    with pytest.raises(DataError, match="no removable channel has a BatchNormalization"):
        Sparsify(module, 1e-4)


@pytest.mark.parametrize("steps", [10, 300])
@pytest.mark.parametrize("size", [1e-3, 50.0])
def test_the_relative_penalty_takes_a_third_however_long_the_run_and_large_the_scales(
    steps: int, size: float
) -> None:
    module = chain()
    scale = module.graph.node("bn").inputs[1]
    start = size * torch.tensor([0.4, -0.5, 0.9, 1.0, 2.0, -3.0])
    with torch.no_grad():
        module.weight(scale).copy_(start)
    sparsify, state = Sparsify(module), run(module, 0.1)
    state.length = steps
    for step in range(steps):
        state.step = step
        sparsify.after_step(state)
        # Along a line: half of the way after a quarter of the run.
        if step + 1 == steps // 4 and steps % 4 == 0:
            torch.testing.assert_close(module.weight(scale)[:2], start[:2] / 2)
    assert module.weight(scale)[:2].tolist() == [0, 0]
    assert torch.equal(module.weight(scale)[2:], start[2:])
    assert sparsify.gone() == pytest.approx(1 / 3)


def test_a_channel_that_the_loss_holds_is_not_taken() -> None:
    """The smallest is looked for at every step."""
    module = chain()
    scale = module.graph.node("bn").inputs[1]
    with torch.no_grad():
        module.weight(scale).copy_(torch.tensor([0.4, 0.5, 0.6, 1, 2, 3]))
    sparsify, state = Sparsify(module), run(module, 0.1)
    state.length = 20
    for step in range(20):
        state.step = step
        sparsify.after_step(state)
        with torch.no_grad():
            module.weight(scale)[0] += 0.2
    assert (module.weight(scale) == 0).tolist() == [False, True, True, False, False, False]


def test_a_relative_penalty_needs_the_length_of_the_run() -> None:
    module = chain()
    with pytest.raises(DataError, match="how long the run is"):
        Sparsify(module).after_step(run(module, 0.1))


@pytest.mark.parametrize("strength", ["-1", "nan", "much"])
@pytest.mark.parametrize("method", ["sparse", "joint", "gfr"])
def test_a_strength_is_auto_or_a_number(strength: str, method: str) -> None:
    from tests.training.test_joint import setting

    chosen = setting(budget=None) if method == "sparse" else setting()
    with pytest.raises(OptionError, match=r"'strength'.*auto or a number"):
        train(residual_net(), chosen, f"{method}:strength={strength}")
