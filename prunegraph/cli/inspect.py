"""`prunegraph inspect`: what can be pruned in a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from prunegraph.cli.command import Command, Section, option
from prunegraph.cli.console import check_json, command_line, console, write_json
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    LAYER,
    WRITTEN,
    allow_io_option,
    attention_option,
    blocks_option,
    data_option,
    json_option,
    model_argument,
    reading_options,
    report_option,
)
from prunegraph.cli.results import check_report

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph
    from prunegraph.runtime.statistics import Statistics


@click.command(
    cls=Command,
    examples=[
        "inspect model.onnx",
        "inspect model.onnx --why /layer4/conv2/Conv",
        "inspect model.onnx --json groups.json",
        "inspect model.onnx --report model.html",
    ],
)
@model_argument()
@json_option()
@option(
    Section.OUTPUT,
    "--nodes",
    "nodes_path",
    type=WRITTEN,
    metavar="FILE",
    help="Write nodes alone as JSON; - is stdout.",
)
@report_option("Write an HTML page: the network as a graph, groups, fixed layers.")
@option(
    Section.OUTPUT,
    "--model-explorer",
    type=WRITTEN,
    metavar="FILE",
    help="Write node data for Google's Model Explorer: groups as colours, MACs as numbers.",
)
@data_option("Unlabelled inputs: the groups then have moments of activations.")
@attention_option()
@blocks_option()
@allow_io_option()
@option(
    Section.OUTPUT,
    "--why",
    type=LAYER,
    metavar="LAYER",
    help="Explain what keeps a layer from being pruned.",
)
@reading_options
def inspect(
    model: str,
    json_path: str | None,
    nodes_path: str | None,
    report: str | None,
    model_explorer: str | None,
    data: str | None,
    attention: str | None,
    blocks: str,
    allow_io: tuple[str, ...],
    why: str | None,
) -> None:
    """Show what can be pruned in MODEL, and why the rest cannot."""
    from prunegraph import api
    from prunegraph.coupling.explain import explain
    from prunegraph.coupling.outline import nodes_outline, outline
    from prunegraph.operators import is_dequantize
    from prunegraph.ops.cost import cost
    from prunegraph.report import inspected, tables
    from prunegraph.report.model_explorer import node_data

    if json_path == nodes_path == "-":
        raise click.UsageError("--json and --nodes cannot both be stdout")
    if data and not json_path:
        raise click.UsageError("--data is for the groups file: give --json FILE")
    graph = load_model(model)
    check_json(json_path)
    check_json(nodes_path)
    if model_explorer:
        check_json(model_explorer)
    check_report(report)
    coupling = api.analyze(graph, attention=attention, blocks=blocks, allow_io=allow_io)
    out = console()
    if why:
        out.print(tables.why_text(explain(coupling, why), graph))
        return
    total = cost(graph)
    out.print(tables.groups_table(coupling, total))
    out.print(tables.fixed_table(coupling))
    if coupling.branches:
        out.print(tables.branches_table(coupling, total))
    if any(is_dequantize(node) for node in graph.nodes):
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
    if model_explorer:
        write_json(node_data(coupling), model_explorer)
    if report:
        inspected.write(coupling, report, command=command_line())
        out.print(f"wrote {report}")


def _statistics(graph: Graph, data: str | None) -> Statistics | None:
    """Say what a data file shows of a graph."""
    from prunegraph.runtime.statistics import Statistics

    samples = load_data(data, graph)
    return Statistics(graph, samples) if samples is not None else None
