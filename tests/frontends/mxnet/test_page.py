"""docs/mxnet.md lists the operators that are converted."""

from __future__ import annotations

from pathlib import Path

from benchmarks.mxnet_operators import listing


def test_the_list_of_operators_is_the_registers() -> None:
    page = (Path(__file__).parents[3] / "docs" / "mxnet.md").read_text()
    assert listing() in page, "run python -m benchmarks.mxnet_operators and put it into docs/mxnet.md"
