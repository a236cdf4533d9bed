"""Options of the Python interface: typed, listed in signatures, and the same in dataclasses and keywords."""

from __future__ import annotations

import dataclasses
import inspect
import typing

import pytest

import prunegraph as pg
from prunegraph.errors import BudgetError, OptionError, UnknownNameError
from prunegraph.hybrid.compress import CompressKeywords, CompressOptions
from prunegraph.quantization.quantize import QuantizeKeywords, QuantizeOptions
from prunegraph.rewriting.decompose import DecomposeKeywords, DecomposeOptions
from prunegraph.selection.options import (
    LimitKeywords,
    SelectionKeywords,
    SelectionOptions,
)
from tests.builders import residual_net

FUNCTIONS = sorted(
    name for name in pg.__all__ if inspect.isfunction(inspect.unwrap(getattr(pg, name)))
)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_public_function_takes_just_anything(name: str) -> None:
    function = inspect.unwrap(getattr(pg, name))
    for parameter in inspect.signature(function, follow_wrapped=False).parameters.values():
        assert parameter.annotation is not parameter.empty, f"{name}: {parameter.name}"
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            assert parameter.annotation != "Any", f"{name}: {parameter.name}"


@pytest.mark.parametrize(
    ("keywords", "options", "without"),
    [
        (SelectionKeywords, SelectionOptions, set()),
        (LimitKeywords, SelectionOptions, {"budget"}),
        (CompressKeywords, CompressOptions, {"budget"}),
        (DecomposeKeywords, DecomposeOptions, set()),
        (QuantizeKeywords, QuantizeOptions, set()),
    ],
)
def test_keywords_are_the_fields(keywords: type, options: type, without: set[str]) -> None:
    hints = typing.get_type_hints(options)
    fields = {each.name for each in dataclasses.fields(options)} - without
    assert typing.get_type_hints(keywords) == {name: hints[name] for name in fields}


def test_signatures_list_every_option() -> None:
    parameters = inspect.signature(pg.prune).parameters
    assert {"model", "out", "budget", "algorithm", "keep", "data", "verify"} <= set(
        parameters
    )
    assert "options" not in parameters
    assert parameters["budget"].default is inspect.Parameter.empty
    assert parameters["round_to"].default == 8
    assert inspect.signature(pg.sensitivity).parameters["round_to"].default == 1
    assert "budget" not in inspect.signature(pg.search).parameters


@pytest.mark.parametrize("name", ["prune", "select"])
def test_a_wrong_option_is_named(name: str) -> None:
    graph, function = residual_net(), getattr(pg, name)
    with pytest.raises(UnknownNameError, match=f"option of {name} 'budgett'.*'budget'"):
        function(graph, budgett=pg.Budget(ratio=0.5))
    with pytest.raises(OptionError, match=f"{name} needs the option 'budget'"):
        function(graph)


@pytest.mark.parametrize(
    "name", ["search", "sensitivity", "compress", "decompose", "quantize"]
)
def test_an_option_of_another_function_is_an_error(name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown option of {name} 'budget'"):
        getattr(pg, name)(residual_net(), budget=pg.Budget(ratio=0.5))


@pytest.mark.parametrize(
    "name",
    [
        "analyze",
        "apply",
        "compress",
        "decompose",
        "prune",
        "quantize",
        "save",
        "search",
        "select",
        "sensitivity",
        "verify",
    ],
)
def test_the_first_argument_is_the_model(name: str) -> None:
    function = getattr(pg, name)
    parameters = inspect.signature(function).parameters
    assert next(iter(parameters)) == "model"
    assert "check" not in parameters


@pytest.mark.parametrize(
    "name", sorted(each for each in pg.__all__ if each.endswith("Result"))
)
def test_results_have_the_new_graph_as_model(name: str) -> None:
    result = getattr(pg, name)
    fields = {each.name for each in dataclasses.fields(result)}
    assert "model" in fields or isinstance(result.model, property)
    assert not {"graph", "small", "check"} & fields


def test_a_bound_belongs_to_the_budget() -> None:
    with pytest.raises(OptionError, match=r"give budget=pg\.Budget\(macs=\.\.\.\)"):
        pg.prune(residual_net(), macs=0.5)  # type: ignore[call-arg]
    with pytest.raises(BudgetError, match=r"as in pg\.Budget\(macs=0\.5\); got 0\.5"):
        pg.prune(residual_net(), budget=0.5)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown option of search 'macs'"):
        pg.search(residual_net(), data={}, macs=0.5)  # type: ignore[call-arg]
