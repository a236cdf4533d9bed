"""Names of runtimes as multiples of channels."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import prunegraph as pg
from prunegraph.cli import main, options
from prunegraph.errors import BudgetError
from prunegraph.selection import widths
from prunegraph.selection.budget import Budget
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.widths import PRESETS
from tests.builders import residual_net


@pytest.mark.parametrize(("name", "number"), PRESETS.items())
def test_a_name_stands_for_its_number(name: str, number: int) -> None:
    graph, budget = residual_net(width=96), Budget(ratio=0.4)
    named = pg.select(graph, budget=budget, round_to=name)
    assert named == pg.select(graph, budget=budget, round_to=number)
    assert named.provenance["round_to"] == number
    pruned = pg.apply(graph, named)
    assert not named.is_empty
    changed = {
        after.channels.outputs
        for before, after in zip(graph.layers, pruned.layers, strict=True)
        if before.channels.outputs != after.channels.outputs
    }
    assert changed and all(width % number == 0 for width in changed)


def test_names_have_their_sources() -> None:
    """Each is explained where it is defined, and completed on the command line."""
    assert widths.__doc__ is not None
    assert all(
        f"\n{name}\n    {number}. " in widths.__doc__ for name, number in PRESETS.items()
    )
    assert tuple(PRESETS) == options.WIDTHS


@pytest.mark.parametrize("given", ["tensorflow", "2.5", 0, -8])
def test_what_is_no_width(given: int | str) -> None:
    with pytest.raises(
        BudgetError, match=r"at least 1, 'auto' or one of tensorrt, openvino"
    ):
        SelectionOptions(Budget(macs=0.5), round_to=given)


@pytest.mark.parametrize("command", ["decompose", "compress", "sensitivity"])
def test_commands_that_measure_no_widths(command: str, tmp_path: Path) -> None:
    model = str(tmp_path / "model.onnx")
    pg.save(residual_net(), model)
    words = [command, model, "--round-to", "auto"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "'auto' is neither a number nor one of tensorrt, openvino" in done.stderr


def test_a_name_on_the_command_line(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    pg.save(residual_net(width=64), model)
    for width in ("qnn", "32", "8"):
        words = f"decompose {model} -o {tmp_path}/{width}.onnx --rank ratio:0.3 --round-to {width}"
        done = CliRunner().invoke(main, words.split())
        assert done.exit_code == 0, done.output
    first, same, other = (
        (tmp_path / f"{each}.onnx").read_bytes() for each in ("qnn", "32", "8")
    )
    assert first == same != other
