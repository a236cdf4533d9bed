"""What a folder of tests does where an extra is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

REASON = "the extra [torch] is not installed"


class _Skipped(pytest.Module):
    """A test module that is reported as skipped without being imported."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip(REASON, allow_module_level=True)


def skip_modules_without_torch(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    """Skip the test modules of a folder by name without PyTorch; with it, let them use one thread."""
    if importlib.util.find_spec("torch") is None:
        return _Skipped.from_parent(parent, path=module_path)
    import torch

    torch.set_num_threads(1)
    return None
