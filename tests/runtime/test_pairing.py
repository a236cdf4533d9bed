"""Items and results side by side."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np

from prunegraph.runtime.pairing import with_results


def test_each_item_comes_with_its_result() -> None:
    pairs = with_results(range(5), lambda items: (2 * item for item in items))
    assert list(pairs) == [(n, 2 * n) for n in range(5)]

    def ahead(items: Iterator[int]) -> Iterator[int]:
        yield from [10 * item for item in items]

    assert list(with_results(range(3), ahead)) == [(0, 0), (1, 10), (2, 20)]


def test_a_stream_is_not_held() -> None:
    alive: weakref.WeakSet[Thing] = weakref.WeakSet()

    class Thing:
        def __init__(self) -> None:
            self.array = np.zeros(3)
            alive.add(self)

    stream = (Thing() for _ in range(40))
    most = 0
    for thing, result in with_results(stream, lambda items: (item.array for item in items)):
        del thing, result
        gc.collect()
        most = max(most, len(alive))
    assert most <= 3
