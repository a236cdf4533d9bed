"""Tables of quantized models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from prunegraph.graph.layer_names import shown
from prunegraph.quantization.report import layer_types

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph
    from prunegraph.quantization.quantize import QuantizeResult

#: dB of outputs below which the layer that does most of it is named.
POOR = 15.0


def layers_table(quantized: QuantizeResult, original: Graph) -> Table:
    """One row a layer: types, noise of its weight and of what it makes, why it stays in float."""
    table = Table(title="layers", title_justify="left")
    for name in (
        "layer",
        "weights",
        "activations",
        "weight SQNR, dB",
        "output SQNR, dB",
        "",
    ):
        table.add_column(name, justify="right" if "dB" in name else "left")
    for layer in quantized.layers:
        table.add_row(
            shown(original, layer.name),
            layer.weights,
            layer.activations,
            _decibels(layer.weight_sqnr),
            _decibels(layer.sqnr),
            layer.reason,
        )
    return table


def outcome(quantized: QuantizeResult, original: Graph) -> str:
    """Say what was quantized and how near the outputs are, in a few lines."""
    kinds = Counter((layer.weights, layer.activations) for layer in quantized.layers)
    lines = [
        f"{count} layers: {weights} weights, {activations} activations"
        for (weights, activations), count in kinds.most_common()
    ]
    lines += _weight_range(quantized)
    lines += [
        f"in float: {shown(original, layer.name)} ({layer.reason})"
        for layer in quantized.layers
        if layer.reason
    ]
    lines += [
        f"output {name}: SQNR {value:.1f} dB" for name, value in quantized.outputs.items()
    ]
    weakest = quantized.weakest
    if weakest is not None and min(quantized.outputs.values(), default=POOR) < POOR:
        lines.append(
            f"most of the noise comes in at layer {shown(original, weakest.name)} (--float leaves it in float)"
        )
    if quantized.loss is not None:
        lines.append(
            f"by metric {quantized.metric} {quantized.loss:.4g} worse than in float"
        )
    return "\n".join(lines)


def _weight_range(quantized: QuantizeResult) -> list[str]:
    """Lines on the codes that int8 weights have, and on layers that are held otherwise."""
    chosen = quantized.weight_range
    if chosen is None:
        return []
    kind = "7-bit" if chosen.limit < 127 else "8-bit"
    lines = [f"{kind} weights, codes -{chosen.limit} to {chosen.limit}: {chosen.reason}"]
    whole = [layer.name for layer in quantized.layers if layer.weights == "uint8"]
    if whole:
        lines.append(
            f"uint8 weights, since the scales given need 8 bits (slower with VNNI): {', '.join(whole)}"
        )
    return lines


def types_table(graph: Graph) -> Table:
    """One row a layer: the types that hold its weight and its input."""
    table = Table(title="types", title_justify="left")
    for name in ("layer", "operator", "weights", "activations"):
        table.add_column(name)
    for layer in layer_types(graph):
        table.add_row(shown(graph, layer.name), layer.op, layer.weights, layer.activations)
    return table


def sqnr_table(values: Mapping[str, float]) -> Table:
    """One row a value of the float model that is quantized in the other one."""
    table = Table(title="signal to quantization noise", title_justify="left")
    table.add_column("value")
    table.add_column("SQNR, dB", justify="right")
    for name, value in values.items():
        table.add_row(name, _decibels(value))
    return table


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
