"""Completion, in the shells themselves: keys are typed and what stands on the line is read."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import prunegraph as pg
from tests.builders import residual_net
from tests.commands import cli
from tests.paths import ROOT

#: Seconds that a busy machine may take for all keys of a test.
DEADLINE = 120


def need(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed (Debian: apt-get install {shell})")
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a model and the program, as it would be installed."""
    pg.save(residual_net(), tmp_path / "m.onnx")
    program = tmp_path / "bin" / "prunegraph"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m prunegraph "$@"\n')
    program.chmod(0o755)
    for shell in ("bash", "zsh", "fish"):
        done = cli("completion", shell)
        assert done.returncode == 0, done.stderr
        (tmp_path / f"completion.{shell}").write_text(done.stdout)
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    return {
        "PATH": f"{home / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TERM": "dumb",
        "PS1": "",
        "LC_ALL": "C.UTF-8",
    }


def typed(command: list[str], home: Path, source: str, line: str) -> list[str]:
    """Words on the line after a tab behind what was typed, in an interactive shell.

    The shell reads its keys one after the other, however long a completion takes: nothing waits for a time.
    """
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(home)
        os.execve(command[0], command, environment(home))
    try:
        # Ctrl-A goes to the start of the line, whose words are then printed instead of run.
        keys = f"{source}\n{line}\t\x01printf '<%s>' \necho; echo the'' end\n"
        os.write(terminal, keys.encode())
        text, until = "", time.monotonic() + DEADLINE
        while "the end" not in text:
            assert time.monotonic() < until, text
            if select.select([terminal], [], [], 1)[0]:
                text += os.read(terminal, 65536).decode(errors="replace")
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(terminal)
    printed = re.findall(r"^\r?((?:<[^<>\r\n]*>)+)", text, re.MULTILINE)
    assert printed, text
    return re.findall("<(.*?)>", printed[-1])


LINES = [
    ("prunegraph quan", ["prunegraph", "quantize"]),
    ("prunegraph prune m.onnx --mac", ["prunegraph", "prune", "m.onnx", "--macs"]),
    (
        "prunegraph prune m.onnx --repair least",
        ["prunegraph", "prune", "m.onnx", "--repair", "least-squares"],
    ),
    (
        "prunegraph inspect m.onnx --why ste",
        ["prunegraph", "inspect", "m.onnx", "--why", "stem"],
    ),
    ("prunegraph m.on", ["prunegraph", "m.onnx"]),
]


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_bash(home: Path, line: str, expected: list[str]) -> None:
    shell = [need("bash"), "--norc", "--noprofile", "-i"]
    assert typed(shell, home, "source completion.bash", line) == expected


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_zsh(home: Path, line: str, expected: list[str]) -> None:
    shell = [need("zsh"), "-f", "-i"]
    assert typed(shell, home, "source completion.zsh", line) == expected


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_fish(home: Path, line: str, expected: list[str]) -> None:
    command = f"source completion.fish; complete -C '{line}'"
    done = subprocess.run(
        [need("fish"), "--no-config", "-c", command],
        capture_output=True,
        text=True,
        cwd=home,
        env=environment(home),
    )
    assert done.returncode == 0, done.stderr
    assert expected[-1] in [each.split("\t")[0] for each in done.stdout.splitlines()]


def test_completion_runs_no_plugin(home: Path) -> None:
    (home / "mine.py").write_text(f"open({str(home / 'ran')!r}, 'w')\n")
    words = "prunegraph prune --plugin mine.py m.onnx --de"
    done = subprocess.run(
        ["prunegraph"],
        cwd=home,
        capture_output=True,
        text=True,
        env={
            **environment(home),
            "COMP_WORDS": words,
            "COMP_CWORD": "5",
            "_PRUNEGRAPH_COMPLETE": "bash_complete",
        },
        executable=home / "bin" / "prunegraph",
    )
    assert "--depth" in done.stdout
    assert not (home / "ran").exists()
