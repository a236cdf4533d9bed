"""Plug-ins as text, and what their mistakes look like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

import prunegraph as pg
from tests.builders import Builder

Cli = Callable[..., Result]


def custom_net() -> pg.Graph:
    """An operator that ONNX does not know and ONNX Runtime cannot run."""
    b = Builder()
    x = b.op(
        "Scale",
        b.linear(b.input("n", 6), 6, 16, name="first"),
        b.weight(16),
        domain="com.example",
    )
    return b.graph(b.linear(x, 16, 4, name="last"), domains=[("com.example", 1)])


HEAD = "import numpy as np\nimport prunegraph as pg\n"


PRUNE = (
    "prune net.onnx -o out.onnx --ratio 0.5 --round-to 1 --plugin mine.py --algorithm mine"
)


def criterion(body: str) -> str:
    return f'{HEAD}@pg.criterion("mine")\ndef mine(group, context):\n    """Mine."""\n    {body}\n'


def selector(body: str) -> str:
    return f'{HEAD}@pg.selector("mine")\ndef mine(coupling, context, budget):\n    """Mine."""\n    {body}\n'


def propagate(
    body: str, register: str = "propagate=propagate, shapes=lambda node, inputs: inputs[:1]"
) -> str:
    return (
        f"{HEAD}from prunegraph.ops.rule import register\n"
        f'def propagate(site):\n    {body}\nregister("Scale", domain="com.example", {register})\n'
    )


def assert_one_error(done: Result, folder: Path, *parts: str) -> None:
    assert done.exit_code == 2, (done.output, done.exception)
    assert isinstance(done.exception, SystemExit)
    line = done.stderr
    assert line.startswith("error: ") and line.count("\n") == 1, line
    for part in parts:
        assert part in line
    assert not done.stdout
    assert not (folder / "out.onnx").exists()
