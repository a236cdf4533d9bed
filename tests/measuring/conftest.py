"""What tests of work that is shared out have in common."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the number that workers add to."""
    (tmp_path / "number").write_text("10")
    return tmp_path
