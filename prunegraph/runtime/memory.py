"""Memory that is free again, given back to the system.

The C library keeps what is freed for later. Where arrays of changing sizes come and go between some that stay, that
grows to more than what is in use.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def release() -> None:
    """Give free memory back to the system, where the C library can be asked to (glibc)."""
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    function: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return function
