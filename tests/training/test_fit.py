"""The training loop: what it learns, and that it can be killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import prunegraph as pg
from prunegraph.errors import DataError, TrainingError
from prunegraph.runtime import session
from prunegraph.training.batches import Batches, blended, mixed
from prunegraph.training.fit import Callback, Run, TrainingConfig, fit
from prunegraph.training.losses import Batch, cross_entropy, distillation, mean_squared
from prunegraph.training.module import GraphModule
from prunegraph.training.optimizers import optimizer_of
from tests.builders import residual_net
from tests.paths import ROOT

Array = np.ndarray


def task(count: int = 240, seed: int = 0) -> dict[str, Array]:
    """Images of five kinds, each a pattern with noise."""
    patterns = np.random.default_rng(99).standard_normal((5, 3, 8, 8))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, count)
    x = patterns[labels] + rng.standard_normal((count, 3, 8, 8))
    return {"x": x.astype(np.float32), "labels": labels}


def accuracy(module: torch.nn.Module) -> float:
    data = task(200, seed=1)
    return float(
        (module(torch.from_numpy(data["x"]))[0].argmax(1).numpy() == data["labels"]).mean()
    )


def weights(module: torch.nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()}


def test_a_graph_learns_and_is_written_back(tmp_path: Path) -> None:
    graph = residual_net()
    module = GraphModule(graph)
    run = fit(
        module, Batches(task(), 24), TrainingConfig(epochs=6, lr=0.1), evaluate=accuracy
    )
    assert (
        accuracy(GraphModule(graph).eval()) < 0.5
        and run.metric is not None
        and run.metric > 0.9
    )
    assert [record["epoch"] for record in run.history] == list(range(1, 7))
    assert run.history[-1]["loss"] < run.history[0]["loss"] / 2
    pg.save(module.write_back(), tmp_path / "trained.onnx")
    data = task(200, seed=1)
    (logits,) = session.run(session.session(tmp_path / "trained.onnx"), {"x": data["x"]})
    assert (logits.argmax(1) == data["labels"]).mean() == run.metric


def test_fine_tuning_a_pruned_graph() -> None:
    module = GraphModule(residual_net(width=16))
    fit(module, Batches(task(), 24), TrainingConfig(epochs=5))
    pruned = pg.prune(module.write_back(), budget=pg.Budget(ratio=0.7), round_to=1).model
    tuned = GraphModule(pruned)
    before = accuracy(tuned.eval())
    run = fit(tuned, Batches(task(), 24), TrainingConfig(epochs=4), evaluate=accuracy)
    assert run.metric is not None and run.metric > max(before, 0.85)


@pytest.mark.parametrize("loss", ["distillation", "mean_squared"])
def test_a_student_learns_from_the_original_without_labels(loss: str) -> None:
    teacher = GraphModule(residual_net())
    fit(teacher, Batches(task(), 24), TrainingConfig(epochs=8, lr=0.1))
    before = weights(teacher)
    data = task()
    del data["labels"]
    student = GraphModule(residual_net(seed=5))
    chosen = distillation(teacher) if loss == "distillation" else mean_squared(teacher)
    run = fit(
        student,
        Batches(data, 24),
        TrainingConfig(epochs=12, lr=0.1),
        loss=chosen,
        evaluate=accuracy,
    )
    assert run.metric is not None and run.metric > 0.85 and weights(teacher) == before


def test_distillation_is_zero_for_equal_outputs_and_grows() -> None:
    teacher = GraphModule(residual_net())
    x = {"x": torch.from_numpy(task(6)["x"])}
    outputs = teacher.eval()(x)
    assert distillation(teacher)(outputs, x).item() == pytest.approx(0, abs=1e-6)
    p, q = (torch.softmax(y / 2, 1) for y in (outputs[0], outputs[0] * 3))
    wanted = (p * (p / q).log()).sum(1).mean() * 4
    assert distillation(teacher, temperature=2)(
        (outputs[0] * 3,), x
    ).item() == pytest.approx(wanted.item(), rel=1e-4)


def test_the_same_seed_gives_the_same_weights() -> None:
    def trained(seed: int) -> dict[str, bytes]:
        module = GraphModule(residual_net())
        fit(
            module,
            Batches(task(), 24, seed=seed),
            TrainingConfig(epochs=2, mixup=0.2, seed=seed),
        )
        return weights(module)

    assert trained(0) == trained(0) != trained(1)


class StopError(Exception):
    pass


class Killed(Callback):
    """Ends the process's run in the middle of an epoch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, run: Run) -> None:
        if run.step == self.step:
            raise StopError


