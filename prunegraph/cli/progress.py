"""What a command is doing, and how long it will take: a line that moves, or one every ten seconds in a log.

A stage that counts says so in its text, "batch 3 of 16"; the time left follows from how fast it counts.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

#: Seconds between lines where the output is no terminal.
EVERY = 10.0

#: Seconds before a time left is worth saying.
PATIENCE = 2.0

_COUNT = re.compile(r"(\d+) of (?:at most )?(\d+)")


class Progress:
    """The stage at work and when it will be over.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._begin = self._since = clock()
        self.stage = ""
        self._kind, self._first, self._count, self._total = "", 0, 0, 0

    def __call__(self, stage: str) -> None:
        """Begin a stage, or go on with one that counts."""
        count = _COUNT.search(stage)
        kind = stage[: count.start()] if count else stage
        done, total = (int(count[1]), int(count[2])) if count else (0, 0)
        if kind != self._kind or total != self._total or done < self._count:
            self._since, self._first = self._clock(), done
        self.stage, self._kind, self._count, self._total = stage, kind, done, total

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return self._clock() - self._begin

    @property
    def remaining(self) -> float | None:
        """Seconds until the stage has counted to its end; None where nothing is known."""
        steps = self._count - self._first
        if steps < 1:
            return None
        pace = (self._clock() - self._since) / steps
        return max(pace * (self._total - self._count), 0.0)

    def __str__(self) -> str:
        """The stage, how long the command has run, and what is left of the stage."""
        elapsed, remaining = self.elapsed, self.remaining
        parts = [self.stage]
        if elapsed >= PATIENCE:
            parts.append(duration(elapsed))
            if remaining is not None:
                parts.append(f"about {duration(remaining)} left")
        return ", ".join(parts)

    def __rich__(self) -> str:
        return str(self).replace("[", r"\[")


def duration(seconds: float) -> str:
    """Seconds as a person says them: 7 s, 2:05 min, 1:02:05 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"


@contextmanager
def lines(
    progress: Progress, write: Callable[[str], None], every: float = EVERY
) -> Iterator[None]:
    """Write a line about the stage at work every few seconds, from a thread of its own."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(every):
            write(str(progress))

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def shown(where: Console, verbose: bool) -> Iterator[Callable[[str], None]]:
    """Show stages on a console: none if it is quiet, each as a line of its own if verbose.

    Yields:
        what is told of each stage.
    """
    progress = Progress()
    progress("starting")

    def tell(stage: str) -> None:
        progress(stage)
        where.print(f"{progress.elapsed:8.1f} s  {stage}", markup=False, soft_wrap=True)

    if where.quiet:
        yield progress
    elif verbose:
        yield tell
    elif where.is_terminal:
        with where.status(progress):
            yield progress
    else:
        with lines(progress, lambda text: print(text, file=sys.stderr, flush=True)):  # noqa: T201
            yield progress
