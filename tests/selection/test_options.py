"""Options in names."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from prunegraph.errors import OptionError, UnknownNameError
from prunegraph.options import base_name, bound, described, options
from prunegraph.registry import Registry

THINGS: Registry[Any] = Registry("thing")


@THINGS.register("paint")
def paint(
    x: int,
    *,
    colour: Literal["red", "blue"] = "red",
    coats: int = 2,
    share: float = 0.5,
    dry: bool = False,
) -> Any:
    return x, colour, coats, share, dry


@THINGS.register("plain")
def plain(x: int) -> int:
    return x


@pytest.mark.parametrize(
    ("spelling", "result"),
    [
        ("paint", (1, "red", 2, 0.5, False)),
        ("paint:blue", (1, "blue", 2, 0.5, False)),
        ("paint:colour=blue,coats=3", (1, "blue", 3, 0.5, False)),
        ("paint:blue,share=0.25,dry=yes", (1, "blue", 2, 0.25, True)),
        ("paint:dry=false", (1, "red", 2, 0.5, False)),
    ],
)
def test_spellings(spelling: str, result: object) -> None:
    assert bound(THINGS, spelling)(1) == result
    assert base_name(spelling) == "paint"


@pytest.mark.parametrize(
    ("spelling", "error", "message"),
    [
        ("pant", UnknownNameError, "did you mean 'paint'"),
        ("pant:blue", UnknownNameError, "did you mean 'paint'"),
        (
            "paint:colr=blue",
            UnknownNameError,
            "unknown option of thing 'paint' 'colr', did you mean 'colour'",
        ),
        (
            "paint:green",
            OptionError,
            "option 'colour' of thing 'paint' must be one of red, blue; got 'green'",
        ),
        ("paint:coats=many", OptionError, "must be a whole number"),
        ("paint:share=half", OptionError, "must be a number"),
        ("paint:dry=maybe", OptionError, "must be one of true"),
        ("paint:red,blue", UnknownNameError, "unknown option"),
        ("plain:x=3", UnknownNameError, "Known: none"),
    ],
)
def test_mistakes(spelling: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bound(THINGS, spelling)


def test_description() -> None:
    assert described(paint) == "colour=red|blue, coats=2, share=0.5, dry=false"
    assert described(plain) == ""


def test_a_plug_in_whose_annotations_name_nothing() -> None:
    def odd(x, *, power=2):  # type: ignore[no-untyped-def]
        return x**power

    odd.__annotations__ = {"power": "Missing"}
    assert options(odd) == {"power": (2,)}
