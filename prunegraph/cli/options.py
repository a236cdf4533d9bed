"""Options that several commands share, each declared once.

An `*_option` is called where a command takes it, `@seed_option()`; a command may say more of it,
such as its own help. `*_options` are groups of options, each one decorator.
"""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from prunegraph.cli.command import Decorator, Section, option, shared
from prunegraph.cli.files import ModelFile, ReadFile, WrittenFile
from prunegraph.cli.reading import keep_reading, keep_shapes, load_plugins


class LayerName(click.types.StringParamType):
    """A layer, a module or a pattern; shells complete the layers of an ONNX file that stands before."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        from prunegraph import api
        from prunegraph.errors import PrunegraphError
        from prunegraph.graph.layer_names import layer_names

        # What is in front of an option without its value is not parsed yet.
        words = [str(ctx.params.get("model") or ""), *ctx.args]
        model = next((word for word in words if word.endswith(".onnx")), None)
        if model is None:
            return []
        try:
            names = layer_names(api.load(model))
        except PrunegraphError:
            return []
        known = dict.fromkeys([*names.values(), *names])
        return [CompletionItem(name) for name in known if name.startswith(incomplete)]


class Registered(click.types.StringParamType):
    """A registered name, perhaps with options (`l2:producer`); plug-ins add others to the `names` built in."""

    def __init__(self, *names: str):
        self.names = names

    def __str__(self) -> str:
        return ", ".join(self.names)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        return [CompletionItem(name) for name in self.names if name.startswith(incomplete)]


# Named here, because help must not wait for the modules that register them; a test compares.

ALGORITHMS = Registered(
    *(
        "apoz",
        "bn_scale",
        "chip",
        "existing_se",
        "exec",
        "fisher",
        "fpgm",
        "gfr",
        "hrank",
        "l1",
    ),
    *("l2", "lamp", "obs", "random", "taylor", "thinet", "wanda", "weight_stats"),
)
ALLOCATIONS = Registered("damage", "global", "isomorphic", "sensitivity", "uniform")
REPAIRS = Registered("none", "absorb", "bn", "least-squares")
METRICS = Registered(
    *("error", "agreement", "kl", "cosine", "top1", "f1", "miou", "map", "map50"),
    *("perplexity", "word_accuracy"),
)
RUNTIMES = Registered("onnxruntime", "openvino")
WIDTHS = ("tensorrt", "openvino", "ncnn", "qnn", "coreml", "litert")
TRAINING_METHODS = Registered("plain", "sparse", "gfr", "joint", "cycles")


#: Types of parameters that name files; recipes go by them.
READ, MODEL, WRITTEN = ReadFile(), ModelFile(), WrittenFile()

LAYER = LayerName()


def model_argument(name: str = "model", **more: Any) -> Decorator:
    """An argument that names a model."""
    return click.argument(name, type=MODEL, **more)


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator."""

    def add(function: Any) -> Any:
        for each in reversed(options):
            function = each(function)
        return function

    return add


# What a MODEL is read with; `loading` takes it from the context.

#: For every command that reads a model or chooses: what plug-ins register is there before the command runs.
plugin_option = shared(
    Section.READING,
    "--plugin",
    multiple=True,
    metavar="FILE_OR_MODULE",
    expose_value=False,
    callback=load_plugins,
    help="Python file or module that registers algorithms, front ends or rules (repeatable).",
)

#: For every command that reads a MODEL: what some front ends need besides it, and plug-ins.
reading_options = together(
    option(
        Section.READING,
        "--inputs",
        type=READ,
        metavar="FILE",
        expose_value=False,
        callback=keep_reading,
        help="Example inputs (.npz) of a PyTorch model that package.module:factory makes without.",
    ),
    option(
        Section.READING,
        "--params-file",
        type=READ,
        metavar="FILE",
        expose_value=False,
        callback=keep_reading,
        help="The .params file of an MXNet symbol, if it is not beside it.",
    ),
    option(
        Section.READING,
        "--input-shape",
        "input_shapes",
        multiple=True,
        metavar="NAME=1,3,224,224",
        expose_value=False,
        callback=keep_shapes,
        help="The shape of an input: sizes that an ONNX file leaves open become fixed, an MXNet symbol "
        "gets what it does not hold (repeatable).",
    ),
    plugin_option(),
)


# Files.

output_option = shared(
    Section.OUTPUT,
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
    Section.REPAIR,
    "--preprocess",
    metavar="CHAIN",
    expose_value=False,
    callback=_keep_preprocess,
    help="What becomes of images: imagenet, yolo, clip, none, a chain (resize=256,crop=224,scale=1/255,...) or a "
    "preprocessor_config.json; of texts: a tokenizer.json. Guessed without.",
)


