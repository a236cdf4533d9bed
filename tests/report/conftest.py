"""Fixtures of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import prunegraph as pg
from prunegraph.report import html
from tests.builders import residual_net
from tests.report.page import COMMAND, HOSTILE, chain, curve_content, prune


@pytest.fixture(scope="module")
def result() -> pg.PruneResult:
    return prune(residual_net())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything in it, and hostile names."""
    graph = chain(40, ("/block/conv", *HOSTILE))
    result = prune(graph, verify=True)
    path = tmp_path_factory.mktemp("report") / "report.html"
    html.write(result, path, command=COMMAND, sensitivity=curve_content(result))
    return path
