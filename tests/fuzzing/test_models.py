"""The short form of `tests/fuzzing/damage.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.fuzzing.damage import attempt, damage


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    reached = {attempt(damage(rng), tmp_path / "model.onnx") for _ in range(150)}
    assert {"load", "done"} <= reached
