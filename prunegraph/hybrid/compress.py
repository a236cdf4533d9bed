"""Keep, prune or decompose, layer by layer, under one budget: `compress`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from prunegraph import api
from prunegraph.coupling.branches import PREFIX
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.sample import full_cost
from prunegraph.depth.choose import Depth
from prunegraph.depth.choose import check as check_depth
from prunegraph.depth.ways import BranchWays
from prunegraph.errors import BudgetError, OptionError, UnknownNameError
from prunegraph.execution import Decomposition, ExecutionOptions, ExecutionResult, execute
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import check_destinations
from prunegraph.hybrid import mixes, published
from prunegraph.hybrid.decisions import Decision, decisions
from prunegraph.hybrid.mixes import Mix
from prunegraph.keywords import takes_options
from prunegraph.measuring.deviation import deviation
from prunegraph.ops.cost import Cost
from prunegraph.options import base_name
from prunegraph.pipeline import check_quantize, competes, competing, ranking
from prunegraph.preparation import Preparation, Preparer
from prunegraph.quantization.precision import PrecisionResult, check_dtype, to_dtype
from prunegraph.recovery import repairs
from prunegraph.rewriting.decompose import (
    DecomposeOptions,
    DecomposeResult,
    decompose_layers,
)
from prunegraph.rewriting.ranks import RankRule
from prunegraph.rotation.run import Rotated, check_when
from prunegraph.runtime.data import Data, Samples
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.budget import Budget
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.plan import Plan, make_plan
from prunegraph.selection.select import Ranking, select
from prunegraph.selection.selectors import SELECTORS

if TYPE_CHECKING:
    from prunegraph.proof.result import Proof
    from prunegraph.quantization.quantize import QuantizeResult

METHODS = ("hybrid", "prune", "decompose", "source-004")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class CompressResult:
    """What `compress` did.

    Args:
        original: what was compressed; where it was rotated first, the rotated graph.
        model: the result.
        plan: what was cut; may be empty. `proof` is that of the cut (None where it was turned off), `left_out` are
            groups that broke it and stay whole.
        layers: what became of every layer of the original, in topological order.
        mixes: how much was pruned and how much decomposed, of all ways that were tried; empty for "source-004".
        chosen: the mix that was taken.
        before: cost of the original.
        after: cost of the result, before quantization and 16-bit floats.
        proof: see `plan`.
        left_out: see `plan`.
        repair: how accuracy was got back.
        quantized: what quantization did, if it was asked for.
        precision: what 16-bit floats did, if they were asked for.
        rotated: which channels got another basis before some went, if any did.
    """

    original: Graph
    model: Graph
    plan: Plan
    layers: tuple[Decision, ...]
    mixes: tuple[Mix, ...]
    chosen: Mix | None
    before: Cost
    after: Cost
    proof: Proof | None
    left_out: tuple[str, ...] = ()
    repair: str = "none"
    quantized: QuantizeResult | None = None
    precision: PrecisionResult | None = None
    rotated: Rotated | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything but the graphs and the proof, as plain JSON."""
        return {
            "layers": [vars(layer) for layer in self.layers],
            "mixes": [
                {**vars(mix), "cost": mix.cost and vars(mix.cost)} for mix in self.mixes
            ],
            "pruned": self.chosen.pruned if self.chosen else None,
            "remove": {
                group: list(channels) for group, channels in self.plan.remove.items()
            },
            "branches": list(self.plan.branches),
            "left_out": list(self.left_out),
            "repair": self.repair,
            "rotated": len(self.rotated.rotation.turns) if self.rotated else 0,
            "before": vars(self.before),
            "after": vars(self.after),
        }


class CompressKeywords(TypedDict, total=False):
    """The options of `compress` but the budget, as keywords; see `CompressOptions`."""

    method: str
    rank: str | None
    cluster: str
    algorithm: str | None
    allocation: str | None
    keep: Sequence[str]
    round_to: int
    min_channels: int
    depth: str
    rotate: str
    seed: int


