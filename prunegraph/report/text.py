"""Names and numbers as a page shows them. Names come from model files: nothing in them is trusted."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunegraph.quantization.precision import PrecisionResult
    from prunegraph.rotation.run import Rotated
    from prunegraph.selection.plan import Plan

#: Not text: controls (which HTML and XML forbid), half characters, and marks that turn the direction of what follows.
NOT_TEXT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def clean(value: Any) -> Any:
    """A string with what is no text replaced by U+FFFD; markup and anything else as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return NOT_TEXT.sub("\ufffd", value)


def shorten(name: str, size: int) -> str:
    """At most `size` characters of a name; the end, which tells layers apart, is kept."""
    name = " ".join(clean(name).split())
    return name if len(name) <= size else "\u2026" + name[1 - size :]


def precision_line(result: PrecisionResult) -> str:
    """What came of 16-bit floats, in one line."""
    what = "nodes" if result.dtype == "float16" else "weights"
    far = max(result.differences.values(), default=0.0)
    noise = min(result.outputs.values(), default=0.0)
    samples = f"{result.samples} sample{'' if result.samples == 1 else 's'}"
    reasons = Counter(result.kept.values())
    kept = "; ".join(f"{count} in float32: {reason}" for reason, count in reasons.items())
    return (
        f"{result.dtype}: {result.converted} {what}; outputs within {far:.2g} of their largest value, {noise:.1f} dB "
        f"(measured against float32 on {samples})" + (f"; {kept}" if kept else "")
    )


def rotated_line(rotated: Rotated) -> str:
    """How many spaces of channels got another basis, and the proof that it is the same network."""
    shown = f"; {rotated.proof}" if rotated.proof else ""
    return (
        f"rotated: {len(rotated.rotation.turns)} spaces of channels, before the cut{shown}"
    )


def interface_lines(plan: Plan) -> list[str]:
    """What a plan leaves of the model's inputs and outputs, a line for each axis that loses indices."""
    return [f"{cut.name} axis {cut.axis} keeps {len(cut.kept)}" for cut in plan.interface]


def exact(value: int | None) -> str:
    """A count with all digits: 174,970."""
    return "\u2013" if value is None else f"{value:,}"


def factor(value: float) -> str:
    """How many times: two digits, no exponent."""
    return (
        f"{float(f'{value:.2g}'):,.4g}" if value < 10 else f"{float(f'{value:.2g}'):,.0f}"
    )


def count_of(number: int, noun: str, several: str = "") -> str:
    """A count and what is counted: 1 layer, 2 layers; `several` where that is no "s" more."""
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"
