"""Commands and options as they are declared: each option stands in a section of the help, examples at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import click

from prunegraph.cli.files import check_files

Decorator = Callable[[Any], Any]

#: Where a context keeps whether a command says less or more than usual, and its words.
QUIET, VERBOSE = "prunegraph.quiet", "prunegraph.verbose"
WORDS = "prunegraph.words"


class Section(StrEnum):
    """Sections of a command's help, in their order."""

    REMOVE = "What to remove"
    CHOOSE = "How to choose"
    METHOD = "Method"
    TRAINING = "Training"
    REPAIR = "Data and repair"
    OUTPUT = "Output"
    MEASURING = "Measuring"
    READING = "Reading the model"
    GENERAL = "General"


class SectionOption(click.Option):
    """An option that knows its section of the help."""

    def __init__(self, *names: Any, section: Section = Section.GENERAL, **attributes: Any):
        super().__init__(*names, **attributes)
        self.section = section


def option(section: Section, *names: str, **attributes: Any) -> Decorator:
    """Declare an option in a section of the help."""
    return click.option(*names, cls=SectionOption, section=section, **attributes)


def shared(section: Section, *names: str, **common: Any) -> Callable[..., Decorator]:
    """Declare an option that several commands have; a command may say more of it, such as its own help."""

    def declare(text: str | None = None, **more: Any) -> Decorator:
        if text is not None:
            more["help"] = text
        given = {**common, **more}
        return option(given.pop("section", section), *names, **given)

    return declare


def section_of(parameter: click.Parameter) -> Section:
    """The section of the help in which an option stands."""
    return parameter.section if isinstance(parameter, SectionOption) else Section.GENERAL


class Command(click.Command):
    """A command whose help has sections and ends with examples; it can be quiet or verbose.

    Args:
        examples: command lines, without the program's name.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.params += [_quiet(), _verbose()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[WORDS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        check_files(ctx, ctx.meta[WORDS])
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records: dict[Section, list[tuple[str, str]]] = {each: [] for each in Section}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                records[section_of(parameter)].append(record)
        for section, lines in records.items():
            if lines:
                with formatter.section(section):
                    formatter.write_dl(lines)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(
                        f"{'':{formatter.current_indent}}prunegraph {example}\n"
                    )


def _keep(key: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def keep(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[key] = True

    return keep


def _quiet() -> click.Option:
    return SectionOption(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=_keep(QUIET),
        help="Say nothing but errors and what goes to stdout.",
    )


def _verbose() -> click.Option:
    return SectionOption(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        callback=_keep(VERBOSE),
        help="Say each stage with its time, and where an error comes from.",
    )