@dataclass(frozen=True)
class CompressOptions:
    """How to compress: options of `compress`, checked.

    Args:
        budget: on MACs or parameters; None for the rule of "source-004".
        method: "hybrid", "prune" or "decompose" alone, or "source-004": layers of low dimension lose their weak
            cluster of filters, those of high dimension are decomposed (see `prunegraph.hybrid.published`).
        rank: of "source-004" without a budget: the rule for ranks (see `pg.decompose`).
        cluster: of "source-004": "robust", or "paper" as published.
        algorithm: what chooses channels (see `pg.prune`).
        allocation: how a budget is shared among groups (see `pg.prune`).
        keep: layers that stay as they are; inputs they lose to other layers are cut all the same.
        round_to: kept channels and ranks are a multiple of this.
        min_channels: at least this many channels stay in every group.
        depth: whether residual branches go as a whole: "never", "auto" in some of the mixes, or "only" in place of
            channels (needs data; see `prunegraph.depth`).
        rotate: whether channels get another basis before some of them go, as for `pg.prune`: "never", "always", or
            "auto"; in mixes that prune.
        seed: of all that is random.

    Raises:
        BudgetError: there is no budget.
        OptionError: options do not go together.
        UnknownNameError: no such method.
    """

    budget: Budget | None
    method: str = "hybrid"
    rank: str | None = None
    cluster: str = "robust"
    algorithm: str | None = None
    allocation: str | None = None
    keep: Sequence[str] = ()
    round_to: int = 8
    min_channels: int = 1
    depth: str = "never"
    rotate: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownNameError("method", self.method, METHODS)
        if self.cluster not in ("robust", "paper"):
            raise UnknownNameError("cluster", self.cluster, ("robust", "paper"))
        if self.budget is None and not self.published:
            raise BudgetError(
                "give a budget, macs or params; only method 'source-004' has a rule of its own"
            )
        if self.published and (self.algorithm or self.allocation):
            raise OptionError(
                "method 'source-004' prunes by clusters of filter statistics: leave the algorithm out"
            )
        if not self.published and (self.rank or self.cluster != "robust"):
            raise OptionError("rank and cluster are options of method 'source-004'")
        if self.rank and self.budget:
            raise OptionError("give a rule for ranks or a budget, not both")
        if self.depth != "never" and self.method not in ("hybrid", "prune"):
            raise OptionError(
                f"method {self.method!r} drops no branches: leave depth {self.depth!r} out"
            )
        check_when(self.rotate)
        if self.rotate == "always" and not self.may_rotate:
            raise OptionError(
                f"method {self.method!r} takes layers as they are: leave rotate 'always' out"
            )
        RankRule.parse(self.rank or "evbmf")

    @property
    def published(self) -> bool:
        """Tell whether it is the rule of source 004."""
        return self.method == "source-004"

    @property
    def may_rotate(self) -> bool:
        """Tell whether channels go that could have another basis: by rank alone none do, source 004 judges filters."""
        return self.method in ("hybrid", "prune") and self.rotate != "never"

    def choice(self, budget: Budget, **others: Any) -> SelectionOptions:
        """A selection with these options."""
        choice = SelectionOptions(
            budget,
            self.algorithm,
            self.allocation,
            self.round_to,
            self.min_channels,
            self.keep,
            depth=self.depth,
            seed=self.seed,
        )
        return replace(choice, **others)


