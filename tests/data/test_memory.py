"""Folders of images take no more memory the more images they hold, in every command that reads them.

What NumPy and Python allocate is counted, so that the result depends on no machine and no load. Images that were all
held as a network gets them would take 12 kB each.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prunegraph as pg
from prunegraph.data.opening import open_data
from prunegraph.graph.model import Graph
from prunegraph.recovery import least_squares
from prunegraph.runtime.data import Data
from prunegraph.runtime.store import Store
from tests.builders import Builder

COUNTS = (640, 1280)

SIDE = 32

#: Bytes that the larger folder may take more: names, numbers, labels, outputs.
MORE = 1_400_000

#: Values that commands keep while they work are in memory up to a bound, and in files beyond: here that is a small one.
KEPT = 2**19


NARROW = ((3, 8, 2), (8, 8, 2))

#: The first layer makes 98 kB a sample.
WIDE = ((3, 24, 1), (24, 8, 2))


def net(layers: Sequence[tuple[int, int, int]] = NARROW) -> Graph:
    """Convolutions of so many inputs, outputs and such a stride, and five classes."""
    b = Builder()
    x = b.input("N", 3, SIDE, SIDE, name="photo")
    for index, (cin, cout, stride) in enumerate(layers):
        conv = b.conv(x, cin, cout, 3, strides=[stride] * 2, pads=[1] * 4, name=f"c{index}")
        x = b.relu(b.bn(conv, cout))
    return b.graph(b.head(x, layers[-1][1]))


def photos(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / str(number % 4) / f"{number:04}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(small).resize((40, 36)).save(place)
    return folder


def opened(folder: Path, graph: Graph) -> Data:
    return open_data(str(folder), graph, preprocess="resize=32x32", workers=0)


def pruned(graph: Graph, data: Data) -> None:
    pg.prune(graph, data=data, budget=pg.Budget(macs=0.6), round_to=1)


def quantized(graph: Graph, data: Data) -> None:
    pg.quantize(graph, data=data)


def compared(graph: Graph, data: Data) -> None:
    pg.compare(graph, graph, data=data, runs=1)


def distilled(graph: Graph, data: Data) -> None:
    pytest.importorskip("torch")
    from prunegraph.training import TrainingConfig, TrainingOptions, measure, train
    from prunegraph.training.module import GraphModule
    from prunegraph.training.outcome import OutcomeJudge
    from prunegraph.training.tasks import LossContext, loss_of

    setting = TrainingOptions(
        data,
        32,
        loss_of(["distill"], LossContext(graph, GraphModule(graph).eval())),
        TrainingConfig(epochs=1, lr=0.001),
        evaluate=measure(data, graph, "agreement"),
    )
    judge = OutcomeJudge(graph, data, original=graph)
    judge(train(graph, setting).model)


def peak(run: Callable[[Graph, Data], None], folder: Path) -> int:
    """Most bytes allocated at once beyond those before."""
    graph = net()
    data = opened(folder, graph)
    gc.collect()
    tracemalloc.start()
    try:
        run(graph, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("photos")
    return [photos(root / str(count), count) for count in COUNTS]


@pytest.mark.parametrize("run", [pruned, quantized, compared, distilled])
def test_memory_does_not_grow(
    run: Callable[[Graph, Data], None], folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store.__init__, "__defaults__", (KEPT,))
    run(net(), opened(folders[0], net()))  # what is imported or kept for later is there
    small, large = (peak(run, folder) for folder in folders)
    whole = (COUNTS[1] - COUNTS[0]) * 3 * SIDE * SIDE * 4
    assert whole > 5 * MORE and large - small < MORE, (small, large)


def test_a_repair_is_at_its_bound_with_few_images(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept in memory by default is less than what 640 small images have inside a small network.

    ONNX Runtime's own arrays are no part of what is counted above, so that they are asked for here.
    """
    held: list[int] = []

    class Watched(Store):
        def put(self, batch: int, name: str, array: np.ndarray) -> None:
            super().put(batch, name, array)
            held.append(self.held)

    monkeypatch.setattr(least_squares, "Store", Watched)
    peaks = []
    for folder in folders:
        held.clear()
        pruned(net(WIDE), opened(folder, net(WIDE)))
        peaks.append(max(held))
    assert peaks[0] > 5 * MORE and peaks[1] - peaks[0] < MORE, peaks


def test_the_count_sees_what_is_held(folders: list[Path]) -> None:
    """A command that held all images would be noticed."""
    held = [
        peak(lambda graph, data: data.in_memory() and None, folder) for folder in folders
    ]
    assert held[1] - held[0] > 5 * MORE
