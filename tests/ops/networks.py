"""Random networks around one operator: producers, the operator, a consumer.

A case is a function of a `Net`: it draws what it likes, makes its data with `x` or `data` (the output
of a layer whose channels run along any axis), adds the operator, and returns the value or values to
be read. `network` puts a consumer behind them, `prove_network` prunes and proves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import note, reject
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import ModelError
from prunegraph.runtime.session import run, session
from prunegraph.selection.plan import Plan, survivors
from tests.builders import Builder
from tests.oracle import outputs

MS = "com.microsoft"
DTYPES = {
    "float": np.float32,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "int8": np.int8,
    "bool": np.bool_,
}


@dataclass
class X:
    """Data of the network: `channels` run along `axis`. A size "n" is the batch, known at run time only."""

    name: str
    shape: list[Any]
    axis: int

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def c(self) -> int:
        return int(self.shape[self.axis])


class Net:
    """A network that grows while it is drawn."""

    def __init__(self, draw: st.DrawFn):
        self.draw = draw
        self.b = Builder(draw(st.integers(0, 2**16)), ir_version=10)
        self.symbolic = draw(st.booleans())
        self.attention = draw(st.sampled_from([None, "heads", "head_dim"]))
        self.kind = draw(st.sampled_from(["heads", "heads", "size", "size", "steps"]))
        #: Channels that stay at least: a normalisation of a single element says nothing.
        self.least = 1

    # -- choices -----------------------------------------------------------------------

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def int(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def float(self, low: float, high: float) -> float:
        return self.draw(st.integers(0, 64)) / 64 * (high - low) + low

    def opset(self, *versions: int) -> int:
        self.b.opset = self.pick(*versions)
        return self.b.opset

    def maybe(self, **attributes: Any) -> dict[str, Any]:
        """Some of the attributes, the others at their defaults."""
        return {name: value for name, value in attributes.items() if self.flag()}

    def axis(self, axis: int, rank: int) -> int:
        """The axis, or the same counted from the end."""
        return axis - rank * self.flag()

    def along(self, x: X) -> int:
        """An axis for the operator to look along: mostly not that of the channels, never the batch."""
        known = [axis for axis, size in enumerate(x.shape) if size != "n"]
        return self.pick(*known, *(axis for axis in known if axis != x.axis))

    def axes(self, rank: int, least: int = 1, of: Sequence[int] | None = None) -> list[int]:
        """Some axes, from the start or from the end."""
        among = list(range(rank)) if of is None else list(of)
        return [
            self.axis(a, rank)
            for a in self.draw(
                st.lists(st.sampled_from(among), min_size=least, unique=True)
            )
        ]

    def perm(self, rank: int) -> list[int]:
        return list(self.draw(st.permutations(range(rank))))

    def draw_order(self, values: Sequence[Any]) -> list[Any]:
        return list(self.draw(st.permutations(list(values))))

    @property
    def rng(self) -> np.random.Generator:
        return self.b.rng

    # -- values ------------------------------------------------------------------------

    def x(
        self,
        shape: Sequence[Any],
        axis: int = 1,
        *,
        low: float | None = None,
        high: float = 1.0,
    ) -> X:
        """The output of a layer: numbers of either sign, or between `low` and `high`."""
        shape, rank, c = list(shape), len(shape), int(shape[axis])
        axis %= rank
        source = self.b.input(
            *shape[:axis], 3, *shape[axis + 1 :], name=f"x{len(self.b.inputs)}"
        )
        name = f"maker{len(self.b.inputs)}"
        if axis == 1 and rank in (3, 4, 5) and self.flag():
            k = self.pick(1, 3)
            kernel = self.b.weight(c, 3, *[k] * (rank - 2))
            bias = [self.b.weight(c)] if self.flag() else []
            y = self.b.op(
                "Conv", source, kernel, *bias, name=name, pads=[k // 2] * (2 * (rank - 2))
            )
        elif axis == 1 and rank == 2 and self.flag():
            y = self.b.op(
                "Gemm", source, self.b.weight(c, 3), self.b.weight(c), name=name, transB=1
            )
        else:
            last = [i for i in range(rank) if i != axis] + [axis]
            y = source if axis == rank - 1 else self.b.op("Transpose", source, perm=last)
            y = self.b.op("MatMul", y, self.b.weight(3, c, scale=0.6), name=name)
            y = (
                y
                if axis == rank - 1
                else self.b.op("Transpose", y, perm=[int(i) for i in np.argsort(last)])
            )
        if low is not None:
            y = self.b.op(
                "Mul", self.b.op("Sigmoid", y), self.b.const(high - low, np.float32)
            )
            y = self.b.op("Add", y, self.b.const(low, np.float32))
        return X(y, shape, axis)

    def data(
        self,
        least: int = 2,
        most: int = 4,
        *,
        axes: Sequence[int] | None = None,
        **given: Any,
    ) -> X:
        """Data of a random rank and shape, channels along a random axis (of `axes`)."""
        rank = self.int(least, most)
        axis = self.pick(*[a for a in (axes or range(rank)) if a < rank])
        shape: list[Any] = [self.int(1, 4) for _ in range(rank)]
        shape[axis] = self.int(3, 8)
        if self.symbolic and axis:
            shape[0] = "n"
        return self.x(shape, axis, **given)

    def image(
        self,
        c: int | None = None,
        dims: Sequence[int] = (1, 2, 3),
        size: tuple[int, int] = (4, 6),
    ) -> X:
        """Data of a convolution: batch, channels, spatial axes."""
        batch = "n" if self.symbolic else self.int(1, 2)
        space = [self.int(*size) for _ in range(self.pick(*dims))]
        return self.x([batch, c or self.int(3, 8), *space])

    def like(
        self, x: X, *, weight: bool = True, wide: bool = False, **given: Any
    ) -> X | str:
        """Something to broadcast with `x`: more data, a weight, or a scalar.

        `wide` allows it to have more axes than `x`, or sizes where `x` has 1.
        """
        kind = self.pick("data", "weight", "scalar") if weight else "data"
        low = given.get("low")
        if kind == "scalar":
            return self.b.const(
                self.rng.uniform(0.5, 0.9) if low is None else low + 0.1, np.float32
            )
        shape = [
            size if self.flag() or i == x.axis else 1 for i, size in enumerate(x.shape)
        ]
        if kind == "weight":
            sizes = [1 if size == "n" else size for size in shape][self.int(0, x.axis) :]
            value = self.rng.uniform(low or 0.2, given.get("high", 0.9), sizes)
            return self.b.const(value, np.float32)
        if wide and self.flag():
            shape = [
                2 + i % 2 if of == 1 else size
                for i, (of, size) in enumerate(zip(x.shape, shape, strict=True))
            ]
        start = self.int(0, x.axis)
        return self.x(shape[start:], x.axis - start, **given)

    def cast(self, x: X | str, kind: str, scale: float = 4.0, shift: float = 0.0) -> str:
        """Data as whole numbers (around zero, `scale` wide) or booleans."""
        name = x.name if isinstance(x, X) else x
        if kind == "bool":
            return self.b.op("Greater", name, self.b.const(0, np.float32))
        y = self.b.op("Mul", name, self.b.const(scale, np.float32))
        if kind.startswith("u"):
            y = self.b.op("Abs", y)
        y = self.b.op("Add", y, self.b.const(shift, np.float32))
        return self.b.op("Cast", y, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def ints(self, *values: Any) -> str:
        return self.b.const(np.asarray(values, np.int64))

    def op(
        self,
        op: str,
        *inputs: X | str | None,
        outputs: int = 1,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add the operator; trailing missing inputs are left out."""
        names = [i.name if isinstance(i, X) else i or "" for i in inputs]
        while names and not names[-1]:
            names.pop()
        return self.b.op(op, *names, outputs=outputs, domain=domain, **attributes)

    def ops(
        self, op: str, *inputs: X | str | None, outputs: int, **attributes: Any
    ) -> list[str]:
        """Add an operator with several outputs."""
        self.op(op, *inputs, outputs=outputs, **attributes)
        return list(self.b.nodes[-1].output)

    # -- the rest of the network -------------------------------------------------------

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        contrib = any(node.domain == MS for node in self.b.nodes)
        return self.b.model(*outputs, domains=[(MS, 1)] if contrib else [])

    def finish(self, values: Sequence[str]) -> pg.Graph:
        """A consumer behind every value; their sum is the network's output."""
        samples = [self.run(values, batch) for batch in ((2, 3) if self.symbolic else (2,))]
        read = [self.read(value, [s[i] for s in samples]) for i, value in enumerate(values)]
        y = read[0]
        for other in read[1:]:
            y = self.b.op("Add", y, other)
        return pg.load(self.model([y]))

    def run(self, values: Sequence[str], batch: int) -> list[np.ndarray]:
        """Values of what there is so far, on random inputs."""
        model = self.model(values)
        for value, info in zip(values, model.graph.output, strict=True):
            if value in {entry.name for entry in model.graph.input}:
                raise AssertionError("a case returns its input")
            info.ClearField("type")
        inputs = {}
        for entry in self.b.inputs:
            shape = [d.dim_value or batch for d in entry.type.tensor_type.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
            inputs[entry.name] = self.rng.integers(0, 3, shape).astype(dtype)
        return run(session(pg.load(model), fast=False), inputs)

    def read(self, value: str, samples: Sequence[np.ndarray]) -> str:
        """A layer that reads all of a value: first one axis, perhaps, then everything."""
        if samples[0].dtype != np.float32:
            value = self.b.op("Cast", value, to=1)
        shape: list[Any] = list(samples[0].shape)
        batch = [
            axis
            for axis in range(len(shape))
            if len({sample.shape[axis] for sample in samples}) > 1
        ]
        if not shape:
            value, shape = self.b.op("Reshape", value, self.ints(1)), [1]
        wide = [axis for axis, size in enumerate(shape) if size > 1 and axis not in batch]
        last = self.pick(*wide) if wide and self.flag() else None
        perm = [*batch, *(axis for axis in range(len(shape)) if axis not in (*batch, last))]
        perm += [] if last is None else [last]
        if perm != sorted(perm):
            value, shape = (
                self.b.op("Transpose", value, perm=perm),
                [shape[axis] for axis in perm],
            )
        if last is not None:
            value = self.b.op(
                "MatMul", value, self.b.weight(shape[-1], 4, scale=shape[-1] ** -0.5)
            )
            shape[-1] = 4
        total = int(np.prod(shape[len(batch) :]))
        value = self.b.op("Flatten", value, axis=len(batch))
        return self.b.op("MatMul", value, self.b.weight(total, 3, scale=total**-0.5))


Case = Callable[[Net], "str | Sequence[str]"]


@dataclass
class Network:
    """A finished network, and how it is to be pruned."""

    graph: pg.Graph = field(repr=False)
    ratio: float
    seed: int
    attention: str | None
    least: int


@st.composite
def networks(draw: st.DrawFn, case: Case) -> Network:
    net = Net(draw)
    values = case(net)
    graph = net.finish([values] if isinstance(values, str) else list(values))
    ratio = draw(st.sampled_from([0.25, 0.5, 0.75]))
    return Network(graph, ratio, draw(st.integers(0, 99)), net.attention, net.least)


def prove_network(network: Network, domain: str, op: str) -> bool:
    """Prune and prove; whether channels that pass through the operator were removed."""
    graph = network.graph
    note(onnx.printer.to_text(graph.model))
    blocks = ("alike", "own", "both")[network.seed % 3]
    coupling = pg.analyze(graph, attention=network.attention, blocks=blocks)
    if not coupling.groups:
        return False
    budget = pg.Budget(ratio=network.ratio)
    plan = pg.select(
        graph,
        coupling,
        algorithm="random",
        budget=budget,
        round_to=1,
        min_channels=network.least,
        seed=network.seed,
    )
    pruned = pg.apply(graph, plan)
    try:
        proof = pg.verify(graph, plan, pruned, seed=network.seed)
    except ModelError:
        # ONNX Runtime's optimizer breaks some networks (transposed Pads with axes): then not even the original runs.
        with pytest.raises(ModelError):
            outputs(graph)
        reject()
    reacts = not any("do not react" in text for text in proof.notes)
    return reacts and passes(coupling, plan, domain, op)


def passes(coupling: Coupling, plan: Plan, domain: str, op: str) -> bool:
    """Whether anything is cut from the activations that the operator reads or makes."""
    remaining: Survivors = survivors(coupling, plan)
    weights = coupling.graph.weights
    return any(
        kept is not None
        for node in coupling.graph.nodes
        if (node.domain, node.op) == (domain, op)
        for value in (*node.inputs, *node.outputs)
        if value and value not in weights
        for kept in remaining.value(value)
    )
