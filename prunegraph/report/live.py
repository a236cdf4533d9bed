"""A page that is written anew while work goes on: whoever reloads it sees what is there so far, whole every time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from prunegraph.errors import ModelError, PrunegraphError
from prunegraph.graph.onnx_io import write_whole

#: Seconds between two pages at least.
EVERY = 2.0


@dataclass(frozen=True)
class Standing:
    """Where the work stands. `failure` says what stopped it, "" where it goes on or is done."""

    is_done: bool = False
    failure: str = ""


#: Makes the page for where the work stands.
Render = Callable[[Standing], str]


class LivePage:
    """Writes a page while work goes on, at most every so many seconds. It is renamed into place, never half written.

    Args:
        path: where the page goes.
        every: seconds between two pages at least.
        clock: tells the time in seconds.
    """

    def __init__(
        self,
        path: Path,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.path, self.every, self.clock = path, every, clock
        self._next = clock()
        self._render: Render | None = None

    def show(self, render: Render) -> None:
        """Write the page of a work that goes on, unless one was written just now.

        A page that cannot be written now does not stop the work: the last one is written in any case, or raises.
        """
        self._render = render
        if self.clock() < self._next:
            return
        with suppress(ModelError):
            self._write(Standing())
        self._next = self.clock() + self.every

    def finish(self, render: Render) -> None:
        """Write the page of a work that is done. Raises ModelError where that cannot be."""
        self._render = render
        self._write(Standing(is_done=True))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While the work goes on: where it fails, the last page says so and shows what there was."""
        try:
            yield
        except BaseException as error:
            failure = (
                str(error) if isinstance(error, PrunegraphError) else type(error).__name__
            )
            if self._render is not None:
                with suppress(ModelError):
                    self._write(Standing(failure=failure))
            raise

    def _write(self, standing: Standing) -> None:
        assert self._render is not None
        write_whole(self.path, [self._render(standing).encode()])
