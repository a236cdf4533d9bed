"""Gates behind BatchNormalization: what they compute, folding them, how they are trained (ALGORITHMS 2.7)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunegraph.training import (
    GraphModule,
    TrainingConfig,
)
from prunegraph.training.fit import Run
from prunegraph.training.gates import GatedModule
from prunegraph.training.gfr import FreezeGates
from tests.builders import Builder, residual_net
from tests.training.gated import answer, chain, images, with_random_factors
from tests.training.mixed import inverted_residual

Array = np.ndarray


def test_insertion_changes_nothing() -> None:
    graph = residual_net()
    x = torch.from_numpy(images())
    assert torch.equal(GatedModule(graph).eval()(x)[0], GraphModule(graph).eval()(x)[0])
    assert len(GatedModule(graph).gates) == 3


@pytest.mark.parametrize("mode", ["sample", "batch"])
def test_a_gate_computes_what_the_source_says(mode: str) -> None:
    """Against numpy: pooling, two layers, sigmoid, product; the factor starts at the first batch's mean."""
    module = GatedModule(chain(), mode=mode)  # type: ignore[arg-type]
    (gate,) = module.gates
    module.eval()
    u = module.values([gate.value], {"x": images()})[gate.value].detach().numpy()
    with torch.no_grad():
        # In train mode BatchNormalization would see the batch.
        module.weight(module._live).fill_(1.0)
        y = module.values([gate.value], {"x": images()})[gate.value].numpy()
    w1, b1, w2, b2 = (module.weight(name).detach().numpy() for name in gate.trained)
    assert w1.shape == (8, 6)
    hidden = np.maximum(u.mean((2, 3)) @ w1.T + b1, 0)
    e = 1 / (1 + np.exp(-(hidden @ w2.T + b2)))
    wanted = e if mode == "sample" else e.mean(0, keepdims=True)
    np.testing.assert_allclose(y, u * wanted[:, :, None, None], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(module.factors()[gate.value], e.mean(0), rtol=1e-6)
    assert abs(e - 0.88).max() < 0.05


@pytest.mark.parametrize("network", [chain, residual_net, inverted_residual])
def test_folding_is_exact(network: object) -> None:
    """BatchNormalization and gate in inference equal one with (scale * factor, shift * factor), to 1e-6."""
    module = with_random_factors(network())  # type: ignore[operator]
    folded = module.folded()
    assert {node.op for node in folded.nodes} == {node.op for node in module.base.nodes}
    values = [gate.value for gate in module.gates]
    before = module.values(values, {"x": images()})
    after = GraphModule(folded).eval().values(values, {"x": images()})
    for value in values:
        first, second = (match[value].detach().numpy() for match in (before, after))
        assert abs(first - second).max() <= 1e-6 * max(1.0, abs(first).max())
    wanted = module(torch.from_numpy(images()))[0].detach().numpy()
    np.testing.assert_allclose(answer(folded), wanted, rtol=1e-5, atol=1e-6)


def test_the_moving_average_of_a_constant_gate_converges() -> None:
    """After k steps the error is momentum^k times the first one."""
    module = GatedModule(chain(), momentum=0.8)
    (gate,) = module.gates
    with torch.no_grad():
        for name in gate.trained:
            module.weight(name).zero_()
        module(torch.from_numpy(images()))
        module.weight(gate.factors).fill_(1.0)
    for step in range(1, 6):
        module(torch.from_numpy(images()))
        np.testing.assert_allclose(
            module.factors()[gate.value] - 0.5, 0.5 * 0.8**step, rtol=1e-5
        )


@pytest.mark.parametrize("mode", ["sample", "batch"])
def test_gates_with_a_neutral_start_change_little(mode: str) -> None:
    """A gate whose last layer gives its bias alone lets everything through: factors are 1."""
    module = GatedModule(residual_net(), mode=mode, neutral=True).eval()  # type: ignore[arg-type]
    wanted = module(torch.from_numpy(images()))[0].detach()
    with torch.no_grad():
        for gate in module.gates:
            module.weight(gate.trained[2]).zero_()
        module.weight(module._live).fill_(1.0)
        y = module(torch.from_numpy(images()))[0]
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-6)
    for factors in module.factors().values():
        np.testing.assert_allclose(factors, 1, rtol=1e-6)


def test_frozen_gates_stay() -> None:
    module = GatedModule(chain())
    (gate,) = module.gates
    module(torch.from_numpy(images()))
    state = Run(module, torch.optim.SGD(module.parameters(), 0.1), TrainingConfig(epochs=1))
    callback = FreezeGates(module, 20)
    for state.step in range(20):
        callback.after_step(state)
        assert module.frozen == (state.step + 1 >= 18)
    before = module.factors()[gate.value]
    module.train()
    y = module(torch.from_numpy(images(8)))[0]
    assert np.array_equal(module.factors()[gate.value], before)
    y.sum().backward()
    assert all(module.weight(name).grad is None for name in gate.trained)


def test_shared_shifts_are_taken_apart() -> None:
    """Exporters store equal tensors once, one behind an Identity; each gate folds into a shift of its own."""
    b = Builder()
    x, shift = b.input("n", 3, 8, 8), b.const(np.linspace(-1, 1, 6), np.float32)

    def bn(y: str, shift: str) -> str:
        return b.op(
            "BatchNormalization",
            y,
            *(b.const(np.full(6, v), np.float32) for v in (0.5,)),
            shift,
            b.const(np.zeros(6), np.float32),
            b.const(np.ones(6), np.float32),
        )

    y = b.relu(bn(b.conv(x, 3, 6), shift))
    y = b.relu(bn(b.conv(y, 6, 6), b.op("Identity", shift)))
    graph = b.graph(b.head(y, 6))
    module = with_random_factors(graph)
    assert len({gate.shift for gate in module.gates}) == 2
    np.testing.assert_allclose(
        answer(module.folded()),
        module(torch.from_numpy(images()))[0].detach().numpy(),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_array_equal(answer(module.base), answer(graph))


# -- ranking ---------------------------------------------------------------------------------
