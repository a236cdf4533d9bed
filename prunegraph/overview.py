"""A model at first sight: what it costs, what of it can be pruned, what is fixed and why, and what would help most."""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from prunegraph.coupling.analysis import analyze
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.explain import ADVICE
from prunegraph.coupling.groups import Fixed
from prunegraph.coupling.sample import full_cost
from prunegraph.errors import BudgetError, PrunegraphError
from prunegraph.graph.indices import table_uses
from prunegraph.graph.layer_names import shown
from prunegraph.graph.model import Graph
from prunegraph.graph.shapes import shape_info
from prunegraph.ops.cost import Cost, node_macs
from prunegraph.quantization.placement import place
from prunegraph.quantization.quantize import prepared
from prunegraph.quantization.scheme import scheme
from prunegraph.rewriting.cut import cut
from prunegraph.rewriting.vocabulary import shrink_vocabulary
from prunegraph.selection.budget import Budget, Meter
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.plan import Plan, survivors
from prunegraph.selection.select import Ranking, rank
from prunegraph.selection.units import collect

FORMAT = "prunegraph/overview@1"

#: Share of the MACs that is asked for first; where widths do not allow it, the next that they do.
BOUNDS = (0.5, 0.6, 0.7, 0.8, 0.9)

#: Suggestions at most.
SUGGESTIONS = 3

#: Share of the parameters from which on the table of a vocabulary is worth a suggestion, and what is kept of it there.
LARGE_TABLE, KEPT_TOKENS = 0.2, 0.25


@dataclass(frozen=True)
class FixedLayers:
    """Layers that are fixed for one reason.

    Args:
        reason: a sentence.
        layers: how many layers.
        example: the first of them, as the framework calls it.
        because: what fixes that one.
        macs: of all of them, as a share of the model's.
        advice: what can be done.
    """

    reason: str
    layers: int
    example: str
    because: str
    macs: float
    advice: str


@dataclass(frozen=True)
class Suggestion:
    """A command, and what it would leave.

    Args:
        command: the command line; words in capitals are to be filled in.
        macs: share of the model's MACs that stays.
        params: share of its parameters that stays.
        bytes: share of the bytes of its weights that stays.
        integers: share of the remaining MACs that runs in integers.
        note: what the figures rest on.
    """

    command: str
    macs: float
    params: float
    bytes: float
    integers: float
    note: str

    @property
    def work(self) -> float:
        """What stays of MACs times their bits, and of bytes, as a geometric mean: by that suggestions are ordered."""
        bits = self.macs * (1 - 0.75 * self.integers)
        return float((bits * self.bytes) ** 0.5)


@dataclass(frozen=True)
class Overview:
    """A model at first sight. `least` is what it costs with every group at its smallest width."""

    source: str
    sha256: str
    cost: Cost
    layers: int
    groups: int
    branches: int
    least: Cost
    fixed: tuple[FixedLayers, ...]
    suggestions: tuple[Suggestion, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        return {
            "format": FORMAT,
            "model": {"name": Path(self.source).name, "sha256": self.sha256},
            "cost": asdict(self.cost),
            "layers": self.layers,
            "groups": self.groups,
            "branches": self.branches,
            "least": asdict(self.least),
            "fixed": [asdict(each) for each in self.fixed],
            "suggestions": [asdict(each) for each in self.suggestions],
        }


def overview(graph: Graph, name: str | None = None) -> Overview:
    """Look at a model without running it.

    Args:
        graph: the model.
        name: how commands name it; by default its source.
    """
    coupling = analyze(graph)
    meter, ranking = Meter(coupling), rank(coupling, _choice(0.5))
    steps = [step for unit in ranking.units for step in unit.steps]
    before = full_cost(graph)
    words = shlex.quote(name or graph.source)
    suggestions = [
        *_pruned(ranking, meter, words),
        *_quantized(graph, before, words),
        *_smaller_vocabulary(graph, before, words),
    ]
    return Overview(
        graph.source,
        graph.sha256,
        before,
        len(graph.layers),
        len(coupling.groups),
        len(coupling.branches),
        meter.measure(collect(steps)),
        tuple(_fixed(coupling)),
        tuple(sorted(suggestions, key=lambda each: each.work)[:SUGGESTIONS]),
    )


def _choice(macs: float) -> SelectionOptions:
    return SelectionOptions(budget=Budget(macs=macs))


def _fixed(coupling: Coupling) -> Iterator[FixedLayers]:
    """Reasons, the one with most MACs first; layers of which a part is fixed count by that part."""
    graph, shapes = coupling.graph, coupling.shape_info.shapes
    macs: dict[tuple[str, str], float] = defaultdict(float)
    count: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], Fixed] = {}
    whole = sum(node_macs(node, shapes) for node in graph.layers) or 1
    for fixed in coupling.fixed:
        key = (fixed.reason, ADVICE[fixed.kind])
        first.setdefault(key, fixed)
        count[key] += 1
        part = fixed.channels / fixed.of if fixed.of else 1.0
        macs[key] += node_macs(graph.node(fixed.layer), shapes) * part / whole
    for key in sorted(first, key=lambda each: (-macs[each], -count[each])):
        layer, because = first[key].layer, first[key].because
        yield FixedLayers(
            key[0],
            count[key],
            shown(graph, layer),
            shown(graph, because),
            macs[key],
            key[1],
        )


