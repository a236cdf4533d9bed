"""Depth and width in one budget.

`only` drops branches, in their order, until the budget is met. `auto` measures how many of them are best: for a few
numbers of branches the width meets what is left of the budget, the result is repaired, and what is nearest to
the original's outputs, on samples that the repair has not seen, is chosen. No labels are used, and nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from prunegraph.coupling.branches import Branch
from prunegraph.coupling.coupling import Coupling
from prunegraph.depth.gates import GatedNetwork
from prunegraph.depth.order import greedy
from prunegraph.errors import BudgetError, DataError
from prunegraph.graph.layer_names import named_layers
from prunegraph.graph.model import Graph
from prunegraph.latency.bench import PAIRS, Bench
from prunegraph.latency.cache import Cache
from prunegraph.latency.measured import Selected, runtime_of
from prunegraph.measuring import metrics
from prunegraph.measuring.latency import Latency, Stopwatch, Timer
from prunegraph.measuring.metrics import Seen
from prunegraph.ops.cost import cost
from prunegraph.recovery.repairs import BoundRepair
from prunegraph.rewriting.cut import cut
from prunegraph.runtime.data import Batch, Data
from prunegraph.runtime.session import run, session
from prunegraph.runtime.statistics import batch_size
from prunegraph.selection.budget import Meter, parse_latency, unmet
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.plan import make_plan, survivors

#: One of so many samples is kept from the repair, to compare results on; at most so many.
HELD, MOST_HELD = 4, 256

#: Samples that results are repaired on before they are compared, at most.
FITTED = 512

#: Multiply-accumulates that the first look at all branches may take, and the samples it is taken on.
LOOK, SAMPLES = 2e12, (8, 256)

#: Numbers of branches that are tried at first, evenly spread, and then near the best; and all of them, at most.
SPREAD, TRIED = 5, 8

#: The same under a bound on latency, where widths beside each number are found by timing many models.
SPREAD_TIMED, TRIED_TIMED = 3, 4

#: Branches go on being ordered until this part of a latency is predicted to be met: what is measured may be more.
AHEAD = 0.9

#: Gives the plan that meets the budget by width, with the branches gone that a coupling is without.
Widths = Callable[[Coupling], Selected]


@dataclass(frozen=True)
class Depth:
    """What depth is chosen for, and by which means.

    Args:
        coupling: what can be pruned.
        choice: budget and limits.
        data: unlabelled inputs.
        repair: how accuracy is recovered.
        inputs: what models are run on when they are timed.
        timer: what measures; None is the choice's runtime.
        cache: where layer times are kept; None is this machine's.
        progress: told what is being measured.
    """

    coupling: Coupling
    choice: SelectionOptions
    data: Data
    repair: BoundRepair
    inputs: Batch | None = None
    timer: Timer | None = None
    cache: Cache | None = None
    progress: Callable[[str], None] = field(default=lambda stage: None, repr=False)

    @property
    def branches(self) -> list[Branch]:
        """Branches that may go: those without a layer that is to be kept whole."""
        whole = [pattern for pattern, ratio in self.choice.ratio_for.items() if not ratio]
        kept = set(named_layers(self.coupling.graph, [*self.choice.keep, *whole]))
        return [b for b in self.coupling.branches if kept.isdisjoint(b.layers)]


def check(choice: SelectionOptions, data: Data | None) -> None:
    """Raise BudgetError or DataError for what depth cannot be chosen for."""
    if choice.budget.ratio is not None:
        raise BudgetError(
            f"depth {choice.depth!r} needs a bound on macs, params, bytes or latency; a ratio is one of channels"
        )
    if data is None:
        raise DataError(
            f"depth {choice.depth!r} measures what branches are for: give --data FILE (unlabelled inputs)"
        )


def choose(
    depth: Depth,
    widths: Widths,
    shared: Callable[[], Sequence[Selected]] | None = None,
) -> Selected:
    """Choose branches, and channels beside them where `depth` is "auto".

    Args:
        depth: what they are chosen for.
        widths: chooses channels.
        shared: gives plans in which both share one allocation, which are compared with the others.

    Raises:
        BudgetError: the budget cannot be met.
        DataError: the data do not fit the model.
    """
    if not depth.branches:
        if depth.choice.depth == "only":
            raise BudgetError(
                f"{depth.coupling.graph.source}: has no residual branch that may go"
            )
        return widths(depth.coupling)
    order = ordered(depth)
    if depth.choice.depth == "only":
        return _by_depth_alone(depth, order)
    trials = _Trials(depth, order, widths)
    for each in shared() if shared is not None else ():
        trials.consider(len(each.plan.branches), each)
    if depth.choice.budget.latency is not None:
        with suppress(BudgetError):  # too few branches: channels go beside them
            alone = _by_depth_alone(depth, order)
            trials.consider(len(alone.plan.branches), alone)
    return trials.best()


# -- the order, and depth alone ---------------------------------------------------------------


def ordered(
    depth: Depth, is_enough: Callable[[Sequence[str]], bool] | None = None
) -> list[str]:
    """Ids of branches in the order in which they go, until they are enough; None is to meet the budget alone."""
    coupling, branches = depth.coupling, depth.branches
    meter = Meter(coupling)
    by = (*depth.choice.budget.counted, "macs")[0]
    whole = float(getattr(meter.original, by))

    def saved(gone: Collection[str]) -> float:
        remaining = meter.measure(dict.fromkeys(gone, (0,)))
        return 1 - float(getattr(remaining, by)) / whole

    gates = GatedNetwork(
        coupling,
        branches,
        depth.data.head(_samples(depth)),
        with_means=depth.repair.refits,
    )
    return greedy(
        branches, gates.error, saved, is_enough or _goal(depth, meter), depth.progress
    )


def _samples(depth: Depth) -> int:
    """Samples that branches are looked at on: fewer of a large model."""
    macs = max(cost(depth.coupling.graph).macs, 1) * len(depth.branches)
    least, most = SAMPLES
    return int(min(max(LOOK / macs, least), most))


def _goal(depth: Depth, meter: Meter) -> Callable[[Sequence[str]], bool]:
    """Tells whether branches alone meet the budget; a latency is predicted."""
    budget = depth.choice.budget
    if budget.latency is None:
        return lambda gone: _unmet(depth, meter, gone) is None
    timer = _timer(depth)
    bench = Bench(depth.coupling, timer, _cache(depth))
    share = _share(depth, timer)

    def is_enough(gone: Sequence[str]) -> bool:
        plan = make_plan(depth.coupling, dict.fromkeys(gone, (0,)))
        is_fast = bench.candidate(plan).predicted <= AHEAD * share
        return is_fast and _unmet(depth, meter, gone) is None

    return is_enough


def _unmet(depth: Depth, meter: Meter, gone: Sequence[str]) -> BudgetError | None:
    """The error for a counted bound that is not met without some branches."""
    remaining = meter.measure(dict.fromkeys(gone, (0,)))
    return unmet(depth.choice.budget, remaining, meter.original)


def _share(depth: Depth, timer: Timer) -> float:
    """The bound on latency as a share of the original's."""
    amount, is_share = parse_latency(str(depth.choice.budget.latency))
    return amount if is_share else amount / timer.original()


