"""The axis-pattern language."""

from __future__ import annotations

import pytest

from prunegraph.ops.pattern import parse


def test_conv_pattern() -> None:
    pattern = parse("n (g i) *s, (g o) i *k, (g o)? -> n (g o) *s'")
    data, weight, bias = pattern.inputs
    assert [axis.letters for axis in data.axes] == [("n",), ("g", "i"), ()]
    assert data.axes[2].run == "*s"
    assert bias.optional
    assert not weight.optional
    assert [a.letters for a in weight.align(4)] == [("g", "o"), ("i",), (), ()]


def test_passing_run() -> None:
    assert parse("n c ... -> n c ...").inputs[0].align(5)[4].passes


@pytest.mark.parametrize("text", ["n c", "n [c] -> n", "n (c -> n"])
def test_what_the_language_does_not_have(text: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|axes"):
        parse(text)


def test_rank_must_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        parse("n c -> n c").inputs[0].align(3)
