"""The comparison: masked original against pruned graph, and what it says where they differ."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import ExactnessError, ModelError
from prunegraph.graph.external import write_graph
from prunegraph.graph.model import FLOAT_TYPES, Graph
from prunegraph.masked.original import CONSUMED, write_masked
from prunegraph.masked.weights import wrong_weight
from prunegraph.operators import info, is_quantize
from prunegraph.proof.feeds import PairedInputs
from prunegraph.proof.inputs import Inputs
from prunegraph.proof.measure import all_finite, differ, difference, is_saturated, reacts
from prunegraph.proof.models import LEVELS, Models, own, without_nodes
from prunegraph.proof.result import Proof
from prunegraph.runtime.data import Batch
from prunegraph.selection.plan import Cut, Plan, derive_cuts, survivors

Array = np.ndarray

Progress = Callable[[str], None]

#: Largest difference allowed, relative to the largest value of the output.
TOLERANCE = 1e-4
TOLERANCE_HALF = 2e-2

#: What a session with all optimizations may differ by, as a multiple of what it does to the original,
#: and at least where activations are rounded to integers: a code that flips is no fault of a cut.
NOISE = 10
ROUNDING = 0.05

#: Types of codes that are compared by themselves; ONNX Runtime hands over no narrower ones.
CODES = frozenset(
    {
        onnx.TensorProto.UINT8,
        onnx.TensorProto.INT8,
        onnx.TensorProto.UINT16,
        onnx.TensorProto.INT16,
    }
)

#: What an activation that turns with rounding reads may differ by, as a share of what outputs may.
STEEP = 0.1

#: Whose fault it is when only optimized graphs differ.
OPTIMIZER = "The cut is right, but ONNX Runtime's optimizations break the result"

#: Whose fault it is when the original itself gives no numbers.
INFINITE = "The original gives values that are infinite or not a number: give data on which it does not"

#: Inner values that stand in for outputs that prove nothing.
WITNESSES = 8


def verify(
    model: Graph,
    plan: Plan,
    pruned: Graph,
    *,
    data: Sequence[Batch] = (),
    seed: int = 0,
    tolerance: float | None = None,
    progress: Progress = lambda stage: None,
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
        progress: called with each step as it begins.

    Returns:
        The measured differences.

    Raises:
        ExactnessError: they differ, or only the pruned graph does not run; the message names the first node that does.
        PlanError: the plan does not fit the model.
        ModelError: the original does not run, or gives other results each time.
        DataError: random inputs cannot be made for the model, and there are no others.
    """
    remaining = survivors(plan.coupling(model), plan)
    named = plan.cuts and all(cut.node is not None for cut in plan.cuts)
    cuts = plan.cuts if named else derive_cuts(remaining)
    feeds = PairedInputs(remaining)
    return prove(remaining, cuts, pruned, feeds, data, seed, tolerance, progress=progress)


def prove(
    survivors: Survivors,
    cuts: Sequence[Cut],
    pruned: Graph,
    feeds: PairedInputs,
    data: Sequence[Batch] = (),
    seed: int = 0,
    tolerance: float | None = None,
    unlike: Collection[str] = (),
    progress: Progress = lambda stage: None,
) -> Proof:
    """Compare a pruned graph with the masked original, as `verify` does.

    Args:
        survivors: what is left of the original.
        cuts: what was removed from its weights.
        pruned: the pruned graph.
        feeds: what both are fed.
        data: inputs of the original to compare on besides random ones.
        seed: of the random inputs.
        tolerance: as for `verify`.
        unlike: inner values that are others on purpose, and show nothing.
        progress: called with each step as it begins.

    Raises:
        PrunegraphError: as `verify` does.
    """
    model = survivors.coupling.graph
    with tempfile.TemporaryDirectory(prefix="prunegraph-") as folder:
        models = Models(model, pruned, Path(folder), feeds)
        allowed = tolerance or default_tolerance(model)
        comparison = _Comparison(survivors, cuts, pruned, allowed, models, unlike, progress)
        return comparison.run(data, seed)