@takes_options(CompressOptions, without=["budget"])
def compress(
    model: object,
    out: str | os.PathLike[str] | None = None,
    *,
    macs: float | str | None = None,
    params: float | str | None = None,
    data: Samples | None = None,
    mask_input: str | None = None,
    attention: str | None = None,
    blocks: str = "alike",
    repair: str | None = None,
    quantize: str | None = None,
    dtype: str | None = None,
    verify: bool = True,
    progress: Progress = lambda stage: None,
    **options: Unpack[CompressKeywords],
) -> CompressResult:
    """Keep, prune or decompose every layer so that one budget is met; recover, quantize and write.

    Method "hybrid" tries mixes of pruning and decomposition that all meet the budget, pruning alone and decomposition
    alone among them, recovers each on three quarters of the data, and takes the one whose outputs are nearest to the
    original's on the rest (without data: on random inputs). The result is then made with all data.

    Args:
        model: a Graph, or anything that `load` reads.
        out: where the result goes; None writes nothing.
        macs: upper bound on multiply-accumulates: a fraction up to 1, or an amount such as "2.1G".
        params: the same for parameters; one of both, which only "source-004" can do without.
        data: unlabelled inputs from the training distribution.
        mask_input: the input that is 0 at positions which do not count, as for `pg.prune`.
        attention: "heads" or "head_dim"; by default whichever is finer.
        blocks: whether heads, and groups of a convolution, lose the same channels ("alike") or their "own"; "both" also
            takes whole ones.
        repair: how to get accuracy back; None is "least-squares" with data, else "none".
        quantize: type of the weights of a quantized result, such as "int8" (see `pg.quantize`); needs data.
        dtype: type of the floats of the result, "float16" or "bfloat16", as for `pg.prune`.
        verify: whether the cut is proved; a failed proof raises and nothing is written.
        progress: called with the name of each stage as it begins.
        options: those of `CompressOptions`: method, algorithm, round_to, ...

    Raises:
        BudgetError: the budget is malformed, missing, given twice, or cannot be met.
        OptionError: options do not go together, or one has a value it cannot have.
        UnknownNameError: no such method, algorithm, repair or layer.
        PrunegraphError: see `prunegraph.errors`; nothing has been written then.
    """
    if macs is not None and params is not None:
        raise BudgetError("give one of macs and params, not both")
    budget = (
        Budget(macs=macs, params=params) if macs is not None or params is not None else None
    )
    settings = CompressOptions(budget, **options)
    settings.choice(budget or Budget(ratio="auto"))
    samples = Data.of(data).masked(mask_input) if data is not None else None
    if quantize is not None:
        check_quantize(quantize, samples)
    check_dtype(dtype, quantize)
    if settings.depth != "never":
        check_depth(settings.choice(budget or Budget(ratio="auto")), samples)
    if out is not None:
        api.check_model_output(out, model if isinstance(model, str | os.PathLike) else None)
    progress("load")
    graph = model if isinstance(model, Graph) else api.load(model)
    check_destinations(graph, out)
    samples = samples.fit(graph) if samples is not None else None
    how = ExecutionOptions(
        repairs.find(repair, samples, graph), verify, settings.seed, progress=progress
    )
    ready = _prepared(graph, settings, samples, how)
    progress("analyze")
    whole = api.analyze(graph, attention=attention, blocks=blocks)
    coupling = (
        api.analyze(ready.graph, attention=attention, blocks=blocks)
        if ready.rotated is not None
        else whole
    )
    work = _Work(whole, coupling, ready.rotated, settings, samples, how)
    created = work.by_rule() if settings.published else work.by_budget()
    if quantize is not None:
        from prunegraph.quantization.quantize import quantize as _quantize

        quantized = _quantize(created.model, samples, weights=quantize, progress=progress)
        created = replace(created, model=quantized.model, quantized=quantized)
    if dtype is not None:
        precise = to_dtype(created.model, dtype, samples, progress=progress)
        created = replace(created, model=precise.model, precision=precise)
    if out is not None:
        progress("write")
        api.save(created.model, out, like=graph, verify=verify)
    return created


def _prepared(
    graph: Graph, settings: CompressOptions, samples: Data | None, how: ExecutionOptions
) -> Preparation:
    """The model in which channels are chosen: in other bases, where it may have them."""
    ready = Preparation(graph)
    if not settings.may_rotate:
        return ready
    preparer = Preparer(samples, how.verify, settings.seed, how.scratch, how.progress)
    # Errors of layers count alike here, as they do in the scores.
    choice = settings.choice(settings.budget or Budget(ratio="auto"), curvature="never")
    return preparer.in_best_bases(ready, settings.rotate, choice, False)


