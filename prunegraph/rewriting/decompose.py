"""Layers written as several of low rank: `decompose`, from graph to graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import onnx
from onnx import numpy_helper

from prunegraph.coupling.sample import complete, full_cost
from prunegraph.errors import BudgetError, OptionError, PlanError, UnknownNameError
from prunegraph.graph.layer_names import named_layers
from prunegraph.graph.linear import LinearLayer
from prunegraph.graph.model import Graph, Node, Weight
from prunegraph.graph.shapes import shape_info
from prunegraph.ops.cost import Cost
from prunegraph.rewriting.decomposable import (
    FORMS,
    METHODS,
    PARTS,
    DecomposableLayer,
    layers,
    nodes,
    stored,
)
from prunegraph.rewriting.factorize import Form, relative_error
from prunegraph.rewriting.fold import fold as folded
from prunegraph.rewriting.ranks import (
    RankChoice,
    RankRule,
    allocate,
    best,
    candidate,
    ladder,
)
from prunegraph.rewriting.refit import output_error, refitted
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.runtime.data import Data, Samples
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.budget import Budget
from prunegraph.selection.ranks import LayerRanks

if TYPE_CHECKING:
    from prunegraph.measuring.latency import Latency


@dataclass(frozen=True)
class Row:
    """A layer that was decomposed.

    `ranks` are (R,), of Tucker-2 (R_o, R_i). `params` and `macs` are of its weight, before and after; MACs are 0
    where shapes are not known. `error` is the Frobenius norm of the weight's change by that of the weight,
    `output_error` the same of the layer's outputs on the data, if there were any (without their mean, for a layer
    with a bias). `note` says what a rule's ranks do not: that they were raised to the least.
    """

    name: str
    method: str
    ranks: tuple[int, ...]
    params: tuple[int, int]
    macs: tuple[int, int]
    error: float
    output_error: float | None = None
    note: str = ""


@dataclass(frozen=True)
class DecomposeResult:
    """What `decompose` made: the graph, decomposed layers, and why the others stayed whole (by name).

    `latency` was measured where it was the budget.
    """

    model: Graph
    layers: tuple[Row, ...]
    skipped: Mapping[str, str]
    before: Cost
    after: Cost
    latency: Latency | None = None


@dataclass
class Known:
    """Factorisations of a model's layers by name: what a search over bounds does not do again.

    `most` are the bytes of forms that are held, those that were asked for last; None holds all of them.
    """

    ladders: dict[str, list[RankChoice]] = field(default_factory=dict)
    forms: dict[tuple[str, str], Form] = field(default_factory=dict)
    most: int | None = None

    def form(self, layer: DecomposableLayer, method: str) -> Form:
        """A layer's weight, factorised."""
        key = layer.node.name, method
        if key in self.forms:
            self.forms[key] = self.forms.pop(key)
            return self.forms[key]
        if self.most is not None:
            while sum(each.nbytes for each in self.forms.values()) > self.most:
                del self.forms[next(iter(self.forms))]
        self.forms[key] = FORMS[method](layer.tensor())
        return self.forms[key]


class DecomposeKeywords(TypedDict, total=False):
    """The options of `decompose` as keywords; see `DecomposeOptions`."""

    method: str
    rank: str | None
    params: float | str | None
    macs: float | str | None
    keep: Sequence[str]
    round_to: int
    fold: bool


@dataclass(frozen=True)
class DecomposeOptions:
    """Which layers are decomposed, and how far.

    Args:
        method: "tucker2", "svd", "spatial", or "auto": for each layer what costs the least error for its saving.
        rank: the rule for ranks: "evbmf" (the default; variational Bayes, weakened by 0.3, or by W with "evbmf:W"),
            "energy:E" (share of the squared singular values) or "ratio:R" (share of the full rank).
        params: instead of a rule, an upper bound for the model: a fraction up to 1, or an amount such as "2.1M".
        macs: the same for multiply-accumulates. Ranks are shared out so that the relative errors are small in sum.
        keep: names of layers that stay whole.
        round_to: ranks are raised to a multiple of this.
        fold: fold BatchNormalization (and constant factors and shifts) into the layers first; else it stays.

    Raises:
        BudgetError: the budget is malformed or given twice.
        OptionError: the rule or `round_to` has a value it cannot have, or a rule and a budget are given.
        UnknownNameError: no such method.
    """

    method: str = "tucker2"
    rank: str | None = None
    params: float | str | None = None
    macs: float | str | None = None
    keep: Sequence[str] = ()
    round_to: int = 8
    fold: bool = False

    def __post_init__(self) -> None:
        _ = self.budget, self.rule
        if self.method not in METHODS:
            raise UnknownNameError("method", self.method, METHODS)
        if self.round_to < 1:
            raise OptionError(f"round_to must be at least 1, got {self.round_to}")

    @property
    def budget(self) -> Budget | None:
        """The bound that was given; None for a rule."""
        return _budget(self.rank, self.params, self.macs)

    @property
    def rule(self) -> RankRule:
        """The rule for ranks without a bound."""
        return RankRule.parse("evbmf" if self.rank is None else self.rank)