class Count(Callback):
    """A callback with a state."""

    def __init__(self) -> None:
        self.seen = 0

    def after_step(self, run: Run) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_an_interrupted_run_ends_with_the_same_weights(
    tmp_path: Path, mixup: float
) -> None:
    recipe = TrainingConfig(epochs=4, mixup=mixup, warmup=0.1, clip=1.0)
    whole, count = GraphModule(residual_net()), Count()
    fit(whole, Batches(task(96), 24), recipe, callbacks=[count, Callback()])
    with pytest.raises(StopError):
        fit(
            GraphModule(residual_net()),
            Batches(task(96), 24),
            recipe,
            callbacks=[Count(), Killed(10)],
            checkpoint=tmp_path / "run.pt",
        )
    resumed, again = GraphModule(residual_net()), Count()
    run = fit(
        resumed,
        Batches(task(96), 24),
        recipe,
        callbacks=[again, Callback()],
        checkpoint=tmp_path / "run.pt",
    )
    assert weights(resumed) == weights(whole)
    assert len(run.history) == 4 and run.step == again.seen == count.seen == 16
    assert not list(tmp_path.glob("*.part"))


SCRIPT = """
import sys, time
import torch
torch.set_num_threads(1)
from prunegraph.training.batches import Batches
from prunegraph.training.fit import Callback, TrainingConfig, fit
from prunegraph.training.module import GraphModule
from tests.builders import residual_net
from tests.training.test_fit import task

class Slow(Callback):
    def after_step(self, run):
        # Long once there is a checkpoint, so that whoever kills it has time.
        time.sleep(float(sys.argv[2]) * (run.epoch > 0))

module = GraphModule(residual_net())
fit(module, Batches(task(96), 24), TrainingConfig(epochs=5), callbacks=[Slow()], checkpoint=sys.argv[1] + "/run.pt")
torch.save(module.state_dict(), sys.argv[1] + "/done.pt")
"""


def test_a_killed_process_can_be_resumed(tmp_path: Path) -> None:
    """SIGKILL after the first checkpoint; the second process ends where an undisturbed one does."""
    first = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path), "600"], cwd=ROOT)
    while not (tmp_path / "run.pt").exists() and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL and not (tmp_path / "done.pt").exists()
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), "0"],
        cwd=ROOT,
        check=True,
        env=dict(os.environ),
    )
    whole = GraphModule(residual_net())
    fit(whole, Batches(task(96), 24), TrainingConfig(epochs=5), callbacks=[Callback()])
    resumed = torch.load(tmp_path / "done.pt", weights_only=True)
    assert {name: tensor.numpy().tobytes() for name, tensor in resumed.items()} == weights(
        whole
    )


def parts_of(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as file:
        return file.read(name)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    fit(
        GraphModule(residual_net()),
        Batches(task(48), 24),
        TrainingConfig(epochs=1),
        checkpoint=path,
    )
    with pytest.raises(TrainingError, match="another recipe"):
        fit(
            GraphModule(residual_net()),
            Batches(task(48), 24),
            TrainingConfig(epochs=2),
            checkpoint=path,
        )
    with pytest.raises(TrainingError, match="other weights"):
        fit(
            GraphModule(residual_net(seed=3)),
            Batches(task(48), 24),
            TrainingConfig(epochs=1),
            checkpoint=path,
        )
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as parts:
        largest = max(parts.infolist(), key=lambda part: part.file_size)
    place = whole.index(parts_of(path, largest.filename))
    path.write_bytes(
        whole[: place + 5] + bytes([whole[place + 5] ^ 64]) + whole[place + 6 :]
    )
    with pytest.raises(TrainingError, match="another checksum"):
        fit(
            GraphModule(residual_net()),
            Batches(task(48), 24),
            TrainingConfig(epochs=1),
            checkpoint=path,
        )
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="damaged"):
        fit(
            GraphModule(residual_net()),
            Batches(task(48), 24),
            TrainingConfig(epochs=1),
            checkpoint=path,
        )


