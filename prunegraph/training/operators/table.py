"""The table of operators: (domain, operator) -> a function on torch tensors, and what they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import onnx
import torch

from prunegraph.errors import ModelError, PluginError
from prunegraph.graph.model import Node

Tensor: TypeAlias = torch.Tensor

#: What flows along the edges of a graph: a tensor, or a sequence of tensors; None where an input is left out.
Value: TypeAlias = Any
Function = Callable[..., Any]
F = TypeVar("F", bound=Function)

#: Torch's types by ONNX's.
DTYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.UINT16: torch.uint16,
    onnx.TensorProto.UINT32: torch.uint32,
    onnx.TensorProto.UINT64: torch.uint64,
}

#: Unsigned types that torch stores but hardly computes with.
STORED_ONLY = (torch.uint16, torch.uint32, torch.uint64)


class Mode(NamedTuple):
    """How a module runs: whether it is trained, and then whether BatchNormalization uses the batch's statistics."""

    training: bool = False
    by_batch: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """One execution of a node: its attributes, its operator's version, and the module's mode."""

    node: Node
    training: bool = False
    #: Whether a QuantizeLinear keeps its codes as floating-point numbers, for gradients.
    fake: bool = False
    #: ONNX type of the input that gives the output's type, where it is known: 4 bits are stored in 8.
    code_type: int = 0
    #: Whether statistics of BatchNormalization are the batch's while the module is trained.
    by_batch: bool = True

    @property
    def version(self) -> int:
        """Version of the operator set that the model imports."""
        return self.node.version

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute; text as `str`."""
        value = self.node.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def has(self, name: str) -> bool:
        return name in self.node.attributes

    @property
    def outputs(self) -> int:
        """Number of outputs, those left out included."""
        return len(self.node.outputs)

    def wanted(self, slot: int) -> bool:
        """Tell whether the node has an output at that slot."""
        return slot < len(self.node.outputs) and bool(self.node.outputs[slot])

    def refuse(self, what: str) -> ModelError:
        """An error for a variant of the operator that is not there."""
        return ModelError(
            f"{self.node.op} {self.node.name!r}: {what} cannot be run as a PyTorch module; "
            "train the model in its own framework, or export it without this"
        )


@dataclass(frozen=True)
class Operator:
    """A function `(call, *inputs) -> output or outputs`; inputs left out are None.

    `host` are slots whose values are sizes or positions that Python reads; they stay on the CPU.
    """

    function: Function
    host: frozenset[int] = frozenset()


OPERATORS: dict[tuple[str, str], Operator] = {}


def operator(*names: str, domain: str = "", host: Sequence[int] = ()) -> Callable[[F], F]:
    """Decorator that puts a function into the table.

    Args:
        names: operators it runs.
        domain: their domain; "" is ONNX's own.
        host: slots of inputs that Python reads (sizes, positions).

    Raises:
        PluginError: an operator has a function already.
    """

    def store(function: F) -> F:
        for name in names:
            if (domain, name) in OPERATORS:
                raise PluginError(
                    f"operator {name!r} of domain {domain!r} has a function already"
                )
            OPERATORS[domain, name] = Operator(function, frozenset(host))
        return function

    return store


def lookup(node: Node) -> Operator:
    """The function of a node's operator. Raises ModelError, which names both."""
    match = OPERATORS.get((node.domain, node.op))
    if match is None:
        name = f"{node.domain}.{node.op}" if node.domain else node.op
        raise ModelError(
            f"operator {name} of node {node.name!r} cannot be run as a PyTorch module: register a function for it with "
            f"{__name__}.operator({node.op!r}{f', domain={node.domain!r}' if node.domain else ''})"
        )
    return match


def ints(values: Tensor | Sequence[int] | None) -> list[int] | None:
    """Whole numbers of a tensor or attribute as a list; None stays."""
    if values is None:
        return None
    flat = values.reshape(-1).tolist() if isinstance(values, torch.Tensor) else values
    return [int(value) for value in flat]


def axes_of(call: Call, given: Tensor | None, name: str = "axes") -> list[int] | None:
    """Axes that a node names, by an input or by an attribute."""
    return ints(given) if given is not None else ints(call.get(name))


def scalar(value: Tensor | None, default: Any = None) -> Any:
    """The only element of a tensor as a Python number."""
    return default if value is None else value.reshape(-1)[0].item()


def to_torch(values: np.ndarray) -> Tensor:
    """A tensor with a copy of an array's values. Raises TypeError for types that torch does not have."""
    values = np.array(values, order="C")
    if values.dtype.name == "bfloat16":
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    if values.dtype.name in ("int4", "int2"):
        values = values.astype(np.int8)
    elif values.dtype.name in ("uint4", "uint2"):
        values = values.astype(np.uint8)
    return torch.from_numpy(values)


def to_numpy(values: Tensor, dtype: np.dtype[Any] | None = None) -> np.ndarray:
    """An array with the values of a tensor; `dtype` is for types that numpy has from elsewhere."""
    values = values.detach().cpu().contiguous()
    if values.dtype == torch.bfloat16:
        bits = values.view(torch.int16).numpy()
        return bits.view(
            onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
            if dtype is None
            else dtype
        )
    return values.numpy()


def pair_pads(pads: Sequence[int]) -> list[int]:
    """ONNX's pads [begins..., ends...] as torch's [last begin, last end, ..., first begin, first end]."""
    half = len(pads) // 2
    return [
        pad for axis in reversed(range(half)) for pad in (pads[axis], pads[axis + half])
    ]


def auto_pads(
    call: Call,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """Pads [begins..., ends...] of a convolution or a pool, as its attributes say."""
    mode = call.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return list(call.get("pads", [0] * (2 * len(kernel))))
    if mode == "VALID":
        return [0] * (2 * len(kernel))
    begins, ends = [], []
    for size, width, stride, dilation in zip(
        sizes, kernel, strides, dilations, strict=True
    ):
        total = max(
            (math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0
        )
        pruned, large = total // 2, total - total // 2
        begins.append(large if mode == "SAME_LOWER" else pruned)
        ends.append(pruned if mode == "SAME_LOWER" else large)
    return begins + ends
