"""A graph as a list of steps, and their execution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from prunegraph.errors import MISFIT, ModelError
from prunegraph.graph import control
from prunegraph.graph.control import Subgraph
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_dequantize, is_quantize, passes
from prunegraph.training import operators  # noqa: F401  (fills the table)
from prunegraph.training.operators.table import Call, Mode, Operator, Tensor, Value, lookup

#: Slot of the input whose ONNX type an operator asks for, where torch's type does not tell it.
TYPED = {"QuantizeLinear": 2, "DequantizeLinear": 2, "CastLike": 1}

Values = dict[str, Value]


@dataclass(frozen=True)
class Block:
    """Steps of the main graph or of a subgraph, with the names of its inputs and outputs."""

    steps: tuple[ProgramStep, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    produced: frozenset[str]


@dataclass(frozen=True)
class ProgramStep:
    """One node: what runs it, what it reads and makes, which values nobody reads after it."""

    node: Node
    operator: Operator | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    last: tuple[str, ...]
    subgraphs: tuple[Block, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def call(self, mode: Mode) -> Call:
        return Call(self.node, mode.training, by_batch=mode.by_batch, **self.options)


@dataclass(frozen=True)
class Program:
    """The steps of a graph. Never changed; copies of a module share it."""

    graph: Graph
    main: Block

    def __deepcopy__(self, memo: object) -> Program:
        return self


def compiled(graph: Graph) -> Program:
    """The program of a graph. Raises ModelError for an operator that has no function."""
    return Program(graph, _Compiler(graph).main())


class _Compiler:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.types = {
            entry.name: entry.type.tensor_type.elem_type
            for entry in graph.model.graph.input
        }
        self.types.update(
            (weight.name, weight.tensor.data_type) for weight in graph.weights.values()
        )
        self.by_subgraph: dict[int, list[Node]] = {}
        for node in graph.nodes:
            if node.domain != control.DOMAIN:
                self.by_subgraph.setdefault(id(node.subgraph), []).append(node)

    def main(self) -> Block:
        return self._block(None, self.graph.inputs, self.graph.outputs)

    def _block(
        self, subgraph: Subgraph | None, inputs: Sequence[str], outputs: Sequence[str]
    ) -> Block:
        nodes = [
            n
            for n in self.by_subgraph.get(id(subgraph), [])
            if n.outputs and n.outputs[0] not in self.graph.weights
        ]
        created = frozenset(o for node in nodes for o in node.outputs if o)
        last: dict[int, list[str]] = {}
        for value, index in {
            v: i for i, node in enumerate(nodes) for v in self._reads(node)
        }.items():
            if value in created or value in inputs:
                last.setdefault(index, []).append(value)
        steps = (
            self._step(node, [v for v in last.get(i, ()) if v not in outputs])
            for i, node in enumerate(nodes)
        )
        return Block(
            tuple(steps), tuple(inputs), tuple(outputs), created | frozenset(inputs)
        )

    def _given(self, node: Node) -> tuple[str, ...]:
        """Inputs of a node; those of one with subgraphs are what its `Enter` reads."""
        return self.graph.nodes[node.enter].inputs if node.enter >= 0 else node.inputs

    def _reads(self, node: Node) -> Iterator[str]:
        """Say what a node and the nodes of its subgraphs read."""
        yield from self._given(node)
        for subgraph in node.subgraphs:
            yield from subgraph.outputs
            for inner in self.by_subgraph.get(id(subgraph), ()):
                yield from self._reads(inner)

    def _step(self, node: Node, last: list[str]) -> ProgramStep:
        subgraphs: tuple[Block, ...] = ()
        if node.subgraphs:
            entered = self.graph.nodes[node.enter].outputs
            subgraphs = tuple(
                self._block(subgraph, entered, subgraph.outputs)
                for subgraph in node.subgraphs
            )
        elif node.op in control.SUBGRAPHS and node.domain == "":
            reason = control.obstacle(node.proto, self.graph.opsets.get("", 1))
            raise ModelError(
                f"{node.op} {node.name!r} cannot be run as a PyTorch module: {reason}"
            )
        result = None if subgraphs else lookup(node)
        return ProgramStep(
            node,
            result,
            self._given(node),
            node.outputs,
            tuple(last),
            subgraphs,
            self._options(node),
        )

    def _options(self, node: Node) -> dict[str, Any]:
        if node.domain == "" and node.op in TYPED:
            fake = is_quantize(node) and self._only_dequantized(node.outputs[0])
            return {
                "fake": fake,
                "code_type": self.types.get(node.input(TYPED[node.op]), 0),
            }
        return {}

    def _only_dequantized(self, value: str) -> bool:
        """Tell whether all that becomes of codes is that they are moved and dequantized."""
        readers = [
            self.graph.nodes[index] for index, _ in self.graph.consumers.get(value, ())
        ]
        if value in self.graph.outputs or not readers:
            return False
        return all(
            is_dequantize(reader)
            or (
                passes(reader, "codes")
                and all(self._only_dequantized(o) for o in reader.outputs)
            )
            for reader in readers
        )


def execute(block: Block, values: Values, training: bool, *, by_batch: bool = True) -> None:
    """Run the steps of a block: `values` is read, and filled. Raises ModelError, which names the node.

    While it is trained, `by_batch` says whether BatchNormalization uses the batch's statistics.
    """
    _execute(block, values, Mode(training, by_batch))


def _execute(block: Block, values: Values, mode: Mode) -> None:
    for step in block.steps:
        try:
            created = _made(step, values, mode)
        except ModelError:
            raise
        except (*MISFIT, RuntimeError) as error:
            shapes = [
                list(v.shape) if isinstance(v, torch.Tensor) else v
                for v in (values.get(n) for n in step.inputs)
            ]
            raise ModelError(
                f"{step.node.op} {step.node.name!r} fails on inputs {shapes}: {error}"
            ) from error
        if any(step.outputs[len(created) :]):
            raise ModelError(
                f"{step.node.op} {step.node.name!r}: its output {step.outputs[len(created)]!r} is not made here"
            )
        for name, value in zip(step.outputs, created, strict=False):
            if name:
                values[name] = value
        for name in step.last:
            values.pop(name, None)


def _made(step: ProgramStep, values: Values, mode: Mode) -> Sequence[Value]:
    missing = next((name for name in step.inputs if name and name not in values), None)
    if missing is not None:
        raise ModelError(
            f"{step.node.op} {step.node.name!r} reads {missing!r}, which is sparse, text, or of a type that PyTorch "
            "does not have"
        )
    inputs = [values[name] if name else None for name in step.inputs]
    if step.operator is None:
        return CONTROL[step.node.op](step, inputs, values, mode)
    created = step.operator.function(
        step.call(mode), *_together(inputs, step.operator.host)
    )
    return created if isinstance(created, tuple) else (created,)


def _together(inputs: list[Value], host: frozenset[int]) -> list[Value]:
    """Inputs on one device: sizes are computed on the CPU, and move where they meet data."""
    tensors = [
        v for i, v in enumerate(inputs) if isinstance(v, torch.Tensor) and i not in host
    ]
    devices = {v.device for v in tensors}
    if len(devices) < 2:
        return inputs
    target = next(device for device in devices if device.type != "cpu")
    return [
        v.to(target) if isinstance(v, torch.Tensor) and i not in host else v
        for i, v in enumerate(inputs)
    ]


# -- control flow -----------------------------------------------------------------------------


def _run_subgraph(
    block: Block, given: Iterable[Value], values: Values, mode: Mode
) -> list[Value]:
    """Outputs of a subgraph for some inputs; what it made is gone afterwards."""
    values.update(zip(block.inputs, given, strict=True))
    _execute(block, values, mode)
    created = [values[name] for name in block.outputs]
    for name in block.produced:
        values.pop(name, None)
    return created


def _if(
    step: ProgramStep, inputs: list[Value], values: Values, mode: Mode
) -> Sequence[Value]:
    branch = {
        subgraph.attribute: block
        for subgraph, block in zip(step.node.subgraphs, step.subgraphs, strict=True)
    }
    block = branch["then_branch" if bool(inputs[0].reshape(-1)[0]) else "else_branch"]
    return _run_subgraph(block, (), values, mode)


def _loop(
    step: ProgramStep, inputs: list[Value], values: Values, mode: Mode
) -> Sequence[Value]:
    (block,) = step.subgraphs
    most, condition, *carried = inputs
    count = None if most is None else int(most)
    runs = True if condition is None else bool(condition)
    turn, gathered = 0, [[] for _ in range(len(block.outputs) - 1 - len(carried))]  # type: ignore[var-annotated]
    while runs and (count is None or turn < count):
        created = _run_subgraph(
            block, [torch.tensor(turn), torch.tensor(runs), *carried], values, mode
        )
        runs = bool(created[0])
        carried = created[1 : 1 + len(carried)]
        for rows, row in zip(gathered, created[1 + len(carried) :], strict=True):
            rows.append(row)
        turn += 1
    return [*carried, *(_stacked(step, rows, 0) for rows in gathered)]


def _stacked(step: ProgramStep, rows: list[Tensor], axis: int) -> Tensor:
    if not rows:
        raise ModelError(
            f"{step.node.op} {step.node.name!r} did not run once: the shape of what it gathers is unknown"
        )
    return torch.stack(rows, axis)


def _scan(
    step: ProgramStep, inputs: list[Value], values: Values, mode: Mode
) -> Sequence[Value]:
    (block,) = step.subgraphs
    scanned = control.Scanned.of(step.node.proto)
    states, sequences = inputs[: scanned.states], inputs[scanned.states :]
    backwards = step.node.attributes.get("scan_input_directions", [0] * len(sequences))
    rows = [
        tuple(reversed(s.unbind(axis))) if back else s.unbind(axis)
        for s, axis, back in zip(sequences, scanned.input_axes, backwards, strict=True)
    ]
    gathered: list[list[Tensor]] = [[] for _ in scanned.output_axes]
    for given in zip(*rows, strict=True):
        created = _run_subgraph(block, [*states, *given], values, mode)
        states = created[: scanned.states]
        for kept, row in zip(gathered, created[scanned.states :], strict=True):
            kept.append(row)
    turned = step.node.attributes.get("scan_output_directions", [0] * len(gathered))
    whole = zip(gathered, scanned.output_axes, turned, strict=True)
    return [
        *states,
        *(_stacked(step, kept[::-1] if back else kept, axis) for kept, axis, back in whole),
    ]


CONTROL: dict[str, Callable[[ProgramStep, list[Value], Values, Mode], Sequence[Value]]] = {
    "If": _if,
    "Loop": _loop,
    "Scan": _scan,
}
