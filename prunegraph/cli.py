"""The command line. Options are read here; the work is in `prunegraph.api`.

Tables and progress go to stderr, machine output to stdout. Exit codes: 0 done, 1 a result
failed its check, 2 bad input or usage.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import click

from prunegraph import __version__
from prunegraph.cli_recipe import Writes, run
from prunegraph.errors import FAILED, PrunegraphError

if TYPE_CHECKING:
    from rich.console import Console

    from prunegraph.graph.model import Graph
    from prunegraph.pipeline import PruneResult
    from prunegraph.registry import Registry
    from prunegraph.runtime.data import Data
    from prunegraph.runtime.statistics import Statistics
    from prunegraph.selection.budget import Budget


#: Where a context keeps the command line, quoted for a shell.
COMMAND = "prunegraph.command"


class _Group(click.Group):
    """Turns the engine's errors into one line and an exit code; remembers the words it was called with."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[COMMAND] = shlex.join(["prunegraph", *args])
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PrunegraphError as error:
            text = " ".join(str(error).split())
            click.echo(f"error: {text}", err=True)
            ctx.exit(1 if isinstance(error, FAILED) else 2)


def console() -> Console:
    """Where tables go: stderr, wide enough for them where it is no terminal."""
    from rich.console import Console

    return Console(stderr=True, width=None if sys.stderr.isatty() else 140, highlight=False)


@contextmanager
def stages(where: Console) -> Iterator[Callable[[str], None]]:
    """A status line that names the stage at work."""
    with where.status("starting") as status:
        yield lambda stage: status.update(stage)


def _load_plugins(
    ctx: click.Context, parameter: click.Parameter, sources: tuple[str, ...]
) -> None:
    from prunegraph import plugins

    for source in sources:
        plugins.load(source)


#: For every command that reads a model or chooses: what plug-ins register is there before the command runs.
plugin_option = click.option(
    "--plugin",
    multiple=True,
    metavar="FILE_OR_MODULE",
    expose_value=False,
    callback=_load_plugins,
    help="Python file or module that registers algorithms, front ends or rules (repeatable).",
)


#: How the names of MXNet's symbol files end.
SYMBOL = "-symbol.json"

#: Where a context keeps what a front end needs besides the model.
READING = "prunegraph.reading"