def _cache(depth: Depth) -> Cache:
    if depth.cache is not None:
        return depth.cache
    return Cache.here(runtime_of(depth.choice))


def _timer(depth: Depth) -> Timer:
    return depth.timer or Stopwatch(
        depth.coupling.graph, depth.inputs, runtime=runtime_of(depth.choice)
    )


def _by_depth_alone(depth: Depth, order: Sequence[str]) -> Selected:
    """The fewest branches in order that meet the budget."""
    coupling, budget = depth.coupling, depth.choice.budget
    origin = {**depth.choice.provenance(), "algorithm": None, "allocation": None}
    error = _unmet(depth, Meter(coupling), order)
    if error is not None:
        raise error
    if budget.latency is not None:
        gone, latency = _measured(depth, order)
        plan = make_plan(
            coupling,
            dict.fromkeys(gone, (0,)),
            {**origin, "latency": latency.provenance()},
        )
        return Selected(plan, latency)
    return Selected(make_plan(coupling, dict.fromkeys(order, (0,)), origin))


def _measured(depth: Depth, order: Sequence[str]) -> tuple[Sequence[str], Latency]:
    """The fewest branches in order whose measured latency meets the bound. Raises BudgetError."""
    timer, meter = _timer(depth), Meter(depth.coupling)
    share = _share(depth, timer)
    results: dict[int, Latency] = {}

    def is_met(count: int) -> bool:
        if count not in results:
            plan = make_plan(depth.coupling, dict.fromkeys(order[:count], (0,)))
            pruned = cut(survivors(depth.coupling, plan))
            results[count] = timer.against(pruned, PAIRS)
            depth.progress(
                f"depth: {results[count].kept:.3f} of the original's latency without {count} branches"
            )
        is_small = _unmet(depth, meter, order[:count]) is None
        return is_small and results[count].kept <= share

    if not is_met(len(order)):
        raise BudgetError(
            f"latency cannot fall to {share:.3g} of the original by depth alone: without {len(order)} branches "
            f"{results[len(order)].kept:.3f} is measured; use --depth auto"
        )
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_met(middle) else (middle + 1, high)
    is_met(low)
    return order[:low], results[low]


