"""Options of the Python interface: a frozen dataclass says what they are, functions take them as keywords.

A function's `**options: Unpack[...]` names the same options in a `TypedDict`, for type checkers and editors;
`takes_options` does the rest at run time: the signature lists every option, and a name that is none is an error that
says what there is.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from prunegraph.errors import OptionError, UnknownNameError

F = TypeVar("F", bound=Callable[..., Any])


def takes_options(
    options: type,
    *,
    without: Collection[str] = (),
    defaults: Mapping[str, object] | None = None,
) -> Callable[[F], F]:
    """A decorator of functions whose `**options` are fields of a dataclass.

    Args:
        options: the dataclass. Its `INSTEAD`, where it has one, maps names that are no options to the option to
            give, and how it is spelled.
        without: fields that are no options of the function.
        defaults: of the function, where they are not the dataclass's.
    """

    def decorate(function: F) -> F:
        signature = _signature(function, options, without, defaults or {})
        parameters = signature.parameters
        instead: Mapping[str, tuple[str, str]] = getattr(options, "INSTEAD", {})
        needed = [
            name
            for name, each in parameters.items()
            if each.kind is each.KEYWORD_ONLY and each.default is each.empty
        ]

        @functools.wraps(function)
        def checked(*args: Any, **given: Any) -> Any:
            for name in given:
                if name in parameters:
                    continue
                option, spelling = instead.get(name, ("", ""))
                if option in parameters:
                    raise OptionError(
                        f"{function.__name__} has no option {name!r}; give {spelling}"
                    )
                raise UnknownNameError(f"option of {function.__name__}", name, parameters)
            for name in needed:
                if name not in given:
                    raise OptionError(f"{function.__name__} needs the option {name!r}")
            return function(*args, **given)

        checked.__signature__ = signature  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return decorate


def _signature(
    function: Callable[..., Any],
    options: type,
    without: Collection[str],
    defaults: Mapping[str, object],
) -> inspect.Signature:
    """The signature of a function with options in the place of `**options`."""
    signature = inspect.signature(function)
    own = [
        each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD
    ]
    fields = inspect.signature(options).parameters.values()
    added = [
        each.replace(
            kind=inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(each.name, _default(options, each)),
        )
        for each in fields
        if each.name not in without
    ]
    return signature.replace(parameters=[*own, *added])


def _default(options: type, parameter: inspect.Parameter) -> object:
    """A field's default; what a factory makes is shown as it is made."""
    [field] = [each for each in dataclasses.fields(options) if each.name == parameter.name]
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return parameter.default
