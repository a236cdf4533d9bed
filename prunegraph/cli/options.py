"""Options that several commands share, each declared once.

An `*_option` is called where a command takes it, `@seed_option()`; a command may say more of it,
such as its own help. `*_options` are groups of options, each one decorator.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Any], Any]


class ReadFile(click.types.StringParamType):
    """A file that a command reads; or code that makes what would be in it, as in `file.py:function`."""


class ModelFile(ReadFile):
    """A model that a command reads; or a factory that makes it, as in `package.module:function`."""


class WrittenFile(click.types.StringParamType):
    """A file that a command writes."""


#: Types of parameters that name files; recipes go by them.
READ, MODEL, WRITTEN = ReadFile(), ModelFile(), WrittenFile()


def shared(*names: str, **common: Any) -> Callable[..., Decorator]:
    """Declare an option that several commands have."""

    def option(text: str | None = None, **more: Any) -> Decorator:
        if text is not None:
            more["help"] = text
        return click.option(*names, **{**common, **more})

    return option


def model_argument(name: str = "model", **more: Any) -> Decorator:
    """An argument that names a model."""
    return click.argument(name, type=MODEL, **more)


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator."""

    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add


# What a MODEL is read with; `loading` takes it from the context.

#: Where a context keeps what a front end needs besides the model.
READING = "prunegraph.reading"


def reading() -> dict[str, Any]:
    """Say what the reading options of a command say."""
    return dict(click.get_current_context().meta.get(READING, {}))


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


def _load_plugins(
    ctx: click.Context, parameter: click.Parameter, sources: tuple[str, ...]
) -> None:
    from prunegraph import plugins

    for source in sources:
        plugins.load(source)


#: For every command that reads a model or chooses: what plug-ins register is there before the command runs.
plugin_option = shared(
    "--plugin",
    multiple=True,
    metavar="FILE_OR_MODULE",
    expose_value=False,
    callback=_load_plugins,
    help="Python file or module that registers algorithms, front ends or rules (repeatable).",
)

