"""Quantization-aware training: a float graph that computes what `quantize` will make of it, and its ranges.

Fake quantizers stand where `prunegraph.quantization` puts pairs of QuantizeLinear and DequantizeLinear: the places are
asked of it, not decided here. `QuantizedModule.quantized` hands the trained weights and the ranges back to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from prunegraph.graph.model import Graph, Node
from prunegraph.graph.names import Names
from prunegraph.operators import is_batch_normalization
from prunegraph.quantization.placement import Placement, place
from prunegraph.quantization.quantize import prepared, quantize
from prunegraph.quantization.scheme import TYPES, Params, Scheme
from prunegraph.quantization.scheme import scheme as scheme_of
from prunegraph.runtime.data import Samples
from prunegraph.training.fake import FakeLayer, FakeQuantize
from prunegraph.training.fit import Callback, Run
from prunegraph.training.module import GraphModule
from prunegraph.training.operators.table import Call, Operator, Value
from prunegraph.training.program import Block, Program, ProgramStep

#: Shares of the steps: until when BatchNormalization uses the batch's statistics, from when on activations are rounded,
#: from when on ranges stay. Source: ALGORITHMS 1.5.
NORMALISED, ROUNDED, FROZEN = 1 / 3, 0.1, 0.8


class QuantizedModule(GraphModule):
    """A float graph with fake quantization where `quantize` quantizes it.

    In eval mode it gives what the quantized graph gives, but for the rounding of biases and of sums to a code.

    Args:
        graph: the float graph; BatchNormalization may be in it.
        data: unlabelled inputs, from which ranges are taken to start with.
        learn_scales: scales of activations are parameters (LSQ); else ranges follow what is seen in train mode.

    Raises:
        DataError: the data do not fit, or give values that are infinite or not a number.
        ModelError: nothing can be quantized, the model is quantized already, or an operator cannot be run.
    """

    def __init__(self, graph: Graph, data: Samples, *, learn_scales: bool = False):
        scheme = scheme_of()
        folded = place(prepared(graph, scheme), scheme)
        super().__init__(prepared(graph, scheme, _kept(graph, folded)))
        self.placement, self.scheme = folded, scheme
        first = quantize(graph, data, bias_correction=False).ranges
        self._where = _free(self, "fake")
        self._groups = [_first(first, group, scheme) for group in folded.groups]
        quantizers = [
            FakeQuantize(params, symmetric=scheme.target.symmetric, learn=learn_scales)
            for params in self._groups
        ]
        builder = _Builder(self.graph, folded, scheme, self._program.main)
        self._program = Program(self.graph, builder.block())
        self.add_module(self._where, torch.nn.ModuleList([*quantizers, *builder.layers]))
        self._names = builder.names

    def quantizers(self) -> list[FakeQuantize]:
        """One for each group of values that share a scale, in the placement's order."""
        return [each for each in self._parts() if isinstance(each, FakeQuantize)]

    def fake_layers(self) -> list[FakeLayer]:
        """One for each layer that is quantized, in the graph's order."""
        return [each for each in self._parts() if isinstance(each, FakeLayer)]

    def _parts(self) -> Iterator[torch.nn.Module]:
        yield from self.get_submodule(self._where).children()

    def _known(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Value]:
        return {
            **super()._known(inputs, named),
            **dict(zip(self._names, self._parts(), strict=True)),
        }

    def forward(self, *inputs: Any, **named: Any) -> tuple[Value, ...]:
        """All outputs; in train mode ranges follow what was seen. Takes and raises what `GraphModule.forward` does."""
        outputs = super().forward(*inputs, **named)
        for each in self.quantizers():
            each.settle()
        return outputs

    def ranges(self) -> dict[str, dict[str, float | int]]:
        """Scale and zero point of every quantized value, as `quantize(ranges=...)` takes them."""
        result = [each.params for each in self.quantizers()]
        return {
            value: {"scale": result[group].scale, "zero_point": result[group].zero_point}
            for value, group in self.placement.group_of.items()
        }

    def quantized(self) -> Graph:
        """The graph in integers, with the weights and ranges as they are now. Raises what `quantize` raises."""
        return quantize(
            self.write_back(), ranges=self.ranges(), bias_correction=False
        ).model

    def set_phase(self, *, normalised: bool, rounded: bool, observing: bool) -> None:
        """Say what train mode does.

        Args:
            normalised: BatchNormalization uses the batch's statistics.
            rounded: activations are rounded; weights always are.
            observing: ranges follow what is seen, unless scales are learnt.
        """
        for layer in self.fake_layers():
            layer.batch = normalised
        for each in self.quantizers():
            each.active, each.observing = rounded, observing and not each.learn


class Phases(Callback):
    """Sets the phases of a `QuantizedModule` by the share of the steps that are done.

    Args:
        module: what is trained.
        steps: of the whole run.
    """

    def __init__(self, module: QuantizedModule, steps: int):
        self.module, self.steps = module, max(steps, 1)
        self._set(0)

    def after_step(self, run: Run) -> None:
        self._set(run.step + 1)

    def identity(self) -> object:
        return self.steps

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._set(int(state["done"]))

    def _set(self, done: int) -> None:
        self.done, share = done, done / self.steps
        self.module.set_phase(
            normalised=share < NORMALISED,
            rounded=share >= ROUNDED,
            observing=share < FROZEN,
        )


def check(graph: Graph) -> None:
    """Raise before the work what quantization would raise after it: ModelError where nothing can be quantized."""
    scheme = scheme_of()
    place(prepared(graph, scheme), scheme)


