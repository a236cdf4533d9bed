"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from prunegraph.coupling.branches import PREFIX
from prunegraph.graph.layer_names import layer_names, shown
from prunegraph.ops.cost import cost
from prunegraph.runtime.runtimes import DEFAULT

if TYPE_CHECKING:
    from prunegraph.coupling.coupling import Coupling
    from prunegraph.coupling.explain import Why
    from prunegraph.graph.model import Graph
    from prunegraph.measuring.compare import Comparison
    from prunegraph.measuring.latency import Latency
    from prunegraph.ops.cost import Cost
    from prunegraph.pipeline import PruneResult
    from prunegraph.tuning.search import SearchTrace, Trial
    from prunegraph.tuning.sensitivity import Sensitivity


def amount(value: float) -> str:
    """A count in engineering form: 174,970 -> 175 k."""
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{suffix}"
    return f"{value:.4g}"


def share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def groups_table(coupling: Coupling, total: Cost) -> Table:
    """One row a group: layers, channels, share of parameters and MACs."""
    table = Table(
        title=f"{len(coupling.groups)} groups of channels that can be pruned",
        title_justify="left",
    )
    for name in ("group", "layers", "channels", "params", "MACs", ""):
        table.add_column(
            name, justify="right" if name in ("channels", "params", "MACs") else "left"
        )
    for group in coupling.groups:
        layers = some(group.layers, coupling.graph)
        notes = [] if group.exact else ["statistics over survivors"]
        if group.cells is not None:
            notes.append(f"equally many in each of {len(group.cells)} blocks")
        table.add_row(
            group.id,
            layers or group.members[0].weight,
            str(group.channels),
            share(group.params, total.params),
            share(group.macs, total.macs),
            "; ".join(notes),
        )
    return table


def branches_table(coupling: Coupling, total: Cost) -> Table:
    """One row a residual branch: its layers, and what would go with it."""
    from prunegraph.coupling.outline import branch_record

    table = Table(
        title=f"{len(coupling.branches)} residual branches that can go as a whole (--depth)",
        title_justify="left",
    )
    for name in ("sum", "layers", "params", "MACs"):
        table.add_column(name, justify="right" if name in ("params", "MACs") else "left")
    for branch in coupling.branches:
        record = branch_record(coupling, branch)
        table.add_row(
            branch.name,
            some(branch.layers, coupling.graph),
            share(record["params"], total.params),
            share(record["macs"], total.macs),
        )
    return table


def some(layers: Sequence[str], graph: Graph | None = None) -> str:
    """The first layers of a group, as the framework calls them if the graph is known, and how many more there are."""
    names = layer_names(graph) if graph is not None else {}
    first = ", ".join(names.get(each, each) for each in layers[:2])
    return first + (f" + {len(layers) - 2}" if len(layers) > 2 else "")


def why_text(why: Why, graph: Graph) -> str:
    """An explanation as lines: the reason, the way to the cause, what can be done."""
    layer = shown(graph, why.layer)
    title = layer if layer == why.layer else f"{layer} ({why.layer})"
    if why.reason is None:
        return f"{title}: {why.advice}"
    lines = [
        f"{title}: {why.channels} of {why.of} channels are fixed",
        f"reason: {why.reason.text}",
        f"because of: {why.reason.because}",
        "way: " + " -> ".join(why.path),
        f"what would free it: {why.advice}",
    ]
    return "\n".join(lines)


def fixed_table(coupling: Coupling) -> Table:
    """One row a layer that cannot be pruned: the reason, and the node that causes it."""
    table = Table(title=f"{len(coupling.fixed)} fixed layers", title_justify="left")
    for name in ("layer", "channels", "because of", "reason"):
        table.add_column(name, justify="right" if name == "channels" else "left")
    for fixed in coupling.fixed:
        table.add_row(
            shown(coupling.graph, fixed.layer),
            f"{fixed.channels} of {fixed.of}",
            shown(coupling.graph, fixed.because),
            fixed.reason,
        )
    return table


def cost_rows(table: Table, first: Cost, second: Cost) -> None:
    for name in ("params", "macs", "bytes"):
        a, b = getattr(first, name), getattr(second, name)
        label = {"params": "parameters", "macs": "MACs", "bytes": "bytes of weights"}[name]
        table.add_row(label, amount(a), amount(b), share(b, a))


def latency_label(timing: Latency) -> str:
    """Say what was measured: runtime, provider, batch and threads."""
    threads = f"{timing.threads or 'all'} thread{'' if timing.threads == 1 else 's'}"
    device = timing.provider.removesuffix("ExecutionProvider")
    if timing.runtime != DEFAULT:
        device = f"{timing.runtime} {device}"
    return f"latency, ms ({device}, batch 1, {threads})"


def result_table(result: PruneResult) -> Table:
    """Before and after: cost, then channels of every layer that changed."""
    table = Table(title="before and after", title_justify="left")
    for name in ("", "before", "after", "kept"):
        table.add_column(name, justify="left" if not name else "right")
    cost_rows(table, result.before, result.after)
    if result.latency is not None:
        timing, macs = result.latency, result.after.macs / result.before.macs
        table.add_row(
            latency_label(timing),
            f"{timing.first:.3f}",
            f"{timing.second:.3f}",
            f"{timing.kept:.1%}",
        )
        table.add_row("latency kept / MACs kept", "", "", f"{timing.kept / macs:.2f}")
    table.add_section()
    for name in result.plan.branches:
        branch = result.coupling.branches_by_id[PREFIX + name]
        table.add_row(
            f"branch {name}: {some(branch.layers, result.original)}", "", "dropped", ""
        )
    after = {node.name: node.channels.outputs for node in result.model.layers}
    for node in result.original.layers:
        old, new = node.channels.outputs, after.get(node.name)
        if old is not None and new is not None and old != new:
            name = shown(result.original, node.name)
            table.add_row(name, str(old), str(new), share(new, old))
    return table