def test_early_stop_keeps_the_best_weights() -> None:
    scores = iter([0.3, 0.9, 0.5, 0.6, 0.99])
    kept: list[dict[str, bytes]] = []

    def metric(module: torch.nn.Module) -> float:
        kept.append(weights(module))
        return next(scores)

    module = GraphModule(residual_net())
    run = fit(
        module, Batches(task(48), 24), TrainingConfig(epochs=5, patience=2), evaluate=metric
    )
    assert run.epoch == 4 and run.best == 0.9
    assert weights(module) == kept[1] != kept[3]


def test_the_schedule() -> None:
    rates: list[float] = []

    class Watch(Callback):
        def before_step(self, run: Run) -> None:
            rates.append(run.optimizer.param_groups[0]["lr"])

    recipe = TrainingConfig(epochs=4, lr=0.1, warmup=0.25)
    fit(GraphModule(residual_net()), Batches(task(48), 12), recipe, callbacks=[Watch()])
    assert rates[:5] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
    assert rates[4:] == pytest.approx(
        [0.05 * (1 + np.cos(np.pi * i / 12)) for i in range(12)]
    )


def test_mixup_blends_inputs_and_leaves_labels() -> None:
    batch = {
        "x": torch.arange(8.0).reshape(4, 2),
        "labels": torch.arange(4),
        "ids": torch.arange(4),
    }
    changed, others, share = mixed(batch, 0.4, np.random.default_rng(0))
    torch.testing.assert_close(
        changed["x"], share * batch["x"] + (1 - share) * batch["x"][others]
    )
    assert torch.equal(changed["labels"], batch["labels"]) and torch.equal(
        changed["ids"], batch["ids"]
    )
    assert sorted(others.tolist()) == [0, 1, 2, 3] and 0 < share < 1


def test_samples_without_labels_have_shares_of_their_own() -> None:
    """Rows are known by their first column: where two were blended, the second one says in which shares."""
    count = 64
    x = torch.zeros(count, 2, 3)
    x[:, 0], x[:, 1] = 1.0, torch.arange(count)[:, None]
    mask = torch.arange(count)
    seen = blended({"x": x, "mask": mask}, 1.0, np.random.default_rng(0))
    torch.testing.assert_close(seen["x"][:, 0], x[:, 0])
    assert torch.equal(seen["mask"], mask)
    rng = np.random.default_rng(0)
    others = rng.permutation(count)
    shares = rng.beta(1.0, 1.0, count)
    wanted = shares * np.arange(count) + (1 - shares) * others
    for column in seen["x"][:, 1].T:
        np.testing.assert_allclose(column, wanted, rtol=1e-5, atol=1e-5)
    assert shares.min() < 0.1 and shares.max() > 0.9


def test_a_run_without_labels_blends_each_sample_by_itself() -> None:
    """What the network is given is nearly a sample of the data here, and half of two there, in every batch."""
    data = {"x": task()["x"]}
    known = torch.from_numpy(data["x"])
    seen = []

    def loss(outputs: Sequence[torch.Tensor], batch: Batch) -> torch.Tensor:
        far = (batch["x"][:, None] - known[None]).abs().mean((2, 3, 4))
        seen.append(far.min(1).values)
        return outputs[0].square().mean()

    recipe = TrainingConfig(epochs=1, mixup=1.0, lr=1e-3)
    fit(GraphModule(residual_net()), Batches(data, 24), recipe, loss=loss)
    assert len(seen) == 10
    assert all(far.quantile(0.9) > 2 * far.quantile(0.2) for far in seen)


