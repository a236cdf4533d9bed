"""The proof: a pruned graph computes what the masked original computes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from prunegraph.coupling.analysis import analyze
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import DataError, ExactnessError, ModelError
from prunegraph.graph.external import write_graph
from prunegraph.graph.model import FLOAT_TYPES, Graph, Node
from prunegraph.graph.sizes import symbolic_axes
from prunegraph.masked.original import CONSUMED, write_masked
from prunegraph.masked.weights import wrong_weight
from prunegraph.runtime.data import Batch, random_inputs
from prunegraph.runtime.session import run, session
from prunegraph.selection.plan import Cut, Plan, derive_cuts, survivors

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

#: Operators that give other results each time.
RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)

#: How ONNX Runtime runs a graph: as the file has it, with what it simplifies, and as users do.
LEVELS = ("off", "basic", "default")

#: What a session with all optimizations may differ by, as a multiple of what it does to the original,
#: and at least where activations are rounded to integers: a code that flips is no fault of a cut.
NOISE = 10
ROUNDING = 0.05

#: Whose fault it is when only optimized graphs differ.
OPTIMIZER = "The cut is right, but ONNX Runtime's optimizations break the result"

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
    model: Graph,
    plan: Plan,
    pruned: Graph,
    *,
    data: Sequence[Batch] = (),
    seed: int = 0,
    tolerance: float | None = None,
) -> Proof:
    """Compare a pruned graph with the masked original in ONNX Runtime.

    Both run as the files have them, without optimizations; the pruned graph also in a session as users open it.
    The weights that the plan cuts are compared with the original's as well, entry by entry.

    Args:
        model: the original.
        plan: what was removed.
        pruned: the pruned graph.
        data: inputs to compare on besides two random ones.
        seed: of the random inputs.
        tolerance: largest difference allowed, relative to the largest value of each output;
            by default 1e-4, or 2e-2 for models with 16-bit floats.

    Returns:
        The measured differences.

    Raises:
        ExactnessError: they differ, or only the pruned graph does not run; the message names the first node that does.
        PlanError: the plan does not fit the model.
        ModelError: the original does not run, or gives other results each time.
        DataError: random inputs cannot be made for the model, and there are no others.
    """
    remaining = survivors(analyze(model, attention=plan.attention), plan)
    named = plan.cuts and all(cut.node is not None for cut in plan.cuts)
    cuts = plan.cuts if named else derive_cuts(remaining)
    with tempfile.TemporaryDirectory(prefix="prunegraph-") as folder:
        comparison = _Comparison(
            remaining, cuts, pruned, tolerance or default_tolerance(model), Path(folder)
        )
        return comparison.run(list(data), seed)


def default_tolerance(graph: Graph) -> float:
    """How exact a proof can be with the graph's float types."""
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    types = {
        weight.tensor.data_type for weight in graph.weights.values() if weight.size > 1
    }
    return TOLERANCE_HALF if types & set(halves) else TOLERANCE


