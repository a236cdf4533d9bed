"""A rule for an operator that prunegraph has none for: ai.onnx.ml::Scaler, y = (x - offset) * scale.

Offset and scale are attributes, one number a channel, so the cut has to shorten them.
"""

from __future__ import annotations

from prunegraph.ops.pattern import by_pattern
from prunegraph.ops.rule import Edit, register


def _fix_up(edit: Edit) -> None:
    """Keep the numbers of the channels that stay; one number serves all channels."""
    kept = edit.kept(edit.node.inputs[0], 1)
    for name in ("offset", "scale"):
        numbers = edit.node.attributes.get(name, [])
        if len(numbers) > 1:
            edit.set_attribute(name, [numbers[index] for index in kept])


register("Scaler", domain="ai.onnx.ml", propagate=by_pattern("n c -> n c"), fix_up=_fix_up)
