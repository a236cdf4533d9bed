"""Which run a checkpoint belongs to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prunegraph as pg
from prunegraph.errors import TrainingError
from prunegraph.runtime.data import Data
from prunegraph.training import (
    Batches,
    GraphModule,
    TrainingConfig,
    TrainingOptions,
    fit,
    measure,
    train,
)
from prunegraph.training.identity import digest_of
from prunegraph.training.losses import cross_entropy, distillation
from tests.builders import residual_net
from tests.commands import in_process as cli
from tests.training.test_fit import task


def setting(path: Path, **changes: Any) -> TrainingOptions:
    plain = TrainingOptions(
        Data.of(task(48)), 24, cross_entropy(), TrainingConfig(epochs=1), checkpoint=path
    )
    return replace(plain, **changes)


def relabelled() -> Data:
    data = task(48)
    return Data.of({**data, "labels": (data["labels"] + 1) % 5})


def mirrored(arrays: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {**arrays, "x": arrays["x"][..., ::-1].copy()}


CHANGES: dict[str, Callable[[], dict[str, Any]]] = {
    "other samples": lambda: {"data": Data.of(task(48, seed=4))},
    "other labels": lambda: {"data": relabelled()},
    "more samples": lambda: {"data": Data.of(task(60))},
    "another batch": lambda: {"batch": 12},
    "another loss": lambda: {"loss": cross_entropy(smoothing=0.1)},
    "distillation": lambda: {"loss": distillation(GraphModule(residual_net()))},
    "another recipe": lambda: {"recipe": TrainingConfig(epochs=1, lr=0.01)},
    "augmentation": lambda: {"augment": mirrored},
    "a metric": lambda: {"evaluate": measure(task(48), residual_net())},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_with_another_setting_is_refused(name: str, tmp_path: Path) -> None:
    train(residual_net(), setting(tmp_path / "run.pt"))
    with pytest.raises(TrainingError, match="belongs to another run"):
        train(residual_net(), setting(tmp_path / "run.pt", **CHANGES[name]()))


def test_a_run_to_another_budget_is_refused(tmp_path: Path) -> None:
    """Already at the stage before the cut, which is the same."""
    path, method = tmp_path / "run.pt", "joint:quantize=none,round_to=1"
    train(residual_net(), setting(path, budget=pg.Budget(ratio=0.5)), method)
    with pytest.raises(TrainingError, match=r"sparse.*belongs to another run"):
        train(residual_net(), setting(path, budget=pg.Budget(ratio=0.25)), method)


def test_a_run_with_another_option_or_model_is_refused(tmp_path: Path) -> None:
    train(residual_net(), setting(tmp_path / "run.pt"), "sparse:strength=1e-4")
    with pytest.raises(TrainingError, match="belongs to another run"):
        train(residual_net(), setting(tmp_path / "run.pt"), "sparse:strength=1e-3")
    with pytest.raises(TrainingError, match="belongs to another run"):
        train(residual_net(seed=1), setting(tmp_path / "run.pt"), "sparse")


def test_the_same_run_goes_on(tmp_path: Path) -> None:
    """Options that are spelt and defaults, another device or progress: the same run."""
    first = train(residual_net(), setting(tmp_path / "run.pt"), "sparse:strength=1e-4")
    same = setting(tmp_path / "run.pt", device="cpu", progress=lambda stage: None)
    again = train(residual_net(), same, "sparse:strength=0.0001")
    for name, weight in first.model.weights.items():
        np.testing.assert_array_equal(again.model.weights[name].read(), weight.read())


def test_a_loss_of_the_users_counts_with_its_code(tmp_path: Path) -> None:
    def loss(factor: float) -> Any:
        return lambda outputs, batch: factor * cross_entropy()(outputs, batch)

    def run(chosen: Any) -> None:
        fit(
            GraphModule(residual_net()),
            Batches(task(48), 24),
            TrainingConfig(epochs=1),
            loss=chosen,
            checkpoint=tmp_path / "run.pt",
        )

    run(loss(1.0))
    run(loss(1.0))
    for other in (loss(2.0), lambda outputs, batch: outputs[0].square().mean()):
        with pytest.raises(TrainingError, match="another run"):
            run(other)


def test_lists_of_batches_count_by_their_content(tmp_path: Path) -> None:
    def batches(seed: int) -> list[dict[str, torch.Tensor]]:
        return [
            {name: torch.from_numpy(array) for name, array in task(24, seed=seed).items()}
        ]

    for seed in (0, 0):
        fit(
            GraphModule(residual_net()),
            batches(seed),
            TrainingConfig(epochs=1),
            checkpoint=tmp_path / "run.pt",
        )
    with pytest.raises(TrainingError, match="another run"):
        fit(
            GraphModule(residual_net()),
            batches(1),
            TrainingConfig(epochs=1),
            checkpoint=tmp_path / "run.pt",
        )


SCRIPT = """
import numpy as np
from prunegraph.training import GraphModule, TrainingConfig, cross_entropy, distillation
from prunegraph.training.identity import digest_of
from tests.builders import residual_net
things = [TrainingConfig(epochs=2), cross_entropy(smoothing=0.1), distillation(GraphModule(residual_net())),
          {"b": {1, 2, "x"}, "a": np.arange(3)}, lambda x: x in {1, 2, 3}]
"""


def test_digests_are_the_same_in_another_process() -> None:
    words = [sys.executable, "-c", SCRIPT + "print(digest_of(*things))"]
    first, second = (
        subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=True,
            env={**_env(), "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    )
    assert first == second and len(first) == 65


def _env() -> dict[str, str]:
    import os

    return dict(os.environ)


def test_circles_end() -> None:
    circle: list[object] = [1]
    circle.append(circle)
    other: list[object] = [2]
    other.append(other)
    assert digest_of(circle) != digest_of(other)


def test_another_command_does_not_return_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pg.save(residual_net(), "net.onnx")
    np.savez("one.npz", **task(48))
    np.savez("two.npz", **task(48, seed=7))
    words = "train net.onnx --epochs 1 --batch 24 --checkpoint run.pt --force"
    assert cli(*words.split(), "-o", "first.onnx", "--data", "one.npz").exit_code == 0
    for more in (
        "--data two.npz",
        "--data one.npz --batch 12",
        "--data one.npz --method plain:learn_scales=true",
        "--data one.npz --original net.onnx",
        "--data one.npz --eval two.npz",
    ):
        done = cli(*words.split(), "-o", "second.onnx", *more.split())
        assert (
            done.exit_code == 2
            and "belongs to another run" in done.stderr
            and done.stderr.count("\n") == 1
        )
        assert not Path("second.onnx").exists()
    assert cli(*words.split(), "-o", "second.onnx", "--data", "one.npz").exit_code == 0
    assert Path("second.onnx").read_bytes() == Path("first.onnx").read_bytes()
