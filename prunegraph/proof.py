"""The proof: a pruned graph computes what the masked original computes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from prunegraph.coupling.analysis import analyze
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import ExactnessError, ModelError
from prunegraph.graph.external import write_graph
from prunegraph.graph.model import FLOAT_TYPES, Graph, Node
from prunegraph.graph.sizes import symbolic_axes
from prunegraph.rewriting.mask import CONSUMED, write_masked
from prunegraph.runtime.data import Batch, random_inputs
from prunegraph.runtime.session import run, session
from prunegraph.selection.plan import Plan, survivors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = np.ndarray

#: Largest difference allowed, relative to the largest value of the output.
TOLERANCE = 1e-4
TOLERANCE_HALF = 2e-2

#: Operators that decide by the order of values.
DECISIONS = frozenset({"TopK", "ArgMax", "ArgMin", "NonMaxSuppression", "NonZero"})

#: Activations whose ends are flat, and below what an output of theirs is nothing but rounding.
SATURATING = frozenset({"Sigmoid", "Softmax", "HardSigmoid"})
SATURATED = 1e-4

#: Inner values that stand in for outputs that prove nothing.
WITNESSES = 8


@dataclass(frozen=True)
class Difference:
    """One compared value: largest absolute difference, and relative to the largest value."""

    name: str
    absolute: float
    relative: float


@dataclass(frozen=True)
class Proof:
    """What was compared and how far apart it was. `notes` say what was special."""

    differences: tuple[Difference, ...]
    tolerance: float
    runs: int
    notes: tuple[str, ...] = field(default=())

    @property
    def relative(self) -> float:
        """The largest relative difference."""
        return max((d.relative for d in self.differences), default=0.0)

    @property
    def absolute(self) -> float:
        """The largest absolute difference."""
        return max((d.absolute for d in self.differences), default=0.0)

    def __str__(self) -> str:
        text = (
            f"max |difference| {self.absolute:.3g} ({self.relative:.1e} of the largest value, "
            f"{self.tolerance:g} allowed) on {len(self.differences)} outputs, {self.runs} runs"
        )
        return "; ".join([text, *self.notes])


def verify(
    model: Graph, plan: Plan, small: Graph, *, data: Sequence[Batch] = (), seed: int = 0, tolerance: float | None = None
) -> Proof:
    """Compare a pruned graph with the masked original in ONNX Runtime.

    Args:
        model: the original.
        plan: what was removed.
        small: the pruned graph.
        data: inputs to compare on besides two random ones.
        seed: of the random inputs.
        tolerance: largest difference allowed, relative to the largest value of each output;
            by default 1e-4, or 2e-2 for models with 16-bit floats.

    Returns:
        The measured differences.

    Raises:
        ExactnessError: they differ; the message names the first node that does.
        PlanError: the plan does not fit the model.
        ModelError: a model does not run.
    """
    left = survivors(analyze(model, attention=plan.attention), plan)
    with tempfile.TemporaryDirectory(prefix="prunegraph-") as folder:
        comparison = _Comparison(left, small, tolerance or default_tolerance(model), Path(folder))
        return comparison.run(list(data), seed)


def default_tolerance(graph: Graph) -> float:
    """How exact a proof can be with the graph's float types."""
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    types = {weight.tensor.data_type for weight in graph.weights.values() if weight.size > 1}
    return TOLERANCE_HALF if types & set(halves) else TOLERANCE


