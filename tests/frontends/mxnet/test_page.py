"""docs/mxnet.md lists the operators that are converted."""

from __future__ import annotations

from benchmarks.mxnet_operators import listing
from tests.paths import ROOT


def test_the_list_of_operators_is_the_registers() -> None:
    page = (ROOT / "docs" / "mxnet.md").read_text()
    assert listing() in page, (
        "run python -m benchmarks.mxnet_operators and put it into docs/mxnet.md"
    )