class _Comparison:
    """Masked original against pruned graph."""

    def __init__(
        self,
        survivors: Survivors,
        cuts: Sequence[Cut],
        pruned: Graph,
        tolerance: float,
        folder: Path,
    ):
        self.survivors, self.cuts, self.pruned_graph, self.tolerance = (
            survivors,
            cuts,
            pruned,
            tolerance,
        )
        self.graph = survivors.coupling.graph
        self.masked, self.pruned = folder / "masked.onnx", folder / "pruned.onnx"
        self.original = folder / "original.onnx"
        self.inputs: list[Batch] = []
        self.notes: list[str] = []
        self.level = "off"
        write_graph(pruned, self.pruned)

    def run(self, data: list[Batch], seed: int) -> Proof:
        write_masked(self.survivors, self.cuts, self.masked)
        every = self._run_original(data, seed)
        if not _all_finite(every):
            # Something divides by what is zero where it is made; zeros where it is consumed say the same.
            write_masked(self.survivors, self.cuts, self.masked, CONSUMED)
            every = self._run_original(data, seed)
        names = self._choose(every)
        outputs = list(self.graph.outputs)
        if set(names) <= set(outputs):
            expected = [[values[outputs.index(name)] for name in names] for values in every]
        else:
            expected = self._inner(self.masked, self.inputs, names)
        proof = self._prove(expected, names)
        if (weight := wrong_weight(self.graph, self.cuts, self.pruned_graph)) is not None:
            raise ExactnessError(
                f"{self.graph.source}: the pruned graph has a wrong weight: {weight}"
            )
        self._check_default(every)
        return replace(proof, notes=tuple(dict.fromkeys(self.notes)))

    def _prove(self, expected: Sequence[Sequence[Array]], names: Sequence[str]) -> Proof:
        """The comparison without optimizations. Raises ExactnessError or ModelError."""
        try:
            proof = self._compare(expected, self.pruned, self.inputs, names)
        except ModelError as error:
            raise ExactnessError(
                f"{self.graph.source}: the pruned graph does not run where the masked original does: {error}"
            ) from error
        if proof.relative <= self.tolerance:
            return proof
        given = self._given_decisions(names)
        if given is not None and given.relative <= self.tolerance:
            return given
        self._check_repeatable()
        raise ExactnessError(self._explain(proof))

    def _check_repeatable(self) -> None:
        """Raise ModelError where the original differs from itself: then a difference shows nothing."""
        # In one session: another one would begin with the same random numbers.
        first, second = self._inner(self.masked, [self.inputs[0]] * 2, self.graph.outputs)
        if self._differ([first], [second]) > self.tolerance:
            random = next(
                (f" (node {n.name!r}, {n.op})" for n in self.graph.nodes if n.op in RANDOM),
                "",
            )
            raise ModelError(
                f"{self.graph.source}: the original gives other results each time it runs{random}; "
                "nothing can be proved for it"
            )

    def _check_default(self, expected: Sequence[Sequence[Array]]) -> None:
        """Run the pruned graph as users do; a session's own rounding is measured on the original.

        Raises:
            ExactnessError: it does not run, or differs by more than optimizations change the original.
        """
        names = self.graph.outputs
        if self.level == "default":
            return
        try:
            proof = self._compare(expected, self.pruned, self.inputs, names, "default")
        except ModelError as error:
            if self._runs(self.masked):
                raise ExactnessError(
                    f"{self.graph.source}: the pruned graph does not run in a default session of ONNX Runtime, "
                    f"where the original does: {error}",
                    blame=OPTIMIZER,
                ) from error
            self.notes.append(
                "a default session of ONNX Runtime does not run the original: compared without one"
            )
            return
        if proof.relative <= self.tolerance:
            return
        allowed, noise = self._default_allowance(expected)
        if not proof.relative <= allowed:
            given = self._given_decisions(names, "default")
            if given is not None and given.relative <= allowed:
                return
            raise ExactnessError(
                f"{self.graph.source}: an optimization of ONNX Runtime changes what the pruned graph computes: in a "
                f"default session it differs by {proof.relative:.2e} of the largest value, the original by "
                f"{noise:.2e}; without optimizations they agree",
                blame=OPTIMIZER,
            )
        self.notes.append(
            f"in a default session the pruned graph differs by {proof.relative:.1e}, the original by {noise:.1e}"
        )

    def _default_allowance(
        self, expected: Sequence[Sequence[Array]]
    ) -> tuple[float, float]:
        """What a default session may differ by, and what it differs by on the original."""
        names = self.graph.outputs
        masked = self._differ(
            expected, self._inner(self.masked, self.inputs, names, "default")
        )
        write_graph(self.graph, self.original)
        plain, fast = (
            self._inner(self.original, self.inputs, names, level)
            for level in (self.level, "default")
        )
        noise = max(masked, self._differ(plain, fast))
        rounds = any(
            "Quantize" in node.op or "Integer" in node.op or "QLinear" in node.op
            for node in self.graph.nodes
        )
        return max(self.tolerance, NOISE * noise, ROUNDING if rounds else 0.0), noise

    def _differ(
        self, first: Sequence[Sequence[Array]], second: Sequence[Sequence[Array]]
    ) -> float:
        """The largest relative difference between two sets of runs."""
        pairs = [
            pair
            for runs in zip(first, second, strict=True)
            for pair in zip(*runs, strict=True)
        ]
        return max((self._difference("", [pair]).relative for pair in pairs), default=0.0)

    def _runs(self, path: Path) -> bool:
        """Whether a model runs in a default session."""
        try:
            self._inner(path, self.inputs, self.graph.outputs, "default")
        except ModelError:
            return False
        return True

    def _run_original(self, data: list[Batch], seed: int) -> list[list[Array]]:
        """Outputs of the masked original on two random inputs, on one of other sizes, and on the user's.

        Sizes are batch 3, and batch 1 with other symbolic axes twice as long, where the model takes them.
        """
        failure = None
        for self.level in LEVELS:
            self.notes.clear()
            try:
                opened = _open(self.masked, f"{self.graph.source} (masked)", self.level)
                return self._run_inputs(opened, data, seed)
            except ModelError as error:
                failure = failure or error
        assert failure is not None
        raise self._blame(failure, data, seed) from failure

    def _run_inputs(
        self, opened: InferenceSession, data: list[Batch], seed: int
    ) -> list[list[Array]]:
        failure: ModelError | DataError | None = None
        for batch in (3, 1):
            try:
                self.inputs = [
                    random_inputs(self.graph, seed=seed + i, batch=batch) for i in range(2)
                ]
                results = [run(opened, each) for each in self.inputs]
                break
            except (ModelError, DataError) as error:
                failure = error
        else:
            assert failure is not None
            if not data:
                raise failure
            self.inputs = list(data)
            self.notes.append(
                "compared on the given data alone, the original does not run on random inputs"
            )
            return [run(opened, each) for each in data]
        if any(symbolic_axes(self.graph).values()):
            results += self._run_other_sizes(opened, seed, batch)
        self.inputs += data
        return results + [run(opened, each) for each in data]

    def _blame(self, failure: ModelError, data: Sequence[Batch], seed: int) -> ModelError:
        """The error for a masked original that does not run: is it the original, or the mask?"""
        source, reason = (
            self.graph.source,
            str(failure).removeprefix(f"{self.graph.source} (masked): "),
        )
        write_graph(self.graph, self.original)
        try:
            opened = session(self.original, name=source)
        except ModelError as error:
            return ModelError(
                f"{error}; nothing can be proved for a model that does not load"
            )
        try:
            self._run_inputs(opened, list(data), seed)
        except ModelError as error:
            inputs = (
                "neither on random inputs nor on the given data"
                if data
                else "on random inputs"
            )
            hint = "" if data else "; give inputs that it takes with --data"
            return ModelError(
                f"{source}: the original does not run {inputs}{hint}: {error}"
            )
        return ModelError(
            f"{source}: the masked original does not run, though the original does: please report it ({reason})"
        )

    def _run_other_sizes(
        self, opened: InferenceSession, seed: int, batch: int
    ) -> list[list[Array]]:
        for stretch in (2, 1):
            other = random_inputs(self.graph, seed=seed, batch=1, stretch=stretch)
            if all(
                other[name].shape == value.shape for name, value in self.inputs[0].items()
            ):
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
        saturated = [
            name
            for name, *values in zip(names, *expected, strict=True)
            if self._is_saturated(name, values)
        ]
        vacuous = [
            name
            for name, *values in zip(names, *expected[:2], strict=True)
            if not _reacts(values)
        ]
        if not (saturated or vacuous):
            return names
        witnesses = self._witnesses(saturated)
        self.notes.append(
            f"{len({*saturated, *vacuous})} of {len(names)} outputs are empty, saturated or do not react to the "
            f"input; {len(witnesses)} inner values were compared"
        )
        # Never nothing: an output without a stand-in is judged as it is.
        return [
            name for name in names if name not in saturated or not witnesses
        ] + witnesses

    def _compare(
        self,
        expected: Sequence[Sequence[Array]],
        pruned: Path,
        inputs: Sequence[Batch],
        names: Sequence[str],
        level: str | None = None,
    ) -> Proof:
        values = self._inner(pruned, inputs, names, level)
        differences = []
        for index, name in enumerate(names):
            pairs = [
                (self._survive(name, e[index]), f[index])
                for e, f in zip(expected, values, strict=True)
            ]
            differences.append(self._difference(name, pairs))
        return Proof(tuple(differences), self.tolerance, len(inputs), tuple(self.notes))

    def _given_decisions(
        self, names: Sequence[str], level: str | None = None
    ) -> Proof | None:
        """The comparison with both graphs made to decide alike, where they decide at all.

        A TopK among nearly equal scores falls one way or the other by rounding, and all
        behind it differs. What decides is compared by itself; its results are then inputs.
        """
        present = self.pruned_graph.outer & self.graph.outer
        deciding = [
            n
            for n in self.graph.nodes
            if n.op in DECISIONS and present.issuperset(o for o in n.outputs if o)
        ]
        if not deciding:
            return None
        results = [output for node in deciding for output in node.outputs if output]
        read = [n.inputs[0] for n in deciding if n.inputs[0] in present]
        values = self._inner(self.masked, self.inputs, results)
        inputs = [
            {**each, **dict(zip(results, value, strict=True))}
            for each, value in zip(self.inputs, values, strict=True)
        ]
        paths = [
            _without_nodes(path, deciding, inputs[0]) for path in (self.masked, self.pruned)
        ]
        self.notes.append(
            f"{len(deciding)} nodes that decide by order ({deciding[0].op}) were made to decide alike"
        )
        names = list(dict.fromkeys([*names, *read]))
        return self._compare(
            self._inner(paths[0], inputs, names), paths[1], inputs, names, level
        )

    def _inner(
        self,
        path: Path,
        inputs: Sequence[Batch],
        names: Sequence[str],
        level: str | None = None,
    ) -> list[list[Array]]:
        """Values of a model by name, also inner ones, for every input."""
        extra = [name for name in names if name not in self.graph.outputs]
        if extra:
            model = onnx.load(path, load_external_data=False)
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
            path = path.with_name(f"inner_{path.name}")
            path.write_bytes(model.SerializeToString())
        opened = _open(path, f"{self.graph.source} ({path.stem})", level or self.level)
        return [run(opened, each, list(names)) for each in inputs]

    def _survive(self, name: str, value: Array) -> Array:
        """The part of an original value that the pruned graph still has."""
        for axis, kept in enumerate(self.survivors.value(name)):
            if kept is not None:
                value = np.take(value, kept, axis)
        return value

    def _difference(self, name: str, pairs: Sequence[tuple[Array, Array]]) -> Difference:
        absolute = relative = 0.0
        for expected, match in pairs:
            if expected.shape != match.shape:
                return Difference(name, float("inf"), float("inf"))
            if expected.dtype.kind not in "fiubV":  # text is the same, or it is not
                if not np.array_equal(expected, match):
                    return Difference(name, float("inf"), float("inf"))
                continue
            a, r = _distance(expected, match)
            absolute, relative = max(absolute, a), max(relative, r)
        return Difference(name, absolute, relative)

    def _is_saturated(self, name: str, values: Sequence[Array]) -> bool:
        """Whether an output is so near the end of an activation's range that only rounding is left of it."""
        if (
            name not in self.graph.producer
            or self.graph.nodes[self.graph.producer[name]].op not in SATURATING
        ):
            return False
        return all(
            value.size > 0
            and float(np.minimum(abs(value), abs(1 - value)).max()) < SATURATED
            for value in values
        )

    def _witnesses(self, saturated: Sequence[str]) -> list[str]:
        """Inner values that stand in for outputs: the last layers' outputs, and what saturated nodes read."""
        both = (self.pruned_graph.outer & self.graph.outer) - set(self.graph.outputs)
        read = [v for name in saturated for v in self._parents(name)]
        layers = [node.outputs[0] for node in self.graph.layers if node.subgraph is None][
            -WITNESSES:
        ]
        types = self.survivors.coupling.shape_info.types
        result = dict.fromkeys([*read, *layers])
        return [name for name in result if name in both and types.get(name) in FLOAT_TYPES]

    def _parents(self, name: str) -> tuple[str, ...]:
        return self.graph.nodes[self.graph.producer[name]].inputs

    def _explain(self, proof: Proof) -> str:
        """A message that names the first node whose value differs."""
        worst = max(proof.differences, key=lambda d: d.relative)
        text = (
            f"{self.graph.source}: output {worst.name!r} differs from the masked original by {worst.relative:.2e} "
            f"of its largest value ({self.tolerance:g} allowed)"
        )
        created = {
            output: node for node in self.pruned_graph.nodes for output in node.outputs
        }
        both = self.pruned_graph.outer & self.graph.outer
        types = self.survivors.coupling.shape_info.types
        names = [
            output
            for node in self.graph.nodes
            for output in node.outputs
            if output in both
            and output in self.survivors.coupling.labels
            and types.get(output) in FLOAT_TYPES
        ]
        try:
            expected = self._inner(self.masked, self.inputs[:1], names)[0]
            result = self._inner(self.pruned, self.inputs[:1], names)[0]
        except ModelError:
            return text
        for name, e, f in zip(names, expected, result, strict=True):
            if (
                not self._difference(name, [(self._survive(name, e), f)]).relative
                <= self.tolerance
            ):
                return f"{text}; the first node that differs is {created[name].name!r} ({created[name].op})"
        return text


