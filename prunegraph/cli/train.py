"""`prunegraph train`. It needs the extra `[torch]`, which is imported when it runs."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunegraph.cli.command import Section, option
from prunegraph.cli.console import check_json, command_line, console, write_json
from prunegraph.cli.distillation import (
    CLASSIFIERS,
    IMAGES,
    LR,
    OUTPUTS,
    defaults_of,
    only_distils,
)
from prunegraph.cli.loading import load_beside, load_data, load_model
from prunegraph.cli.options import (
    METRICS,
    MODEL,
    TRAINING_METHODS,
    batch_option,
    checkpoint_option,
    data_option,
    epochs_option,
    evaluation_option,
    json_option,
    lr_option,
    macs_option,
    metric_option,
    model_argument,
    output_option,
    params_option,
    probabilities_option,
    reading_options,
    report_option,
    seed_option,
)
from prunegraph.cli.reading import reading
from prunegraph.cli.recipe import Writes
from prunegraph.cli.results import check_report
from prunegraph.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from prunegraph.graph.model import Graph
    from prunegraph.runtime.data import Data
    from prunegraph.training.journal import Journal
    from prunegraph.training.kinds import Kind
    from prunegraph.training.losses import Loss
    from prunegraph.training.methods import TrainingOptions


KINDS = ("scores", "values", "left out")

#: Passes over the data where nothing else is said.
EPOCHS = 10


def _kinds(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    kinds = {}
    for value in values:
        name, _, kind = value.rpartition("=")
        kind = kind.replace("-", " ")
        if not name or kind not in KINDS:
            raise click.BadParameter(
                f"{value!r} is not OUTPUT=KIND with one of {', '.join(KINDS)}"
            )
        kinds[name] = kind
    return kinds


@click.command(
    cls=Writes,
    examples=[
        "train model.onnx -o trained.onnx --data train.npz --eval test.npz",
        "train small.onnx -o trained.onnx --data images.npz --original model.onnx",
    ],
)
@model_argument()
@output_option("Where the trained model goes.")
@data_option("Training data: .npz or file.py:function, `labels` or not.", required=True)
@option(
    Section.METHOD,
    "--method",
    type=TRAINING_METHODS,
    metavar="NAME",
    default="plain",
    show_default=True,
    help=f"How, with options, as in sparse:strength=1e-4: {TRAINING_METHODS}.",
)
@option(
    Section.REMOVE,
    "--ratio",
    metavar="R",
    type=float,
    help="Share of channels that a method that prunes removes from every group.",
)
@macs_option("Upper bound on MACs, for a method that prunes: a fraction or an amount.")
@params_option(
    "Upper bound on parameters, for a method that prunes: a fraction or an amount."
)
@option(
    Section.TRAINING,
    "--original",
    type=MODEL,
    metavar="MODEL",
    help="Learn from its outputs; needed without labels.",
)
@evaluation_option("What a metric is measured on after every epoch.")
@metric_option(
    f"{METRICS} or file.py:function. "
    "Default: map50 with boxes, top1 with other labels, else agreement.",
    default="",
)
@epochs_option(
    f"Default: {EPOCHS}; without labels {OUTPUTS.steps} steps at least, image classifiers {CLASSIFIERS.steps}.",
    type=click.IntRange(1),
)
@lr_option(
    f"Highest learning rate; it falls to 0. Default: {LR}; image classifiers without labels {CLASSIFIERS.lr}.",
    default=None,
    show_default=False,
)
@batch_option("Samples in a batch.", default=64)
@option(
    Section.TRAINING,
    "--mixup",
    type=float,
    help="Blend samples. Default: 0; unlabelled images 1.",
)
@option(
    Section.TRAINING,
    "--augment",
    metavar="CHAIN",
    help=f"As in flip,crop=0.2. Default: none; without labels {IMAGES.augment}, of classifiers affine, too.",
)
@option(
    Section.TRAINING,
    "--patience",
    type=click.IntRange(1),
    help="Stop after so many epochs without a better metric.",
)
@option(
    Section.TRAINING,
    "--optimizer",
    default="sgd",
    show_default=True,
    help="sgd (with Nesterov momentum) or adamw, for which 0.001 is a usual --lr.",
)
@option(
    Section.TRAINING,
    "--momentum",
    type=float,
    default=0.9,
    show_default=True,
    help="Of sgd.",
)
@option(
    Section.TRAINING,
    "--weight-decay",
    type=float,
    default=5e-4,
    show_default=True,
    help="Of matrices and filters; vectors have none.",
)
@option(
    Section.TRAINING,
    "--warmup",
    type=float,
    default=0.0,
    show_default=True,
    help="Share of the run in which the learning rate rises from 0.",
)
@option(
    Section.TRAINING, "--clip", type=float, help="Largest norm of all gradients together."
)
@option(
    Section.TRAINING,
    "--ema",
    type=float,
    default=0.0,
    show_default=True,
    help="Write a moving average of the weights with this decay, as in 0.99.",
)
@option(
    Section.TRAINING,
    "--accumulate",
    type=int,
    default=1,
    show_default=True,
    help="Batches whose mean gradient makes one step.",
)
@option(
    Section.TRAINING,
    "--log",
    "logs",
    multiple=True,
    metavar="WHERE",
    help="Keep the epochs in FILE.csv, tensorboard:FOLDER, mlflow:EXPERIMENT or wandb:PROJECT (repeatable).",
)
@probabilities_option()
@checkpoint_option("Where epochs are kept: a killed run goes on.")
@option(
    Section.TRAINING,
    "--device",
    metavar="NAME",
    help="As in cuda or cuda:1. Default: the CPU.",
)
@option(
    Section.TRAINING, "--bf16", is_flag=True, help="Compute in bfloat16 where that is safe."
)
@option(
    Section.TRAINING,
    "--kind",
    "kinds",
    multiple=True,
    metavar="OUTPUT=KIND",
    callback=_kinds,
    help="What an output of --original is learnt as: scores, values, or left out (repeatable).",
)
@option(
    Section.TRAINING,
    "--loss",
    "losses",
    multiple=True,
    metavar="LOSS",
    help="A name with options, WEIGHT*NAME, or file.py:function; several are added (repeatable). "
    "Default: cross_entropy with labels, distill with --original (image classifiers: and 0.5*features), half of each "
    "with both.",
)
@option(
    Section.TRAINING,
    "--match",
    multiple=True,
    metavar="VALUE",
    help="An inner value that `features` learns (repeatable). Default: the ends of stages.",
)
@option(
    Section.TRAINING,
    "--force",
    is_flag=True,
    help="Write even what is worse than the start.",
)
@seed_option()
@json_option()
@report_option("Write an HTML page: loss and metric, anew after every epoch.")
@reading_options
def train(
    model: str,
    out: str,
    data: str,
    original: str | None,
    evaluation: str | None,
    metric: str,
    method: str,
    checkpoint: str | None,
    force: bool,
    logs: tuple[str, ...],
    json_path: str | None,
    report: str | None,
    **options: Any,
) -> None:
    """Train MODEL, whatever made it: with labels, or towards the outputs of an original.

    OUT is an ONNX model or, for a MODEL from MXNet and a method that keeps its layers, NAME-symbol.json:
    NAME-0000.params goes beside it.
    """
    from prunegraph import api
    from prunegraph.ops.cost import cost
    from prunegraph.report import content
    from prunegraph.training import train as _train
    from prunegraph.training.batching import rows_of
    from prunegraph.training.journal import journal_of, together
    from prunegraph.training.outcome import OutcomeJudge

    api.check_model_output(
        out,
        model,
        symbol=method.partition(":")[0] in KEEPING,
    )
    if checkpoint:
        api.check_output(checkpoint)
    check_json(json_path)
    check_report(report)
    graph = load_model(model)
    samples = load_data(data, graph)
    rows_of(samples, graph).fit(graph)
    teacher = load_beside(original) if original else None
    held = load_data(evaluation, graph, part="val")
    judged = rows_of(held, graph) if held is not None else None
    setting = _setting(
        graph,
        samples,
        teacher,
        checkpoint,
        method=method,
        judged=judged,
        metric=metric,
        **options,
    )
    judge = OutcomeJudge(
        graph, rows_of(samples, graph), evaluation=judged, original=teacher, metric=metric
    )
    where = console()
    page = None
    if report:
        from prunegraph.report.trained import TrainingPage

        measured = judge.metric.name if judge.metric is not None else ""
        page = TrainingPage.at(report, graph, measured, command_line())
    live = None if where.is_terminal else _told(where)
    setting = replace(
        setting,
        progress=where.print if where.is_terminal else setting.progress,
        journal=together(live, page, *map(journal_of, logs)),
    )
    with page.page.watching() if page is not None else nullcontext():
        done = _train(graph, setting, method)
        for record in done.history:
            if live is None or "epoch" not in record:
                where.print(_line(record))
        for note in done.notes:
            where.print(f"note: {note}", markup=False, soft_wrap=True)
        is_pruned = cost(done.model).params < cost(graph).params
        cuts = _cuts(done.history, is_pruned)
        before = cuts[-1] if cuts else None
        outcome = judge(done.model, before=before)
        where.print(str(outcome), soft_wrap=True)
        if page is not None:
            page.measured(done, outcome)
        # What a cut costs was asked for: training is judged by what it began with.
        is_cut = is_pruned or any("faded" in record for record in done.history)
        if not force and (before is not None or not is_cut):
            outcome.check()
        _write(done.model, graph, model, out)
    where.print(f"written to {out}")
    if page is not None:
        page.finished(done, outcome)
        where.print(f"wrote {report}")
    write_json(content.trained(done, outcome, out), json_path)


#: Methods after which a network has the layers it had.
KEEPING = ("plain", "sparse")


def _write(graph: Graph, original: Graph, model: str, out: str) -> None:
    from prunegraph import api
    from prunegraph.frontends.outputs import is_symbol, write_trained

    if is_symbol(out):
        write_trained(graph, model, out, **reading())
    else:
        api.save(graph, out, like=original)


def _cuts(history: Sequence[Mapping[str, Any]], is_pruned: bool) -> list[float]:
    """The metric behind every cut, where a method measured it: what came before was another network.

    Scales that shrank to 0 are a cut as well, unless they are cut out later. A cut with nothing trained behind it is
    the result itself.
    """
    last = len(history) - 1
    return [
        abs(record["metric"])
        for number, record in enumerate(history)
        if (
            (record["stage"].startswith("prune") and number < last)
            or ("faded" in record and not is_pruned)
        )
        and "metric" in record
    ]


def _told(where: Console) -> Journal:
    """Print every epoch as it ends: where there is no terminal, there is no bar."""
    return lambda record: where.print(_line(record))


def _line(record: Mapping[str, Any]) -> str:
    """A record of a method's history as text."""
    forms = {
        "epoch": ">3",
        "loss": ".4g",
        "macs": ",",
        "params": ",",
        "metric": ".4g",
        "faded": ".1%",
    }
    return f"{record['stage']}: " + "  ".join(
        f"{k} {record[k]:{form}}" for k, form in forms.items() if k in record
    )


