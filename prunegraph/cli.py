"""The command line. Options are read here; the work is in `prunegraph.api`.

Tables and progress go to stderr, machine output to stdout. Exit codes: 0 done, 1 a result
failed its check, 2 bad input or usage.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from prunegraph import __version__
from prunegraph.errors import ExactnessError, PrunegraphError

if TYPE_CHECKING:
    from rich.console import Console

    from prunegraph.api import Result
    from prunegraph.runtime.data import Data


class _Group(click.Group):
    """Turns the engine's errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PrunegraphError as error:
            text = " ".join(str(error).split())
            click.echo(f"error: {text}", err=True)
            ctx.exit(1 if isinstance(error, ExactnessError) else 2)


def console() -> Console:
    """Where tables go: stderr, wide enough for them where it is no terminal."""
    from rich.console import Console

    return Console(stderr=True, width=None if sys.stderr.isatty() else 140, highlight=False)


@contextmanager
def stages(where: Console) -> Iterator[Callable[[str], None]]:
    """A status line that names the stage at work."""
    with where.status("starting") as status:
        yield lambda stage: status.update(stage)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="prunegraph")
def main() -> None:
    """Structured pruning of neural networks on the graph itself, proved exact."""


@main.command()
@click.argument("model")
@click.option("--json", "json_path", metavar="FILE", help="Write groups as JSON; - is stdout.")
@click.option("--attention", type=click.Choice(["heads", "head_dim"]), help="What is pruned in attention.")
@click.option("--why", metavar="LAYER", help="Explain what keeps a layer from being pruned.")
def inspect(model: str, json_path: str | None, attention: str | None, why: str | None) -> None:
    """Show what can be pruned in MODEL, and why the rest cannot."""
    from prunegraph import api
    from prunegraph.coupling.explain import explain
    from prunegraph.ops.cost import cost
    from prunegraph.report import groups_file, tables

    graph = api.load(model)
    if json_path and json_path != "-":
        api.check_output(json_path, model)
    found = api.analyze(graph, attention=attention)
    out = console()
    if why:
        out.print(tables.why_text(explain(found, why)))
        return
    total = cost(graph)
    out.print(tables.groups_table(found, total))
    out.print(tables.fixed_table(found))
    out.print(
        f"{tables.amount(total.params)} parameters, {tables.amount(total.macs)} MACs, "
        f"{tables.amount(total.bytes)} bytes of weights"
    )
    if json_path == "-":
        click.echo(json.dumps(groups_file.content(found), indent=1))
    elif json_path:
        groups_file.write(found, json_path)


