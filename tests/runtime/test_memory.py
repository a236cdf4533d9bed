"""Free memory goes back to the system where the C library can be asked to."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from prunegraph.runtime import memory


def test_other_systems_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    memory._trim.cache_clear()
    monkeypatch.setattr(sys, "platform", "win32")
    try:
        assert memory._trim() is None
        memory.release()
    finally:
        memory._trim.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is in memory")
def test_what_lies_below_something_in_use_is_released() -> None:
    if memory._trim() is None:
        pytest.skip("the C library has no malloc_trim")

    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    # Small enough not to be mapped by themselves, with something behind them that stays.
    several = [np.ones(2**13) for _ in range(1000)]
    stays = [np.ones(2**13) for _ in range(10)]
    several.clear()
    memory.release()
    before = held()
    several = [np.ones(2**13) for _ in range(1000)]
    full = held()
    several.clear()
    memory.release()
    assert full - before > 5e7 and held() - before < 1e7 and stays