#: For every command that reads a MODEL: what some front ends need besides it, and plug-ins.
reading_options = together(
    click.option(
        "--inputs",
        type=READ,
        metavar="FILE",
        expose_value=False,
        callback=_keep_reading,
        help="Example inputs (.npz) of a PyTorch model that package.module:factory makes without.",
    ),
    click.option(
        "--params-file",
        type=READ,
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
    plugin_option(),
)


# Files.

output_option = shared(
    "-o",
    "--output",
    "out",
    type=WRITTEN,
    required=True,
    metavar="OUT",
    help="Where the pruned model goes.",
)


#: Where a context keeps what becomes of images and texts before a model gets them.
PREPROCESS = "prunegraph.preprocess"


def preprocess_said() -> str:
    """What `--preprocess` says; nothing where it is not given."""
    text: str = click.get_current_context().meta.get(PREPROCESS, "")
    return text


def _keep_preprocess(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> None:
    ctx.meta[PREPROCESS] = value or ""


preprocess_option = shared(
    "--preprocess",
    metavar="CHAIN",
    expose_value=False,
    callback=_keep_preprocess,
    help="What becomes of images: imagenet, yolo, clip, none, a chain (resize=256,crop=224,scale=1/255,...) or a "
    "preprocessor_config.json; of texts: a tokenizer.json. Guessed without.",
)


def data_option(text: str | None = None, **more: Any) -> Decorator:
    """Declare `--data`, and what becomes of it."""
    data = shared("--data", type=READ, metavar="SOURCE")
    return together(data(text, **more), preprocess_option())


mask_input_option = shared(
    "--mask-input",
    metavar="NAME",
    help="The input that is 0 where data do not count, or none. Default: attention_mask, if there is one.",
)
evaluation_option = shared("--eval", "evaluation", type=READ, metavar="SOURCE")
json_option = shared("--json", "json_path", type=WRITTEN, metavar="FILE")
report_option = shared("--report", type=WRITTEN, metavar="FILE")
report_options = together(
    report_option("Write an HTML page: totals, widths, fixed layers, the proof."),
    click.option(
        "--sensitivity",
        type=READ,
        metavar="FILE",
        help="Sensitivity JSON whose curves the report shows.",
    ),
)

#: What `prune` and `apply` do with data.
REFIT = "Unlabelled inputs to refit and prove on: images, texts, .npz or file.py:function."


# Bounds.

macs_option = shared(
    "--macs", help="Upper bound on MACs: a fraction (0.5) or an amount (2.1G)."
)
params_option = shared(
    "--params", help="Upper bound on parameters: a fraction or an amount (1.2M)."
)
latency_option = shared("--latency")
metric_option = shared("--metric")
tolerance_option = shared("--tolerance", type=float)
rank_option = shared("--rank", metavar="RULE")


# What is chosen, and how.

keep_option = shared(
    "--keep",
    multiple=True,
    metavar="LAYER",
    help="A layer whose channels all stay (repeatable).",
)
attention_option = shared(
    "--attention",
    type=click.Choice(["heads", "head_dim"]),
    help="What is pruned in attention.",
)
blocks_option = shared(
    "--blocks",
    type=click.Choice(["alike", "own", "both"]),
    default="alike",
    show_default=True,
    help="Which channels heads, and groups of a convolution, lose: the same ones, or each its own, equally many; "
    "both: and whole heads or groups besides.",
)
allow_io_option = shared(
    "--allow-io",
    multiple=True,
    metavar="NAME",
    help="An input or output whose axes may lose indices (past*, present*): a key/value cache (repeatable).",
)
seed_option = shared("--seed", type=int, default=0, show_default=True)
choice_options = together(
    click.option(
        "--algorithm",
        help="What chooses channels, as in l2:producer. Default: obs with --data, else l2.",
    ),
    keep_option(),
    attention_option(),
    blocks_option(),
    seed_option(),
)
depth_option = shared(
    "--depth",
    type=click.Choice(["never", "auto", "only"]),
    default="never",
    show_default=True,
    help="Whether residual branches go as a whole: auto weighs them against channels, only takes nothing else.",
)
ranks_option = shared(
    "--ranks",
    type=click.Choice(["never", "auto"]),
    default="auto",
    show_default=True,
    help="Whether layers may be written as several of low rank; auto: with --data, where that leaves least error.",
)
allocation_option = shared(
    "--allocation", help="How the budget is shared among groups, as in global:max."
)
round_to_option = shared("--round-to", show_default=True)
min_channels_option = shared(
    "--min-channels",
    type=int,
    default=1,
    show_default=True,
    help="Channels that stay in every group.",
)


# What becomes of a result.

repair_option = shared(
    "--repair",
    help="none, absorb, bn or least-squares. Default: least-squares with --data, else none.",
)
quantize_option = shared(
    "--quantize",
    type=click.Choice(["int8", "int4", "int16"]),
    help="Then quantize; the type of weights.",
)
no_verify_option = shared("--no-verify", is_flag=True, help="Skip the proof.")
proof_options = together(
    click.option(
        "--save-plan", type=WRITTEN, metavar="FILE", help="Write the plan as JSON."
    ),
    no_verify_option(),
)


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


#: For commands that choose and cut.
result_options = together(
    allocation_option(),
    repair_option(),
    round_to_option(
        "Kept channels are a multiple of this; auto measures which multiple is best.",
        default="8",
        metavar="N|auto",
        callback=_round_to,
    ),
    min_channels_option(),
    click.option(
        "--ratio-for",
        multiple=True,
        metavar="LAYER=R",
        callback=_ratio_for,
        help="A ratio of its own (repeatable).",
    ),
    click.option(
        "--same-width",
        is_flag=True,
        help="All layers stay alike: as many channels, heads and head sizes in each.",
    ),
    proof_options,
)


# Measuring.

provider_option = shared(
    "--provider",
    help="ONNX Runtime's execution provider to measure latency on.  [default: CPU]",
)
threads_option = shared(
    "--threads",
    type=int,
    default=1,
    show_default=True,
    help="Threads to measure latency with; 0: all.",
)

#: For commands that measure many candidates.
sweep_options = together(
    data_option(
        "Inputs from the training distribution: images, texts, .npz or file.py:function.",
        required=True,
    ),
    evaluation_option("What the metric is measured on. Default: --data."),
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
    json_option("Write all figures as JSON; - is stdout."),
)


# Training.

epochs_option = shared("--epochs", show_default=True)
lr_option = shared("--lr", type=float, default=0.01, show_default=True)
batch_option = shared("--batch", type=click.IntRange(1), show_default=True)
checkpoint_option = shared("--checkpoint", type=WRITTEN, metavar="FILE")
probabilities_option = shared(
    "--probabilities",
    is_flag=True,
    help="The first output holds probabilities, not logits.",
)