def decompose_layers(
    graph: Graph,
    options: DecomposeOptions,
    *,
    data: Samples | None = None,
    known: Known | None = None,
) -> DecomposeResult:
    """Replace layers by chains of smaller ones of low rank; approximate, and nothing is trained.

    A convolution becomes 1x1, core, 1x1 (tucker2), one with fewer filters and a 1x1 (svd), or kx1 and 1xk (spatial);
    a 1x1 convolution, Gemm or MatMul becomes two by SVD, whatever the method. A layer that would not have fewer
    parameters and MACs stays as it is.

    Args:
        graph: the model; it is not changed.
        options: which layers, and how far.
        data: unlabelled inputs: parts are fitted to what the layers make of them, by least squares.
        known: factorisations by layer, filled and used by calls that differ in bound, `keep` and data alone.

    Raises:
        DataError: the data do not fit the model.
        BudgetError: the budget cannot be met.
        UnknownNameError: no layer of a name in `keep`.
    """
    budget, rule, method, round_to = (
        options.budget,
        options.rule,
        options.method,
        options.round_to,
    )
    if options.fold:
        graph = folded(graph)
    match, remaining = _layers(graph, method, options.keep)
    before = full_cost(graph)
    writer = _FactorWriter(
        graph, Statistics(graph, Data.of(data)) if data is not None else None
    )
    if budget is None:
        for layer in match:
            chosen, form = _by_rule(layer, method, rule, round_to)
            if chosen.pays:
                writer.add(layer, chosen, form, rule.note(form))
            else:
                remaining[layer.node.name] = f"rank {_listed(chosen.ranks)} would not pay"
    else:
        known = known if known is not None else Known()
        for layer in match:
            if layer.node.name not in known.ladders:
                known.ladders[layer.node.name] = ladder(
                    layer, layer.methods(method), round_to, budget.kind
                )
        ladders = {layer.node.name: known.ladders[layer.node.name] for layer in match}
        plan = allocate(ladders, budget, before)
        for layer in match:
            name = layer.node.name
            if name in plan:
                writer.add(layer, plan[name], known.form(layer, plan[name].method))
            else:
                remaining[name] = (
                    "the budget is met without it" if ladders[name] else "no rank would pay"
                )
    created = writer.graph()
    return DecomposeResult(
        created, tuple(writer.rows), remaining, before, full_cost(created)
    )


def decompose_to(
    graph: Graph, wanted: Sequence[LayerRanks], *, data: Samples | None = None
) -> DecomposeResult:
    """Replace some layers by chains of given ranks, or of the full ones where these are lower.

    Args:
        graph: the model; it is not changed.
        wanted: which layers, how, and their ranks. A layer that would not have fewer parameters stays as it is.
        data: unlabelled inputs: parts are fitted to what the layers make of them, by least squares.

    Raises:
        DataError: the data do not fit the model.
        PlanError: there is no such layer, it cannot be decomposed, or its method has another number of ranks.
    """
    fitting, remaining = _layers(graph, "auto", ())
    by_name = {layer.node.name: layer for layer in fitting}
    writer = _FactorWriter(
        graph, Statistics(graph, Data.of(data)) if data is not None else None
    )
    skipped = {}
    for each in wanted:
        layer = by_name.get(each.layer)
        if layer is None or each.method not in layer.methods("auto"):
            reason = remaining.get(each.layer, f"method {each.method!r} does not fit it")
            if each.layer not in by_name and each.layer not in remaining:
                reason = "there is no such layer"
            raise PlanError(
                f"{graph.source}: layer {each.layer!r} cannot have low rank: {reason}"
            )
        form = FORMS[each.method](layer.tensor())
        if len(form.full) != len(each.ranks):
            raise PlanError(
                f"{graph.source}: layer {each.layer!r} by {each.method} has {len(form.full)} ranks, "
                f"the plan gives {len(each.ranks)}"
            )
        chosen = candidate(layer, form, each.ranks, 1)
        if chosen.pays:
            writer.add(layer, chosen, form)
        else:
            skipped[each.layer] = f"rank {_listed(chosen.ranks)} would not pay"
    created = writer.graph()
    return DecomposeResult(
        created, tuple(writer.rows), skipped, full_cost(graph), full_cost(created)
    )


def chain(graph: Graph, layer: Node) -> list[Node]:
    """The parts in the place of a decomposed layer, in order; the layer itself where it is whole."""
    parts: list[Node] = []
    value = layer.outputs[0]
    while value != layer.inputs[0]:
        parts.insert(0, graph.nodes[graph.producer[value]])
        value = parts[0].inputs[0]
    return parts


