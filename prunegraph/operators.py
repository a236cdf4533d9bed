"""What is known of operators besides how channels travel through them: one record an operator.

A record stands beside the operator's rule, in the file of its family in `ops/`, which calls `describe`. Everybody else
asks: `is_convolution(node)`, `passes(node, "codes")`, `info(node).numbers`. No other module lists operators to say what
they are, so an operator is added, or understood, in one place. The table fills itself at the first question.

An operator of another domain that is not described there is taken for the standard operator of its name.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from prunegraph.errors import PluginError

if TYPE_CHECKING:
    import onnx

#: Operators that are asked for one by one.
Kind = Literal[
    "",
    "addition",
    "batch normalization",
    "cast",
    "concatenation",
    "constant",
    "convolution",
    "dequantization",
    "dropout",
    "flattening",
    "gathering",
    "gathering from blocks",
    "gemm",
    "identity",
    "matrix product",
    "maximum pooling",
    "multiplication",
    "quantization",
    "reshaping",
    "resizing",
    "selection of the largest",
    "softmax",
    "splitting",
    "transposed convolution",
    "transposition",
]

#: What goes through an operator unharmed, from its first input to its output:
#: `weights`: a constant, with its values in place or permuted;
#: `codes`: codes of a QuantizeLinear, which are the same codes behind it;
#: `levels`: a rectifier's output, where quantizing before it or behind it is the same;
#: `normals`: the output of a BatchNormalization, which stays normalised enough;
#: `samples`: the distribution of a channel, as far as estimates without data go;
#: `scores`: scores of classes, on the axis where they were;
#: `channels`: axes 0 and 1, while others are reduced or stretched;
#: `scales`: a DequantizeLinear, which ONNX Runtime moves through it;
#: `integers`: in float, what others have moved in integers for a layer behind it.
Passing = Literal[
    "weights",
    "codes",
    "levels",
    "normals",
    "samples",
    "scores",
    "channels",
    "scales",
    "integers",
]

#: How an operator mixes what goes through it, linearly: `alike` every element by itself, all by the same factor;
#: `places` of axes behind axis 1, with the same factors for all channels; a `sum` of its operands; a `product` of one
#: operand with the others; a `quotient`; a `reduction`: sum or mean over axes. A `power`, and a reduction of `squares`,
#: are not linear, but a sum of the squares of all channels is the same in every orthogonal basis.
Mixing = Literal[
    "",
    "alike",
    "places",
    "sum",
    "product",
    "quotient",
    "reduction",
    "power",
    "squares",
]


@dataclass(frozen=True, kw_only=True)
class OperatorInfo:
    """What is known of an operator. The defaults claim nothing.

    Args:
        kind: its name among those that are asked for one by one.
        roles: names of the inputs that hold weights, by slot; others take the schema's own names.
        is_layer: it contracts its data with a weight: a layer as users think of one.
        weight_slots: where a layer's weight may be, the usual slot first.
        weight_form: axes of a layer's weight: `filters` [outputs, inputs of a group, ...], `turned filters`
            [inputs, outputs of a group, ...], `gemm` a matrix that `transB` turns, `matrix` [..., inputs, outputs].
        channel_axis: the axis of a layer's output that holds its channels.
        is_integer: a layer whose weight is integers.
        is_linear: a layer with a float weight that may be refitted, and whose inputs have Gram matrices.
        folds: a layer that can take a factor and a shift of its outputs into its weights.
        has_window: a window moves over the data (kernel, stride, pads).
        is_recurrent: it goes along a sequence [steps, batch, ...].
        states: slots of a recurrent operator's initial states [directions, batch, hidden].
        moves: its output holds elements of its first input, unchanged: `all` of them, or a `part`; `joins` where they
            come from several inputs, or are repeated.
        passes: what goes through it unharmed.
        quantized: what it does between integers: it `moves` them (output and input have one scale; only slot 0 is
            data), or it `computes` with them.
        shape: its output has the shape and type of the first `input`, or of two that `broadcast`, as ONNX's inference
            says too; `function` where it is like the first input and ONNX's inference does not open it.
        numbers: slots that say what it does (sizes, axes, positions, bounds); all others hold data.
        indices: the second input holds places, along an `axis` of the first or along its `leading` axes.
        lengths: the slot that holds lengths of an axis.
        unread: slots of which only shape or type matters.
        is_random: it gives another result each time.
        decides: it decides by the order of values.
        is_flat: its ends are flat: far out there, outputs are nothing but rounding.
        bounds: the least and the most that it lets through, where that is always the same.
        is_bounded: what it makes is bounded, so that it makes a gate.
        adds: variances of its operands add.
        mixes: how it mixes what goes through it, where its output is linear in each input (none is added to it) or
            made of squares.
    """

    kind: Kind = ""
    roles: tuple[str, ...] = ()
    is_layer: bool = False
    weight_slots: tuple[int, ...] = (1,)
    weight_form: Literal["filters", "turned filters", "gemm", "matrix"] = "matrix"
    channel_axis: int | None = None
    is_integer: bool = False
    is_linear: bool = False
    folds: bool = False
    has_window: bool = False
    is_recurrent: bool = False
    states: tuple[int, ...] = ()
    moves: Literal["", "all", "part", "joins"] = ""
    passes: tuple[Passing, ...] = ()
    quantized: Literal["", "moves", "computes"] = ""
    shape: Literal["", "input", "broadcast", "function"] = ""
    numbers: tuple[int, ...] = ()
    indices: Literal["", "axis", "leading"] = ""
    lengths: int | None = None
    unread: tuple[int, ...] = ()
    is_random: bool = False
    decides: bool = False
    is_flat: bool = False
    bounds: tuple[float, float] | None = None
    is_bounded: bool = False
    adds: bool = False
    mixes: Mixing = ""


class Named(Protocol):
    """A node of a graph, as far as its operator goes."""

    @property
    def op(self) -> str:
        """Name of the operator."""

    @property
    def domain(self) -> str:
        """Domain of the operator; "" for ONNX's own."""


