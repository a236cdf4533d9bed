"""Recipes that would run code say so, and do not without `--trust`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

import prunegraph as pg
from prunegraph import plugins, recipes
from prunegraph.errors import PluginError
from prunegraph.runtime.data import read_data
from tests.builders import residual_net
from tests.commands import in_process

TOUCHES = "import pathlib\npathlib.Path('ran').touch()\n"

PLUGIN = (
    TOUCHES
    + """
import numpy as np
import prunegraph as pg
@pg.criterion("test_mine_of_{number}")
def mine(group, context):
    return np.arange(group.channels)
"""
)

DATA = (
    TOUCHES
    + """
import numpy as np
def give():
    yield {"x": np.zeros((4, 3, 8, 8), np.float32)}
def judge(outputs, batches):
    return 1.0
def make():
    raise SystemExit
"""
)


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    monkeypatch.chdir(tmp_path)
    pg.save(residual_net(width=8), "net.onnx")
    Path("mine.py").write_text(PLUGIN.format(number=abs(hash(str(tmp_path)))))
    Path("code.py").write_text(DATA)
    np.savez("plain.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    return tmp_path


def recipe(command: str, **options: object) -> str:
    lines = "".join(
        f"{name.replace('_', '-')} = {value!r}\n" for name, value in options.items()
    )
    Path("r.toml").write_text(
        f"format = '{recipes.FORMAT}'\n[[step]]\ncommand = '{command}'\n{lines}"
    )
    return "r.toml"


PRUNE = {"model": "net.onnx", "output": "small.onnx", "ratio": 0.5, "round_to": 1}

NAMED: list[tuple[str, dict[str, object], str]] = [
    ("prune", {**PRUNE, "plugin": ["mine.py"]}, "step 1 (prune) --plugin mine.py"),
    ("prune", {**PRUNE, "plugin": "some.module"}, "step 1 (prune) --plugin some.module"),
    ("prune", {**PRUNE, "data": "code.py:give"}, "step 1 (prune) --data code.py:give"),
    (
        "prune",
        {**PRUNE, "algorithm": "exec:touch ran"},
        "step 1 (prune) --algorithm exec:touch ran",
    ),
    ("prune", {**PRUNE, "model": "code.py:make"}, "step 1 (prune) model code.py:make"),
    (
        "prune",
        {**PRUNE, "model": "package.module:make"},
        "step 1 (prune) model package.module:make",
    ),
    ("prune", {**PRUNE, "model": "net.pt2"}, "step 1 (prune) model net.pt2"),
    (
        "sensitivity",
        {"model": "net.onnx", "data": "plain.npz", "metric": "code.py:judge"},
        "step 1 (sensitivity) --metric code.py:judge",
    ),
    (
        "sensitivity",
        {"model": "net.onnx", "data": "plain.npz", "cluster": "tcp://far.away:1"},
        "step 1 (sensitivity) --cluster tcp://far.away:1",
    ),
]


def check_nothing_ran(done: Result) -> None:
    assert not Path("ran").exists() and not Path("small.onnx").exists()
    assert done.exception is None or isinstance(done.exception, SystemExit)


@pytest.mark.parametrize(("command", "options", "listed"), NAMED)
def test_code_is_listed_and_not_run(
    folder: Path, command: str, options: dict[str, object], listed: str
) -> None:
    Path("net.pt2").write_bytes(b"")
    path = recipe(command, **options)
    done = in_process("run", path)
    check_nothing_ran(done)
    assert done.exit_code == 2 and done.stderr.startswith("error: r.toml would run code: ")
    assert (
        listed in done.stderr and "--trust" in done.stderr and done.stderr.count("\n") == 1
    )
    shown = in_process("run", path, "--dry-run")
    check_nothing_ran(shown)
    assert shown.exit_code == 0 and f"# runs code: {listed}" in shown.stdout


def test_all_code_is_listed_in_one_error(folder: Path) -> None:
    done = in_process(
        "run",
        recipe("prune", **{**PRUNE, "plugin": ["mine.py", "b.py"], "data": "code.py:give"}),
    )
    for each in ("--plugin mine.py", "--plugin b.py", "--data code.py:give"):
        assert each in done.stderr


def test_trusted_code_runs(folder: Path) -> None:
    done = in_process(
        "run",
        recipe("prune", **{**PRUNE, "data": "code.py:give", "plugin": "mine.py"}),
        "--trust",
    )
    assert done.exit_code == 0, done.output
    assert Path("ran").exists() and Path("small.onnx").exists()


def test_names_of_algorithms_and_files_are_no_code(folder: Path) -> None:
    done = in_process(
        "run", recipe("prune", **{**PRUNE, "algorithm": "l2:producer", "data": "plain.npz"})
    )
    assert done.exit_code == 0, done.output
    assert "runs code" not in in_process("run", "r.toml", "--dry-run").stdout


def test_no_loader_of_code_works_where_it_is_refused(folder: Path) -> None:
    """What a list of options could miss: every way to other people's code asks the one loader."""
    ways = [
        lambda: plugins.load("mine.py"),
        lambda: plugins.load("some.module"),
        lambda: plugins.module_of(Path("code.py")),
        lambda: plugins.function("code.py:judge"),
        lambda: pg.load("code.py:make"),
        lambda: pg.load("package.module:make"),
        lambda: list(read_data("code.py:give").chunks()),
    ]
    for way in ways:
        with (
            plugins.no_code("not here"),
            pytest.raises(pg.errors.PrunegraphError, match="not here"),
        ):
            way()
    assert not Path("ran").exists()
    with pytest.raises(PluginError, match="no such file"):
        plugins.function("none.py:judge")
