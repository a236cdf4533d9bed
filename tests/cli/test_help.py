"""Help: sections, choices, examples; and what a mistyped word is answered with."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from prunegraph.cli import main, options
from prunegraph.cli.command import Command, Section, SectionOption
from prunegraph.measuring.metrics import METRICS
from prunegraph.recovery.repairs import REPAIRS
from prunegraph.registry import Registry
from prunegraph.runtime.runtimes import RUNTIMES
from prunegraph.selection.allocation import ALLOCATIONS
from prunegraph.selection.criteria import CRITERIA
from prunegraph.selection.selectors import SELECTORS
from tests.paths import ROOT

COMMANDS = sorted(main.commands)


def help_of(name: str, width: int = 80) -> str:
    runner = CliRunner(env={"COLUMNS": str(width)})
    done = runner.invoke(main, [name, "--help"], terminal_width=width)
    assert done.exit_code == 0
    return done.output


def sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Titles of a help page, and the lines below each."""
    title, lines = "", []
    for line in text.splitlines():
        if line and not line.startswith(" "):
            yield title, lines
            title, lines = line.rstrip(":"), []
        elif line:
            lines.append(line)
    yield title, lines


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_stands_in_a_section(name: str) -> None:
    command = main.commands[name]
    assert isinstance(command, Command)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert isinstance(parameter, SectionOption), f"{name} {parameter.opts}"
    text = help_of(name)
    titles = [title for title, _ in sections(text)]
    order = [title for title in titles if title in set(Section)]
    assert order == [str(each) for each in Section if each in order]
    assert "Options" not in titles


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_shown_once(name: str) -> None:
    shown = re.findall(r"^  (-[-\w]+)", help_of(name), re.MULTILINE)
    assert len(shown) == len(set(shown))
    declared = {
        each.opts[0] for each in main.commands[name].params if each.opts[0][0] == "-"
    }
    assert declared < set(shown)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_fits_a_screen(name: str) -> None:
    for title, lines in sections(help_of(name)):
        assert len(lines) < 40, title


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    silent = [
        parameter.opts
        for parameter in main.commands[name].params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert not silent


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_command_lines_of_the_command(name: str) -> None:
    command = main.commands[name]
    assert isinstance(command, Command)
    assert command.examples
    text = help_of(name)
    for example in command.examples:
        assert f"  prunegraph {example}\n" in text
        first, *words = shlex.split(example.partition(" >")[0])
        if name == "overview" and first != name:
            words = [first, *words]
        else:
            assert first == name
        context = click.Context(command)
        given, rest, _ = command.make_parser(context).parse_args(words)
        assert not rest
        for parameter in command.params:
            if parameter.name in given:
                parameter.type_cast_value(context, given[parameter.name])
            else:
                assert not parameter.required


def built_in(*registries: Registry[object]) -> set[str]:
    return {
        entry.name
        for registry in registries
        for entry in registry.entries()
        if entry.origin == "built in"
    }


def test_help_names_all_that_is_registered() -> None:
    assert set(options.ALGORITHMS.names) == built_in(CRITERIA, SELECTORS)
    assert set(options.ALLOCATIONS.names) == built_in(ALLOCATIONS)
    assert set(options.REPAIRS.names) == built_in(REPAIRS)
    assert set(options.METRICS.names) == set(METRICS)
    assert set(options.RUNTIMES.names) == built_in(RUNTIMES)
    text = " ".join(help_of("prune").split())
    for kind in (options.ALGORITHMS, options.ALLOCATIONS, options.REPAIRS):
        assert str(kind) in text.replace("least- squares", "least-squares")


def test_help_names_all_training_methods() -> None:
    pytest.importorskip("torch", reason="the extra [torch] is not installed")
    from prunegraph.training.methods import METHODS

    assert set(options.TRAINING_METHODS.names) == built_in(METHODS)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("prune m.onnx -o o.onnx --mcs 0.5", "'--macs'"),
        ("quantize m.onnx -o o.onnx --activation none", "'--activations'"),
        ("prun m.onnx", "'prune'"),
        ("sensitvity m.onnx", "'sensitivity'"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_nearest(words: str, meant: str) -> None:
    done = CliRunner().invoke(main, words.split())
    assert done.exit_code == 2
    assert meant in done.output


def test_help_imports_nothing_heavy() -> None:
    """The time of `--help` is that of its imports."""
    program = (
        "import sys; from prunegraph.cli import main\n"
        "try: main(['prune', '--help'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('numpy', 'onnx', 'onnxruntime', 'rich', 'torch', 'joblib') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_reference_shows_every_option_in_its_section() -> None:
    spec = importlib.util.spec_from_file_location(
        "reference_cli", ROOT / "docs/reference_cli.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.on_page_markdown((ROOT / "docs/reference-cli.md").read_text())
    for name, command in main.commands.items():
        own = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        tables = {part.split(" |")[0]: part for part in own.split("\n\n| ")[1:]}
        for parameter in command.params:
            if isinstance(parameter, SectionOption):
                assert f"| `{', '.join(parameter.opts)}" in tables[parameter.section]
        assert isinstance(command, Command)
        assert all(f"    prunegraph {example}" in own for example in command.examples)
    assert module.on_page_markdown("another page") == "another page"
