"""Tests of the PyTorch front end need the extra `[torch]`."""

from __future__ import annotations

from tests.extras import skip_modules_without_torch as pytest_pycollect_makemodule

__all__ = ["pytest_pycollect_makemodule"]
