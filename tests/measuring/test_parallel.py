"""Work in this process and in worker processes: same results, errors as they were, dead workers survived."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prunegraph.errors import ClusterError, UnknownNameError
from prunegraph.measuring import parallel
from prunegraph.measuring.parallel import pool


def adder(folder: Path) -> Callable[[object], object]:
    """Work that adds the number in a file; some items misbehave."""
    base = int((folder / "number").read_text())
    opened = folder / f"opened-{os.getpid()}"
    opened.write_text(opened.read_text() + "x" if opened.exists() else "x")

    def work(item: object) -> object:
        if item == "unknown":
            raise UnknownNameError("layer", "x", ["y"])
        if item == "bug":
            raise ZeroDivisionError("a bug")
        if item == "slow":
            time.sleep(
                600
            )  # nobody waits for this: it is killed, however slow the machine is
            (folder / "finished").touch()
        if item == "die" or (item == "die once" and not (folder / "died").exists()):
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return base + (item if isinstance(item, int) else 0)

    return work


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_in_order_and_the_folder_opened_once_a_worker(
    folder: Path, jobs: int
) -> None:
    with pool(adder, folder, jobs=jobs) as workers:
        assert workers.width == jobs
        assert list(workers.map(range(8))) == list(range(10, 18))
        assert list(workers.map([1])) == [11]
        assert list(workers.map([])) == []
    opened = [path.read_text() for path in folder.glob("opened-*")]
    assert 1 <= len(opened) <= jobs
    assert set(opened) == {"x"}


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_arrive_as_they_were_raised(folder: Path, jobs: int) -> None:
    with pool(adder, folder, jobs=jobs) as workers:
        with pytest.raises(UnknownNameError, match=r"unknown layer 'x'\. Known: y"):
            list(workers.map([1, "unknown", 2]))
        with pytest.raises(ZeroDivisionError, match="a bug"):
            list(workers.map(["bug"]))
        assert list(workers.map([1, 2])) == [11, 12]


def test_an_error_stops_what_still_runs(folder: Path) -> None:
    with pool(adder, folder, jobs=2) as workers:
        with pytest.raises(UnknownNameError):
            list(workers.map(["unknown", "slow"]))
        gc.collect()  # what is left of the generator says nothing
        assert list(workers.map([1, 2])) == [11, 12]
    assert not (folder / "finished").exists()


def test_results_that_nobody_wants_any_more_are_not_waited_for(folder: Path) -> None:
    with pool(adder, folder, jobs=2) as workers:
        results = workers.map([1, "slow", "slow"])
        assert next(results) == 11
        results.close()
        assert list(workers.map([1, 2])) == [11, 12]
    assert not (folder / "finished").exists()


def test_a_killed_process_costs_only_its_own_piece(folder: Path) -> None:
    with pool(adder, folder, jobs=2) as workers:
        assert list(workers.map([1, "die once", 2, 3])) == [11, 10, 12, 13]
    assert (folder / "died").exists()


def test_work_that_kills_every_process_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "ATTEMPTS", 2)
    with (
        pool(adder, folder, jobs=2) as workers,
        pytest.raises(ClusterError, match=r"killed 2 times \(out of memory\?\)"),
    ):
        list(workers.map([1, "die"]))


def test_a_process_keeps_few_folders_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "_opened", {})
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "number").write_text(str(number))
        assert parallel._call(adder, folder, 1) == number + 1
    assert len(parallel._opened) == parallel.KEPT
