"""Tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from prunegraph.api import Result
    from prunegraph.coupling.analysis import Coupling
    from prunegraph.coupling.explain import Why
    from prunegraph.ops.cost import Cost
    from prunegraph.runtime.compare import Comparison
    from prunegraph.runtime.latency import Latency


def amount(value: float) -> str:
    """A count in engineering form: 174,970 -> 175 k."""
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{suffix}"
    return f"{value:.4g}"


def share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def groups_table(found: Coupling, total: Cost) -> Table:
    """One row a group: layers, channels, share of parameters and MACs."""
    table = Table(title=f"{len(found.groups)} groups of channels that can be pruned", title_justify="left")
    for name in ("group", "layers", "channels", "params", "MACs", ""):
        table.add_column(name, justify="right" if name in ("channels", "params", "MACs") else "left")
    for group in found.groups:
        layers = ", ".join(group.layers[:2]) + (f" + {len(group.layers) - 2}" if len(group.layers) > 2 else "")
        note = "" if group.exact else "statistics over survivors"
        table.add_row(
            group.id, layers or group.members[0].weight, str(group.channels), share(group.params, total.params),
            share(group.macs, total.macs), note,
        )  # fmt: skip
    return table


def why_text(why: Why) -> str:
    """An explanation as lines: the reason, the way to the cause, what can be done."""
    if why.reason is None:
        return f"{why.layer}: {why.advice}"
    lines = [
        f"{why.layer}: {why.channels} of {why.of} channels are fixed",
        f"reason: {why.reason.text}",
        f"because of: {why.reason.because}",
        "way: " + " -> ".join(why.path),
        f"what would free it: {why.advice}",
    ]
    return "\n".join(lines)


def fixed_table(found: Coupling) -> Table:
    """One row a layer that cannot be pruned: the reason, and the node that causes it."""
    table = Table(title=f"{len(found.fixed)} fixed layers", title_justify="left")
    for name in ("layer", "channels", "because of", "reason"):
        table.add_column(name, justify="right" if name == "channels" else "left")
    for fixed in found.fixed:
        table.add_row(fixed.layer, f"{fixed.channels} of {fixed.of}", fixed.because, fixed.reason)
    return table


def cost_rows(table: Table, first: Cost, second: Cost) -> None:
    for name in ("params", "macs", "bytes"):
        a, b = getattr(first, name), getattr(second, name)
        label = {"params": "parameters", "macs": "MACs", "bytes": "bytes of weights"}[name]
        table.add_row(label, amount(a), amount(b), share(b, a))


def latency_label(timing: Latency) -> str:
    """What was measured: runtime, provider, batch and threads."""
    threads = f"{timing.threads or 'all'} thread{'' if timing.threads == 1 else 's'}"
    return f"latency, ms ({timing.provider.removesuffix('ExecutionProvider')}, batch 1, {threads})"


def result_table(result: Result) -> Table:
    """Before and after: cost, then channels of every layer that changed."""
    table = Table(title="before and after", title_justify="left")
    for name in ("", "before", "after", "kept"):
        table.add_column(name, justify="left" if not name else "right")
    cost_rows(table, result.before, result.after)
    if result.latency is not None:
        timing, macs = result.latency, result.after.macs / result.before.macs
        table.add_row(latency_label(timing), f"{timing.first:.3f}", f"{timing.second:.3f}", f"{timing.kept:.1%}")
        table.add_row("latency kept / MACs kept", "", "", f"{timing.kept / macs:.2f}")
    table.add_section()
    after = {node.name: node.channels.outputs for node in result.small.layers}
    for node in result.model.layers:
        old, new = node.channels.outputs, after.get(node.name)
        if old is not None and new is not None and old != new:
            table.add_row(node.name, str(old), str(new), share(new, old))
    return table


def comparison_table(found: Comparison) -> Table:
    """Cost, latency, accuracy and output difference of two models."""
    table = Table(title="side by side", title_justify="left")
    for name in ("", "A", "B", "B / A"):
        table.add_column(name, justify="left" if not name else "right")
    cost_rows(table, *found.costs)
    timing = found.latency
    table.add_row(latency_label(timing), f"{timing.first:.3f}", f"{timing.second:.3f}", f"A/B {timing.ratio:.2f}")
    if found.accuracy is not None:
        a, b = found.accuracy
        table.add_row(f"top-1 on {found.samples} samples", f"{a:.2%}", f"{b:.2%}", f"{(b - a) * 100:+.2f} points")
    if found.agreement is not None:
        table.add_row("same top-1 class", "", "", f"{found.agreement:.2%}")
    table.add_section()
    for name, (absolute, relative) in found.differences.items():
        table.add_row(f"output {name}: max |A - B|", "", f"{absolute:.3g}", f"{relative:.2%} of max")
    return table
