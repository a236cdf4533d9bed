"""Attribute values of symbol files: all are text, in the spellings of several languages and releases."""

from __future__ import annotations

import ast
import re

#: Python 2's long integers, as in "(3L, 3L)".
_LONG = re.compile(r"(?<=\d)[lL]\b")

Item = int | float | str | None
Parsed = Item | tuple["Parsed", ...]


def parse(text: str) -> Parsed:
    """A value: None, a number, a tuple of values, else the text itself. True and False are 1 and 0."""
    stripped = text.strip()
    try:
        return _plain(ast.literal_eval(_LONG.sub("", stripped)))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    try:
        return float(stripped)  # "inf", "nan"
    except ValueError:
        return {"true": 1, "false": 0, "none": None}.get(stripped.lower(), text)


def _plain(value: object) -> Parsed:
    if isinstance(value, tuple | list):
        return tuple(_plain(item) for item in value)
    if isinstance(value, bool):
        return int(value)
    if value is None or isinstance(value, int | float | str):
        return value
    raise ValueError(value)


def whole(value: Parsed) -> int:
    """A whole number, also one written "1.0". Raises ValueError."""
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise ValueError(f"{value!r} is no whole number")


def wholes(value: Parsed) -> tuple[int, ...]:
    """Whole numbers; one number stands for a tuple of one. Raises ValueError."""
    return (
        tuple(whole(item) for item in value)
        if isinstance(value, tuple)
        else (whole(value),)
    )
