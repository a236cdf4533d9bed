"""What a plan would make of a model, before anything is written: widths, cost, latency where layers were timed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Unpack

from prunegraph.coupling.analysis import analyze
from prunegraph.coupling.sample import full_cost
from prunegraph.coupling.survivors import Survivors
from prunegraph.graph.layer_names import shown
from prunegraph.graph.model import Graph
from prunegraph.keywords import takes_options
from prunegraph.latency.cache import Cache
from prunegraph.latency.layers import LayerTable
from prunegraph.latency.measured import runtime_of
from prunegraph.ops.cost import Cost
from prunegraph.pipeline import choose
from prunegraph.preparation import Preparer, kept_tokens
from prunegraph.rewriting.cut import cut
from prunegraph.runtime.data import Data
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.options import SelectionKeywords, SelectionOptions
from prunegraph.selection.plan import Plan, survivors

FORMAT = "prunegraph/preview@1"

#: Samples of the user's data that a preview looks at.
SAMPLES = 16

Progress = Callable[[str], None]


@dataclass(frozen=True)
class LayerWidth:
    """Output channels of a layer before and after; `after` is None where it goes as a whole.

    `layer` is its name in the file, `name` what the framework calls it.
    """

    layer: str
    name: str
    before: int
    after: int | None


@dataclass(frozen=True)
class LatencyEstimate:
    """Milliseconds of all layers before and after, by layers that were timed alone before on this machine.

    `guessed` layers were never timed at their new widths: their time is taken to follow their MACs.
    """

    before: float
    after: float
    layers: int
    guessed: int


@dataclass(frozen=True)
class Preview:
    """What pruning would do.

    Args:
        plan: what would be cut.
        before: cost of the model that was given.
        after: cost of the result.
        widths: layers that would change.
        latency: None where no layers of the model were timed before.
        samples: of the user's data that were looked at; 0 without data.
    """

    plan: Plan
    before: Cost
    after: Cost
    widths: tuple[LayerWidth, ...]
    latency: LatencyEstimate | None = None
    samples: int = 0

    def to_json(self) -> dict[str, Any]:
        """Everything but the plan as plain JSON."""
        provenance = self.plan.provenance
        return {
            "format": FORMAT,
            "algorithm": provenance.get("algorithm"),
            "allocation": provenance.get("allocation"),
            "before": asdict(self.before),
            "after": asdict(self.after),
            "layers": [asdict(width) for width in self.widths],
            "branches": list(self.plan.branches),
            "latency": asdict(self.latency) if self.latency is not None else None,
            "samples": self.samples,
        }


@takes_options(SelectionOptions)
def preview(
    model: Graph,
    *,
    attention: str | None = None,
    blocks: str = "alike",
    allow_io: Sequence[str] = (),
    vocabulary: str | os.PathLike[str] | Sequence[int] | None = None,
    old_ids: bool = False,
    data: Data | None = None,
    repair: str = "none",
    progress: Progress = lambda stage: None,
    **options: Unpack[SelectionKeywords],
) -> Preview:
    """Choose channels as `prune` does, and say what would come of it. Nothing is proved, repaired or written.

    Of data a few samples are looked at, and channels are not given another basis: with data the widths of the real run
    may be others, within the same budget.

    Args:
        model: the graph.
        attention: see `prune`.
        blocks: see `prune`.
        allow_io: see `prune`.
        vocabulary: see `prune`.
        old_ids: see `prune`.
        data: unlabelled inputs.
        repair: for allocations that measure candidates after it.
        progress: called with the name of each stage as it begins.
        options: those of `prunegraph.selection.options.SelectionOptions`.

    Raises:
        PrunegraphError: as `prune` does.
    """
    choice = SelectionOptions(**options)
    seen = data.head(SAMPLES) if data is not None else None
    before = full_cost(model)
    keep = kept_tokens(vocabulary, old_ids, False)
    preparer = Preparer(seen, False, choice.seed, None, progress)
    graph = preparer.with_vocabulary(model, keep).graph
    statistics = (
        Statistics(graph, seen.fit(graph), progress=progress) if seen is not None else None
    )
    progress("analyze")
    coupling = analyze(graph, attention=attention, blocks=blocks, allow_io=allow_io)
    progress("select")
    plan = choose(coupling, choice, statistics, None, repair, progress).plan
    progress("cut")
    remaining = survivors(coupling, plan)
    pruned = cut(remaining)
    cache = Cache.here(runtime_of(choice))
    return Preview(
        plan,
        before,
        full_cost(pruned),
        changed_widths(graph, pruned),
        _latency(LayerTable(coupling, None, cache), remaining),
        SAMPLES if seen is not None else 0,
    )


def changed_widths(graph: Graph, pruned: Graph) -> tuple[LayerWidth, ...]:
    """Layers whose width changes, in topological order."""
    after = {node.name: node.channels.outputs for node in pruned.layers}
    return tuple(
        LayerWidth(node.name, shown(graph, node.name), old, after.get(node.name))
        for node in graph.layers
        for old in (node.channels.outputs,)
        if old is not None and old != after.get(node.name)
    )


def _latency(table: LayerTable, remaining: Survivors) -> LatencyEstimate | None:
    known = table.estimate(remaining)
    if known is None:
        return None
    before, after, guessed = known
    return LatencyEstimate(before, after, len(table.layers), guessed)
