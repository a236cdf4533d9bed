"""The command `train`. It needs the extra `[torch]`, which is imported when it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunegraph.cli_recipe import Writes
from prunegraph.errors import DataError

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph
    from prunegraph.runtime.data import Data
    from prunegraph.training.losses import Loss
    from prunegraph.training.methods import Setting


@click.command(cls=Writes)
@click.argument("model")
@click.option("-o", "--output", "out", required=True, metavar="OUT", help="Where the trained model goes.")
@click.option("--data", required=True, metavar="FILE", help="Training data: .npz or file.py:function, `labels` or not.")
@click.option("--method", default="plain", show_default=True, help="How, with options, as in sparse:strength=1e-4.")
@click.option("--ratio", type=float, help="Share of channels that a method that prunes removes from every group.")
@click.option("--macs", help="Upper bound on MACs, for a method that prunes: a fraction or an amount.")
@click.option("--params", help="Upper bound on parameters, for a method that prunes: a fraction or an amount.")
@click.option("--original", metavar="MODEL", help="Learn from this model's outputs; needed without labels.")
@click.option("--eval", "evaluation", metavar="FILE", help="What a metric is measured on after every epoch.")
@click.option("--metric", default="", help="agreement, error, kl or top1. Default: top1 with labels, else agreement.")
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--lr", type=float, default=0.01, show_default=True, help="Highest learning rate; it falls to 0.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Samples in a batch.")
@click.option("--mixup", type=float, default=0.0, show_default=True, help="Blend samples; 0.2 is usual.")
@click.option("--patience", type=click.IntRange(1), help="Stop after so many epochs without a better metric.")
@click.option("--probabilities", is_flag=True, help="The first output holds probabilities, not logits.")
@click.option("--checkpoint", metavar="FILE", help="Where epochs are kept: a run that was killed goes on.")
@click.option("--device", metavar="NAME", help="As in cuda or cuda:1. Default: the CPU.")
@click.option("--bf16", is_flag=True, help="Compute in bfloat16 where that is safe.")
@click.option("--seed", type=int, default=0, show_default=True)
def train(model: str, out: str, data: str, original: str | None, checkpoint: str | None, **options: Any) -> None:
    """Train MODEL, whatever made it: with labels, or towards the outputs of an original."""
    from prunegraph import api
    from prunegraph.cli import console
    from prunegraph.runtime.data import read_data
    from prunegraph.training import train as _train

    api.check_output(out, model, [checkpoint] if checkpoint else [])
    graph, samples = api.load(model), read_data(data)
    teacher = api.load(original) if original else None
    method = options.pop("method")
    setting = _setting(graph, samples.fit(graph), teacher, checkpoint, **options)
    where = console()
    if where.is_terminal:
        setting = replace(setting, progress=where.print)
    done = _train(graph, setting, method)
    api.save(done.graph, out, like=graph)
    for record in done.history:
        where.print(_line(record))
    where.print(f"written to {out}")


def _line(record: dict[str, Any]) -> str:
    """A record of a method's history as text."""
    forms = {"epoch": ">3", "loss": ".4g", "macs": ",", "params": ",", "metric": ".4g"}
    return f"{record['stage']}: " + "  ".join(f"{k} {record[k]:{form}}" for k, form in forms.items() if k in record)


def _setting(
    graph: Graph, data: Data, teacher: Graph | None, checkpoint: str | None, *, evaluation: str | None, metric: str,
    batch: int, probabilities: bool, device: str | None, ratio: float | None, macs: str | None, params: str | None,
    **numbers: Any,
) -> Setting:  # fmt: skip
    """What a method needs, by the options of the command. Raises PrunegraphError."""
    from prunegraph.runtime.data import read_data
    from prunegraph.selection.budget import Budget
    from prunegraph.training import Recipe, Setting, measure

    data = data.fit(graph)
    bounds: dict[str, Any] = {"ratio": ratio, "macs": macs, "params": params}
    return Setting(
        data=data,
        batch=data.fixed(graph) or batch,
        loss=_loss(teacher, data.labels is not None, probabilities, device),
        recipe=Recipe(**numbers),
        evaluate=measure(read_data(evaluation), teacher or graph, metric) if evaluation else None,
        budget=Budget(**bounds) if any(value is not None for value in bounds.values()) else None,
        checkpoint=Path(checkpoint) if checkpoint else None,
        device=device,
    )


def _loss(teacher: Graph | None, labelled: bool, probabilities: bool, device: str | None) -> Loss:
    """Cross entropy with labels, distillation with a teacher, half of each with both. Raises DataError."""
    from prunegraph.training import GraphModule, cross_entropy, distillation

    if teacher is None and not labelled:
        raise DataError("the data have no labels: give --original, the model whose outputs to learn")
    task = cross_entropy(probabilities=probabilities)
    if teacher is None:
        return task
    return distillation(
        GraphModule(teacher).to(device), labels=0.5 if labelled else 0.0, task=task, probabilities=probabilities
    )