def data_option(text: str | None = None, **more: Any) -> Decorator:
    """Declare `--data`, and what becomes of it."""
    data = shared(Section.REPAIR, "--data", type=READ, metavar="SOURCE")
    return together(data(text, **more), preprocess_option())


mask_input_option = shared(
    Section.REPAIR,
    "--mask-input",
    metavar="NAME",
    help="The input that is 0 where data do not count, or none. Default: attention_mask, if there is one.",
)
evaluation_option = shared(
    Section.REPAIR, "--eval", "evaluation", type=READ, metavar="SOURCE"
)
json_option = shared(
    Section.OUTPUT,
    "--json",
    "json_path",
    type=WRITTEN,
    metavar="[FILE]",
    is_flag=False,
    flag_value="-",
    help="Write what was done as JSON; without FILE, or with -, to stdout.",
)
#: What would be done, and nothing else.
dry_run_option = shared(Section.GENERAL, "--dry-run", is_flag=True)
report_option = shared(Section.OUTPUT, "--report", type=WRITTEN, metavar="FILE")
report_options = together(
    report_option("Write an HTML page: totals, widths, fixed layers, the proof."),
    option(
        Section.OUTPUT,
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
    Section.REMOVE,
    "--macs",
    metavar="X",
    help="Upper bound on MACs: a fraction (0.5) or an amount (2.1G).",
)
params_option = shared(
    Section.REMOVE,
    "--params",
    metavar="X",
    help="Upper bound on parameters: a fraction or an amount (1.2M).",
)
latency_option = shared(Section.REMOVE, "--latency", metavar="X")
metric_option = shared(Section.MEASURING, "--metric", type=METRICS, metavar="NAME")
tolerance_option = shared(Section.REMOVE, "--tolerance", type=float)
target_option = shared(Section.METHOD, "--target", show_default=True)
rank_option = shared(Section.REMOVE, "--rank", metavar="RULE")


float_option = shared(
    Section.METHOD, "--float", "float_layers", type=LAYER, multiple=True, metavar="LAYER"
)


# What is chosen, and how.

keep_option = shared(
    Section.CHOOSE,
    "--keep",
    type=LAYER,
    multiple=True,
    metavar="LAYER",
    help="A layer, module or pattern (encoder.layer.0.*, re:...) whose channels all stay (repeatable).",
)
attention_option = shared(
    Section.CHOOSE,
    "--attention",
    type=click.Choice(["heads", "head_dim"]),
    help="What is pruned in attention.",
)
blocks_option = shared(
    Section.CHOOSE,
    "--blocks",
    type=click.Choice(["alike", "own", "both"]),
    default="alike",
    show_default=True,
    help="Which channels heads, and groups of a convolution, lose: the same ones, or each its own, equally many; "
    "both: and whole heads or groups besides.",
)
rotate_option = shared(
    Section.CHOOSE,
    "--rotate",
    type=click.Choice(["never", "auto", "always"]),
    default="auto",
    show_default=True,
    help="Give channels that pass only what is linear another basis first; auto: with --data, for obs; always: streams "
    "with RMS normalisation, too.",
)
allow_io_option = shared(
    Section.CHOOSE,
    "--allow-io",
    multiple=True,
    metavar="NAME",
    help="An input or output whose axes may lose indices (past*, present*): a key/value cache (repeatable).",
)
seed_option = shared(
    Section.CHOOSE,
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Of random numbers.",
)
choice_options = together(
    option(
        Section.CHOOSE,
        "--algorithm",
        type=ALGORITHMS,
        metavar="NAME",
        help=f"What chooses channels, as in l2:producer: {ALGORITHMS} (`prunegraph algorithms`). "
        "Default: obs with --data, else l2.",
    ),
    keep_option(),
    attention_option(),
    blocks_option(),
    seed_option(),
)
depth_option = shared(
    Section.REMOVE,
    "--depth",
    type=click.Choice(["never", "auto", "only"]),
    default="never",
    show_default=True,
    help="Whether residual branches go as a whole: auto weighs them against channels, only takes nothing else.",
)
ranks_option = shared(
    Section.REMOVE,
    "--ranks",
    type=click.Choice(["never", "auto"]),
    default="auto",
    show_default=True,
    help="Whether layers may be written as several of low rank; auto: with --data, where that leaves least error.",
)
curvature_option = shared(
    Section.CHOOSE,
    "--curvature",
    type=click.Choice(["never", "auto"]),
    default="auto",
    show_default=True,
    help="Weigh errors of a layer by what they do at the outputs (gradients); auto: with --data, for obs, where "
    "PyTorch is installed.",
)
allocation_option = shared(
    Section.CHOOSE,
    "--allocation",
    type=ALLOCATIONS,
    metavar="NAME",
    help=f"How the budget is shared among groups, as in global:max: {ALLOCATIONS}.",
)


def _width(ctx: click.Context, parameter: click.Parameter, value: str) -> int:
    """A multiple of channels, as a number or as the name of a runtime."""
    from prunegraph.selection.widths import PRESETS, multiple

    width = _number(multiple(value))
    if isinstance(width, str):
        raise click.BadParameter(
            f"{value!r} is neither a number nor one of {', '.join(PRESETS)}"
        )
    return width


def _number(value: int | str) -> int | str:
    """Digits as a number."""
    text = str(value)
    return int(text) if text.lstrip("-").isdigit() else text


round_to_option = shared(
    Section.CHOOSE,
    "--round-to",
    show_default=True,
    metavar="N|RUNTIME",
    callback=_width,
)
min_channels_option = shared(
    Section.CHOOSE,
    "--min-channels",
    type=int,
    default=1,
    show_default=True,
    help="Channels that stay in every group.",
)


# What becomes of a result.

repair_option = shared(
    Section.REPAIR,
    "--repair",
    type=REPAIRS,
    metavar="NAME",
    help=f"How accuracy is recovered: {REPAIRS}. Default: least-squares with --data, else none.",
)
quantize_option = shared(
    Section.OUTPUT,
    "--quantize",
    type=click.Choice(["int8", "int4", "int16"]),
    help="Then quantize; the type of weights.",
)
dtype_option = shared(
    Section.OUTPUT,
    "--dtype",
    type=click.Choice(["float16", "bfloat16"]),
    help="Then floats of 16 bits: the graph in float16, or its weights in bfloat16.",
)
no_verify_option = shared(
    Section.OUTPUT, "--no-verify", is_flag=True, help="Skip the proof."
)
proof_options = together(
    option(
        Section.OUTPUT,
        "--save-plan",
        type=WRITTEN,
        metavar="FILE",
        help="Write the plan as JSON.",
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
    return _number(value)


#: For commands that choose and cut.
result_options = together(
    allocation_option(),
    repair_option(),
    round_to_option(
        "Kept channels are a multiple of this; auto measures which multiple is best, a name stands for what that "
        f"runtime likes: {', '.join(WIDTHS)}.",
        default="8",
        metavar="N|auto|RUNTIME",
        callback=_round_to,
    ),
    min_channels_option(),
    option(
        Section.CHOOSE,
        "--ratio-for",
        type=LAYER,
        multiple=True,
        metavar="LAYER=R",
        callback=_ratio_for,
        help="A ratio of its own for a layer, module or pattern (repeatable).",
    ),
    option(
        Section.CHOOSE,
        "--same-width",
        is_flag=True,
        help="All layers stay alike: as many channels, heads and head sizes in each.",
    ),
    proof_options,
)


# Measuring.

provider_option = shared(
    Section.MEASURING,
    "--provider",
    help="The runtime's device to measure on: an execution provider, or OpenVINO's.  [default: CPU]",
)
runtime_option = shared(
    Section.MEASURING,
    "--runtime",
    type=RUNTIMES,
    metavar="NAME",
    default="onnxruntime",
    show_default=True,
    help=f"Where models are measured, and the result is opened besides: {RUNTIMES}.",
)
threads_option = shared(
    Section.MEASURING,
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
    option(
        Section.MEASURING,
        "--jobs",
        type=click.IntRange(1),
        help="Worker processes. Default: one for each core.",
    ),
    option(
        Section.MEASURING,
        "--cluster",
        metavar="ADDRESS",
        help="A Dask scheduler (tcp://host:port) or Ray (ray:host:port), instead of processes.",
    ),
    option(
        Section.MEASURING,
        "--resume",
        type=WRITTEN,
        metavar="FILE",
        help="Keep what is measured in FILE, and go on from what it has.",
    ),
    json_option(),
)


# Training.

epochs_option = shared(Section.TRAINING, "--epochs", show_default=True)
lr_option = shared(Section.TRAINING, "--lr", type=float, default=0.01, show_default=True)
batch_option = shared(
    Section.TRAINING, "--batch", type=click.IntRange(1), show_default=True
)
checkpoint_option = shared(Section.TRAINING, "--checkpoint", type=WRITTEN, metavar="FILE")
probabilities_option = shared(
    Section.TRAINING,
    "--probabilities",
    is_flag=True,
    help="The first output holds probabilities, not logits.",
)