def _kept(graph: Graph, placement: Placement) -> set[str]:
    """Outputs of the BatchNormalization nodes that are trained: those that are the last of what is folded."""
    layers = {placement.graph.nodes[index].outputs[0] for index in placement.layers}
    return {
        node.outputs[0] for node in graph.nodes if is_batch_normalization(node)
    } & layers


def _first(
    ranges: Mapping[str, Mapping[str, float | int]], group: Sequence[str], scheme: Scheme
) -> Params:
    kind = scheme.activations or TYPES["uint8"]
    entry = ranges[group[0]]
    return Params(float(entry["scale"]), int(entry["zero_point"]), kind)


def _free(module: torch.nn.Module, name: str) -> str:
    while hasattr(module, name) or name in module._modules:
        name += "_"
    return name


def _apply(call: Call, part: FakeLayer, *inputs: Value) -> Value:
    return part(call, *inputs)


def _round(call: Call, part: FakeQuantize, x: Value) -> Value:
    return part(x)


class _Builder:
    """Steps of the float graph -> steps with fake quantization."""

    def __init__(self, graph: Graph, placement: Placement, scheme: Scheme, main: Block):
        self.graph, self.placement, self.scheme, self.main = graph, placement, scheme, main
        self.layers: list[FakeLayer] = []
        self._fresh, self._variants = Names(graph), dict[tuple[str, str], str]()
        #: Names under which the parts are among the values: quantizers first, then layers.
        self.names = [
            self._fresh.new(f"quantizer {index}") for index in range(len(placement.groups))
        ]
        nodes = placement.graph.nodes
        self.quantized = {
            nodes[index].outputs[0]: nodes[index] for index in placement.layers
        }
        self.computed = {nodes[index].outputs[0] for index in placement.computed}
        self.in_codes = {
            placement.result(node) for node in nodes if placement.is_quantized(node)
        }
        self.in_codes |= {
            v for index in placement.computed for v in nodes[index].outputs[1:] if v
        }
        self.before = self._before()

    def _before(self) -> dict[str, ProgramStep]:
        """The layer's step before each BatchNormalization that is folded, by the latter's output."""
        steps = {output: step for step in self.main.steps for output in step.outputs}
        return {
            output: steps[steps[output].node.inputs[0]]
            for output in self.quantized
            if is_batch_normalization(steps[output].node)
        }

    def block(self) -> Block:
        """The steps with fake quantization."""
        merged = {step.outputs for step in self.before.values()}
        steps = [step for value in self.main.inputs for step in self._behind(value)]
        for step in self.main.steps:
            if step.outputs not in merged:
                steps += self._with(step)
        created = self.main.produced | {output for step in steps for output in step.outputs}
        return replace(self.main, steps=tuple(steps), produced=created)

    def _with(self, step: ProgramStep) -> Iterator[ProgramStep]:
        """A step, and rounding of what it makes."""
        output = step.outputs[0]
        if output in self.quantized:
            step = self._layer(step)
        elif output in self.computed:
            step = replace(step, inputs=tuple(self._read(value) for value in step.inputs))
        rounded = [
            value
            for value in step.outputs
            if value in self.placement.group_of and value in self.in_codes
        ]
        yield replace(
            step, outputs=tuple(self._plain(v) if v in rounded else v for v in step.outputs)
        )
        for value in rounded:
            yield self._rounding(step.node, self._plain(value), value, value)
        for value in step.outputs:
            yield from self._behind(value)

    def _behind(self, value: str) -> Iterator[ProgramStep]:
        """Rounding of a value in float, for those that read it in integers."""
        if value in self.placement.group_of and value not in self.in_codes:
            producer = self.graph.nodes[0]
            yield replace(
                self._rounding(producer, value, self._codes(value), value), last=()
            )

    def _rounding(self, node: Node, value: str, result: str, name: str) -> ProgramStep:
        part = self.names[self.placement.group_of[name]]
        return ProgramStep(node, Operator(_round), (part, value), (result,), (value,))

    def _read(self, value: str) -> str:
        return (
            self._codes(value)
            if value in self.placement.group_of and value not in self.in_codes
            else value
        )

    def _layer(self, step: ProgramStep) -> ProgramStep:
        """A layer, with the BatchNormalization behind it."""
        before = self.before.get(step.outputs[0])
        layer, normal = (before, step.node) if before is not None else (step, None)
        x, w, *rest = layer.inputs
        bias = rest[0] if rest else ""
        name = self._fresh.new(f"layer {len(self.layers)}")
        self.names.append(name)
        self.layers.append(FakeLayer(layer.node, normal, self.scheme.weight_limit))
        group = self.placement.group_of.get(x)
        given = "" if group is None else self.names[group]
        more = step.inputs[1:5] if normal is not None else ()
        outputs = step.outputs[:1] if normal is not None else step.outputs
        last = (
            step.last
            if before is None
            else (*before.last, *(v for v in step.last if v not in before.outputs))
        )
        return ProgramStep(
            layer.node,
            Operator(_apply),
            (name, given, self._read(x), w, bias, *more),
            outputs,
            last,
            (),
            layer.options,
        )

    def _plain(self, value: str) -> str:
        """The name of a value before it is rounded."""
        return self._variant(value, "float")

    def _codes(self, value: str) -> str:
        """The name of a rounded value that is also read in float."""
        return self._variant(value, "rounded")

    def _variant(self, value: str, form: str) -> str:
        if (value, form) not in self._variants:
            self._variants[value, form] = self._fresh.new(f"{value} ({form})")
        return self._variants[value, form]