class _Comparison:
    """Masked original against pruned graph."""

    def __init__(self, left: Survivors, small: Graph, tolerance: float, folder: Path):
        self.left, self.small, self.tolerance = left, small, tolerance
        self.graph = left.coupling.graph
        self.masked, self.pruned = folder / "masked.onnx", folder / "pruned.onnx"
        write_graph(small, self.pruned)

    def run(self, data: list[Batch], seed: int) -> Proof:
        write_masked(self.left, self.masked)
        expected = self._run_original(data, seed)
        if not _all_finite(expected):
            # Something divides by what is zero where it is made; zeros where it is consumed say the same.
            write_masked(self.left, self.masked, CONSUMED)
            expected = self._run_original(data, seed)
        names = self._choose(expected)
        outputs = list(self.graph.outputs)
        if set(names) <= set(outputs):
            expected = [[values[outputs.index(name)] for name in names] for values in expected]
        else:
            expected = self._inner(self.masked, self.inputs, names)
        proof = self._compare(expected, self.pruned, self.inputs, names)
        if proof.relative <= self.tolerance:
            return proof
        given = self._given_decisions(names)
        if given is not None and given.relative <= self.tolerance:
            return given
        raise ExactnessError(self._explain(proof))

    def _run_original(self, data: list[Batch], seed: int) -> list[list[Array]]:
        """Outputs of the masked original on two random inputs, on one of other sizes, and on the user's.

        Sizes are batch 3, and batch 1 with other symbolic axes twice as long, where the model takes them.
        """
        self.notes: list[str] = []
        opened = session(self.masked, name=f"{self.graph.source} (masked)", fast=False)
        for batch in (3, 1):
            self.inputs = [random_inputs(self.graph, seed=seed + i, batch=batch) for i in range(2)]
            try:
                results = [run(opened, each) for each in self.inputs]
                break
            except ModelError:
                if batch == 1:
                    raise
        if any(symbolic_axes(self.graph).values()):
            results += self._run_other_sizes(opened, seed, batch)
        self.inputs += data
        return results + [run(opened, each) for each in data]

    def _run_other_sizes(self, opened: InferenceSession, seed: int, batch: int) -> list[list[Array]]:
        for stretch in (2, 1):
            other = random_inputs(self.graph, seed=seed, batch=1, stretch=stretch)
            if all(other[name].shape == value.shape for name, value in self.inputs[0].items()):
                continue
            try:
                result = run(opened, other)
            except ModelError:
                continue
            self.inputs.append(other)
            return [result]
        self.notes.append(f"run at batch {batch} only, the original takes no other sizes")
        return []

    def _choose(self, expected: list[list[Array]]) -> list[str]:
        """The values to compare: outputs, and inner values where outputs prove nothing."""
        names = list(self.graph.outputs)
        saturated = [name for name, *values in zip(names, *expected, strict=True) if self._is_saturated(name, values)]
        vacuous = [name for name, *values in zip(names, *expected[:2], strict=True) if not _reacts(values)]
        if not (saturated or vacuous):
            return names
        witnesses = self._witnesses(saturated)
        self.notes.append(
            f"{len({*saturated, *vacuous})} of {len(names)} outputs are empty, saturated or do not react to the "
            f"input; {len(witnesses)} inner values were compared"
        )
        # Never nothing: an output without a stand-in is judged as it is.
        return [name for name in names if name not in saturated or not witnesses] + witnesses

    def _compare(
        self, expected: Sequence[Sequence[Array]], pruned: Path, inputs: Sequence[Batch], names: Sequence[str]
    ) -> Proof:
        found = self._inner(pruned, inputs, names)
        differences = []
        for index, name in enumerate(names):
            pairs = [(self._survive(name, e[index]), f[index]) for e, f in zip(expected, found, strict=True)]
            differences.append(self._difference(name, pairs))
        return Proof(tuple(differences), self.tolerance, len(inputs), tuple(self.notes))

    def _given_decisions(self, names: Sequence[str]) -> Proof | None:
        """The comparison with both graphs made to decide alike, where they decide at all.

        A TopK among nearly equal scores falls one way or the other by rounding, and all
        behind it differs. What decides is compared by itself; its results are then inputs.
        """
        present = self.small.outer & self.graph.outer
        deciding = [n for n in self.graph.nodes if n.op in DECISIONS and present.issuperset(o for o in n.outputs if o)]
        if not deciding:
            return None
        results = [output for node in deciding for output in node.outputs if output]
        read = [n.inputs[0] for n in deciding if n.inputs[0] in present]
        values = self._inner(self.masked, self.inputs, results)
        inputs = [
            {**each, **dict(zip(results, value, strict=True))} for each, value in zip(self.inputs, values, strict=True)
        ]
        paths = [_without_nodes(path, deciding, inputs[0]) for path in (self.masked, self.pruned)]
        self.notes.append(f"{len(deciding)} nodes that decide by order ({deciding[0].op}) were made to decide alike")
        names = list(dict.fromkeys([*names, *read]))
        return self._compare(self._inner(paths[0], inputs, names), paths[1], inputs, names)

    def _inner(self, path: Path, inputs: Sequence[Batch], names: Sequence[str]) -> list[list[Array]]:
        """Values of a model by name, also inner ones, for every input."""
        extra = [name for name in names if name not in self.graph.outputs]
        if extra:
            model = onnx.load(path, load_external_data=False)
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
            path = path.with_name(f"inner_{path.name}")
            path.write_bytes(model.SerializeToString())
        opened = session(path, name=f"{self.graph.source} ({path.stem})", fast=False)
        return [run(opened, each, list(names)) for each in inputs]

    def _survive(self, name: str, value: Array) -> Array:
        """The part of an original value that the pruned graph still has."""
        for axis, kept in enumerate(self.left.value(name)):
            if kept is not None:
                value = np.take(value, kept, axis)
        return value

    def _difference(self, name: str, pairs: Sequence[tuple[Array, Array]]) -> Difference:
        absolute = relative = 0.0
        for expected, found in pairs:
            if expected.shape != found.shape:
                return Difference(name, float("inf"), float("inf"))
            if expected.dtype.kind not in "fiubV" and not np.array_equal(expected, found):
                return Difference(name, float("inf"), float("inf"))
            a, r = _distance(expected, found)
            absolute, relative = max(absolute, a), max(relative, r)
        return Difference(name, absolute, relative)

    def _is_saturated(self, name: str, values: Sequence[Array]) -> bool:
        """Whether an output is so near the end of an activation's range that only rounding is left of it."""
        if name not in self.graph.producer or self.graph.nodes[self.graph.producer[name]].op not in SATURATING:
            return False
        return all(
            value.size > 0 and float(np.minimum(abs(value), abs(1 - value)).max()) < SATURATED for value in values
        )

    def _witnesses(self, saturated: Sequence[str]) -> list[str]:
        """Inner values that stand in for outputs: the last layers' outputs, and what saturated nodes read."""
        both = (self.small.outer & self.graph.outer) - set(self.graph.outputs)
        read = [v for name in saturated for v in self._parents(name)]
        layers = [node.outputs[0] for node in self.graph.layers if node.body is None][-WITNESSES:]
        types = self.left.coupling.facts.types
        found = dict.fromkeys([*read, *layers])
        return [name for name in found if name in both and types.get(name) in FLOAT_TYPES]

    def _parents(self, name: str) -> tuple[str, ...]:
        return self.graph.nodes[self.graph.producer[name]].inputs

    def _explain(self, proof: Proof) -> str:
        """A message that names the first node whose value differs."""
        worst = max(proof.differences, key=lambda d: d.relative)
        text = (
            f"{self.graph.source}: output {worst.name!r} differs from the masked original by {worst.relative:.2e} "
            f"of its largest value ({self.tolerance:g} allowed)"
        )
        made = {output: node for node in self.small.nodes for output in node.outputs}
        both = self.small.outer & self.graph.outer
        types = self.left.coupling.facts.types
        names = [
            output
            for node in self.graph.nodes
            for output in node.outputs
            if output in both and output in self.left.coupling.labels and types.get(output) in FLOAT_TYPES
        ]
        try:
            expected = self._inner(self.masked, self.inputs[:1], names)[0]
            found = self._inner(self.pruned, self.inputs[:1], names)[0]
        except ModelError:
            return text
        for name, e, f in zip(names, expected, found, strict=True):
            if not self._difference(name, [(self._survive(name, e), f)]).relative <= self.tolerance:
                return f"{text}; the first node that differs is {made[name].name!r} ({made[name].op})"
        return text