# -- what would help --------------------------------------------------------------------------


def _out(model: str, what: str) -> str:
    """A file beside the model, for a result."""
    path = Path(shlex.split(model)[0].partition(":")[0])
    return shlex.quote(f"{path.stem}-{what}.onnx")


def _pruned(ranking: Ranking, meter: Meter, model: str) -> Iterator[Suggestion]:
    """Narrower layers, by half of the MACs where widths allow it; and the same in integers."""
    before, coupling = meter.original, ranking.coupling
    plan = next(_plans(ranking), None)
    if plan is None or plan.is_empty:
        return
    after = meter.measure(plan.removal)
    bound = f"--macs {plan.provenance['budget']['macs']:g}"
    yield Suggestion(
        f"prunegraph prune {model} -o {_out(model, 'pruned')} {bound} --data DATA",
        *_shares(after, before),
        0.0,
        "channels by l2; with data the choice is better and weights are refitted",
    )
    integers = _integers(cut(survivors(coupling, plan)), "int8", None)
    if integers is not None:
        command = f"prunegraph prune {model} -o {_out(model, 'pruned-int8')} {bound} --quantize int8 --data DATA"
        yield Suggestion(
            command, *_shares(integers.cost, before), integers.macs, "both in one run"
        )


def _plans(ranking: Ranking) -> Iterator[Plan]:
    """Plans of the bounds that can be met, the lowest first."""
    for bound in BOUNDS:
        with contextlib.suppress(BudgetError):
            yield ranking.plan(Budget(macs=bound))


def _shares(after: Cost, before: Cost) -> tuple[float, float, float]:
    """What stays of MACs, parameters and bytes."""
    macs = after.macs / before.macs if before.macs else 1.0
    return macs, after.params / max(before.params, 1), after.bytes / max(before.bytes, 1)


@dataclass(frozen=True)
class _Integers:
    """A quantized model: its cost with smaller weights, the share of MACs in integers, how many layers of how many."""

    cost: Cost
    macs: float
    layers: int
    of: int


def _integers(graph: Graph, weights: str, activations: str | None) -> _Integers | None:
    """What quantization would make of a graph; None where nothing in it can be quantized. Scales are not counted."""
    kind = scheme(weights, activations)
    try:
        base = prepared(graph, kind)
        placement = place(base, kind)
    except PrunegraphError:
        return None
    shapes, whole = shape_info(base).shapes, full_cost(base)
    layers = [base.nodes[index] for index in placement.layers]
    names = {name for node in layers if (name := base.main_weight(node))}
    held = [base.weights[name] for name in names]
    saved = sum(w.size * (w.dtype.itemsize - kind.weights.bits / 8) for w in held)
    macs = sum(node_macs(node, shapes) for node in layers)
    return _Integers(
        replace(whole, bytes=round(whole.bytes - saved)),
        macs / whole.macs if whole.macs and kind.activations is not None else 0.0,
        len(layers),
        len(base.layers),
    )


def _quantized(graph: Graph, before: Cost, model: str) -> Iterator[Suggestion]:
    """Weights and activations of 8 bits, and weights alone of 4."""
    for weights, activations, options in (
        ("int8", None, "--data DATA"),
        ("int4", "none", "--weights int4 --activations none"),
    ):
        integers = _integers(graph, weights, activations)
        if integers is not None:
            yield Suggestion(
                f"prunegraph quantize {model} -o {_out(model, weights)} {options}",
                *_shares(integers.cost, before),
                integers.macs,
                f"{integers.layers} of {integers.of} layers; scales are not counted",
            )


def _smaller_vocabulary(graph: Graph, before: Cost, model: str) -> Iterator[Suggestion]:
    """Fewer tokens, where their table is much of the model."""
    tables = {use.table for use in table_uses(graph)}
    table = max(
        (graph.weights[each] for each in tables), key=lambda w: w.size, default=None
    )
    if table is None or table.size < LARGE_TABLE * before.params:
        return
    tokens = int(table.shape[0] * KEPT_TOKENS)
    try:
        after = full_cost(shrink_vocabulary(graph, range(tokens)).model)
    except PrunegraphError:
        return
    yield Suggestion(
        f"prunegraph prune {model} -o {_out(model, 'vocabulary')} --vocabulary TOKENS",
        *_shares(after, before),
        0.0,
        f"if {tokens:,} of {table.shape[0]:,} tokens stay, which a file lists",
    )
