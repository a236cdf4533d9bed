"""Options in names: `l2:members=producer`, `global:max`.

A registered function's keyword-only parameters are its options. `NAME:key=value,key=value` sets
them; a bare value is that of the first one. What a value may be follows from the parameter: one of the
words of a `Literal`, or the type of its default; one whose default is `Verbatim` is all the text behind the colon.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from prunegraph.errors import OptionError, UnknownNameError
from prunegraph.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])

TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Verbatim(str):
    """The type of an option that is all the text behind the name: `exec:jq -c '.a, .b'`."""


def base_name(spelling: str) -> str:
    """The registered name in `name:options`."""
    return spelling.partition(":")[0]


def bound(registry: Registry[F], spelling: str) -> F:
    """The function `name` of a registry with the options of `name:key=value,...` filled in.

    Raises:
        UnknownNameError: no such function, or it has no such option.
        OptionError: an option cannot have that value.
    """
    name, _, text = spelling.partition(":")
    function = registry.get(name)
    if not text:
        return function
    who = f"{registry.kind} {name!r}"
    known = options(function)
    chosen: dict[str, Any] = {}
    for key, (default, *_) in known.items():
        if isinstance(default, Verbatim):
            return typing.cast(F, functools.partial(function, **{key: Verbatim(text)}))
    for index, part in enumerate(text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = next(iter(known), key) if index == 0 else key, part
        if key not in known:
            raise UnknownNameError(f"option of {who}", key.strip(), known)
        chosen[key] = _value(value.strip(), known[key], f"option {key!r} of {who}")
    return typing.cast(F, functools.partial(function, **chosen))


def options(function: Callable[..., Any]) -> dict[str, tuple[object, ...]]:
    """Options of a function: for each the words it may be, or its default alone where that gives a type."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    try:
        hints = typing.get_type_hints(function)
    except (
        NameError,
        TypeError,
        AttributeError,
    ):  # a plug-in's annotations may name what is not there
        hints = {}
    result: dict[str, tuple[object, ...]] = {}
    for parameter in parameters:
        if (
            parameter.kind is inspect.Parameter.KEYWORD_ONLY
            and parameter.default is not inspect.Parameter.empty
        ):
            hint = hints.get(parameter.name)
            words = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
            others = [word for word in words if word != parameter.default]
            result[parameter.name] = (parameter.default, *others)
    return result


def described(function: Callable[..., Any]) -> str:
    """Options as a user would write them, the default first: `members=all|producer|consumer`."""
    result = options(function).items()
    return ", ".join(
        key.upper()
        if isinstance(values[0], Verbatim)
        else f"{key}={'|'.join(str(value).lower() for value in values)}"
        for key, values in result
    )


def _value(text: str, allowed: tuple[object, ...], what: str) -> Any:
    default = allowed[0]
    if isinstance(default, bool):
        return _checked(text.lower(), TRUTH, what)
    if isinstance(default, (int, float)):
        try:
            return type(default)(text)
        except ValueError:
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise OptionError(f"{what} must be {kind}, got {text!r}") from None
    if len(allowed) > 1:
        return _checked(text, {str(word): word for word in allowed}, what)
    return text


def _checked(text: str, words: dict[str, Any], what: str) -> Any:
    if text not in words:
        raise OptionError(f"{what} must be one of {', '.join(words)}; got {text!r}")
    return words[text]
