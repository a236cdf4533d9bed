"""What a command says: nothing, the usual, or all of it; in colour or not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import prunegraph as pg
from tests.builders import residual_net
from tests.commands import cli, in_process
from tests.latency.counting import count_instead_of_time
from tests.latency.staircase import chain


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pg.save(residual_net(), tmp_path / "m.onnx")
    return tmp_path


PRUNE = ["prune", "m.onnx", "-o", "o.onnx", "--ratio", "0.5", "--round-to", "1"]


def test_quiet_says_nothing(folder: Path) -> None:
    done = cli(*PRUNE, "--quiet", "--save-recipe", "r.toml", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (folder / "o.onnx").exists()
    done = cli("inspect", "m.onnx", "-q", "--json", "-", cwd=folder)
    assert done.stdout.startswith("{")
    assert not done.stderr
    done = cli("run", "r.toml", "-q", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_errors_are_said_with_quiet(folder: Path) -> None:
    done = cli("inspect", "none.onnx", "-q", cwd=folder)
    assert done.returncode == 2
    assert done.stderr == "error: none.onnx: no such file\n"


def test_verbose_says_each_stage_with_its_time(folder: Path) -> None:
    stages = ("load", "analyze", "select", "cut", "verify", "write")
    done = cli(*PRUNE, "-v", cwd=folder)
    said = [line.split(" s  ", 1) for line in done.stderr.splitlines() if " s  " in line]
    assert [name for _, name in said if name in stages][-5:] == list(stages)[-5:]
    times = [float(seconds) for seconds, _ in said]
    assert times == sorted(times)
    assert not [
        line for line in cli(*PRUNE, cwd=folder).stderr.splitlines() if " s  " in line
    ]


def test_verbose_says_where_an_error_comes_from(folder: Path) -> None:
    done = cli("inspect", "none.onnx", "-v", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("error: none.onnx: no such file\n")


@pytest.mark.parametrize("colour", [True, False])
def test_no_colour_where_the_environment_says_so(folder: Path, colour: bool) -> None:
    given = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    given |= {"TERM": "xterm-256color", "FORCE_COLOR": "1"}
    given |= {} if colour else {"NO_COLOR": "1"}
    command = [sys.executable, "-m", "prunegraph", *PRUNE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=given)
    assert done.returncode == 0
    codes = ";".join(re.findall(r"\x1b\[([\d;]*)m", done.stderr)).split(";")
    assert any(len(code) > 1 for code in codes) == colour


def test_a_result_that_is_faster_than_asked_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_instead_of_time(monkeypatch)
    monkeypatch.setenv("PRUNEGRAPH_CACHE", str(tmp_path))
    pg.save(chain((64, 64)), model := tmp_path / "chain.onnx")
    words = f"prune {model} -o {tmp_path}/o.onnx --latency 0.7 --keep conv0 --round-to 32 --json"
    done = in_process(*words.split())
    assert done.exit_code == 0, done.output
    note = json.loads(done.stdout)["provenance"]["latency"]["note"]
    assert "is faster than 0.7 of the original: the next slower choice" in note
    assert f"latency: {note}" in " ".join(done.stderr.split())