def test_any_module_optimizer_and_iterable() -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(192, 5)

        def forward(self, x: object) -> object:
            return self.head(x.flatten(1))

    data = {name: torch.from_numpy(array) for name, array in task().items()}
    batches = [
        {name: tensor[i : i + 24] for name, tensor in data.items()}
        for i in range(0, 240, 24)
    ]
    torch.manual_seed(0)
    module = Plain()
    run = fit(
        module,
        batches,
        TrainingConfig(epochs=5, bf16=True),
        optimizer=torch.optim.AdamW(module.parameters(), 3e-3),
    )
    assert run.history[-1]["loss"] < 0.5 * run.history[0]["loss"]


def test_bfloat16_on_the_cpu() -> None:
    module = GraphModule(residual_net())
    run = fit(
        module,
        Batches(task(), 24),
        TrainingConfig(epochs=5, lr=0.1, bf16=True),
        evaluate=accuracy,
    )
    assert run.metric is not None and run.metric > 0.85
    assert {tensor.dtype for tensor in module.weights().values()} == {torch.float32}


def test_what_is_wrong_is_said() -> None:
    module = GraphModule(residual_net())
    with pytest.raises(TrainingError, match="lower the learning rate"):
        fit(module, Batches(task(48), 12), TrainingConfig(epochs=9, lr=1e9))
    dirty = task(48)
    dirty["x"][40, 0, 0, 0] = np.nan
    with pytest.raises(TrainingError, match=r"'x' has values .* not numbers; clean"):
        fit(GraphModule(residual_net()), Batches(dirty, 12), TrainingConfig(epochs=1))
    with pytest.raises(DataError, match="no batches"):
        fit(GraphModule(residual_net()), [], TrainingConfig(epochs=1))
    with pytest.raises(DataError, match="fill a batch"):
        Batches(task(4), 8)
    with pytest.raises(DataError, match="no parameters"):
        fit(
            GraphModule(residual_net(), trainable=[]),
            Batches(task(24), 8),
            TrainingConfig(epochs=1),
        )
    with pytest.raises(DataError, match="evaluate="):
        fit(module, Batches(task(24), 8), TrainingConfig(epochs=1, patience=1))
    with pytest.raises(DataError, match="needs `labels`"):
        fit(
            GraphModule(residual_net()),
            Batches({"x": task(24)["x"]}, 8),
            TrainingConfig(epochs=1),
            loss=cross_entropy(),
        )


def test_the_bar_shows_loss_and_metric(capfd: pytest.CaptureFixture[str]) -> None:
    fit(
        GraphModule(residual_net()),
        Batches(task(24), 8),
        TrainingConfig(epochs=2),
        evaluate=accuracy,
        progress=False,
    )
    assert capfd.readouterr() == ("", "")
    fit(
        GraphModule(residual_net()),
        Batches(task(24), 8),
        TrainingConfig(epochs=2),
        evaluate=accuracy,
        progress=True,
    )
    out, err = capfd.readouterr()
    assert out == "" and "epoch 2/2" in err and "metric" in err


class Viewing(torch.nn.Module):
    """A module that would not run on images with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(144, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(x).view(len(x), -1))


def test_graphs_take_images_with_channels_last_and_learn_the_same() -> None:
    seen: list[bool] = []
    names = []

    def noting(outputs: Sequence[torch.Tensor], batch: Batch) -> torch.Tensor:
        seen.append(batch["x"].is_contiguous(memory_format=torch.channels_last))
        names.append(set(batch))
        return cross_entropy()(outputs, batch)

    module, plain = GraphModule(residual_net()), GraphModule(residual_net())
    recipe = TrainingConfig(epochs=1, lr=0.05)
    batches = list(Batches(task(72), 24))
    fit(module, batches, recipe, loss=noting)
    assert seen == [True] * 3 and names[0] == {"x", "labels"}
    optimizer = optimizer_of(plain, recipe)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * recipe.factor(step / 3)
        optimizer.zero_grad()
        cross_entropy()(plain.train()(x=batch["x"]), batch).backward()
        optimizer.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    fit(Viewing(), batches, recipe, loss=noting)
    assert seen[3:] == [False] * 3
