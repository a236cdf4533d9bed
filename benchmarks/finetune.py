"""Pruned PyTorch modules, trained on.

    pip install torch==2.13.0 && pip install prunegraph[bench,torch]
    python -m benchmarks.finetune fashion        70 % of the MACs pruned, two epochs
    python -m benchmarks.finetune efficientnet   10 % of the MACs pruned, five steps to the original's outputs

The second needs the packages of `fixtures/efficientnet_lite0.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

import prunegraph as pg
from benchmarks.peers import torch_module
from benchmarks.tasks import TASKS, Task, fashion, fashion_accuracy, fashion_calibration
from fixtures.train_fashion import accuracy, train
from prunegraph.frontends import pytorch
from prunegraph.ops.cost import cost
from prunegraph.runtime.session import run, session


def task(name: str) -> Task:
    return next(each for each in TASKS if each.name.startswith(name))


def tune_fashion(epochs: int = 2) -> None:
    torch.manual_seed(0)
    source = task("fashion").load()
    module = torch_module(task("fashion"), source)
    inputs = torch.zeros(2, 1, 28, 28)
    graph = pg.load(module, inputs)
    images = next(fashion_calibration(256, 0).batches(source, 256))["image"]
    result = pg.prune(
        graph, data={graph.inputs[0]: images}, budget=pg.Budget(macs=0.3), round_to=1
    )
    pruned = pytorch.apply(
        module, result.plan, pruned=pg.apply(graph, result.plan), inputs=inputs
    )
    test = tensors("t10k")
    share = result.after.macs / result.before.macs
    print(
        f"top-1: original {accuracy(module, *test):.2%}; {share:.1%} of MACs left: {accuracy(pruned, *test):.2%}, "
        f"refitted without training {fashion_accuracy(result.model):.2%}",
        flush=True,
    )
    train(pruned, *tensors("train"), epochs)
    print(f"after {epochs} epochs of tuning: {accuracy(pruned, *test):.2%}", flush=True)


def tensors(part: str) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = fashion(part)
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def tune_efficientnet(steps: int = 5, rate: float = 1e-4) -> None:
    torch.manual_seed(0)
    which = task("efficientnet")
    source = which.load()
    module = torch_module(which, source)
    photos = which.calibration(16, 0)
    inputs = torch.from_numpy(next(iter(photos.batches(source, 16)))["image"])
    graph = pg.load(module, inputs)
    result = pg.prune(graph, budget=pg.Budget(macs=0.9), round_to=1)
    pruned = pytorch.apply(module, result.plan, pruned=result.model, inputs=inputs)
    print(
        f"{result.after.macs / cost(graph).macs:.1%} of MACs left; module and graph are equal"
    )
    wanted = torch.from_numpy(run(session(source), {"image": inputs.numpy()})[0]).softmax(1)
    optimizer = torch.optim.Adam(pruned.parameters(), rate)
    pruned.eval()
    for step in range(steps):
        optimizer.zero_grad()
        loss = functional.kl_div(
            pruned(inputs).log_softmax(1), wanted, reduction="batchmean"
        )
        loss.backward()
        optimizer.step()
        print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)


COMMANDS: dict[str, Callable[[], None]] = {
    "fashion": tune_fashion,
    "efficientnet": tune_efficientnet,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or COMMANDS:
        COMMANDS[name]()