def measured_line(both: tuple[str, float, float, str]) -> str:
    """A metric of two models, the first one's and the second one's."""
    name, first, second, unit = both
    return f"{name}: {first:.4g} -> {second:.4g}, {second - first:+.4g} {unit}".rstrip()


def comparison_table(result: Comparison) -> Table:
    """Cost, latency, accuracy and output difference of two models."""
    table = Table(title="side by side", title_justify="left")
    for name in ("", "A", "B", "B / A"):
        table.add_column(name, justify="left" if not name else "right")
    cost_rows(table, *result.costs)
    timing = result.latency
    table.add_row(
        latency_label(timing),
        f"{timing.first:.3f}",
        f"{timing.second:.3f}",
        f"A/B {timing.ratio:.2f}",
    )
    if result.accuracy is not None:
        a, b = result.accuracy
        table.add_row(
            f"top-1 on {result.samples} samples",
            f"{a:.2%}",
            f"{b:.2%}",
            f"{(b - a) * 100:+.2f} points",
        )
    if result.measured is not None:
        name, a, b, unit = result.measured
        table.add_row(
            f"{name} on {result.samples} samples",
            f"{a:.4g}",
            f"{b:.4g}",
            f"{b - a:+.4g} {unit}",
        )
    if result.agreement is not None:
        table.add_row("same top-1 class", "", "", f"{result.agreement:.2%}")
    table.add_section()
    for name, (absolute, relative) in result.differences.items():
        if math.isinf(absolute):
            table.add_row(f"output {name}", "", "another shape, or infinite", "")
            continue
        table.add_row(
            f"output {name}: max |A - B|", "", f"{absolute:.3g}", f"{relative:.2%} of max"
        )
    return table


def sensitivity_table(result: Sensitivity, graph: Graph) -> Table:
    """One row a group, the most sensitive first: how much worse the metric is at each ratio."""
    unit = f", {result.unit}" if result.unit else ""
    repair = "" if result.repair == "none" else f", after {result.repair}"
    title = f"what pruning a group alone costs: {result.metric}{unit} lost{repair} (of {result.original:.4g})"
    if not result.original:
        title = f"what pruning a group alone costs: {result.metric}{unit}{repair}"
    table = Table(title=title, title_justify="left")
    for name in ("group", "layers"):
        table.add_column(name)
    table.add_column("channels", justify="right")
    for point in result.curves[0].points if result.curves else ():
        table.add_column(f"-{point.ratio:.3g}", justify="right")
    for curve in sorted(
        result.curves, key=lambda each: -sum(point.error for point in each.points)
    ):
        losses = [f"{point.error:.4g}" if point.removed else "-" for point in curve.points]
        table.add_row(curve.id, some(curve.layers, graph), str(curve.channels), *losses)
    return table


def dropped_table(result: Sensitivity, graph: Graph) -> Table:
    """One row a residual branch, the one that costs least first: what is left without it, and how much worse it is."""
    unit = f", {result.unit}" if result.unit else ""
    repair = "" if result.repair == "none" else f", after {result.repair}"
    title = f"what dropping a branch alone costs: {result.metric}{unit} lost{repair}"
    table = Table(title=title, title_justify="left")
    for name in ("branch", "layers"):
        table.add_column(name)
    for name in ("MACs kept", "params kept", "worse by"):
        table.add_column(name, justify="right")
    whole = cost(graph)
    for each in sorted(result.branches, key=lambda branch: branch.error):
        table.add_row(
            each.name,
            some(each.layers, graph),
            share(each.macs, whole.macs),
            share(each.params, whole.params),
            f"{each.error:.4g}",
        )
    return table


def search_table(result: SearchTrace, original: Cost) -> Table:
    """One row a candidate, in the order in which they were looked at."""
    unit = f", {result.unit}" if result.unit else ""
    title = f"{len(result.candidates)} candidates; {result.metric} of the original: {result.original:.4g}{unit}"
    table = Table(title=title, title_justify="left")
    has_branches = any(each.branches for each in result.candidates)
    for name in (
        f"{result.goal.by} removed",
        "stages",
        *(["branches"] if has_branches else []),
        "MACs kept",
        "params kept",
        result.metric,
        "worse by",
        "",
    ):
        table.add_column(name, justify="left" if name in ("stages", "") else "right")
    for each in result.candidates:
        table.add_row(
            *_candidate(
                each,
                original,
                "best" if each == result.best else "yes" if each.accepted else "no",
                has_branches,
            )
        )
    return table


def _candidate(
    each: Trial, original: Cost, verdict: str, has_branches: bool
) -> tuple[str, ...]:
    stages = " ".join(f"{offset:+g}" for offset in each.offsets)
    what = [f"{each.strength / 100:.2f}", stages]
    if has_branches:
        what.append(str(each.branches) if each.branches else "")
    if each.cost is None:
        return *what, "", "", "", "", "cannot be met"
    value = "not a number" if each.value is None else f"{each.value:.4g}"
    costs = share(each.cost.macs, original.macs), share(each.cost.params, original.params)
    return *what, *costs, value, f"{each.loss:.4g}", verdict
