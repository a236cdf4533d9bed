"""The line that says what goes on, and for how long."""

from __future__ import annotations

import threading

import pytest

import prunegraph as pg
from prunegraph.cli.progress import Progress, duration, lines
from tests.builders import residual_net


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_follows_from_the_pace() -> None:
    clock = Clock()
    progress = Progress(clock)
    progress("load")
    assert progress.remaining is None
    assert str(progress) == "load"
    clock.now += 10
    progress("moments: batch 1 of 5")
    assert progress.remaining is None
    assert str(progress) == "moments: batch 1 of 5, 10 s"
    clock.now += 3
    progress("moments: batch 2 of 5")
    assert progress.remaining == pytest.approx(9)
    clock.now += 5
    progress("moments: batch 3 of 5")
    assert progress.remaining == pytest.approx(8)
    assert str(progress) == "moments: batch 3 of 5, 18 s, about 8 s left"


@pytest.mark.parametrize(
    "following", ["Gram matrices: batch 1 of 5", "moments: batch 1 of 7"]
)
def test_another_count_begins_anew(following: str) -> None:
    clock = Clock()
    progress = Progress(clock)
    for batch in (1, 2):
        progress(f"moments: batch {batch} of 5")
        clock.now += 4
    assert progress.remaining is not None
    progress(following)
    assert progress.remaining is None


def test_the_same_count_from_its_start_begins_anew() -> None:
    clock = Clock()
    progress = Progress(clock)
    for batch in (1, 5, 1):
        progress(f"moments: batch {batch} of 5")
        clock.now += 4
    assert progress.remaining is None


def test_a_stage_of_at_most_so_many_counts_too() -> None:
    clock = Clock()
    progress = Progress(clock)
    progress("sensitivity: 0 of at most 40 candidates")
    clock.now += 10
    progress("sensitivity: 10 of at most 40 candidates")
    assert progress.remaining == pytest.approx(30)


def test_what_is_said_behind_a_count_may_change() -> None:
    clock = Clock()
    progress = Progress(clock)
    progress("least squares: layer 1 of 5, first.conv")
    clock.now += 6
    progress("least squares: layer 2 of 5, second.conv")
    assert progress.remaining == pytest.approx(18)


def test_the_proof_counts_its_steps() -> None:
    graph = residual_net()
    plan = pg.select(graph, budget=pg.Budget(ratio=0.5), round_to=1)
    stages: list[str] = []
    pg.verify(graph, plan, pg.apply(graph, plan), progress=stages.append)
    assert [stage.partition(",")[0] for stage in stages] == [
        f"proof: {step} of 4" for step in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1:00 min"),
        (125, "2:05 min"),
        (3725, "1:02:05 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_names_with_brackets_are_no_markup() -> None:
    progress = Progress()
    progress("layer [bold] 1 of 3")
    assert progress.__rich__() == r"layer \[bold] 1 of 3"


def test_lines_are_written_while_a_stage_runs_and_not_after() -> None:
    progress, seen, enough = Progress(), [], threading.Event()

    def write(text: str) -> None:
        seen.append(text)
        if len(seen) == 2:
            enough.set()

    progress("cut")
    with lines(progress, write, every=0.001):
        assert enough.wait(30)
    count = len(seen)
    assert set(seen) <= {"cut", "cut, 2 s"}
    assert not [each for each in threading.enumerate() if each.name == "progress"]
    assert len(seen) == count