def _without_nodes(path: Path, nodes: Sequence[Node], values: Batch) -> Path:
    """The model of a file with nodes taken out; their outputs are inputs of it now."""
    model = onnx.load(path, load_external_data=False)
    gone = {output for node in nodes for output in node.outputs}
    for proto in [proto for proto in model.graph.node if gone.intersection(proto.output)]:
        model.graph.node.remove(proto)
    for name in sorted(gone - {""}):
        kind = onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype)
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, [None] * values[name].ndim))
    path = path.with_name(f"given_{path.name}")
    path.write_bytes(model.SerializeToString())
    return path


def _all_finite(runs: Sequence[Sequence[Array]]) -> bool:
    return all(np.isfinite(value).all() for outputs in runs for value in outputs if value.dtype.kind == "f")


def _distance(expected: Array, found: Array) -> tuple[float, float]:
    """Largest absolute difference, and that over the largest finite value."""
    if not expected.size:
        return 0.0, 0.0
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf"), float("inf")
    if not finite.any():
        return 0.0, 0.0
    absolute = float(np.abs(a[finite] - b[finite]).max())
    largest = float(np.abs(a[finite]).max())
    return absolute, absolute / largest if largest else (0.0 if absolute == 0 else float("inf"))


def _reacts(values: Sequence[Array]) -> bool:
    """Whether an output is there, finite, and not the same for two different inputs."""
    first, second = values
    if not first.size or first.dtype.kind == "O":
        return False
    if first.dtype.kind == "f" and not np.isfinite(first).any():
        return False
    return first.shape != second.shape or not np.array_equal(first, second)
