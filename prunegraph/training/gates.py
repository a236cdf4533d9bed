"""Gates on the channels of BatchNormalization nodes, trained with the network (source 001, ALGORITHMS 2.2).

For a BatchNormalization's output u [n, channels, ...]:

    z = mean of u over space            e = sigmoid(W2 relu(W1 z + b1) + b2)        mean = mean of e over the batch
    factor <- momentum * factor + (1 - momentum) * mean
    training:   y = e * u  (mode "sample", squeeze and excitation),  or  y = mean * u  (mode "batch")
    inference:  y = factor * u, which folds into the node: scale * factor, shift * factor

With a neutral start e is divided by its first value, so that the network starts as it was, up to the spread of the
gates' first weights.

A gate is a node of the graph that a `GatedModule` runs, so that its numbers are weights like others: they are
trained, moved and kept in checkpoints with them. Hu et al. 2018 (squeeze and excitation).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import torch
import torch.nn.functional as nnf
from onnx import helper

from prunegraph.coupling.analysis import analyze
from prunegraph.coupling.coupling import Coupling
from prunegraph.errors import DataError, OptionError
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_batch_normalization
from prunegraph.rewriting.reweight import Revision
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.training.module import GraphModule
from prunegraph.training.operators.table import Call, Tensor, Value, operator
from prunegraph.training.roles import trainable_names
from prunegraph.training.unshare import untied

Array = np.ndarray
Mode = Literal["sample", "batch"]

DOMAIN, OPERATOR = "prunegraph.training", "ChannelGate"

#: Gates have at least this many hidden units.
NARROWEST = 8

#: Bias of the last layer: gates start near 0.88 and do not halve every signal.
OPEN = 2.0

#: What a neutral start multiplies gates with.
FIRST = 1 + math.exp(-OPEN)

#: Spread of the first outputs around that, before the sigmoid.
SPREAD = 0.1


@operator(OPERATOR, domain=DOMAIN)
def channel_gate(
    call: Call,
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    factors: Tensor,
    seen: Tensor,
    live: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gated value and the gates' mean; while `live`, `factors` and the number of batches `seen` are kept up."""
    shape = (-1, x.shape[1], *[1] * (x.dim() - 2))
    if not bool(live):
        return x * factors.to(x.dtype).reshape(shape), factors
    pooled = x.flatten(2).mean(2) if x.dim() > 2 else x
    hidden = torch.relu(nnf.linear(pooled.to(w1.dtype), w1, b1))
    gates = torch.sigmoid(nnf.linear(hidden, w2, b2)) * call.get("unit")
    mean = gates.mean(0)
    with torch.no_grad():
        # The first batch's mean is where the average starts.
        share = 1 - call.get("momentum") if bool(seen) else 1.0
        factors.lerp_(mean.to(factors.dtype), share)
        seen.add_(1)
    used = mean if call.get("mode") == "batch" else gates
    return x * used.to(x.dtype).reshape(shape), mean


@dataclass(frozen=True)
class Gate:
    """A gate: the value it gates, and names of the node's scale and shift, of the factors and of trained weights."""

    value: str
    scale: str
    shift: str
    factors: str
    trained: tuple[str, ...]


class GatedModule(GraphModule):
    """A graph with a gate behind each BatchNormalization of channels that can be removed.

    In train mode gates depend on the data and their moving averages, the factors, are kept up; in eval mode, or once
    `freeze` was called, factors are applied. Before the first step they are 1.

    Args:
        graph: what to run.
        coupling: of the graph; analysed if not given.
        reduction: channels for one hidden unit of a gate.
        momentum: of the moving average.
        mode: whether every sample has gates of its own, or the batch's mean counts.
        light: only the gates are trained: all else stays as it is, statistics included, and runs as in eval mode.
        neutral: gates start at 1 instead of 0.88.
        seed: of the gates' first weights.

    Raises:
        DataError: there is no such BatchNormalization.
        OptionError: `reduction` or `momentum` is out of range.
        ModelError: an operator, or a type of a weight, cannot be run.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        coupling: Coupling | None = None,
        reduction: int = 16,
        momentum: float = 0.9,
        mode: Mode = "sample",
        light: bool = False,
        neutral: bool = False,
        seed: int = 0,
    ):
        if reduction < 1:
            raise OptionError(f"reduction must be at least 1, got {reduction}")
        if not 0 <= momentum < 1:
            raise OptionError(f"momentum must be at least 0 and below 1, got {momentum:g}")
        values = [node.outputs[0] for node in gated_nodes(graph, coupling)]
        base = separated(untied(graph), values)
        inserted = _Insertion(base, values, reduction, seed)
        # Attributes are there before the graph's weights take names of their own.
        self.base, self.gates, self.light, self.frozen = (
            base,
            tuple(inserted.gates),
            light,
            False,
        )
        #: Means of the gates in the last run, one tensor a gate.
        self.means: tuple[Tensor, ...] = ()
        self._live = inserted.live
        with_gates = inserted.graph(
            {"momentum": momentum, "mode": mode, "unit": FIRST if neutral else 1.0}
        )
        names = {name for gate in inserted.gates for name in gate.trained}
        super().__init__(
            with_gates,
            trainable=names if light else names | trainable_names(with_gates, "layers"),
        )
        self.train()

    def train(self, mode: bool = True) -> GatedModule:
        super().train(mode and not self.light)
        with torch.no_grad():
            self.weight(self._live).fill_(float(mode and not self.frozen))
        return self

    def freeze(self) -> None:
        """From now on factors are applied in train mode too, and stay as they are."""
        self.frozen = True
        with torch.no_grad():
            self.weight(self._live).fill_(0.0)

    def forward(self, *inputs: Any, **named: Any) -> tuple[Value, ...]:
        """The graph's outputs; see `GraphModule.forward`."""
        created = super().forward(*inputs, **named)
        count = len(self.base.outputs)
        self.means = created[count:]
        return created[:count]

    def factors(self) -> dict[str, Array]:
        """Factor of every channel [channels], by the value that the BatchNormalization makes."""
        return {
            gate.value: self.weight(gate.factors).detach().cpu().numpy().copy()
            for gate in self.gates
        }

    def folded(self) -> Graph:
        """The graph with trained weights and without gates: factors are in scale and shift. Exact but for rounding."""
        changed = {
            name: value for name, value in self._arrays() if name in self.base.weights
        }
        by_gate = {name: gate for gate in self.gates for name in (gate.scale, gate.shift)}
        revision = Revision(self.base)
        for name, value in changed.items():
            if name in by_gate:
                factor = (
                    self.weight(by_gate[name].factors)
                    .detach()
                    .cpu()
                    .numpy()
                    .astype(np.float64)
                )
                value = (value.astype(np.float64) * factor).astype(value.dtype)
            if not self._same(name, value):
                revision.set(name, value)
        return revision.apply()


