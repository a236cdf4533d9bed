"""What is trained while layers are settled one after the other, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunegraph.errors import OptionError
from prunegraph.graph.model import Graph
from prunegraph.runtime import session
from prunegraph.training import Batches, GraphModule, TrainingConfig, cross_entropy, fit
from prunegraph.training.binary import (
    ActivationsFirst,
    BinarizeOptions,
    Quantizer,
    SampleSplit,
    Tuning,
    alternate_update,
    binarize,
    lower,
    to_binary,
    trainable,
)
from prunegraph.training.binary.network import binary_layers
from prunegraph.training.binary.tuning import Tuner, settled
from prunegraph.training.binary.update import mean_loss
from tests.builders import residual_net
from tests.training.binary.networks import plain_net, task

Array = np.ndarray


def started(graph: Graph, quantizer: Quantizer | None = None) -> GraphModule:
    """A binary network that has seen data for an epoch, normalisations with shifts of their own."""
    binary, _ = to_binary(graph, quantizer)
    module = GraphModule(binary, trainable=trainable(binary, shifts=True))
    fit(module, Batches(task(), 25), TrainingConfig(1, lr=0.1), progress=False)
    return module.eval()


def tuning(epochs: float = 1.0, lr: float = 1e-3) -> Tuning:
    return Tuning(Batches(task(), 25), epochs, cross_entropy(), lr)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("net", [plain_net, residual_net])
def test_what_comes_before_stays_and_the_rest_is_trained(place: int, net: object) -> None:
    module = started(net(width=24))  # type: ignore[operator]
    layers = binary_layers(module.graph)
    layer = layers[min(place, len(layers) - 1)]
    output, x = layer.node.outputs[0], torch.from_numpy(task(20, seed=3)["x"])
    before = module.values([output], {"x": x})[output].detach().clone()
    logits = module(x)[0].detach().clone()
    Tuner(module, tuning(), layers=1).after(layer)
    assert torch.equal(module.values([output], {"x": x})[output], before)
    assert not torch.equal(module(x)[0], logits)
    assert all(p.requires_grad for p in module.parameters()) and not module.training


@pytest.mark.parametrize("net", [plain_net, residual_net])
def test_what_is_settled_runs_as_when_it_is_used(net: object) -> None:
    module = started(net(width=24))  # type: ignore[operator]
    output, x = binary_layers(module.graph)[-1].node.outputs[0], torch.randn(6, 3, 8, 8)
    wanted = module.values([output], {"x": x})[output].detach()
    with settled(module.train(), output):
        assert torch.equal(module.values([output], {"x": x})[output], wanted)
    assert not torch.equal(module.values([output], {"x": x})[output], wanted)


def test_no_layer_makes_the_held_out_loss_worse() -> None:
    module = started(plain_net(width=24))
    samples = SampleSplit.of(task(), module.graph, count=200)
    earlier = mean_loss(module, samples.held, cross_entropy())
    records = alternate_update(module, samples, targets="descent", tuning=tuning(4, 5e-3))
    after = mean_loss(module, samples.held, cross_entropy())
    assert after < 0.9 * earlier and any(record.tuning_kept for record in records)
    best = earlier
    for record in records:
        assert record.tuned is not None and record.loss[0] <= best + 1e-6
        best = record.loss[1] if record.kept else record.loss[0]
        best = record.tuned if record.tuning_kept else best
    assert after == pytest.approx(best)


def test_tuning_that_harms_is_undone() -> None:
    module, twin = started(plain_net(width=24)), started(plain_net(width=24))
    samples = SampleSplit.of(task(), module.graph, count=200)
    records = alternate_update(module, samples, targets="descent", tuning=tuning(1, 50.0))
    alternate_update(twin, samples, targets="descent")
    assert not any(record.tuning_kept for record in records)
    for name, tensor in twin.weights().items():
        assert torch.equal(tensor, module.weight(name)), name


def test_steps_are_shared_between_the_layers() -> None:
    module = started(plain_net(width=24))
    for epochs, wanted in ((1.0, [6, 6]), (1.25, [8, 7]), (0.01, [1, 1])):
        assert Tuner(module, tuning(epochs), layers=2).steps == wanted
    with pytest.raises(OptionError, match="above 0"):
        tuning(0)
    for options in ({"tune": -1.0}, {"tune": 1.0, "update": False}):
        with pytest.raises(OptionError, match="after their update"):
            BinarizeOptions(**options)  # type: ignore[arg-type]


def test_layers_are_not_judged_by_what_they_are_tuned_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Array] = []
    plain = Batches.__iter__

    def spied(self: Batches):  # type: ignore[no-untyped-def]
        for batch in plain(self):
            seen.append(batch["x"].numpy())
            yield batch

    monkeypatch.setattr(Batches, "__iter__", spied)
    data, graph = task(), plain_net(width=24)
    result = binarize(graph, data, BinarizeOptions(samples=90, tune=2, batch=20))
    held = data["x"][SampleSplit.of(data, graph, count=90).numbers]
    trained = np.concatenate(seen)
    assert len(held) == 30 and len(trained) > 270
    assert not (held[:, None, 0, 0] == trained[None, :, 0, 0]).all(-1).any()
    assert all(update.tuned is not None for update in result.updates)


def test_weights_are_binary_in_the_second_half() -> None:
    binary, _ = to_binary(plain_net(width=24))
    module = GraphModule(binary, trainable=trainable(binary))
    layer, x = binary_layers(binary)[0], torch.from_numpy(task()["x"][:4])
    trained, used = layer.weight, layer.node.inputs[1]
    first, kinds = ActivationsFirst(module), []

    def loss(outputs, batch):  # type: ignore[no-untyped-def]
        value = module.values([used], {"x": x})[used]
        kinds.append(torch.equal(value, module.weight(trained)))
        return cross_entropy()(outputs, batch)

    batches = Batches(task(), 25)
    fit(module, batches, TrainingConfig(2), loss=loss, callbacks=[first], progress=False)
    assert sum(kinds) == 12 and kinds == sorted(kinds, reverse=True)
    value = module.values([used], {"x": x})[used]
    assert len(value[0].abs().unique()) == 1
    resumed = ActivationsFirst(module)
    resumed.load_state_dict(first.state_dict())
    assert torch.equal(module.values([used], {"x": x})[used], value)


@pytest.mark.parametrize("deadzone", [False, True])
@pytest.mark.parametrize("net", [plain_net, residual_net])
def test_shifts_are_in_the_file(net: object, deadzone: bool) -> None:
    module = started(net(width=24), Quantizer(deadzone=deadzone))  # type: ignore[operator]
    rng = np.random.default_rng(0)
    quantized = trainable(module.graph, shifts=True) - trainable(module.graph)
    assert quantized
    with torch.no_grad():
        for name in quantized:
            # Any sign: where a scale is negative, a comparison turns.
            values = rng.normal(0.5, 1, module.weight(name).shape)
            module.weight(name).copy_(torch.from_numpy(values))
    graph, x = module.write_back(), task(200, seed=4)["x"]
    with torch.no_grad():
        wanted = module(torch.from_numpy(x))[0].numpy()
    for runtime in ("integers", "packed"):
        model = lower(graph, runtime=runtime)  # type: ignore[arg-type]
        (logits,) = session.run(session.session(model), {"x": x})
        # A sum that is rounded otherwise may fall on the other side of a threshold.
        close = np.abs(logits - wanted).max(1) < 1e-3 * np.abs(wanted).max()
        assert close.mean() >= 0.97, (runtime, close.mean())