def _setting(
    graph: Graph,
    data: Data,
    teacher: Graph | None,
    checkpoint: str | None,
    *,
    method: str,
    judged: Data | None,
    metric: str,
    batch: int,
    probabilities: bool,
    device: str | None,
    ratio: float | None,
    macs: str | None,
    params: str | None,
    kinds: Mapping[str, Kind],
    losses: Sequence[str],
    match: Sequence[str],
    augment: str | None,
    epochs: int | None,
    mixup: float | None,
    lr: float | None,
    **numbers: Any,
) -> TrainingOptions:
    """Say what a method needs, by the options of the command. Raises PrunegraphError."""
    from prunegraph.data.augment import augmentation
    from prunegraph.data.image_input import need_image_input
    from prunegraph.selection.budget import Budget
    from prunegraph.training import TrainingConfig, TrainingOptions, measure
    from prunegraph.training.batching import batching
    from prunegraph.training.device import find_device
    from prunegraph.training.labels import check

    if device is not None:
        find_device(device)
    bounds: dict[str, Any] = {"ratio": ratio, "macs": macs, "params": params}
    free = batching(teacher or graph, data).graph
    if judged is not None:
        check(judged)
    usual = None
    if teacher is not None and only_distils(losses) and not check(data):
        usual = defaults_of(graph, teacher, method)
    if epochs is None:
        steps = max(data.samples // batch, 1)
        epochs = max(EPOCHS, -(-usual.steps // steps)) if usual is not None else EPOCHS
    if mixup is None:
        mixup = usual.mixup if usual is not None else 0.0
    if augment is None:
        augment = usual.augment if usual is not None else "none"
    if lr is None:
        is_sgd = numbers["optimizer"] == "sgd"
        lr = usual.lr if usual is not None and is_sgd else LR
    if usual is not None and not losses:
        losses = usual.losses
    return TrainingOptions(
        data=data,
        batch=batch,
        loss=_loss(
            graph,
            teacher,
            data,
            losses,
            match,
            probabilities=probabilities,
            device=device,
            kinds=kinds,
        ),
        recipe=TrainingConfig(epochs=epochs, mixup=mixup, lr=lr, **numbers),
        evaluate=measure(judged, free, metric) if judged is not None else None,
        budget=Budget(**bounds)
        if any(value is not None for value in bounds.values())
        else None,
        augment=augmentation(augment, need_image_input(graph, "--augment"))
        if augment not in ("", "none")
        else None,
        checkpoint=Path(checkpoint) if checkpoint else None,
        device=device,
    )


def _loss(
    graph: Graph,
    teacher: Graph | None,
    data: Data,
    losses: Sequence[str],
    match: Sequence[str],
    *,
    probabilities: bool,
    device: str | None,
    kinds: Mapping[str, Kind],
) -> Loss:
    """The losses that are named; cross entropy with labels, distillation with a teacher, half of each with both.

    Raises DataError, and what `loss_of` raises.
    """
    from prunegraph.training import GraphModule
    from prunegraph.training.batching import batching
    from prunegraph.training.labels import check
    from prunegraph.training.tasks import LossContext, loss_of

    labelled = check(data)
    if teacher is None and kinds:
        raise DataError("--kind says what outputs of --original are learnt as: give that")
    if teacher is None and not labelled and not losses:
        raise DataError(
            "the data have no labels: give --original, the model whose outputs to learn, or a --loss of your own"
        )
    if match and not any("features" in loss for loss in losses):
        raise DataError("--match names values for the loss features: give --loss features")
    original = None
    if teacher is not None:
        original = GraphModule(batching(teacher, data).graph).to(device).eval()
    context = LossContext(
        batching(graph, data).graph, original, probabilities, kinds, match
    )
    usual = ["0.5*distill", "0.5*cross_entropy"] if labelled else ["distill"]
    return loss_of(
        losses or (usual if original is not None else ["cross_entropy"]), context
    )