def gated_nodes(graph: Graph, coupling: Coupling | None = None) -> list[Node]:
    """BatchNormalization nodes of channels that can be removed. Raises DataError where there is none."""
    groups = (coupling or analyze(graph)).groups
    cut = {member.weight for group in groups for member in group.members}
    nodes = [
        node
        for node in graph.nodes
        if _can_be_gated(graph, node) and graph.weight_behind(node.inputs[1]) in cut
    ]
    if not nodes:
        raise DataError(
            f"{graph.source}: no removable channel has a BatchNormalization to put a gate behind"
        )
    return nodes


def _can_be_gated(graph: Graph, node: Node) -> bool:
    """Tell whether a node is a BatchNormalization whose scale and shift are numbers of the file."""
    if (
        not is_batch_normalization(node)
        or node.domain
        or node.subgraph is not None
        or any(node.outputs[1:])
    ):
        return False
    return not node.attributes.get("training_mode", 0) and all(
        graph.weight_behind(value) in graph.weights for value in node.inputs[1:3]
    )


def separated(graph: Graph, values: Sequence[str]) -> Graph:
    """The graph with a scale and a shift that nothing else reads for the BatchNormalization node of each value."""
    rewriter = Rewriter(graph)
    for node in (graph.nodes[graph.producer[value]] for value in values):
        for slot in (1, 2):
            name = graph.weight_behind(node.inputs[slot])
            assert name is not None  # `_can_be_gated` has seen to that
            weight = graph.weights[name]
            if (
                name == node.inputs[slot]
                and weight.holder is None
                and len(graph.consumers[name]) == 1
            ):
                continue
            role = "scale" if slot == 1 else "shift"
            copy = rewriter.add_initializer(f"{node.name}/{role}", weight.read(), weight)
            rewriter.set_input(node, slot, copy)
    return graph if rewriter.is_idle else rewriter.finish()


class _Insertion:
    """Gates behind nodes of a graph: their weights, and the graph with them."""

    def __init__(self, base: Graph, values: Sequence[str], reduction: int, seed: int):
        self.base, self.nodes = base, [base.nodes[base.producer[value]] for value in values]
        self.rewriter = Rewriter(base)
        self.live = self._add("gates/live", np.ones(1))
        rng = np.random.default_rng(seed)
        self.inputs: list[tuple[str, ...]] = []
        self.gates = [self._gate(node, reduction, rng) for node in self.nodes]

    def _add(self, name: str, values: Array) -> str:
        return self.rewriter.add_initializer(name, values.astype(np.float32))

    def _gate(self, node: Node, reduction: int, rng: np.random.Generator) -> Gate:
        width = self.base.weights[node.inputs[1]].size
        hidden = max(NARROWEST, width // reduction)
        arrays: Mapping[str, Array] = {
            "w1": rng.standard_normal((hidden, width)) * np.sqrt(2 / width),
            "b1": np.zeros(hidden),
            "w2": rng.standard_normal((width, hidden)) * SPREAD / np.sqrt(hidden),
            "b2": np.full(width, OPEN),
            "factors": np.ones(width),
            "seen": np.zeros(1),
        }
        names = [
            self._add(f"{node.name}/gate_{name}", values) for name, values in arrays.items()
        ]
        self.inputs.append((*names, self.live))
        return Gate(
            node.outputs[0], node.inputs[1], node.inputs[2], names[4], tuple(names[:4])
        )

    def graph(self, attributes: Mapping[str, Any]) -> Graph:
        """The graph that is trained; means of the gates are further outputs. Stock runtimes cannot run it."""
        means = []
        for node, inputs in zip(self.nodes, self.inputs, strict=True):
            value = node.outputs[0]
            plain = self.rewriter.take_over(value, f"{value}/plain")
            means.append(self.rewriter.names.new(f"{value}/gates"))
            name = self.rewriter.names.new(f"{node.name}/gate")
            gate = helper.make_node(
                OPERATOR,
                [plain, *inputs],
                [value, means[-1]],
                name=name,
                domain=DOMAIN,
                **attributes,
            )
            self.rewriter.insert_after(node, gate)

        def declare(model: onnx.ModelProto) -> None:
            for mean in means:
                model.graph.output.append(
                    helper.make_tensor_value_info(mean, onnx.TensorProto.FLOAT, None)
                )
            model.opset_import.append(helper.make_opsetid(DOMAIN, 1))

        return self.rewriter.finish(swept=False, change=declare)
