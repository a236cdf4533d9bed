"""`prunegraph init`: a recipe from a few answers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from prunegraph.cli.command import Command, Section, option
from prunegraph.cli.console import check_json, console, stages, write_json
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    data_option,
    json_option,
    model_argument,
    output_option,
    reading_options,
    target_option,
)
from prunegraph.cli.reading import reading
from prunegraph.cli.recipe import lines
from prunegraph.errors import BudgetError, DataError

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph
    from prunegraph.recipes import RecipeStep, Value

FORMAT = "prunegraph/init@1"

#: What may be wanted, and the bound on what is left that says it.
GOALS = {"smaller": "bytes", "faster": "latency", "cheaper": "macs"}

#: Where the result is to run; `float` is anywhere, without integers.
TARGETS = ("cpu", "native", "tensorrt", "openvino", "qnn", "float")


@click.command(
    cls=Command,
    examples=[
        "init model.onnx",
        "init model.onnx --goal faster --share 0.5 --data images.npz --target cpu -o recipe.toml",
    ],
)
@model_argument()
@option(
    Section.REMOVE,
    "--goal",
    type=click.Choice(list(GOALS)),
    help="Fewer bytes of weights, less latency in ONNX Runtime on this machine, or fewer MACs.  [asked, else cheaper]",
)
@option(
    Section.REMOVE,
    "--share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="How much of that may be left, before quantization.  [asked, else 0.5]",
)
@data_option("Inputs for choosing, repairing and calibrating: .npz or file.py:function.")
@target_option(
    "Where integers are to run; float: no integers.  [asked, else cpu with data and float without]",
    type=click.Choice(TARGETS),
    show_default=False,
)
@output_option("Where the recipe goes.  [default: MODEL's name with .toml]", required=False)
@json_option()
@reading_options
def init(
    model: str,
    goal: str | None,
    share: float | None,
    data: str | None,
    target: str | None,
    out: str | None,
    json_path: str | None,
) -> None:
    """Write a recipe for MODEL: prune to a goal, quantize for a target, compare with the original.

    On a terminal what is not given is asked. `prunegraph run RECIPE` carries it out.
    """
    from prunegraph import recipes
    from prunegraph.api import check_output

    asks = sys.stdin.isatty() and sys.stderr.isatty()
    recipe = out or f"{_stem(model)}.toml"
    check_output(recipe, model, others=(json_path,))
    check_json(json_path)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(model)
    goal = goal or (_ask("goal", list(GOALS), "cheaper") if asks else "cheaper")
    if data is None and asks:
        data = _ask_data()
    if data is not None:
        load_data(data, graph).fit(graph)
    if target is None:
        default = "cpu" if data is not None else "float"
        target = _ask("target", list(TARGETS), default) if asks else default
    if target != "float" and data is None:
        raise DataError(
            f"integers for {target} need data to calibrate on: give --data FILE, or --target float"
        )
    share = share or (_ask_share() if asks else 0.5)
    bound = _feasible(graph, GOALS[goal], share)
    if bound > share:
        where.print(f"widths allow no less than {bound:g} of the {GOALS[goal]}: taken")
    steps = _steps(model, GOALS[goal], bound, data, target)
    group = cast(click.Group, click.get_current_context().find_root().command)
    lines(recipes.Recipe(tuple(steps), recipe), group)
    recipes.save(steps, recipe)
    where.print(
        f"wrote {recipe}; `prunegraph run {shlex.quote(recipe)}` carries it out",
        markup=False,
        soft_wrap=True,
    )
    records = [{"command": step.command, "options": dict(step.options)} for step in steps]
    write_json({"format": FORMAT, "recipe": recipe, "steps": records}, json_path)


def _stem(model: str) -> str:
    return Path(model.partition(":")[0]).stem


def _ask(what: str, choices: list[str], default: str) -> str:
    """An answer of a terminal."""
    text: str = click.prompt(what, type=click.Choice(choices), default=default, err=True)
    return text


def _ask_data() -> str | None:
    """A file of data, or none for an empty answer."""
    text = "data: .npz or file.py:function, empty for none"
    return str(click.prompt(text, default="", show_default=False, err=True)) or None


def _ask_share() -> float:
    kind = click.FloatRange(0, 1, min_open=True, max_open=True)
    return float(click.prompt("share that may be left", type=kind, default=0.5, err=True))


def _feasible(graph: Graph, kind: str, share: float) -> float:
    """The share that is asked for, or the next that widths allow. What is measured is not tried.

    Raises:
        BudgetError: nothing can be pruned.
    """
    from prunegraph.coupling.analysis import analyze
    from prunegraph.selection.budget import Budget
    from prunegraph.selection.options import SelectionOptions
    from prunegraph.selection.select import rank

    kind = "macs" if kind == "latency" else kind
    ranking = rank(analyze(graph), SelectionOptions(budget=Budget(macs=0.5)))
    for percent in range(round(share * 100), 100, 5):
        bound = share if percent == round(share * 100) else percent / 100
        try:
            ranking.plan(Budget(**{kind: bound}))
        except BudgetError:
            continue
        return bound
    raise BudgetError(
        f"{graph.source}: no channels of it can be pruned; `prunegraph MODEL` says why"
    )


def _steps(
    model: str, kind: str, bound: float, data: str | None, target: str
) -> list[RecipeStep]:
    """Prune, quantize unless the target is float, and compare."""
    from prunegraph.recipes import RecipeStep

    given: dict[str, Value] = {"data": data} if data is not None else {}
    read: dict[str, Value] = {
        name.replace("_", "-"): str(value)
        for name, value in reading().items()
        if isinstance(value, str)
    }
    shapes = reading().get("input_shapes", {})
    if shapes:
        read["input-shape"] = [f"{n}={','.join(map(str, s))}" for n, s in shapes.items()]
    result = f"{_stem(model)}-pruned.onnx"
    first: dict[str, Value] = {"model": model, "output": result, kind: bound}
    steps = [RecipeStep("prune", {**first, **given, **read})]
    if target != "float":
        whole = f"{_stem(model)}-{target}.onnx"
        options: dict[str, Value] = {"model": result, "output": whole, "target": target}
        steps.append(RecipeStep("quantize", {**options, **given}))
        result = whole
    steps.append(RecipeStep("compare", {"first": model, "second": result, **given}))
    return steps
