"""A latency budget met in a runtime, without a clock."""

from __future__ import annotations

from pathlib import Path

import pytest

import prunegraph as pg
from prunegraph.selection.budget import Budget
from tests.builders import residual_net
from tests.latency.counting import count_instead_of_time


def pruned_in(runtime: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> pg.PruneResult:
    """A residual network at .6 of its latency in a runtime, written to `out`; the cache of times lies beside it."""
    count_instead_of_time(monkeypatch)
    monkeypatch.setenv("PRUNEGRAPH_CACHE", str(out.parent / "cache"))
    budget = Budget(latency=0.6)
    result = pg.prune(
        residual_net(width=32), out, budget=budget, round_to=1, runtime=runtime
    )
    assert result.latency is not None and result.latency.runtime == runtime
    return result