def _open(path: Path, name: str, level: str) -> InferenceSession:
    return session(path, name=name, fast=level == "default", optimized=level != "off")


def _without_nodes(path: Path, nodes: Sequence[Node], values: Batch) -> Path:
    """The model of a file with nodes taken out; their outputs are inputs of it now."""
    model = onnx.load(path, load_external_data=False)
    gone = {output for node in nodes for output in node.outputs}
    for proto in [proto for proto in model.graph.node if gone.intersection(proto.output)]:
        model.graph.node.remove(proto)
    for name in sorted(gone - {""}):
        kind = onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype)
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(name, kind, [None] * values[name].ndim)
        )
    path = path.with_name(f"given_{path.name}")
    path.write_bytes(model.SerializeToString())
    return path


def _all_finite(runs: Sequence[Sequence[Array]]) -> bool:
    return all(
        np.isfinite(value).all()
        for outputs in runs
        for value in outputs
        if value.dtype.kind == "f"
    )


def _distance(expected: Array, result: Array) -> tuple[float, float]:
    """Largest absolute difference, and that over the largest finite value."""
    if not expected.size:
        return 0.0, 0.0
    a, b = expected.astype(np.float64), result.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        return float("inf"), float("inf")
    if not finite.any():
        return 0.0, 0.0
    absolute = float(np.abs(a[finite] - b[finite]).max())
    largest = float(np.abs(a[finite]).max())
    return absolute, absolute / largest if largest else (
        0.0 if absolute == 0 else float("inf")
    )


def _reacts(values: Sequence[Array]) -> bool:
    """Whether an output is there, finite, and not the same for two different inputs (all over, where there is one)."""
    first, second = values if len(values) > 1 else (values[0], values[0].reshape(-1)[:1])
    if not first.size or first.dtype.kind == "O":
        return False
    if first.dtype.kind == "f" and not np.isfinite(first).any():
        return False
    return first.shape != second.shape or not np.array_equal(first, second)