def _keep_reading(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value:
        ctx.meta.setdefault(READING, {})[parameter.name] = value


def _input_shapes(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> None:
    shapes = {}
    for value in values:
        name, _, sizes = value.rpartition("=")
        if not name or not re.fullmatch(r"\d+(,\d+)*", sizes):
            raise click.BadParameter(f"{value!r} is not NAME=SIZE,SIZE,...")
        shapes[name] = tuple(int(size) for size in sizes.split(","))
    _keep_reading(ctx, parameter, shapes)


def reading() -> dict[str, Any]:
    """What the reading options of a command say."""
    return dict(click.get_current_context().meta.get(READING, {}))


def load_model(model: str) -> Graph:
    """The model of a command, with what its reading options say."""
    from prunegraph import api
    from prunegraph.frontends.arrays import read_arrays

    options = reading()
    if "inputs" in options:
        options["inputs"] = read_arrays(options["inputs"])
    return api.load(model, **options)


def load_beside(model: str) -> Graph:
    """Another model of a command; of the reading options it takes what its front end knows, but no parameter file."""
    from prunegraph import api
    from prunegraph.frontends import takes
    from prunegraph.frontends.arrays import read_arrays

    options = {
        name: value
        for name, value in reading().items()
        if name != "params_file" and takes(model, name)
    }
    if "inputs" in options:
        options["inputs"] = read_arrays(options["inputs"])
    return api.load(model, **options)


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator."""

    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add


#: For every command that reads a MODEL: what some front ends need besides it, and plug-ins.
reading_options = _options(
    click.option(
        "--inputs",
        metavar="FILE",
        expose_value=False,
        callback=_keep_reading,
        help="Example inputs (.npz) of a PyTorch model that package.module:factory makes without.",
    ),
    click.option(
        "--params-file",
        metavar="FILE",
        expose_value=False,
        callback=_keep_reading,
        help="The .params file of an MXNet symbol, if it is not beside it.",
    ),
    click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        metavar="NAME=1,3,224,224",
        expose_value=False,
        callback=_input_shapes,
        help="The shape of an input that an MXNet symbol does not hold (repeatable).",
    ),
    plugin_option,
)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="prunegraph")
def main() -> None:
    """Structured pruning of neural networks on the graph itself, proved exact."""


@main.command()
@click.argument("model")
@click.option(
    "--json",
    "json_path",
    metavar="FILE",
    help="Write groups and nodes as JSON; - is stdout.",
)
@click.option(
    "--nodes", "nodes_path", metavar="FILE", help="Write nodes alone as JSON; - is stdout."
)
@click.option(
    "--data",
    metavar="FILE",
    help="Unlabelled inputs: the groups then have moments of activations.",
)
@click.option(
    "--attention",
    type=click.Choice(["heads", "head_dim"]),
    help="What is pruned in attention.",
)
@click.option(
    "--why", metavar="LAYER", help="Explain what keeps a layer from being pruned."
)
@reading_options
def inspect(
    model: str,
    json_path: str | None,
    nodes_path: str | None,
    data: str | None,
    attention: str | None,
    why: str | None,
) -> None:
    """Show what can be pruned in MODEL, and why the rest cannot."""
    from prunegraph import api
    from prunegraph.coupling.explain import explain
    from prunegraph.coupling.outline import nodes_outline, outline
    from prunegraph.ops.cost import cost
    from prunegraph.report import tables

    if json_path == nodes_path == "-":
        raise click.UsageError("--json and --nodes cannot both be stdout")
    if data and not json_path:
        raise click.UsageError("--data is for the groups file: give --json FILE")
    graph = load_model(model)
    check_json(json_path, model)
    check_json(nodes_path, model, *([json_path] if json_path else []))
    coupling = api.analyze(graph, attention=attention)
    out = console()
    if why:
        out.print(tables.why_text(explain(coupling, why)))
        return
    total = cost(graph)
    out.print(tables.groups_table(coupling, total))
    out.print(tables.fixed_table(coupling))
    if any(node.op == "DequantizeLinear" for node in graph.nodes):
        from prunegraph.report.quantized import types_table

        out.print(types_table(graph))
    out.print(
        f"{tables.amount(total.params)} parameters, {tables.amount(total.macs)} MACs, "
        f"{tables.amount(total.bytes)} bytes of weights"
    )
    if json_path:
        write_json(outline(coupling, _statistics(graph, data)), json_path)
    if nodes_path:
        write_json(nodes_outline(coupling), nodes_path)


def _statistics(graph: Graph, data: str | None) -> Statistics | None:
    """What a data file shows of a graph."""
    from prunegraph.runtime.data import read_data
    from prunegraph.runtime.statistics import Statistics

    return Statistics(graph, read_data(data)) if data else None


def _ratio_for(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    result = {}
    for value in values:
        layer, equals, ratio = value.rpartition("=")
        try:
            result[layer] = float(ratio)
        except ValueError:
            equals = ""
        if not equals or not layer:
            raise click.BadParameter(f"{value!r} is not LAYER=RATIO")
    return result


def _round_to(ctx: click.Context, parameter: click.Parameter, value: str) -> int | str:
    return int(value) if value.lstrip("-").isdigit() else value


def _ratio(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> float | str | None:
    try:
        return value if value in (None, "auto") else float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor auto") from None


data_option = click.option(
    "--data",
    metavar="FILE",
    help="Unlabelled inputs to refit and prove on: .npz or file.py:function.",
)
repair_option = click.option(
    "--repair",
    help="none, absorb, bn or least-squares. Default: least-squares with --data, else none.",
)
quantize_option = click.option(
    "--quantize",
    type=click.Choice(["int8", "int4", "int16"]),
    help="Then quantize; the type of weights.",
)
report_options = _options(
    click.option(
        "--report",
        metavar="FILE",
        help="Write an HTML page: totals, widths, fixed layers, the proof.",
    ),
    click.option(
        "--sensitivity",
        metavar="FILE",
        help="Sensitivity JSON whose curves the report shows.",
    ),
)
proof_options = _options(
    click.option("--save-plan", metavar="FILE", help="Write the plan as JSON."),
    click.option("--no-verify", is_flag=True, help="Skip the proof."),
)

output_option = click.option(
    "-o",
    "--output",
    "out",
    required=True,
    metavar="OUT",
    help="Where the pruned model goes.",
)

choice_options = _options(
    click.option(
        "--algorithm",
        help="What chooses channels, as in l2:producer. Default: obs with --data, else l2.",
    ),
    click.option(
        "--keep",
        multiple=True,
        metavar="LAYER",
        help="A layer whose channels all stay (repeatable).",
    ),
    click.option(
        "--attention",
        type=click.Choice(["heads", "head_dim"]),
        help="What is pruned in attention.",
    ),
    click.option("--seed", type=int, default=0, show_default=True),
)

result_options = _options(
    click.option(
        "--allocation", help="How the budget is shared among groups, as in global:max."
    ),
    repair_option,
    click.option(
        "--round-to",
        default="8",
        show_default=True,
        metavar="N|auto",
        callback=_round_to,
        help="Kept channels are a multiple of this; auto measures which multiple is best.",
    ),
    click.option(
        "--min-channels",
        type=int,
        default=1,
        show_default=True,
        help="Channels that stay in every group.",
    ),
    click.option(
        "--ratio-for",
        multiple=True,
        metavar="LAYER=R",
        callback=_ratio_for,
        help="A ratio of its own (repeatable).",
    ),
    proof_options,
)

sweep_options = _options(
    click.option(
        "--data",
        required=True,
        metavar="FILE",
        help="Inputs from the training distribution: .npz or file.py:function.",
    ),
    click.option(
        "--eval",
        "evaluation",
        metavar="FILE",
        help="What the metric is measured on. Default: --data.",
    ),
    click.option(
        "--jobs",
        type=click.IntRange(1),
        help="Worker processes. Default: one for each core.",
    ),
    click.option(
        "--cluster",
        metavar="ADDRESS",
        help="A Dask scheduler, tcp://host:port, instead of processes.",
    ),
    click.option(
        "--json",
        "json_path",
        metavar="FILE",
        help="Write all figures as JSON; - is stdout.",
    ),
)


@main.command(cls=Writes)
@click.argument("model")
@output_option
@click.option(
    "--ratio", callback=_ratio, help="Share of channels removed from every group, or auto."
)
@click.option("--macs", help="Upper bound on MACs: a fraction (0.5) or an amount (2.1G).")
@click.option("--params", help="Upper bound on parameters: a fraction or an amount (1.2M).")
@click.option(
    "--bytes",
    "size",
    help="Upper bound on bytes of weights: a fraction or an amount (12MB).",
)
@click.option(
    "--latency",
    help="Upper bound on latency measured in ONNX Runtime: a fraction or a time (12ms).",
)
@data_option
@choice_options
@result_options
@click.option(
    "--provider",
    help="ONNX Runtime's execution provider to measure latency on.  [default: CPU]",
)
@click.option(
    "--threads",
    type=int,
    default=1,
    show_default=True,
    help="Threads to measure latency with; 0: all.",
)
@report_options
@quantize_option
@reading_options
def prune(
    model: str,
    out: str,
    ratio: float | Literal["auto"] | None,
    macs: str | None,
    params: str | None,
    size: str | None,
    latency: str | None,
    data: str | None,
    no_verify: bool,
    report: str | None,
    sensitivity: str | None,
    **options: Any,
) -> None:
    """Make MODEL smaller, and prove that the result is the masked original."""
    from prunegraph import api
    from prunegraph.runtime.data import read_data

    budget = _budget(
        options["algorithm"],
        ratio=ratio,
        macs=macs,
        params=params,
        bytes=size,
        latency=latency,
    )
    write_report = report_writer(report, sensitivity, model, (out, options["save_plan"]))
    api.check_model_output(out, model)
    where = console()
    with stages(where) as progress:
        samples = read_data(data) if data else None
        progress("load")
        result = api.prune(
            load_model(model),
            out,
            budget=budget,
            verify=not no_verify,
            data=samples,
            progress=progress,
            **options,
        )
    show_result(where, result, samples, out)
    write_report(where, result)


def report_writer(
    report: str | None, sensitivity: str | None, model: str, others: Sequence[str | None]
) -> Callable[[Console, PruneResult], None]:
    """What writes the report of a result, if there is to be one; what it needs is checked now, before the work."""
    from prunegraph import api
    from prunegraph.report import curves, html

    if sensitivity and not report:
        raise click.UsageError("--sensitivity is shown in the report: give --report FILE")
    if not report:
        return lambda where, result: None
    html.require()
    api.check_output(report, model, others=others)
    shown = curves.read(sensitivity) if sensitivity else None

    def write(where: Console, result: PruneResult) -> None:
        command = click.get_current_context().meta[COMMAND]
        html.write(
            result, report, command=command, sensitivity=shown, latency=result.latency
        )
        where.print(f"wrote {report}")

    return write


def _budget(algorithm: str | None, **bounds: Any) -> Budget:
    """The budget of a command line; a selector may be left to choose how much goes. Raises BudgetError."""
    from prunegraph.options import base_name
    from prunegraph.selection.budget import Budget
    from prunegraph.selection.selectors import SELECTORS

    is_free = algorithm is not None and base_name(algorithm) in SELECTORS
    if is_free and all(bound is None for bound in bounds.values()):
        return Budget(ratio="auto")
    return Budget(**bounds)


def show_result(
    where: Console, result: PruneResult, samples: Data | None, out: str
) -> None:
    """What was done, as a table and lines; `samples` are the user's data."""
    from prunegraph.report import tables

    where.print(tables.result_table(result))
    if result.rounding is not None:
        where.print(str(result.rounding))
    if result.left_out:
        where.print(
            f"left whole, because the proof failed with them: groups {', '.join(result.left_out)}; the rest is proved. "
            + result.blame
        )
    where.print(
        f"proof: {result.proof}" if result.proof else "proof: skipped (--no-verify)"
    )
    if result.repair != "none":
        base = (
            f"{samples.fit(result.original).samples} samples"
            if samples is not None
            else "the model's BatchNormalization statistics"
        )
        where.print(f"then repaired on {base}: {result.repair}")
    elif samples is None and any(
        node.op == "BatchNormalization" for node in result.original.nodes
    ):
        where.print(
            "not repaired: --data refits the weights; without data --repair bn brings back much of it"
        )
    if result.quantized is not None:
        from prunegraph.report.quantized import outcome

        where.print(outcome(result.quantized))
    where.print(f"wrote {out}")


def _ratios(ctx: click.Context, parameter: click.Parameter, value: str) -> list[float]:
    try:
        return [float(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is not a list of numbers such as 0.1,0.25,0.5"
        ) from None


def check_json(path: str | None, model: str, *others: str) -> None:
    """Raise before the work what a JSON file that cannot be written would raise after it; `others` are written too."""
    from prunegraph.api import check_output

    if path and path != "-":
        check_output(path, model, others=others)


def write_json(content: dict[str, Any], path: str | None) -> None:
    """Write to a file whole, to stdout for -, or not at all."""
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
@click.option(
    "--ratios",
    default="0.1,0.25,0.5,0.75",
    show_default=True,
    callback=_ratios,
    help="Shares to remove.",
)
@click.option(
    "--repair", default="none", show_default=True, help="How each candidate is repaired."
)
@click.option(
    "--round-to",
    type=int,
    default=1,
    show_default=True,
    help="Kept channels are a multiple of this.",
)
@choice_options
@reading_options
def sensitivity(
    model: str, data: str, evaluation: str | None, json_path: str | None, **options: Any
) -> None:
    """Show what it costs to prune each group of MODEL alone."""
    from prunegraph import studies
    from prunegraph.report import tables
    from prunegraph.runtime.data import read_data

    check_json(json_path, model)
    where = console()
    with stages(where) as progress:
        seen = read_data(evaluation) if evaluation else None
        progress("load")
        result = studies.sensitivity(
            load_model(model),
            data=read_data(data),
            evaluation=seen,
            progress=progress,
            **options,
        )
    where.print(tables.sensitivity_table(result))
    write_json(result.to_json(), json_path)


@main.command(cls=Writes)
@click.argument("model")
@output_option
@sweep_options
@click.option(
    "--tolerance",
    type=float,
    required=True,
    help="How much worse the metric may be, in its own unit.",
)
@click.option(
    "--metric",
    help="agreement, error, kl, top1 (needs labels), or file.py:function. Default: top1 with labels, else agreement "
    "of the classes, else error.",
)
@click.option(
    "--method", type=click.Choice(["grid", "bisection"]), default="grid", show_default=True
)
@click.option(
    "--by",
    type=click.Choice(["macs", "params", "bytes", "ratio"]),
    default="macs",
    show_default=True,
    help="What is reduced step by step; ratio is the share of channels.",
)
@click.option(
    "--stages", is_flag=True, help="Then try a little more or less in parts of the network."
)
@choice_options
@result_options
@reading_options
def search(
    model: str,
    out: str,
    data: str,
    evaluation: str | None,
    json_path: str | None,
    no_verify: bool,
    **options: Any,
) -> None:
    """Prune MODEL as far as a metric stays within a tolerance. Nothing is trained."""
    from prunegraph import api, studies
    from prunegraph.report import tables
    from prunegraph.runtime.data import read_data

    api.check_model_output(out, model)
    check_json(json_path, model, out)
    where = console()
    with stages(where) as progress:
        samples, seen = read_data(data), read_data(evaluation) if evaluation else None
        progress("load")
        done = studies.search(
            load_model(model),
            out,
            data=samples,
            evaluation=seen,
            verify=not no_verify,
            progress=progress,
            **options,
        )
    where.print(tables.search_table(done.trace, done.result.before))
    if evaluation is None:
        where.print(
            "measured on the data of the repair, which flatters the result: give others with --eval"
        )
    show_result(where, done.result, samples, out)
    write_json(done.trace.to_json(model), json_path)


@main.command(cls=Writes)
@click.argument("source")
@click.option(
    "-o", "--output", "out", required=True, metavar="OUT", help="Where the ONNX model goes."
)
@reading_options
def convert(source: str, out: str) -> None:
    """Write what a front end reads (PyTorch, MXNet, a plug-in's format) as an ONNX model."""
    from prunegraph import api

    api.check_model_output(out, source)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(source)
        progress("write")
        api.save(graph, out)
    where.print(f"{len(graph.nodes)} nodes, {len(graph.weights)} weights; wrote {out}")


@main.command()
@click.argument("model")
@click.argument("plan")
@click.argument("pruned")
@click.option(
    "--data",
    metavar="FILE",
    help="Inputs to compare on besides random ones: .npz or file.py:function.",
)
@reading_options
def verify(model: str, plan: str, pruned: str, data: str | None) -> None:
    """Prove that PRUNED is MODEL without the channels of PLAN."""
    from prunegraph import api
    from prunegraph.execution import proof_batches
    from prunegraph.runtime.data import read_data
    from prunegraph.selection.plan import Plan

    graph = load_model(model)
    seen = proof_batches(graph, read_data(data) if data else None)
    proof = api.verify(graph, Plan.load(plan), api.load(pruned), data=seen)
    console().print(f"proof: {proof}")


@main.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--data", metavar="FILE", help="Inputs (and labels): .npz or file.py:function."
)
@click.option(
    "--runs",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="Timed runs of each model.",
)
@click.option(
    "--threads", type=int, default=1, show_default=True, help="Threads of each session."
)
@click.option(
    "--provider",
    help="ONNX Runtime's execution provider to measure latency on.  [default: CPU]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout."
)
@plugin_option
def compare(
    first: str,
    second: str,
    data: str | None,
    runs: int,
    threads: int,
    provider: str | None,
    as_json: bool,
) -> None:
    """Show cost, outputs, latency and accuracy of two models side by side."""
    import dataclasses

    from prunegraph import api
    from prunegraph.report import tables
    from prunegraph.runtime.data import read_data

    result = api.compare(
        api.load(first),
        api.load(second),
        data=read_data(data) if data else None,
        runs=runs,
        threads=threads,
        provider=provider,
    )
    console().print(tables.comparison_table(result))
    if result.sqnr:
        from prunegraph.report.quantized import sqnr_table

        console().print(sqnr_table(result.sqnr))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result), indent=1))