def default_tolerance(graph: Graph) -> float:
    """The tolerance that the graph's float types allow."""
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
        models: Models,
        unlike: Collection[str] = (),
        progress: Progress = lambda stage: None,
    ):
        self.survivors, self.cuts, self.pruned = survivors, cuts, pruned
        self.tolerance, self.models = tolerance, models
        self.graph = survivors.coupling.graph
        # Inner values that can be compared.
        self.both = (self.pruned.outer & self.graph.outer) - set(unlike)
        self.inputs: list[Batch] = []
        self.progress = progress
        self.notes: list[str] = []

    def run(self, data: Sequence[Batch], seed: int) -> Proof:
        self.progress("proof: 1 of 4, the masked original")
        inputs = Inputs(self.models, data, seed, self.notes)
        write_masked(self.survivors, self.cuts, self.models.masked)
        every = inputs.run()
        if not all_finite(every):
            # Something divides by what is zero where it is made; zeros where it is consumed say the same.
            write_masked(self.survivors, self.cuts, self.models.masked, CONSUMED)
            every = inputs.run()
        self.inputs = inputs.batches
        names = self._choose(every)
        outputs = list(self.graph.outputs)
        if set(names) <= set(outputs):
            expected = [[values[outputs.index(name)] for name in names] for values in every]
        else:
            expected = self.models.values(self.models.masked, self.inputs, names)
        self.progress("proof: 2 of 4, the pruned graph")
        proof = self._prove(expected, names)
        self.progress("proof: 3 of 4, weights")
        moved = bool(self.survivors.branches)
        if (weight := wrong_weight(self.graph, self.cuts, self.pruned, moved)) is not None:
            raise ExactnessError(
                f"{self.graph.source}: the pruned graph has a wrong weight: {weight}"
            )
        self.progress("proof: 4 of 4, a default session")
        self._check_default(every)
        return replace(proof, notes=tuple(dict.fromkeys(self.notes)))

    def _prove(self, expected: Sequence[Sequence[Array]], names: Sequence[str]) -> Proof:
        """The comparison without optimizations. Raises ExactnessError or ModelError."""
        try:
            proof = self._compare(expected, self.models.pruned, self.inputs, names)
        except ModelError as error:
            raise ExactnessError(
                f"{self.graph.source}: the pruned graph does not run where the masked original does: {error}"
            ) from error
        if proof.relative <= self.tolerance:
            return proof
        given = self._given_decisions(names)
        if given is not None and given.relative <= self.tolerance:
            return given
        if (before := self._before_steep(proof, names)) is not None:
            return before
        self._check_repeatable()
        with contextlib.suppress(
            ModelError
        ):  # one of the graphs does not run so: nothing is shown
            simplified = self._simplified(names)
            if simplified is not None:
                return simplified
        self.progress("the proof failed, looking for the first node that differs")
        message = self._explain(proof)
        if math.isinf(proof.relative) and not self._is_finite():
            raise ExactnessError(message, INFINITE)
        raise ExactnessError(message)

    def _is_finite(self) -> bool:
        """Tell whether the original gives finite numbers on what was compared."""
        write_graph(self.graph, self.models.original)
        outputs = self.graph.outputs
        return all_finite(self.models.values(self.models.original, self.inputs, outputs))

    def _before_steep(self, proof: Proof, names: Sequence[str]) -> Proof | None:
        """The comparison of what activations read, in place of outputs that they make and that differ.

        Where a Sigmoid reads thousands, the rounding of these turns it from 0 to 1: what it reads says whether the
        cut is right. The pruned graph must have the same activation there, and what it reads may differ by no more
        than rounding explains, a part of what outputs may. None where that is not so.
        """
        differing = [d.name for d in proof.differences if not d.relative <= self.tolerance]
        if not all(self._is_same_activation(name) for name in differing):
            return None
        read = {value for name in differing for value in self._parents(name)}
        witnesses = self._witnesses(differing)
        if not read <= {*witnesses}:
            return None
        stay = [name for name in names if name not in differing]
        compared = list(dict.fromkeys([*stay, *witnesses]))
        expected = self.models.values(self.models.masked, self.inputs, compared)
        result = self._compare(expected, self.models.pruned, self.inputs, compared)
        most = max(d.relative for d in result.differences if d.name in read)
        if not (result.relative <= self.tolerance and most <= self.tolerance * STEEP):
            return None
        self.notes.append(
            f"{len(differing)} of {len(names)} outputs turn with the rounding of what their activation reads; that was "
            "compared"
        )
        return result

    def _is_same_activation(self, name: str) -> bool:
        """Tell whether both graphs make an output by the same flat activation of a value that both have."""
        created = {output: node for node in self.pruned.nodes for output in node.outputs}
        if name not in self.graph.producer or name not in created:
            return False
        first, second = self.graph.nodes[self.graph.producer[name]], created[name]
        return (
            info(first).is_flat
            and (first.domain, first.op) == (second.domain, second.op)
            and first.attributes == second.attributes
            and list(first.inputs) == list(second.inputs)
            and self.both.issuperset(self._parents(name))
        )

    def _simplified(self, names: Sequence[str]) -> Proof | None:
        """The comparison with optimizations, where ONNX Runtime is shown to need them for the original itself.

        Without any, BatchNormalization in training mode writes running statistics over a bias that
        is the same tensor. Then both graphs must agree with few optimizations and with all.
        """
        if self.models.level != "off":
            return None
        write_graph(self.graph, self.models.original)
        off, basic, default = (
            self.models.values(self.models.original, self.inputs, self.graph.outputs, level)
            for level in LEVELS
        )
        noise = differ(basic, off)
        if noise <= self.tolerance or differ(basic, default) > self.tolerance:
            return None
        proofs = [
            self._compare(
                self.models.values(self.models.masked, self.inputs, names, level),
                self.models.pruned,
                self.inputs,
                names,
                level,
            )
            for level in LEVELS[1:]
        ]
        if max(proof.relative for proof in proofs) > self.tolerance:
            return None
        self.notes.append(
            f"without optimizations ONNX Runtime computes another original (by {noise:.1e}): compared with them"
        )
        return proofs[0]

    def _check_repeatable(self) -> None:
        """Raise ModelError where the original differs from itself: then a difference shows nothing."""
        # In one session: another one would begin with the same random numbers.
        first, second = self.models.values(
            self.models.masked, [self.inputs[0]] * 2, self.graph.outputs
        )
        if differ([first], [second]) > self.tolerance:
            random = next(
                (
                    f" (node {n.name!r}, {n.op})"
                    for n in self.graph.nodes
                    if info(n).is_random
                ),
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
        if self.models.level == "default":
            return
        try:
            proof = self._compare(
                expected, self.models.pruned, self.inputs, names, "default"
            )
        except ModelError as error:
            if self.models.runs(self.models.masked, self.inputs):
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
        """The difference that a default session may make, and the one it makes on the original."""
        names = self.graph.outputs
        masked = differ(
            expected, self.models.values(self.models.masked, self.inputs, names, "default")
        )
        write_graph(self.graph, self.models.original)
        plain, fast = (
            self.models.values(self.models.original, self.inputs, names, level)
            for level in (self.models.level, "default")
        )
        noise = max(masked, differ(plain, fast))
        rounds = any(
            "Quantize" in node.op or "Integer" in node.op or "QLinear" in node.op
            for node in self.graph.nodes
        )
        return max(self.tolerance, NOISE * noise, ROUNDING if rounds else 0.0), noise

    def _choose(self, expected: list[list[Array]]) -> list[str]:
        """The values to compare: outputs, and inner values where outputs prove nothing."""
        names = list(self.graph.outputs)
        saturated = [
            name
            for name, *values in zip(names, *expected, strict=True)
            if is_saturated(self.graph, name, values)
        ]
        vacuous = [
            name
            for name, *values in zip(names, *expected[:2], strict=True)
            if not reacts(values)
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
        values = self.models.values(pruned, inputs, names, level)
        differences = []
        for index, name in enumerate(names):
            pairs = [
                (self._survive(name, e[index]), f[index])
                for e, f in zip(expected, values, strict=True)
            ]
            differences.append(difference(name, pairs))
        return Proof(tuple(differences), self.tolerance, len(inputs), tuple(self.notes))

    def _given_decisions(
        self, names: Sequence[str], level: str | None = None
    ) -> Proof | None:
        """The comparison with both graphs made to decide alike, where they decide at all.

        A TopK among nearly equal scores falls one way or the other by rounding, and all
        behind it differs; so does a value between two codes of a QuantizeLinear. What decides is compared by
        itself; its results are then inputs. (In a default session codes differ anyway: layers run in integers there.)
        """
        ordering = [
            n
            for n in self.graph.nodes
            if info(n).decides
            and self.both.issuperset(o for o in n.outputs if o)
            and all(kept is None for kept in self.survivors.value(n.inputs[0]))
        ]
        rounding = [
            n
            for n in self.graph.nodes
            if level is None
            and is_quantize(n)
            and self.both.issuperset(n.outputs)
            and self.survivors.coupling.shape_info.types.get(n.outputs[0]) in CODES
        ]
        deciding = [*ordering, *rounding]
        if not deciding:
            return None
        results = [output for node in deciding for output in node.outputs if output]
        codes = [n.outputs[0] for n in rounding]
        read = [n.inputs[0] for n in deciding if n.inputs[0] in self.both]
        values = self.models.values(self.models.masked, self.inputs, results)
        given = [dict(zip(results, value, strict=True)) for value in values]
        inputs = [{**a, **b} for a, b in zip(self.inputs, given, strict=True)]
        kept = [
            {**a, **{name: self._survive(name, value) for name, value in b.items()}}
            for a, b in zip(self.inputs, given, strict=True)
        ]
        masked, pruned = (
            without_nodes(path, deciding, inputs[0], codes)
            for path in (self.models.masked, self.models.pruned)
        )
        for nodes, how in ((ordering, "decide by order"), (rounding, "round")):
            if nodes:
                self.notes.append(
                    f"{len(nodes)} nodes that {how} ({nodes[0].op}) were made to {how.split()[0]} alike"
                )
        if codes and self._furthest(codes, pruned, given, kept) > 1:
            return None
        names = list(dict.fromkeys([*names, *read]))
        return self._compare(
            self.models.values(masked, inputs, names), pruned, kept, names, level
        )

    def _furthest(
        self,
        codes: Sequence[str],
        pruned: Path,
        given: Sequence[Batch],
        kept: Sequence[Batch],
    ) -> int:
        """How many steps codes that the pruned graph makes by itself are from those that are given, at most."""
        results = self.models.values(pruned, kept, [own(name) for name in codes])
        steps = [
            np.abs(self._survive(name, a[name]).astype(np.int64) - b.astype(np.int64))
            for a, values in zip(given, results, strict=True)
            for name, b in zip(codes, values, strict=True)
        ]
        return max((int(each.max(initial=0)) for each in steps), default=0)

    def _survive(self, name: str, value: Array) -> Array:
        """The part of an original value that the pruned graph still has."""
        axes = self.survivors.coupling.value_labels(name)
        return value if axes is None else self.survivors.taken(axes, value)

    def _witnesses(self, saturated: Sequence[str]) -> list[str]:
        """Inner values that stand in for outputs: the last layers' outputs, and what saturated nodes read."""
        both = self.both - set(self.graph.outputs)
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
        created = {output: node for node in self.pruned.nodes for output in node.outputs}
        both = self.both
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
            expected = self.models.values(self.models.masked, self.inputs[:1], names)[0]
            result = self.models.values(self.models.pruned, self.inputs[:1], names)[0]
        except ModelError:
            return text
        for name, e, f in zip(names, expected, result, strict=True):
            if (
                not difference(name, [(self._survive(name, e), f)]).relative
                <= self.tolerance
            ):
                return f"{text}; the first node that differs is {created[name].name!r} ({created[name].op})"
        return text