# -- depth and width --------------------------------------------------------------------------


class _Trials:
    """Numbers of branches, each with the width that meets the budget, compared at the outputs."""

    def __init__(self, depth: Depth, order: Sequence[str], widths: Widths):
        self.depth, self.order, self.widths = depth, order, widths
        graph = depth.coupling.graph
        data = depth.data.fit(graph)
        many = data.samples >= 2 * HELD
        self._fitted = _part(data, False).head(FITTED) if many else data
        self._held = (_part(data, True) if many else data).head(MOST_HELD)
        self._results: dict[int, Selected] = {}
        self._errors: dict[int, float] = {}
        self._failures: dict[int, BudgetError] = {}

    def best(self) -> Selected:
        """The best that was measured. Raises BudgetError where no number of branches meets the budget."""
        last, is_timed = len(self.order), self.depth.choice.is_measured
        spread, most = (SPREAD_TIMED, TRIED_TIMED) if is_timed else (SPREAD, TRIED)
        for count in sorted({round(x) for x in np.linspace(0, last, spread)}):
            self._try(count)
        while len(self._errors) < most and (near := self._untried()) is not None:
            self._try(near)
        chosen = min(self._errors, key=lambda count: (self._errors[count], count))
        if chosen not in self._results:
            # What is left beside the most branches is the least that can be left.
            raise self._failures[max(self._failures)]
        return self._described(chosen)

    def _untried(self) -> int | None:
        """The number in the middle of the wider gap beside the best one."""
        best = min(self._errors, key=lambda count: (self._errors[count], count))
        tried = sorted(self._errors)
        gaps = [
            (high - low, (low + high) // 2)
            for low, high in pairwise(tried)
            if best in (low, high) and high - low > 1
        ]
        return max(gaps)[1] if gaps else None

    def consider(self, count: int, result: Selected) -> None:
        """Measure what a plan comes to; it stands for a number of branches if it is the best one of it."""
        error = self._error(self._repaired(result))
        if error < self._errors.get(count, float("inf")):
            self._results[count], self._errors[count] = result, error
        self.depth.progress(f"depth: without {count} branches the error is {error:.4g}")

    def _try(self, count: int) -> None:
        """Choose channels beside a number of branches, and measure what comes of it."""
        coupling = self.depth.coupling
        branches = self.order[:count]
        self.depth.progress(f"depth: widths without {count} branches")
        try:
            result = self.widths(coupling.without(branches) if branches else coupling)
        except BudgetError as error:
            self._failures[count] = error
            self._errors.setdefault(count, float("inf"))
            return
        self.consider(count, result)

    def _repaired(self, result: Selected) -> Graph:
        """What a plan leaves, repaired on the samples that are not compared."""
        remaining = survivors(self.depth.coupling, result.plan)
        return self.depth.repair(remaining, cut(remaining), self._fitted, lambda _: None)

    def _error(self, pruned: Graph) -> float:
        graph = self.depth.coupling.graph
        sessions = [session(each, name=each.source) for each in (graph, pruned)]
        every = [v for node in graph.nodes for v in node.outputs if v]
        names = list(graph.outputs)

        def seen(batch: Batch) -> Seen:
            first, second = (
                dict(zip(names, run(each, batch, names), strict=True)) for each in sessions
            )
            return Seen(batch, first, second)

        size = batch_size(graph, self._held, every)
        with np.errstate(all="ignore"):
            error = metrics.error(map(seen, self._held.batches(graph, size)))
        return error if np.isfinite(error) else float("inf")

    def _described(self, chosen: int) -> Selected:
        """The result, with what was tried."""
        result = self._results[chosen]
        tried: list[Mapping[str, Any]] = [
            {"branches": count, "error": self._errors[count]}
            for count in sorted(self._results)
        ]
        origin = {
            **result.plan.provenance,
            "depth": self.depth.choice.depth,
            "depth_tried": tried,
        }
        return replace(result, plan=replace(result.plan, provenance=origin))


def _part(data: Data, is_held: bool) -> Data:
    """The samples that results are compared on, or the others."""
    return data.where(lambda numbers: (numbers % HELD == HELD - 1) == is_held)
