"""An option that several commands have is declared once."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

import click
import pytest

from prunegraph.cli import main
from prunegraph.cli.options import ReadFile, WrittenFile
from tests.paths import ROOT

#: Options of one name that are different things, with what they are.
DIFFERENT = {
    "--cluster": "a Dask scheduler of sweeps; how source-004 tells weak filters",
    "--method": "each command has its own methods",
    "--runtime": "where models are measured, but for binarize: what their layers run in",
    "--ratio": "prune takes auto too, training a number alone",
}

#: Options declared once whose values each command restricts in its own way.
OWN_VALUES = {
    "--epochs": "training needs one, binarize none",
    "--target": "init can also do without integers",
    "--round-to": "auto where latency is measured",
}

#: Options that mean the same everywhere, of which some command says more in a help of its own.
OWN_HELP = {
    "--batch",
    "--checkpoint",
    "--data",
    "--depth",
    "--dry-run",
    "--dtype",
    "--epochs",
    "--eval",
    "--float",
    "--keep",
    "--latency",
    "--lr",
    "--macs",
    "--metric",
    "--no-verify",
    "--output",
    "--params",
    "--rank",
    "--repair",
    "--report",
    "--round-to",
    "--seed",
    "--target",
    "--threads",
    "--tolerance",
}

#: Calls that declare an option.
DECLARING = ("SectionOption", "option", "shared")


def declared() -> Iterator[tuple[str, str]]:
    """Long names of options, and where the code declares them."""
    for path in sorted((ROOT / "prunegraph" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if called in DECLARING:
                    for text in ast.walk(ast.Tuple(elts=node.args)):
                        if isinstance(text, ast.Constant) and str(text.value).startswith(
                            "--"
                        ):
                            yield str(text.value), f"{path.name}:{node.lineno}"


def used() -> dict[str, list[tuple[str, click.Option]]]:
    """Options of all commands by their long name."""
    result = defaultdict(list)
    for name, command in main.commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                result[max(parameter.opts, key=len)].append((name, parameter))
    return result


def test_every_option_is_declared_once() -> None:
    places = defaultdict(list)
    for name, place in declared():
        places[name].append(place)
    assert set(places) == set(used())
    twice = {name for name, found in places.items() if len(found) > 1}
    assert twice == set(DIFFERENT), {name: places[name] for name in twice}


@pytest.mark.parametrize("name", sorted(set(used()) - set(DIFFERENT)))
def test_an_option_is_the_same_in_every_command(name: str) -> None:
    kinds = set()
    for _, option in used()[name]:
        kind = repr(option.type.to_info_dict()) if name not in OWN_VALUES else ""
        kinds.add(
            (
                option.name,
                kind,
                tuple(option.opts),
                option.multiple,
                option.is_flag,
                option.expose_value,
            )
        )
    assert len(kinds) == 1, used()[name]


def test_help_differs_where_it_is_meant_to() -> None:
    texts = {name: {option.help for _, option in uses} for name, uses in used().items()}
    assert {name for name in texts if len(texts[name]) > 1} == OWN_HELP | set(DIFFERENT)


def test_what_a_command_does_with_a_file_is_said_where_its_parameter_is_declared() -> None:
    texts = [
        f"{name} {option}"
        for option, uses in used().items()
        for name, parameter in uses
        if parameter.metavar in ("FILE", "JSON")
        and not isinstance(parameter.type, ReadFile | WrittenFile)
        and option != "--save-recipe"
    ]
    assert not texts
    arguments = {
        f"{name} {parameter.name}"
        for name, command in main.commands.items()
        for parameter in command.params
        if isinstance(parameter, click.Argument)
        and not isinstance(parameter.type, ReadFile)
    }
    assert arguments == {"run recipe", "completion shell"}, "recipes hold no recipes"