@main.command()
@plugin_option
def algorithms() -> None:
    """List criteria, selectors, allocations and repairs, with their options and where they come from."""
    from prunegraph.options import described
    from prunegraph.recovery.repairs import REPAIRS
    from prunegraph.selection.allocation import ALLOCATIONS
    from prunegraph.selection.criteria import CRITERIA
    from prunegraph.selection.selectors import SELECTORS

    registries: tuple[Registry[Any], ...] = (CRITERIA, SELECTORS, ALLOCATIONS, REPAIRS)
    entries = [entry for registry in registries for entry in registry.entries()]
    wide = max(len(entry.name) for entry in entries)
    far = max(len(entry.origin) for entry in entries)
    for entry in entries:
        given = described(entry.thing)
        summary = entry.summary + (f" Options: {given}" if given else "")
        click.echo(
            f"{entry.kind:<10}  {entry.name:<{wide}}  {entry.origin:<{far}}  {summary}".rstrip()
        )
    CRITERIA.check()


# Their commands are built from what is above.
from prunegraph import (  # noqa: E402
    cli_apply,
    cli_binarize,
    cli_compress,
    cli_decompose,
    cli_quantize,
    cli_training,
)

main.add_command(cli_apply.command())
main.add_command(cli_binarize.command())
main.add_command(cli_compress.command())
main.add_command(cli_decompose.command())
main.add_command(cli_quantize.command())
main.add_command(cli_training.command())
main.add_command(run)
