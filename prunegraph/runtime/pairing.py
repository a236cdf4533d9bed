"""Items of a stream with what is computed of each, without holding the stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def with_results(
    items: Iterable[T], compute: Callable[[Iterator[T]], Iterable[R]]
) -> Iterator[tuple[T, R]]:
    """Each item with its result; `compute` reads items one by one and gives one result for each, in order.

    `itertools.tee` would do as well, but keeps dozens of items: it frees them in blocks.
    """
    waiting: deque[T] = deque()

    def read() -> Iterator[T]:
        for item in items:
            waiting.append(item)
            yield item

    for result in compute(read()):
        yield waiting.popleft(), result
