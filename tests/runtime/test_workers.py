"""Stopping workers prints no traceback of the pool's own thread, and hides nothing else."""

from __future__ import annotations

import threading

import pytest

from prunegraph.runtime.workers import MANAGER, stopped_quietly


@pytest.mark.parametrize(
    ("name", "fault", "told"),
    [
        (MANAGER, KeyError(3), False),
        (MANAGER, ValueError("a bug"), True),
        ("another", KeyError(3), True),
    ],
)
def test_only_work_that_was_forgotten_is_silent(
    monkeypatch: pytest.MonkeyPatch, name: str, fault: Exception, told: bool
) -> None:
    heard: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda fault: heard.append(fault.exc_type))

    def fail() -> None:
        raise fault

    with stopped_quietly():
        thread = threading.Thread(target=fail, name=name)
        thread.start()
        thread.join()
    assert heard == ([type(fault)] if told else [])

    after = threading.Thread(target=fail, name=name)
    after.start()
    after.join()
    assert heard[-1] is type(fault)


def test_a_pool_that_is_killed_with_work_just_handed_in() -> None:
    """The real pool: every thread's fault is an error of the test."""
    from joblib.externals.loky import ProcessPoolExecutor

    for _ in range(8):
        pool = ProcessPoolExecutor(2)
        pool.submit(abs, 1).result()
        for number in range(3):
            pool.submit(abs, number)
        with stopped_quietly():
            pool.shutdown(wait=True, kill_workers=True)
