"""Functions that make models: `package.module:factory`, or `file.py:factory`."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prunegraph import plugins
from prunegraph.errors import ModelError

_SPELLING = re.compile(r"(?P<module>[A-Za-z_][\w.]*|.*\.py):(?P<name>[A-Za-z_]\w*)")


def is_factory(text: str) -> bool:
    """Tell whether a source names a function and no file."""
    return _SPELLING.fullmatch(text) is not None and not Path(text).exists()


def call(text: str, inputs: Any = None) -> tuple[Any, Any]:
    """The model that a factory makes, and example inputs: those given, else the factory's.

    A factory takes no arguments and returns a model, or a pair of a model and its example inputs.

    Raises:
        ModelError: there is no such module or function, or it fails.
    """
    match = _SPELLING.fullmatch(text)
    assert match is not None
    try:
        with _beside_the_caller():
            created = getattr(_module(match["module"]), match["name"])()
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{text}: {plugins.reported(error)}") from error
    model, own = (
        created if isinstance(created, tuple) and len(created) == 2 else (created, None)
    )
    return model, own if inputs is None else inputs


@contextmanager
def _beside_the_caller() -> Iterator[None]:
    """Modules in the working directory are found, as with `python -m`."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def _module(name: str) -> Any:
    if not name.endswith(".py"):
        plugins.may_run(f"module {name}")
        return importlib.import_module(name)
    path = Path(name)
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    return plugins.module_of(path)
