"""Worker processes of joblib's pool (loky), stopped in the middle of their work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: The thread by which loky looks after its workers.
MANAGER = "ExecutorManagerThread"


@contextmanager
def stopped_quietly() -> Iterator[None]:
    """Stop workers inside, without the traceback that loky's own thread may print.

    A pool that is told to kill its workers forgets its work first, and looks for more of it afterwards: what was
    handed in a moment ago is then missing (`KeyError`). The workers are gone by then, and nobody waits for anything.
    """
    usual = threading.excepthook

    def tell(fault: threading.ExceptHookArgs) -> None:
        name = fault.thread.name if fault.thread is not None else ""
        if not (name.startswith(MANAGER) and fault.exc_type is KeyError):
            usual(fault)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = usual
