"""`prunegraph completion`: what a shell needs to complete commands, options, their choices and files."""

from __future__ import annotations

import click

from prunegraph.cli.command import Command


@click.command(
    cls=Command,
    examples=[
        "completion bash >> ~/.bashrc",
        "completion zsh >> ~/.zshrc",
        "completion fish > ~/.config/fish/completions/prunegraph.fish",
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete commands, options, choices, layers and files."""
    from click.shell_completion import get_completion_class

    group = click.get_current_context().find_root().command
    source = get_completion_class(shell)
    assert source is not None
    # Shells call the program by the name that `pip install` gives it.
    script = source(group, {}, "prunegraph", "_PRUNEGRAPH_COMPLETE").source()
    if shell == "zsh":
        script = f"autoload -Uz compinit && compinit -u\n{script}"
    click.echo(script)
