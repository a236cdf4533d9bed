"""Commands as a user gives them, in a process of their own or in this one, and what every refusal looks like."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from prunegraph.cli import main
from tests.paths import FIXTURES

#: How a line about the stage at work ends, which a machine under load shows after ten seconds.
PROGRESS = re.compile(r", [\d:]+ (s|min|h)(, about [\d:]+ (s|min|h) left)?$")

MODEL = str(FIXTURES / "fashion_resnet.onnx")


def cli(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prunegraph", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def in_process(*words: object) -> Result:
    """The same without a process, for commands that would load PyTorch again in each."""
    return CliRunner().invoke(main, [str(word) for word in words])


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def check_refused(folder: Path, command: str, message: str) -> None:
    """Bad input is one line, exit code 2, and no file."""
    before = files(folder)
    done = cli(*command.split(), cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not PROGRESS.search(line)]
    assert line.startswith("error: ")
    assert files(folder) == before