def _ratio_for(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for value in values:
        layer, equals, ratio = value.rpartition("=")
        try:
            found[layer] = float(ratio)
        except ValueError:
            equals = ""
        if not equals or not layer:
            raise click.BadParameter(f"{value!r} is not LAYER=RATIO")
    return found


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator."""

    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add


output_option = click.option(
    "-o", "--output", "out", required=True, metavar="OUT", help="Where the pruned model goes."
)  # fmt: skip

choice_options = _options(
    click.option("--algorithm", help="Which criterion scores channels. Default: obs with --data, else l2."),
    click.option("--keep", multiple=True, metavar="LAYER", help="A layer whose channels all stay (repeatable)."),
    click.option("--attention", type=click.Choice(["heads", "head_dim"]), help="What is pruned in attention."),
    click.option("--seed", type=int, default=0, show_default=True),
)

result_options = _options(
    click.option("--allocation", help="How the budget is shared among groups; see `prunegraph algorithms`."),
    click.option("--repair", type=click.Choice(["none", "least-squares"]), help="Default: least-squares with --data."),
    click.option("--round-to", type=int, default=8, show_default=True, help="Kept channels are a multiple of this."),
    click.option("--min-channels", type=int, default=1, show_default=True, help="Channels that stay in every group."),
    click.option(
        "--ratio-for", multiple=True, metavar="LAYER=R", callback=_ratio_for, help="A ratio of its own (repeatable)."
    ),
    click.option("--save-plan", metavar="FILE", help="Write the plan as JSON."),
    click.option("--no-verify", is_flag=True, help="Skip the proof."),
)

sweep_options = _options(
    click.option(
        "--data", required=True, metavar="FILE", help="Inputs from the training distribution: .npz or file.py:function."
    ),
    click.option("--eval", "evaluation", metavar="FILE", help="What the metric is measured on. Default: --data."),
    click.option("--jobs", type=click.IntRange(1), help="Worker processes. Default: one for each core."),
    click.option("--cluster", metavar="ADDRESS", help="A Dask scheduler, tcp://host:port, instead of processes."),
    click.option("--json", "json_path", metavar="FILE", help="Write all figures as JSON; - is stdout."),
)


@main.command()
@click.argument("model")
@output_option
@click.option("--ratio", type=float, help="Share of channels removed from every group.")
@click.option("--macs", help="Upper bound on MACs: a fraction (0.5) or an amount (2.1G).")
@click.option("--params", help="Upper bound on parameters: a fraction or an amount (1.2M).")
@click.option("--bytes", "size", help="Upper bound on bytes of weights: a fraction or an amount (12MB).")
@click.option("--data", metavar="FILE", help="Unlabelled inputs to refit and prove on: .npz or file.py:function.")
@choice_options
@result_options
def prune(
    model: str, out: str, ratio: float | None, macs: str | None, params: str | None, size: str | None,
    data: str | None, no_verify: bool, **options: Any,
) -> None:  # fmt: skip
    """Make MODEL smaller, and prove that the result is the masked original."""
    from prunegraph import api
    from prunegraph.runtime.data import read_data
    from prunegraph.selection.budget import Budget

    budget = Budget(ratio=ratio, macs=macs, params=params, bytes=size)
    where = console()
    with stages(where) as progress:
        samples = read_data(data) if data else None
        result = api.prune(model, out, budget=budget, check=not no_verify, data=samples, progress=progress, **options)
    _show(where, result, samples if options["repair"] != "none" else None, out)


def _show(where: Console, result: Result, refitted: Data | None, out: str) -> None:
    """What was done, as a table and lines; `refitted` are the samples of a repair."""
    from prunegraph.report import tables

    where.print(tables.result_table(result))
    if result.left_out:
        where.print(
            f"left whole, because the proof failed with them: groups {', '.join(result.left_out)}; the rest is proved. "
            "A rule is wrong for this graph: please report it"
        )
    where.print(f"proof: {result.proof}" if result.proof else "proof: skipped (--no-verify)")
    if refitted is not None:
        where.print(f"then refitted by least squares on {refitted.samples} samples")
    where.print(f"wrote {out}")


def _ratios(ctx: click.Context, parameter: click.Parameter, value: str) -> list[float]:
    try:
        return [float(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 0.1,0.25,0.5") from None


def _write_json(content: dict[str, Any], path: str | None) -> None:
    from pathlib import Path

    from prunegraph.graph.onnx_io import write_whole

    text = json.dumps(content, indent=1) + "\n"
    if path == "-":
        click.echo(text, nl=False)
    elif path:
        write_whole(Path(path), [text.encode()])


@main.command()
@click.argument("model")
@sweep_options
@click.option(
    "--metric",
    default="error",
    show_default=True,
    help="error, agreement, kl, top1 (needs labels), or file.py:function.",
)
@click.option("--ratios", default="0.1,0.25,0.5,0.75", show_default=True, callback=_ratios, help="Shares to remove.")
@click.option("--repair", type=click.Choice(["none", "least-squares"]), default="none", show_default=True)
@click.option("--round-to", type=int, default=1, show_default=True, help="Kept channels are a multiple of this.")
@choice_options
def sensitivity(model: str, data: str, evaluation: str | None, json_path: str | None, **options: Any) -> None:
    """Show what it costs to prune each group of MODEL alone."""
    from prunegraph import api, sweeps
    from prunegraph.report import tables
    from prunegraph.runtime.data import read_data

    if json_path and json_path != "-":
        api.check_output(json_path, model)
    where = console()
    with stages(where) as progress:
        seen = read_data(evaluation) if evaluation else None
        found = sweeps.sensitivity(model, data=read_data(data), evaluation=seen, progress=progress, **options)
    where.print(tables.sensitivity_table(found))
    _write_json(found.to_json(), json_path)


@main.command()
@click.argument("model")
@output_option
@sweep_options
@click.option("--tolerance", type=float, required=True, help="How much worse the metric may be, in its own unit.")
@click.option(
    "--metric",
    help="agreement, error, kl, top1 (needs labels), or file.py:function. Default: top1 with labels, else agreement "
    "of the classes, else error.",
)
@click.option("--method", type=click.Choice(["grid", "bisection"]), default="grid", show_default=True)
@click.option(
    "--by", type=click.Choice(["macs", "params", "bytes", "ratio"]), default="macs", show_default=True,
    help="What is reduced step by step; ratio is the share of channels.",
)  # fmt: skip
@click.option("--stages", is_flag=True, help="Then try a little more or less in parts of the network.")
@choice_options
@result_options
def search(
    model: str, out: str, data: str, evaluation: str | None, json_path: str | None, no_verify: bool, **options: Any
) -> None:
    """Prune MODEL as far as a metric stays within a tolerance. Nothing is trained."""
    from prunegraph import api, sweeps
    from prunegraph.report import tables
    from prunegraph.runtime.data import read_data

    if json_path and json_path != "-":
        api.check_output(json_path, model)
    where = console()
    with stages(where) as progress:
        samples, seen = read_data(data), read_data(evaluation) if evaluation else None
        done = sweeps.search(
            model, out, data=samples, evaluation=seen, check=not no_verify, progress=progress, **options
        )
    where.print(tables.search_table(done.found, done.result.before))
    if evaluation is None:
        where.print("measured on the data of the repair, which flatters the result: give others with --eval")
    _show(where, done.result, samples if options["repair"] != "none" else None, out)
    _write_json(done.found.to_json(model), json_path)


@main.command()
@click.argument("model")
@click.argument("plan")
@click.option("-o", "--output", "out", required=True, metavar="OUT", help="Where the pruned model goes.")
@click.option("--no-verify", is_flag=True, help="Skip the proof.")
def apply(model: str, plan: str, out: str, no_verify: bool) -> None:
    """Cut the channels that a PLAN file names out of MODEL."""
    from prunegraph import api
    from prunegraph.selection.plan import Plan

    api.check_output(out, model)
    where = console()
    with stages(where) as progress:
        progress("cut")
        graph, chosen = api.load(model), Plan.load(plan)
        small = api.apply(graph, chosen)
        progress("verify")
        proof = None if no_verify else api.verify(graph, chosen, small)
        api.save(small, out)
    where.print(f"proof: {proof}" if proof else "proof: skipped (--no-verify)")
    where.print(f"wrote {out}")


@main.command()
@click.argument("model")
@click.argument("plan")
@click.argument("pruned")
def verify(model: str, plan: str, pruned: str) -> None:
    """Prove that PRUNED is MODEL without the channels of PLAN."""
    from prunegraph import api
    from prunegraph.selection.plan import Plan

    proof = api.verify(api.load(model), Plan.load(plan), api.load(pruned))
    console().print(f"proof: {proof}")


@main.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--data", metavar="FILE", help="Inputs (and labels): .npz or file.py:function.")
@click.option("--runs", type=click.IntRange(1), default=30, show_default=True, help="Timed runs of each model.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of each session.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout.")
def compare(first: str, second: str, data: str | None, runs: int, threads: int, as_json: bool) -> None:
    """Show cost, outputs, latency and accuracy of two models side by side."""
    import dataclasses

    from prunegraph import api
    from prunegraph.report import tables
    from prunegraph.runtime.data import read_data

    found = api.compare(
        api.load(first), api.load(second), data=read_data(data) if data else None, runs=runs, threads=threads
    )
    console().print(tables.comparison_table(found))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=1))


@main.command()
def algorithms() -> None:
    """List the criteria and allocations there are."""
    from prunegraph.selection.allocation import ALLOCATIONS
    from prunegraph.selection.criteria import CRITERIA

    for registry in (CRITERIA, ALLOCATIONS):
        for name in registry:
            text = (registry.get(name).__doc__ or "").strip().splitlines()
            click.echo(f"{registry.kind:<11} {name:<10} {text[0] if text else ''}")
