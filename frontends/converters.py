"""What the front ends by public converters share: the packages they need, silence, and one line of what failed."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from prunegraph import plugins
from prunegraph.errors import MissingExtraError, ModelError

#: Characters of a converter's message that are repeated.
MESSAGE = 300


def need(what: str, extra: str, *packages: str) -> None:
    """Raise MissingExtraError for the first of the packages that is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(what, package, extra)


@contextmanager
def converting(label: str) -> Iterator[None]:
    """What a converter raises is a ModelError that names the model; what it says to its developers is left out."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except plugins.INPUT_ERRORS:
        raise
    except Exception as error:
        raise ModelError(f"{label}: cannot be converted: {reason(error)}") from error
    finally:
        logging.disable(disabled)


def reason(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:MESSAGE] if lines else ''}"
