"""A graph as a `torch.nn.Module`: executed operator by operator, trained, and written back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from prunegraph.errors import DataError, ModelError, UnknownNameError
from prunegraph.graph.model import Graph, Weight
from prunegraph.rewriting.reweight import Revision
from prunegraph.training.feeds import InputSizes
from prunegraph.training.operators.table import (
    DTYPES,
    Tensor,
    Value,
    to_numpy,
    to_torch,
)
from prunegraph.training.program import Block, compiled, execute
from prunegraph.training.roles import scale_names, trainable_names
from prunegraph.training.unshare import copies, untied

Trainable = Literal["layers", "all"] | Collection[str]


class GraphModule(torch.nn.Module):
    """Runs a graph with torch operators, with autograd through all that can be differentiated.

    Weights have the graph's names: `a.b.c` is the parameter `c` of the submodule `b` of `a`, so that the
    keys of `state_dict` are the names of the graph (`key` says so where torch does not take a name as it
    is). In train mode BatchNormalization uses the batch's statistics and brings the running ones up to date, and
    Dropout drops. A single sample says nothing of a batch: it is normalised by the running statistics. With
    `keeps_statistics` every batch is.

    Args:
        graph: what to run. It is not changed; `write_back` makes a new one.
        trainable: which floating-point weights are parameters, the others being buffers: "layers", those
            that layers and normalisations use (kernels, biases, scales, slopes, tables that are looked up),
            "all", those of more than one element, or names.
        learn_scales: scales of QuantizeLinear and DequantizeLinear are parameters too (LSQ).

    Raises:
        ModelError: an operator, or a type of a weight, cannot be run.
        UnknownNameError: `trainable` names a weight that is not in the graph.
    """

    def __init__(
        self, graph: Graph, *, trainable: Trainable = "layers", learn_scales: bool = False
    ):
        super().__init__()
        self._copies = copies(graph)
        self._program = compiled(untied(graph))
        self._owners: dict[str, tuple[torch.nn.Module, str]] = {}
        self._fixed: dict[str, Tensor] = {}
        self._keys: dict[str, str] = {}
        self._declared = InputSizes.of(self.graph)
        self._watched: tuple[str, ...] = ()
        #: Whether BatchNormalization keeps to its running statistics, and leaves them, in train mode too.
        self.keeps_statistics = False
        #: Values that `watch` asked for, of the last run.
        self.observed: dict[str, Value] = {}
        chosen = trainable_names(self.graph, trainable)
        chosen |= {copy for copy, name in self._copies.items() if name in chosen}
        chosen -= set(self.graph.outputs)  # layers read copies of these
        scales = scale_names(self.graph)
        chosen |= scales if learn_scales else set()
        self._learnt = scales & chosen
        for weight in self.graph.weights.values():
            self._add(weight, weight.name in chosen)

    @property
    def graph(self) -> Graph:
        """The graph that runs: the given one, with weights that only happen to be stored once taken apart."""
        return self._program.graph

    # -- weights --------------------------------------------------------------------

    def _add(self, weight: Weight, trained: bool) -> None:
        try:
            tensor = to_torch(weight.read())
        except TypeError:
            # Text, or 8-bit floating point: an error only where something reads it.
            return
        if not weight.is_float:
            # Sizes and positions stay where Python reads them.
            self._fixed[weight.name] = tensor
            return
        owner, attribute = self._place(weight.name)
        if trained:
            owner.register_parameter(attribute, torch.nn.Parameter(tensor))
        else:
            owner.register_buffer(attribute, tensor)
        self._owners[weight.name] = (owner, attribute)

    def _place(self, name: str) -> tuple[torch.nn.Module, str]:
        """The submodule and attribute for a weight. Names that torch cannot take get underscores."""
        owner: torch.nn.Module = self
        *outer, last = [part or "_" for part in name.split(".")]
        path = []
        for part in outer:
            while part not in owner._modules and hasattr(owner, part):
                part += "_"
            if part not in owner._modules:
                owner.add_module(part, torch.nn.Module())
            path.append(part)
            owner = owner.get_submodule(part)
        while hasattr(owner, last):
            last += "_"
        self._keys[name] = ".".join([*path, last])
        return owner, last

    def key(self, name: str) -> str:
        """The key of a weight in `state_dict`. Raises UnknownNameError."""
        if name not in self._keys:
            raise UnknownNameError("floating-point weight", name, self._keys)
        return self._keys[name]

    def weight(self, name: str) -> Tensor:
        """A floating-point weight: a parameter or a buffer. Raises UnknownNameError."""
        if name not in self._owners:
            raise UnknownNameError("floating-point weight", name, self._owners)
        owner, attribute = self._owners[name]
        result: Tensor = getattr(owner, attribute)
        return result

    def weights(self) -> dict[str, Tensor]:
        """Floating-point weights by the graph's names, parameters and buffers."""
        return {name: self.weight(name) for name in self._owners}

    def parts(self, name: str) -> list[Tensor]:
        """Say what a weight of the given graph has become: itself, and the copies that `untied` made of it."""
        return [
            self.weight(name),
            *(self.weight(copy) for copy, of in self._copies.items() if of == name),
        ]

    # -- running --------------------------------------------------------------------

    def forward(self, *inputs: Any, **named: Any) -> tuple[Value, ...]:
        """All outputs, in the order of the graph.

        A graph with a fixed batch that is given more samples runs as often as it takes, and outputs are joined; one
        without a batch axis takes whole feeds along an axis of their own, [feeds, *shape of the input].

        Args:
            inputs: tensors (or arrays) in the order of the graph's inputs, or one dict by name.
            named: further inputs by name.

        Raises:
            DataError: an input is missing, unknown, or of another type than the graph says.
            ModelError: an operator fails; the message names it and the shapes of its inputs.
        """
        values = self._known(inputs, named)
        feeds = self._declared.apart({name: values[name] for name in self.graph.inputs})
        created = (
            self._run(values)
            if feeds is None
            else feeds.joined([self._run({**values, **feed}) for feed in feeds.inputs])
        )
        count = len(self.graph.outputs)
        self.observed = dict(zip(self._watched, created[count:], strict=True))
        return created[:count]

    def _run(self, values: dict[str, Value]) -> tuple[Value, ...]:
        self._execute(values, self._watched)
        return tuple(values[name] for name in (*self.graph.outputs, *self._watched))

    def _execute(self, values: dict[str, Value], kept: Sequence[str]) -> None:
        """Run all steps on what is there, without letting go of some values."""
        block, by_batch = self._keeping(kept), not self.keeps_statistics
        execute(block, values, self.training, by_batch=by_batch)

    def watch(self, names: Sequence[str]) -> None:
        """Keep inner values of every run from now on, in `observed`. Raises UnknownNameError."""
        self._check_produced(names)
        self._watched = tuple(names)

    def _check_produced(self, names: Sequence[str]) -> None:
        produced = self._program.main.produced
        for name in names:
            if name not in produced:
                raise UnknownNameError("value", name, produced)

    def _keeping(self, names: Sequence[str]) -> Block:
        """The program, without letting go of values."""
        main = self._program.main
        if not names:
            return main
        kept = set(names)
        steps = tuple(
            replace(step, last=tuple(v for v in step.last if v not in kept))
            for step in main.steps
        )
        return replace(main, steps=steps)

    def values(self, names: Sequence[str], inputs: Mapping[str, Any]) -> dict[str, Value]:
        """Inner values by name, for one run. Raises UnknownNameError, DataError, ModelError."""
        self._check_produced(names)
        result = self._known((), dict(inputs))
        self._execute(result, names)
        return {name: result[name] for name in names}

    def _known(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Value]:
        """Say what is there before the first step: inputs and weights by name. Raises DataError."""
        return {**dict(self._given(inputs, named)), **self._fixed, **self.weights()}

    def _given(
        self, inputs: Sequence[Any], named: Mapping[str, Any]
    ) -> Iterator[tuple[str, Value]]:
        """Inputs by name, as tensors. Raises DataError."""
        names = self.graph.inputs
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            result = {**inputs[0], **named}
        elif len(inputs) <= len(names):
            result = {**dict(zip(names, inputs, strict=False)), **named}
        else:
            raise DataError(
                f"{self.graph.source} takes {len(names)} inputs, {list(names)}, not {len(inputs)}"
            )
        if result.keys() != set(names):
            raise DataError(
                f"{self.graph.source} takes the inputs {sorted(names)}, not {sorted(result)}"
            )
        for entry in self.graph.model.graph.input:
            if entry.name in result:
                yield (
                    entry.name,
                    _checked(
                        result[entry.name], entry.name, entry.type.tensor_type.elem_type
                    ),
                )

    # -- back to a graph ------------------------------------------------------------

    def write_back(self, graph: Graph | None = None) -> Graph:
        """A graph with the module's weights; those that did not change keep their bytes.

        Args:
            graph: what to write into: the graph the module was made from (default), or another
                with weights of the same names and shapes.

        Raises:
            ModelError: the graph has no weight of that name, or of another shape.
        """
        changed = {
            name: value for name, value in self._arrays() if not self._same(name, value)
        }
        if graph is None or graph is self.graph:
            target = self.graph
        else:
            # Weights taken apart for training stay one where they are still equal.
            target = graph if changed.keys().isdisjoint(copies(graph)) else untied(graph)
        revision = Revision(target)
        for name, value in changed.items():
            old = target.weights.get(name)
            if old is None or old.shape != value.shape:
                result = "no such weight" if old is None else f"shape {list(old.shape)}"
                raise ModelError(
                    f"{target.source}: {name!r} of shape {list(value.shape)} cannot be written: {result}"
                )
            revision.set(name, value)
        return revision.apply()

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        for name, value in self.weights().items():
            # A learnt scale below 0 is taken for the smallest number while it runs.
            value = (
                value.clamp(min=torch.finfo(value.dtype).tiny)
                if name in self._learnt
                else value
            )
            yield name, to_numpy(value, self.graph.weights[name].dtype)

    def _same(self, name: str, value: np.ndarray) -> bool:
        old = self.graph.weights[name].read()
        return (
            value.dtype == old.dtype
            and np.ascontiguousarray(old).tobytes() == value.tobytes()
        )


def _checked(value: Any, name: str, kind: int) -> Value:
    """An input as a tensor of the declared type. Raises DataError."""
    if isinstance(value, (list, tuple)):
        return list(value)
    try:
        tensor = value if isinstance(value, torch.Tensor) else to_torch(np.asarray(value))
    except TypeError:
        raise DataError(
            f"input {name!r} has type {np.asarray(value).dtype}, which PyTorch does not have"
        ) from None
    wanted = DTYPES.get(kind)
    if wanted is None or tensor.dtype == wanted:
        return tensor
    if tensor.is_floating_point() and wanted.is_floating_point:
        # A module in another precision (`module.bfloat16()`) takes inputs of its own.
        return tensor
    raise DataError(f"input {name!r} has type {tensor.dtype}, the model takes {wanted}")
