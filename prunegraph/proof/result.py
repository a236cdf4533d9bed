"""The result of a proof: how far apart two graphs were."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Difference:
    """One compared value: largest absolute difference, and relative to the largest value."""

    name: str
    absolute: float
    relative: float


@dataclass(frozen=True)
class Proof:
    """Compared values and how far apart they were. `notes` say what was special."""

    differences: tuple[Difference, ...]
    tolerance: float
    runs: int
    notes: tuple[str, ...] = field(default=())

    @property
    def relative(self) -> float:
        """The largest relative difference."""
        return max((d.relative for d in self.differences), default=0.0)

    @property
    def absolute(self) -> float:
        """The largest absolute difference."""
        return max((d.absolute for d in self.differences), default=0.0)

    def __str__(self) -> str:
        text = (
            f"max |difference| {self.absolute:.3g} ({self.relative:.1e} of the largest value, "
            f"{self.tolerance:g} allowed) on {len(self.differences)} outputs, {self.runs} runs"
        )
        return "; ".join([text, *self.notes])
