"""What it costs when blocks lose channels: the same ones in all, or each its own, at the same widths.

    python -m benchmarks.blocks convolutions            groups of convolutions, two networks trained here in minutes
    python -m benchmarks.blocks attention MODEL DATA    heads of a transformer, an ONNX file and its inputs (.npz)

Prints the energy of the outputs' error before any repair, in percent of the outputs' own, when one group of channels is
pruned: the mean over all groups that have blocks. The networks for `convolutions`, one with convolutions in groups as
in ResNeXt and one with shuffles as in ShuffleNet, learn Fashion-MNIST (see `benchmarks.tasks`); needs
`pip install prunegraph[bench,torch]`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

import prunegraph as pg
from benchmarks.tasks import fashion, fashion_calibration
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data, read_data
from prunegraph.runtime.session import run, session

if TYPE_CHECKING:
    from torch import Tensor, nn

    #: Layers of a residual block, from its width and its groups.
    Block = Callable[[int, int], list[nn.Module]]

Array = np.ndarray

#: Shares of the channels that go.
RATIOS = (0.25, 0.5)

#: Images the networks learn, and how often.
IMAGES, EPOCHS, BATCH = 12_000, 5, 64


def error(graph: Graph, pruned: Graph, data: Data) -> float:
    """Energy of the difference of all outputs, relative to that of the outputs."""
    before, after = session(graph), session(pruned)
    parts = [
        (a.astype(np.float64), b.astype(np.float64))
        for batch in data.batches(graph, 64)
        for a, b in zip(run(before, batch), run(after, batch), strict=True)
    ]
    lost = sum(float(np.square(a - b).sum()) for a, b in parts)
    return lost / sum(float(np.square(a).sum()) for a, _ in parts)


def compare(name: str, graph: Graph, data: Data) -> None:
    """Print a row for each criterion and ratio: mean error over all groups with blocks, each pruned alone."""
    own = pg.analyze(graph, attention="head_dim", blocks="own")
    blocks = [group for group in own.groups if group.cells is not None]
    layers = {layer for group in own.groups for layer in group.layers}
    for algorithm in ("l2", "thinet", "thinet:error=outputs", "obs"):
        for ratio in RATIOS:
            errors: dict[str, list[float]] = {"alike": [], "own": []}
            for group in blocks:
                for choice, found in errors.items():
                    result = pg.prune(
                        graph,
                        budget=pg.Budget(ratio=ratio),
                        algorithm=algorithm,
                        allocation="uniform",
                        data=data,
                        repair="none",
                        round_to=1,
                        attention="head_dim",
                        blocks=choice,
                        keep=sorted(layers.difference(group.layers)),
                        verify=False,
                    )
                    found.append(error(graph, result.model, data))
            alike, apart = (100 * float(np.mean(each)) for each in errors.values())
            print(
                f"| {name} | {len(blocks)} | {algorithm} | {ratio:.0%} | {alike:.1f} | {apart:.1f} | "
                f"{apart / alike:.2f} |",
                flush=True,
            )


def convolutions() -> None:
    """Networks with groups of convolutions."""
    data = fashion_calibration(256, 0)
    for name, make in (("ResNeXt-like", _resnext), ("ShuffleNet-like", _shufflenet)):
        compare(name, _trained(make), data)


def _trained(make: Callable[[], nn.Module]) -> Graph:
    """A network after a few minutes on Fashion-MNIST, in evaluation mode."""
    import torch

    torch.manual_seed(0)
    module = make()
    images, labels = (torch.from_numpy(part[:IMAGES].copy()) for part in fashion("train"))
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=0.05)
    steps = EPOCHS * (IMAGES // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(IMAGES)[: IMAGES // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                module(images[batch]), labels[batch].long()
            )
            loss.backward()
            optimizer.step()
            schedule.step()
    module.eval()
    return pg.load(module, inputs=(images[:2],))


def _resnext() -> nn.Module:
    """Three residual blocks, each a convolution in groups between two of size 1."""
    from torch import nn

    def block(width: int, groups: int) -> list[nn.Module]:
        return [
            *_normal(nn.Conv2d(width, width, 1, bias=False)),
            nn.ReLU(),
            *_normal(nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False)),
            nn.ReLU(),
            *_normal(nn.Conv2d(width, width, 1, bias=False)),
        ]

    return _network(block)


def _shufflenet() -> nn.Module:
    """Three residual blocks: convolutions of size 1 in groups, a shuffle and a depthwise convolution between them."""
    from torch import nn

    def block(width: int, groups: int) -> list[nn.Module]:
        return [
            *_normal(nn.Conv2d(width, width, 1, groups=groups, bias=False)),
            nn.ReLU(),
            nn.ChannelShuffle(groups),
            *_normal(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)),
            *_normal(nn.Conv2d(width, width, 1, groups=groups, bias=False)),
        ]

    return _network(block)


def _normal(layer: nn.Conv2d) -> list[nn.Module]:
    """A convolution and its normalisation."""
    from torch import nn

    return [layer, nn.BatchNorm2d(layer.out_channels)]


def _network(block: Block, width: int = 32, groups: int = 4) -> nn.Module:
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(*block(width, groups))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.relu(x + self.inner(x))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stem = _normal(nn.Conv2d(1, width, 3, 2, 1, bias=False))
            self.body = nn.Sequential(
                *stem, nn.ReLU(), nn.MaxPool2d(2), *(Residual() for _ in range(3))
            )
            self.head = nn.Linear(width, 10)

        def forward(self, image: Tensor) -> Tensor:
            return self.head(self.body(image).mean((2, 3)))

    return Network()


def attention(model: str, data: str) -> None:
    """Heads of a transformer."""
    compare(model.rpartition("/")[2], pg.load(model), Data.of(read_data(data)))


def main() -> None:
    names = {"convolutions": convolutions, "attention": attention}
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        raise SystemExit(__doc__)
    print("| model | groups | criterion | goes | alike, % | own, % | own / alike |")
    print("|---|---|---|---|---|---|---|")
    names[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