_UNKNOWN = OperatorInfo()
_table: dict[tuple[str, str], OperatorInfo] = {}
_is_loaded = False


def describe(info: OperatorInfo, *ops: str, domain: str = "") -> None:
    """Say what operators are. Raises PluginError for one that is described already."""
    for op in ops:
        if (domain, op) in _table:
            raise PluginError(f"operator {domain or 'ai.onnx'}::{op} is described twice")
        _table[domain, op] = info


def described() -> dict[tuple[str, str], OperatorInfo]:
    """All records by domain and operator."""
    _load()
    return dict(_table)


def info(node: Named | onnx.NodeProto) -> OperatorInfo:
    """Say what is known of a node's operator; a record that claims nothing where it is not described."""
    op: str = node.op_type if hasattr(node, "op_type") else node.op
    return lookup(op, node.domain)


def lookup(op: str, domain: str = "") -> OperatorInfo:
    """Say what is known of an operator, by name."""
    if not _is_loaded:
        _load()
    return _table.get((domain, op)) or _table.get(("", op), _UNKNOWN)


#: Modules that fill the table when they are imported, as plug-ins do.
FAMILIES = ("prunegraph.ops",)


def _load() -> None:
    """Import the families, which describe their operators; by name, since they stand above what asks here."""
    global _is_loaded
    for family in FAMILIES:
        importlib.import_module(family)
    _is_loaded = True


# -- questions ----------------------------------------------------------------------------


def passes(node: Named | onnx.NodeProto, what: Passing) -> bool:
    """Tell whether something goes through a node unharmed."""
    return what in info(node).passes


def moves_data(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node's output holds elements of its first input alone, unchanged."""
    return info(node).moves in ("all", "part")


def has_filters(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a convolution of any kind: transposed, deformed, of integers."""
    return info(node).weight_form in ("filters", "turned filters")


def is_add(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is an Add."""
    return info(node).kind == "addition"


def is_batch_normalization(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a BatchNormalization."""
    return info(node).kind == "batch normalization"


def is_cast(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a Cast."""
    return info(node).kind == "cast"


def is_concat(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a Concat."""
    return info(node).kind == "concatenation"


def is_constant(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a Constant, which holds its tensor."""
    return info(node).kind == "constant"


def is_convolution(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a Conv."""
    return info(node).kind == "convolution"


def is_transposed_convolution(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a ConvTranspose."""
    return info(node).kind == "transposed convolution"


def is_dequantize(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a DequantizeLinear."""
    return info(node).kind == "dequantization"


def is_dropout(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a Dropout."""
    return info(node).kind == "dropout"


def is_flatten(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a Flatten."""
    return info(node).kind == "flattening"


def is_gather(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a Gather."""
    return info(node).kind == "gathering"


def is_block_gather(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node picks rows of a table that is quantized in blocks: GatherBlockQuantized."""
    return info(node).kind == "gathering from blocks"


def is_gemm(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a Gemm."""
    return info(node).kind == "gemm"


def is_identity(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is an Identity."""
    return info(node).kind == "identity"


def is_matmul(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a MatMul."""
    return info(node).kind == "matrix product"


def is_max_pool(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a MaxPool."""
    return info(node).kind == "maximum pooling"


def is_multiply(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a Mul."""
    return info(node).kind == "multiplication"


def is_quantize(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a QuantizeLinear."""
    return info(node).kind == "quantization"


def is_reshape(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a Reshape."""
    return info(node).kind == "reshaping"


def is_resize(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a Resize, or an Upsample, as it was called before."""
    return info(node).kind == "resizing"


def is_softmax(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a Softmax."""
    return info(node).kind == "softmax"


def is_top_k(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a TopK."""
    return info(node).kind == "selection of the largest"


def is_split(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a Split."""
    return info(node).kind == "splitting"


def is_transpose(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node is a Transpose."""
    return info(node).kind == "transposition"


def measures(node: Named | onnx.NodeProto) -> bool:
    """Tell whether a node tells the size of its input, and reads nothing else of it: Shape and Size."""
    return 0 in info(node).unread
