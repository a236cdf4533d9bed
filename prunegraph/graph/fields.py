"""Copying single fields between protobuf messages."""

from __future__ import annotations


def set_field(target: object, name: str, value: object) -> None:
    """Set a field of any kind: a scalar, a message, or a repeated one (appended to)."""
    current = getattr(target, name)
    if hasattr(current, "extend"):
        current.extend(value)
    elif hasattr(current, "CopyFrom"):
        current.CopyFrom(value)
    else:
        setattr(target, name, value)
