"""`prunegraph verify`: the proof alone."""

from __future__ import annotations

import click

from prunegraph.cli.command import Command
from prunegraph.cli.console import check_json, console, stages, write_json
from prunegraph.cli.files import check_weights
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    READ,
    data_option,
    json_option,
    model_argument,
    reading_options,
)


@click.command(cls=Command, examples=["verify model.onnx plan.json result.onnx"])
@model_argument()
@click.argument("plan", type=READ)
@model_argument("pruned")
@data_option("Inputs to compare on besides random ones: .npz or file.py:function.")
@json_option()
@reading_options
def verify(
    model: str, plan: str, pruned: str, data: str | None, json_path: str | None
) -> None:
    """Prove that PRUNED is MODEL without the channels of PLAN."""
    from prunegraph import api
    from prunegraph.execution import proof_batches
    from prunegraph.report import content
    from prunegraph.selection.plan import Plan

    check_json(json_path)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph, result = load_model(model), api.load(pruned)
        check_weights(result)
        seen = proof_batches(graph, load_data(data, graph, progress))
        proof = api.verify(graph, Plan.load(plan), result, data=seen, progress=progress)
    where.print(f"proof: {proof}")
    write_json(content.proof(proof), json_path)