def _budget(
    rank: str | None, params: float | str | None, macs: float | str | None
) -> Budget | None:
    if params is None and macs is None:
        return None
    if params is not None and macs is not None:
        raise BudgetError("give one of params and macs, not both")
    if rank is not None:
        raise OptionError("give a rule for ranks or a budget, not both")
    return Budget(params=params, macs=macs)


def _layers(
    graph: Graph, method: str, keep: Sequence[str]
) -> tuple[list[DecomposableLayer], dict[str, str]]:
    """Layers that the method fits, and reasons against the others."""
    known = shape_info(graph)
    complete(graph, known)
    match, remaining = [], {}
    result = list(layers(graph, known.shapes))
    kept = named_layers(graph, keep, [node.name for node, _ in result])
    for node, layer in result:
        if node.name in kept:
            remaining[node.name] = "kept"
        elif isinstance(layer, str):
            remaining[node.name] = layer
        elif not layer.methods(method):
            remaining[node.name] = "its kernel has no two extents to split"
        else:
            match.append(layer)
    return match, remaining


def _by_rule(
    layer: DecomposableLayer, method: str, rule: RankRule, round_to: int
) -> tuple[RankChoice, Form]:
    """Say what a rule for ranks makes of a layer; with several methods the best of those that pay."""
    tensor = layer.tensor()
    forms = {each: FORMS[each](tensor) for each in layer.methods(method)}
    chosen = best(
        layer,
        [candidate(layer, form, rule.ranks(form), round_to) for form in forms.values()],
    )
    return chosen, forms[chosen.method]


def _bias(graph: Graph, layer: DecomposableLayer) -> Weight | None:
    """The bias that a layer adds to each of its outputs, if it is a constant."""
    known = LinearLayer(graph, layer.node)
    return graph.weights[known.bias] if known.has_vector else None


def _listed(ranks: Sequence[int]) -> str:
    return " x ".join(map(str, ranks))


class _FactorWriter:
    """Collects decomposed layers, then makes the graph with them."""

    def __init__(self, source: Graph, statistics: Statistics | None):
        self.source, self.statistics = source, statistics
        self.rows: list[Row] = []
        self._rewriter = Rewriter(source)

    def add(
        self, layer: DecomposableLayer, chosen: RankChoice, form: Form, note: str = ""
    ) -> None:
        """Put a layer's parts in its place."""
        factors, weight = form.factors(chosen.ranks), layer.tensor()
        gram = self.statistics.gram(layer.node) if self.statistics is not None else None
        bias = _bias(self.source, layer)
        moments = None
        if gram is not None:
            moments = (gram.covariance if bias is not None else gram.products)[0].astype(
                np.float64
            )
            factors = refitted(chosen.method, factors, weight, moments)
        parts = PARTS[chosen.method]
        fresh = self._rewriter.names
        names = [fresh.new(f"{layer.node.name}/{part}") for part in parts]
        weights = [fresh.new(f"{name}/weight") for name in names]
        values = [fresh.new(f"{name}/output") for name in names[:-1]]
        for name, array in zip(weights, stored(layer, chosen.method, factors), strict=True):
            tensor = numpy_helper.from_array(array, name)
            tensor.data_type = layer.weight.tensor.data_type
            self._rewriter.add_tensor(tensor)
        created = nodes(layer, chosen.method, names, weights, values)
        self._rewriter.replace(layer.node, created)
        # The error of what is written, in the type in which it is.
        written = [
            factor.astype(layer.weight.dtype).astype(np.float64) for factor in factors
        ]
        product = form.product(written)
        if gram is not None and bias is not None:
            # What the outputs lose on average; a Gemm scales its product and its bias.
            shift = (weight - product).reshape(len(weight), -1) @ gram.mean[0]
            known = LinearLayer(self.source, layer.node)
            self._set_bias(created[-1], names[-1], bias, shift * known.alpha / known.beta)
        params, macs = layer.cost()
        after = layer.cost_with(chosen.method, chosen.ranks)
        row = Row(
            layer.node.name,
            chosen.method,
            chosen.ranks,
            (params, after[0]),
            (macs, after[1]),
            relative_error(weight, product),
            output_error(weight, product, moments) if moments is not None else None,
            note,
        )
        self.rows.append(row)

    def _set_bias(
        self, last: onnx.NodeProto, part: str, bias: Weight, shift: np.ndarray
    ) -> None:
        """A bias of its own for the last part."""
        name = self._rewriter.names.new(f"{part}/bias")
        shape = bias.shape if bias.size == shift.size else shift.shape
        values = (
            (bias.read().astype(np.float64).reshape(-1) + shift)
            .reshape(shape)
            .astype(bias.dtype)
        )
        tensor = numpy_helper.from_array(np.ascontiguousarray(values), name)
        tensor.data_type = bias.tensor.data_type
        self._rewriter.add_tensor(tensor)
        last.input[2] = name

    def graph(self) -> Graph:
        """A new graph; the source where nothing was decomposed."""
        return self._rewriter.finish() if self.rows else self.source
