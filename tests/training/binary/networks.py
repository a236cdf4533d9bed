"""Small networks that can become binary, and data they can learn, for tests."""

from __future__ import annotations

import numpy as np

from prunegraph.graph.model import Graph
from tests.builders import Builder

Array = np.ndarray


def plain_bn(b: Builder, x: str, channels: int) -> str:
    """A normalisation without scale and shift."""
    vectors = [b.const(np.full(channels, value), np.float32) for value in (1, 0, 0, 1)]
    return b.op("BatchNormalization", x, *vectors)


def plain_net(seed: int = 0, width: int = 8, classes: int = 5, opset: int = 18) -> Graph:
    """conv - BN relu conv pool - BN relu conv - BN relu - linear; the two inner convolutions can be binary."""
    b = Builder(seed, opset=opset)
    x = b.conv(b.input("n", 3, 8, 8), 3, width, bias=False, name="first")
    x = b.relu(plain_bn(b, x, width))
    x = b.conv(x, width, 2 * width, bias=False, name="second")
    x = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = b.relu(plain_bn(b, x, 2 * width))
    x = b.conv(x, 2 * width, 2 * width, bias=False, name="third")
    x = b.relu(b.bn(x, 2 * width))
    return b.graph(b.head(x, 2 * width, classes))


def task(count: int = 300, seed: int = 0) -> dict[str, Array]:
    """Images of five kinds, each a pattern with noise."""
    patterns = np.random.default_rng(99).standard_normal((5, 3, 8, 8))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, count)
    x = patterns[labels] + 2 * rng.standard_normal((count, 3, 8, 8))
    return {"x": x.astype(np.float32), "labels": labels}
