"""Plans: which channels go, as frozen data and as a file that anyone can read or write."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from prunegraph.coupling.analysis import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import MALFORMED, PlanError
from prunegraph.graph.onnx_io import write_whole
from prunegraph.graph.sources import Sources

FORMAT = "prunegraph/plan@1"


@dataclass(frozen=True)
class Cut:
    """Indices removed from one axis of a weight."""

    weight: str
    axis: int
    removed: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {"weight": self.weight, "axis": self.axis, "removed": list(self.removed)}


@dataclass(frozen=True)
class Plan:
    """Channels to remove, by group id.

    `model` is the sha256 of the model the plan is for; `cuts` says what the choice means for
    every weight (derived, may be empty in a hand-written plan); `provenance` how it was made.
    `source_cuts` says the same for the tensors of a source that is no ONNX file (a module's
    parameters and buffers): also derived, and empty for ONNX files.
    """

    model: str
    remove: dict[str, tuple[int, ...]]
    cuts: tuple[Cut, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    source_cuts: tuple[Cut, ...] = ()

    @property
    def attention(self) -> str | None:
        """What the plan's groups are in attention, "heads" or "head_dim"; None where that was left open."""
        return self.provenance.get("attention")

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": {"sha256": self.model},
            "remove": {group: list(channels) for group, channels in self.remove.items()},
            "cuts": [cut.to_json() for cut in self.cuts],
            **({"source_cuts": [cut.to_json() for cut in self.source_cuts]} if self.source_cuts else {}),
            "provenance": self.provenance,
        }

    @classmethod
    def from_json(cls, content: Any, source: str = "plan") -> Plan:
        """A plan from its JSON form. Raises PlanError."""
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise PlanError(f"{source}: not a plan: its 'format' must be {FORMAT!r}")
        try:
            return cls(
                str(content["model"]["sha256"]),
                {str(g): _whole(channels, f"channels of group {g!r}") for g, channels in content["remove"].items()},
                _cuts(content.get("cuts", ())),
                dict(content.get("provenance", {})),
                _cuts(content.get("source_cuts", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"{source}: not a plan: {type(error).__name__}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON. Raises ModelError if the path cannot be written."""
        write_whole(Path(path), [(json.dumps(self.to_json(), indent=1) + "\n").encode()])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan file. Raises PlanError."""
        try:
            content = json.loads(Path(path).read_text())
        except FileNotFoundError:
            raise PlanError(f"{path}: no such plan file") from None
        except MALFORMED as error:
            raise PlanError(f"{path}: not a plan: {error}") from error
        return cls.from_json(content, str(path))


def _cuts(content: Any) -> tuple[Cut, ...]:
    return tuple(
        Cut(str(c["weight"]), int(c["axis"]), _whole(c["removed"], f"cuts of weight {c['weight']!r}")) for c in content
    )


def _whole(values: Any, what: str) -> tuple[int, ...]:
    """A list of whole numbers, as JSON has it: nothing is rounded, no text is taken apart. Raises ValueError."""
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise ValueError(f"{what} must be a list of whole numbers")
    return tuple(values)


def make_plan(
    coupling: Coupling,
    remove: Mapping[str, Sequence[int] | np.ndarray],
    provenance: Mapping[str, Any] | None = None,
) -> Plan:
    """A checked plan with its cuts derived. Raises PlanError."""
    chosen = {group: tuple(sorted(int(c) for c in channels)) for group, channels in remove.items() if len(channels)}
    origin = {**({"attention": coupling.attention} if coupling.attention else {}), **(provenance or {})}
    plan = Plan(coupling.graph.sha256, chosen, (), origin)
    cuts = derive_cuts(survivors(coupling, plan))
    try:
        return replace(plan, cuts=cuts, source_cuts=derive_source_cuts(coupling.graph.sources, cuts))
    except PlanError as error:
        # The graph can be cut all the same; who applies the plan to the source is told why that cannot.
        return replace(plan, cuts=cuts, provenance={**origin, "source_error": str(error)})


def survivors(coupling: Coupling, plan: Plan) -> Survivors:
    """What is left of the graph under a plan.

    Raises:
        PlanError: the plan is for another model, or names a group or channel that is not
            there, or leaves a group without channels, or its cuts do not follow from it.
    """
    if plan.model != coupling.graph.sha256:
        raise PlanError(
            f"the plan is for another model (sha256 {plan.model[:12]}..., {coupling.graph.source} has "
            f"{coupling.graph.sha256[:12]}...)"
        )
    groups = {group.id: group for group in coupling.groups}
    for name, channels in plan.remove.items():
        if name not in groups:
            known = f"{len(groups)} groups, g0 to g{len(groups) - 1}" if groups else "no groups"
            raise PlanError(f"the plan names group {name!r}; the model has {known}")
        size = groups[name].channels
        wrong = [c for c in channels if not 0 <= c < size]
        if wrong:
            raise PlanError(f"the plan removes channel {wrong[0]} of group {name!r}, which has {size} channels")
        if len(set(channels)) != len(channels):
            raise PlanError(f"the plan removes a channel of group {name!r} twice")
        if len(channels) == size:
            raise PlanError(f"the plan removes all {size} channels of group {name!r}; one must stay")
    result = Survivors(coupling, plan.remove)
    if plan.cuts and set(plan.cuts) != set(derive_cuts(result)):
        raise PlanError("the plan's 'cuts' do not follow from its 'remove'; leave them out to have them derived")
    return result


def derive_cuts(left: Survivors) -> tuple[Cut, ...]:
    """What a choice means for every weight."""
    found: dict[Cut, None] = {}
    for use in left.coupling.uses:
        for axis, kept in enumerate(left.use(use)):
            if kept is not None:
                gone = np.ones(use.labels[axis].size, bool)
                gone[kept] = False
                found[Cut(use.weight, axis, tuple(np.flatnonzero(gone).tolist()))] = None
    return tuple(found)


def derive_source_cuts(sources: Sources | None, cuts: Sequence[Cut]) -> tuple[Cut, ...]:
    """What cuts of a graph's weights mean for the tensors they come from.

    Raises:
        PlanError: a tensor that several layers share would be cut in two ways.
    """
    if sources is None:
        return ()
    axes: dict[str, dict[int, tuple[int, ...]]] = {}
    for cut in cuts:
        before = axes.setdefault(cut.weight, {}).setdefault(cut.axis, cut.removed)
        if before != cut.removed:
            raise PlanError(f"layers that share weight {cut.weight!r} would lose different channels of it")
    removed = sources.removed(axes)
    return tuple(
        Cut(tensor, axis, tuple(indices.tolist())) for tensor, each in removed.items() for axis, indices in each.items()
    )