class _Work:
    """One model being compressed: `whole` as it is, `coupling` in the bases in which channels are chosen."""

    def __init__(
        self,
        whole: Coupling,
        coupling: Coupling,
        rotated: Rotated | None,
        settings: CompressOptions,
        samples: Data | None,
        how: ExecutionOptions,
    ):
        self.whole, self.coupling, self.rotated = whole, coupling, rotated
        self.settings, self.samples = settings, samples
        self.how, self.progress = how, how.progress
        self.model = coupling.graph
        self.before = full_cost(whole.graph)
        self.statistics = (
            Statistics(self.model, samples, progress=self.progress)
            if samples is not None
            else None
        )
        self._ranking: Ranking | None = None

    # -- under a budget -------------------------------------------------------------------

    def by_budget(self) -> CompressResult:
        """The best mix of pruning and decomposition that meets the budget."""
        ways = self._ways()
        tried = ways if len(ways) == 1 else [self._tried(way) for way in ways]
        chosen = mixes.best(tried)
        built = self._mixed(chosen, self.samples, self.how.verify)
        created = self._compressed(built, {}, tuple(tried), chosen)
        if len(ways) == 1:
            only = replace(chosen, cost=created.after)
            return replace(created, mixes=(only,), chosen=only)
        return created

    def _ways(self) -> list[Mix]:
        """What is tried."""
        method, depth = self.settings.method, self.settings.depth
        shares = (
            mixes.SHARES if method == "hybrid" else (1.0 if method == "prune" else 0.0,)
        )
        if depth == "only":
            return [Mix(share, depth=1.0 if share else 0.0) for share in shares]
        ways = [Mix(share) for share in shares]
        if len(ways) > 1 and self._has_ranks:
            ways.append(Mix(1.0, together=True))
        if depth == "auto" and self._branches.depth.branches:
            ways += [
                Mix(pruned, depth=share)
                for pruned, share in mixes.DEPTHS
                if pruned in shares
            ]
        return ways

    def _tried(self, way: Mix) -> Mix:
        """A mix, recovered on a part of the data and measured on the rest."""
        what = (
            "channels and ranks together"
            if way.together
            else f"{way.pruned:.0%} of the way by pruning"
        )
        if way.depth:
            what += f", {way.depth:.0%} of that by branches"
        self.progress(f"try {what}")
        fitting, held = mixes.parts(self.model, self.samples)
        try:
            graph = self._mixed(way, fitting, False).model
        except BudgetError as error:
            return replace(way, reason=str(error))
        return replace(way, cost=full_cost(graph), error=deviation(self.model, graph, held))

    def _mixed(self, way: Mix, data: Data | None, verify: bool) -> ExecutionResult:
        """The graph that goes a share of the way (in logarithms) by pruning, or the whole way by both together."""
        budget, share = self.settings.budget, way.pruned
        assert budget is not None
        whole, bound = float(getattr(self.before, budget.kind)), budget.bound(self.before)
        if way.together:
            plan = self._ranked(budget).plan(Budget(**{budget.kind: bound}))
            return self._executed(self.coupling, plan, data, None, verify)
        between = whole * min(bound / whole, 1.0) ** share
        # By rank alone no channel goes that could have another basis.
        coupling = self.coupling if share else self.whole
        plan = make_plan(coupling, {})
        if way.depth:
            plan = self._branches.plan(way.depth, Budget(**{budget.kind: between}))
        elif share:
            plan = self._plan(Budget(**{budget.kind: between}))

        # An absolute figure, also for what was cut: above 1, or it would be a share.
        limit: dict[str, Any] = {budget.kind: max(bound, 1.5)}

        def second(graph: Graph, data: Data | None) -> DecomposeResult:
            how = DecomposeOptions(
                "auto",
                keep=self.settings.keep,
                round_to=self.settings.round_to,
                **limit,
            )
            return decompose_layers(graph, how, data=data)

        return self._executed(coupling, plan, data, second if share < 1 else None, verify)

    def _executed(
        self,
        coupling: Coupling,
        plan: Plan,
        data: Data | None,
        second: Decomposition | None,
        verify: bool,
    ) -> ExecutionResult:
        """A plan executed; where nothing is cut there is nothing to prove."""
        how = replace(self.how, verify=verify and not plan.is_empty)
        return execute(coupling, plan, data, how, second)

    def _plan(self, budget: Budget) -> Plan:
        choice = self.settings.choice(budget)
        if (
            base_name(choice.resolved(self.statistics is not None).algorithm or "")
            in SELECTORS
        ):
            return select(self.coupling, choice, self.statistics)
        # Channels alone: what is left of the way goes by decomposition.
        return self._channels(budget).plan(budget)

    def _channels(self, budget: Budget) -> Ranking:
        return replace(self._ranked(budget), others=None, trial=None)

    @cached_property
    def _branches(self) -> BranchWays:
        """Plans in which branches go a part of the way."""
        budget = self.settings.budget
        assert budget is not None and self.samples is not None
        choice = self.settings.choice(budget)
        depth = Depth(
            self.coupling, choice, self.samples, self.how.repair, progress=self.progress
        )
        return BranchWays(depth, self._channels(budget))

    @property
    def _has_ranks(self) -> bool:
        """Tell whether channels and ranks can share one allocation."""
        budget = self.settings.budget
        return (
            budget is not None
            and self.statistics is not None
            and competes(self.settings.choice(budget))
            and self._ranked(budget).others is not None
        )

    def _ranked(self, budget: Budget) -> Ranking:
        """Scored channels, and layers of low rank where they share an allocation; the same for every budget."""
        if self._ranking is None:
            self.progress("score")
            choice, repair = self.settings.choice(budget), self.how.repair.name
            if self.settings.method != "hybrid":
                choice = replace(choice, ranks="never")
            if self.statistics is not None and competes(choice):
                self._ranking = competing(
                    self.coupling, choice, self.statistics, None, repair, self.progress
                )
            else:
                self._ranking = ranking(
                    self.coupling, choice, self.statistics, repair, self.progress
                )
        return self._ranking

    # -- source 004 -----------------------------------------------------------------------

    def by_rule(self) -> CompressResult:
        """Clusters for layers of low dimension, low rank for those of high dimension."""
        settings = self.settings
        created = published.verdicts(
            self.coupling, settings.cluster, settings.seed, settings.round_to
        )
        high = [name for name, verdict in created.items() if verdict.decompose]
        choice = settings.choice(
            Budget(ratio="auto"),
            algorithm=published.algorithm(settings.cluster),
            keep=[*settings.keep, *high],
        )
        plan = select(self.coupling, choice)
        budget = settings.budget
        limit: dict[str, Any] = (
            {} if budget is None else {budget.kind: max(budget.bound(self.before), 1.5)}
        )

        def second(graph: Graph, data: Data | None) -> DecomposeResult:
            kept = dict.fromkeys([*settings.keep, *published.kept(graph, created)])
            how = DecomposeOptions(
                published.METHOD,
                settings.rank,
                keep=list(kept),
                round_to=settings.round_to,
                **limit,
            )
            return decompose_layers(graph, how, data=data)

        built = self._executed(self.coupling, plan, self.samples, second, self.how.verify)
        remaining = built.decomposed.skipped if built.decomposed else {}
        reasons = {
            name: f"{verdict.reason}; {remaining[name]}"
            if verdict.decompose and name in remaining
            else verdict.reason
            for name, verdict in created.items()
        }
        return self._compressed(built, reasons, (), None)

    def _compressed(
        self,
        built: ExecutionResult,
        reasons: Mapping[str, str],
        tried: tuple[Mix, ...],
        chosen: Mix | None,
    ) -> CompressResult:
        model, plan = built.survivors.coupling.graph, built.plan
        rotated = self.rotated if model is self.model else None
        if rotated is not None:
            plan = replace(plan, rotation=rotated.rotation)
        return CompressResult(
            model,
            built.model,
            plan,
            decisions(
                model,
                built.pruned,
                built.decomposed,
                reasons,
                _dropped(built),
            ),
            tried,
            chosen,
            self.before,
            full_cost(built.model),
            built.proof,
            built.left_out,
            self.how.repair.name,
            rotated=rotated,
        )


def _dropped(built: ExecutionResult) -> dict[str, str]:
    """Layers that go with branches, each with the name of its branch."""
    coupling, branches = built.survivors.coupling, built.plan.branches
    by_id, layers = coupling.branches_by_id, coupling.graph.layers
    # What several branches share goes with the last of them.
    gone = built.survivors.gone
    result = {node.name: branches[-1] for node in layers if node.index in gone}
    for name in branches:
        alone = coupling.nodes_without([by_id[PREFIX + name]])
        result.update({node.name: name for node in layers if node.index in alone})
    return result
