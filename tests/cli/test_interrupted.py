"""A command that the user stops: its own exit code, one line, and no file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from prunegraph.cli import main
from tests.commands import MODEL, files, in_process
from tests.paths import ROOT


def stop(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


def end(*arguments: object, **options: object) -> None:
    raise EOFError


def test_stopped_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What results are written with; a function of one's own would stay in modules that are imported meanwhile.
    monkeypatch.setattr("tempfile.mkstemp", stop)
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


@pytest.mark.parametrize("module", ["click", "prunegraph.cli.app", "numpy", "onnx"])
def test_stopped_while_it_starts(module: str, tmp_path: Path) -> None:
    """A real signal, at the moment when a module is looked for."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Stop:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stop)\n"
        # What is started in the background of a script has it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    )
    paths = [str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "prunegraph", "inspect", str(MODEL)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130
    assert done.stderr.strip() == "interrupted: nothing more is written"
    assert not done.stdout


def test_stopped_while_options_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunegraph.cli.app.keep_command", stop)
    done = CliRunner().invoke(main, ["inspect", str(MODEL)])
    assert done.exit_code == 130
    assert done.output.splitlines()[-1] == "interrupted: nothing more is written"
