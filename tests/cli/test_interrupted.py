"""A command that the user stops: its own exit code, one line, and no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from prunegraph.cli import main
from tests.commands import MODEL, files, in_process


def stop(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


def end(*arguments: object, **options: object) -> None:
    raise EOFError


def test_stopped_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunegraph.graph.onnx_io.write_whole", stop)
    done = in_process(
        "prune", MODEL, "-o", tmp_path / "out.onnx", "--ratio", 0.2, "--no-verify"
    )
    assert (done.exit_code, files(tmp_path)) == (130, set())
    assert done.output.splitlines()[-1] == "interrupted: nothing more is written"
    assert "Traceback" not in done.output


def test_stopped_while_a_module_in_c_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        try:
            stop()
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr("prunegraph.api.prune", fail)
    words = ("prune", MODEL, "-o", tmp_path / "out.onnx", "--ratio", 0.2)
    assert in_process(*words).exit_code == 130


@pytest.mark.parametrize(("read", "code"), [(stop, 130), (end, 1)])
def test_stopped_at_a_question_but_not_at_the_end_of_input(
    monkeypatch: pytest.MonkeyPatch, read: Callable[..., str], code: int
) -> None:
    @click.command("ask")
    def ask() -> None:
        monkeypatch.setattr("click.termui.visible_prompt_func", read)
        click.prompt("how far")

    monkeypatch.setitem(main.commands, "ask", ask)
    assert CliRunner().invoke(main, ["ask"]).exit_code == code
