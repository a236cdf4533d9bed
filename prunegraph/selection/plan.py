"""Plans: which channels go, as frozen data and as a file that anyone can read or write."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from prunegraph.coupling.analysis import analyze
from prunegraph.coupling.branches import PREFIX
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.coupling.survivors import Own, Survivors
from prunegraph.coupling.uses import Use
from prunegraph.errors import MALFORMED, PlanError, UnknownNameError
from prunegraph.graph import control
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.onnx_io import write_whole
from prunegraph.graph.sources import Sources
from prunegraph.selection.ranks import LayerRanks
from prunegraph.selection.rotation import Rotation

FORMAT = "prunegraph/plan@2"

#: The form of plans that say more than channels: branches that go, changed inputs or outputs, a smaller vocabulary,
#: blocks that choose channels of their own, a rotation, layers of low rank.
EXTENDED = "prunegraph/plan@3"

#: Forms that are read; in the first one, cuts do not say which reader of a weight they are for.
FORMATS = ("prunegraph/plan@1", FORMAT, EXTENDED)


@dataclass(frozen=True)
class Cut:
    """Indices removed from one axis of a weight, as one input of one node reads it.

    `node` is the reader's name and `input` the number of its input. A reader that no cut names reads the
    weight whole. Without a node (in plan@1, and in tensors of a source) the cut is for every reader.

    Where each block of another axis `over` loses indices of its own, `blocks` lists them for every index of that
    axis as it is in the original; `removed` is empty then.
    """

    weight: str
    axis: int
    removed: tuple[int, ...]
    node: str | None = None
    input: int | None = None
    over: int | None = None
    blocks: tuple[tuple[int, ...], ...] = ()

    def for_all(self) -> Cut:
        """The same cut without its reader."""
        return replace(self, node=None, input=None)

    def to_json(self) -> dict[str, Any]:
        reader = {"node": self.node, "input": self.input} if self.node is not None else {}
        return {
            "weight": self.weight,
            **reader,
            "axis": self.axis,
            **(
                {"removed": list(self.removed)}
                if self.over is None
                else {"over": self.over, "blocks": [list(each) for each in self.blocks]}
            ),
        }


@dataclass(frozen=True)
class InterfaceCut:
    """Indices that an axis of a graph input or output keeps."""

    name: str
    axis: int
    kept: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "axis": self.axis, "kept": list(self.kept)}


@dataclass(frozen=True)
class KeptTokens:
    """Ids that stay of a vocabulary, by new number; `old_ids` where the inputs still take old ones."""

    kept: tuple[int, ...]
    old_ids: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"kept": list(self.kept), "old_ids": self.old_ids}


@dataclass(frozen=True)
class Plan:
    """Channels to remove, by group id.

    `model` is the sha256 of the model the plan is for; `cuts` says what the choice means for
    every weight (derived, may be empty in a hand-written plan); `provenance` how it was made.
    `source_cuts` says the same for the tensors of a source that is no ONNX file (a module's
    parameters and buffers): also derived, and empty for ONNX files. `branches` are residual
    branches that go as a whole, by the names of the Adds that end them. `interface` says what is left of inputs and
    outputs of the model that lose indices: derived as well. Where there is a `vocabulary`, the plan is for the model
    whose vocabulary was made smaller first, and so is `model`. Where there is a `rotation`, the plan is for the rotated
    model, and `model` is the digest of that. `ranks` are layers that are written as several of low rank after the cut:
    an approximation, which is no part of what the proof of the cut shows.
    """

    model: str
    remove: dict[str, tuple[int, ...]]
    cuts: tuple[Cut, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    source_cuts: tuple[Cut, ...] = ()
    branches: tuple[str, ...] = ()
    interface: tuple[InterfaceCut, ...] = ()
    vocabulary: KeptTokens | None = None
    rotation: Rotation | None = None
    ranks: tuple[LayerRanks, ...] = ()

    @property
    def removal(self) -> dict[str, tuple[int, ...]]:
        """All that goes, by id: channels of groups, and branches with one channel each."""
        return {**self.remove, **{PREFIX + name: (0,) for name in self.branches}}

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing goes."""
        return not self.remove and not self.branches

    @property
    def is_extended(self) -> bool:
        """Tell whether it says what older forms of plans cannot."""
        return bool(
            self.branches
            or self.allow_io
            or self.vocabulary
            or self.rotation is not None
            or self.ranks
            or self.blocks != "alike"
        )

    @property
    def attention(self) -> str | None:
        """What the plan's groups are in attention, "heads" or "head_dim"; None where that was left open."""
        return self.provenance.get("attention")

    @property
    def blocks(self) -> str:
        """What the plan's groups say of blocks: "alike", "own" or "both"; see `analyze`."""
        return str(self.provenance.get("blocks", "alike"))

    @property
    def allow_io(self) -> tuple[str, ...]:
        """Inputs and outputs whose axes could lose indices when the plan's groups were found. Raises PlanError."""
        names = self.provenance.get("allow_io", ())
        if not isinstance(names, list | tuple) or not all(
            isinstance(n, str) for n in names
        ):
            raise PlanError("'allow_io' of a plan must be a list of names")
        return tuple(names)

    def coupling(self, graph: Graph) -> Coupling:
        """The analysis that the plan's groups are from. Raises PlanError where its inputs and outputs are not there."""
        try:
            return analyze(
                graph,
                attention=self.attention,
                blocks=self.blocks,
                allow_io=self.allow_io,
            )
        except UnknownNameError as error:
            raise PlanError(f"the plan does not fit {graph.source}: {error}") from error

    def complete(self, graph: Graph) -> Plan:
        """This plan with its cuts derived, where it leaves them out.

        Args:
            graph: the graph that the plan was made for, as its front end read it.

        Raises:
            PlanError: the plan is for another model, or names what is not there.
        """
        is_complete = self.cuts and (self.source_cuts or graph.sources is None)
        if is_complete or self.is_empty:
            return self
        coupling = self.coupling(graph)
        survivors(coupling, self)
        complete = make_plan(coupling, self.removal, self.provenance)
        return replace(complete, ranks=self.ranks)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": EXTENDED if self.is_extended else FORMAT,
            "model": {"sha256": self.model},
            "remove": {group: list(channels) for group, channels in self.remove.items()},
            **({"branches": list(self.branches)} if self.branches else {}),
            "cuts": [cut.to_json() for cut in self.cuts],
            **(
                {"source_cuts": [cut.to_json() for cut in self.source_cuts]}
                if self.source_cuts
                else {}
            ),
            **(
                {"interface": [cut.to_json() for cut in self.interface]}
                if self.interface
                else {}
            ),
            **({"vocabulary": self.vocabulary.to_json()} if self.vocabulary else {}),
            **({"rotation": self.rotation.to_json()} if self.rotation else {}),
            **({"ranks": [each.to_json() for each in self.ranks]} if self.ranks else {}),
            "provenance": self.provenance,
        }

    @classmethod
    def from_json(cls, content: Any, source: str = "plan") -> Plan:
        """A plan from its JSON form. Raises PlanError."""
        if not isinstance(content, dict) or content.get("format") not in FORMATS:
            raise PlanError(
                f"{source}: not a plan: its 'format' must be one of {', '.join(FORMATS)}"
            )
        try:
            provenance = dict(content.get("provenance", {}))
            for key in ("attention", "blocks", "allow_io"):
                if given := content["model"].get(key):
                    provenance[key] = given
            return cls(
                str(content["model"]["sha256"]),
                {
                    str(g): _whole(channels, f"channels of group {g!r}")
                    for g, channels in content["remove"].items()
                },
                _cuts(content.get("cuts", ())),
                provenance,
                _cuts(content.get("source_cuts", ())),
                _names(content.get("branches", []), "branches"),
                tuple(_interface_cut(each) for each in content.get("interface", ())),
                _kept_tokens(content.get("vocabulary")),
                _rotation(content.get("rotation")),
                tuple(LayerRanks.from_json(each) for each in content.get("ranks", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(
                f"{source}: not a plan: {type(error).__name__}: {error}"
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON. Raises ModelError if the path cannot be written."""
        write_whole(Path(path), [(json.dumps(self.to_json(), indent=1) + "\n").encode()])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan file. Raises PlanError."""
        try:
            content = parse_json(Path(path).read_bytes())
        except FileNotFoundError:
            raise PlanError(f"{path}: no such plan file") from None
        except MALFORMED as error:
            raise PlanError(f"{path}: not a plan: {error}") from error
        return cls.from_json(content, str(path))


def parse_json(text: bytes) -> Any:
    """JSON in which no name stands twice: of two lists of one group, one would be lost. Raises ValueError."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice"
        )
    return content


def _cuts(content: Any) -> tuple[Cut, ...]:
    return tuple(_cut(entry) for entry in content)


def _cut(entry: Any) -> Cut:
    """One entry of `cuts`. Raises KeyError, TypeError or ValueError for what is none."""
    what = f"cuts of weight {entry['weight']!r}"
    node, slot = entry.get("node"), entry.get("input")
    if (
        (node is None) != (slot is None)
        or not isinstance(node, str | None)
        or type(slot) not in (int, type(None))
    ):
        raise ValueError(
            f"{what} must name their reader by 'node' (its name) and 'input' (a number), or not at all"
        )
    if type(entry["axis"]) is not int:
        raise ValueError(f"the axis in {what} must be a whole number")
    if "over" not in entry:
        return Cut(
            str(entry["weight"]), entry["axis"], _whole(entry["removed"], what), node, slot
        )
    if type(entry["over"]) is not int or not isinstance(entry["blocks"], list):
        raise ValueError(f"{what} by block need a whole number 'over' and lists 'blocks'")
    blocks = tuple(_whole(each, what) for each in entry["blocks"])
    return Cut(str(entry["weight"]), entry["axis"], (), node, slot, entry["over"], blocks)


def _names(values: Any, what: str) -> tuple[str, ...]:
    """A list of names, none of them twice. Raises ValueError."""
    if not isinstance(values, list) or any(not isinstance(value, str) for value in values):
        raise ValueError(f"{what} must be a list of names")
    if len(set(values)) != len(values):
        raise ValueError(f"{what} names one of them twice")
    return tuple(values)


def _rotation(content: Any) -> Rotation | None:
    """The entry `rotation`. Raises PlanError for what is none."""
    return None if content is None else Rotation.from_json(content)


def _kept_tokens(entry: Any) -> KeptTokens | None:
    """The entry `vocabulary`. Raises KeyError, TypeError or ValueError for what is none."""
    if entry is None:
        return None
    if type(entry["old_ids"]) is not bool:
        raise ValueError("old_ids of the vocabulary must be true or false")
    return KeptTokens(_whole(entry["kept"], "kept ids of the vocabulary"), entry["old_ids"])


def _interface_cut(entry: Any) -> InterfaceCut:
    """One entry of `interface`. Raises KeyError, TypeError or ValueError for what is none."""
    what = f"interface of {entry['name']!r}"
    if type(entry["axis"]) is not int:
        raise ValueError(f"the axis in {what} must be a whole number")
    return InterfaceCut(str(entry["name"]), entry["axis"], _whole(entry["kept"], what))


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
    """A checked plan with its cuts derived. Raises PlanError.

    Args:
        coupling: that of the model.
        remove: channels that go, by group id; a branch goes by its id, with any channels. What is
            inside such a branch is left out: it goes anyway.
        provenance: how the plan was made.
    """
    chosen = {
        group: tuple(sorted(int(c) for c in channels))
        for group, channels in remove.items()
        if len(channels)
    }
    branches = [name for name in chosen if name.startswith(PREFIX)]
    for name in branches:
        del chosen[name]
        if name not in coupling.branches_by_id:
            raise _no_branch(coupling, name.removeprefix(PREFIX))
    gone = Survivors(coupling, {name: remove[name] for name in branches})
    for group in coupling.groups if branches else ():
        if group.id in chosen and coupling.is_inside(group, gone.gone):
            del chosen[group.id]
    origin = {
        **({"attention": coupling.attention} if coupling.attention else {}),
        **({"blocks": coupling.blocks} if coupling.channels.blocks else {}),
        **({"allow_io": list(coupling.allow_io)} if coupling.allow_io else {}),
        **(provenance or {}),
    }
    names = tuple(branch.name for branch in gone.branches)
    plan = Plan(coupling.graph.sha256, chosen, (), origin, branches=names)
    remaining = survivors(coupling, plan)
    cuts = derive_cuts(remaining)
    plan = replace(plan, interface=derive_interface(remaining))
    try:
        return replace(
            plan, cuts=cuts, source_cuts=derive_source_cuts(coupling.graph.sources, cuts)
        )
    except PlanError as error:
        # The graph can be cut all the same; who applies the plan to the source is told why that cannot.
        return replace(plan, cuts=cuts, provenance={**origin, "source_error": str(error)})


def survivors(coupling: Coupling, plan: Plan) -> Survivors:
    """Say what is left of the graph under a plan.

    Raises:
        PlanError: the plan is for another model, or names a group or channel that is not
            there, or leaves a group without channels, or its cuts do not follow from it.
    """
    if plan.model != coupling.graph.sha256:
        raise PlanError(
            f"the plan is for another model (sha256 {plan.model[:12]}..., {coupling.graph.source} has "
            f"{coupling.graph.sha256[:12]}...)"
        )
    for name in plan.branches:
        if PREFIX + name not in coupling.branches_by_id:
            raise _no_branch(coupling, name)
    groups = {group.id: group for group in coupling.groups}
    for name, channels in plan.remove.items():
        if name not in groups:
            known = (
                f"{len(groups)} groups, g0 to g{len(groups) - 1}" if groups else "no groups"
            )
            raise PlanError(f"the plan names group {name!r}; the model has {known}")
        size = groups[name].channels
        wrong = [c for c in channels if not 0 <= c < size]
        if wrong:
            raise PlanError(
                f"the plan removes channel {wrong[0]} of group {name!r}, which has {size} channels"
            )
        if len(set(channels)) != len(channels):
            raise PlanError(f"the plan removes a channel of group {name!r} twice")
        least = groups[name].least
        if len(channels) == size:
            raise PlanError(
                f"the plan removes all {size} channels of group {name!r}; "
                f"{'one' if least == 1 else least} must stay"
            )
        if size - len(channels) < least:
            raise PlanError(
                f"the plan removes {len(channels)} of {size} channels of group {name!r}; {least} must stay, "
                "as many as a router takes"
            )
        _check_cells(groups[name], channels)
    result = Survivors(coupling, plan.removal)
    if plan.cuts and not _follow(plan.cuts, derive_cuts(result)):
        raise PlanError(
            "the plan's 'cuts' do not follow from its 'remove'; leave them out to have them derived"
        )
    if plan.interface and set(plan.interface) != set(derive_interface(result)):
        raise PlanError(
            "the plan's 'interface' does not follow from its 'remove'; leave it out to have it derived"
        )
    return result


def _no_branch(coupling: Coupling, name: str) -> PlanError:
    """The error for a branch that is not there."""
    known = [branch.name for branch in coupling.branches]
    text = f"{len(known)} branches, {known[0]!r} to {known[-1]!r}" if known else "none"
    return PlanError(
        f"the plan removes branch {name!r}; of those that may go the model has {text}"
    )


def _check_cells(group: Group, channels: Sequence[int]) -> None:
    """Blocks lose equally many channels. Raises PlanError."""
    if group.cells is None or not channels:
        return
    gone = np.isin(group.cells, channels).sum(axis=1)
    if (gone != gone[0]).any():
        raise PlanError(
            f"the plan removes {gone.min()} channels of one block of group {group.id!r} and {gone.max()} of another; "
            f"each of its {len(gone)} blocks has to lose equally many"
        )


def _follow(cuts: Sequence[Cut], derived: Sequence[Cut]) -> bool:
    """Tell whether cuts are those derived; cuts that name no reader are compared without it."""
    if any(cut.node is not None for cut in cuts):
        return set(cuts) == set(derived)
    return set(cuts) == {cut.for_all() for cut in derived}


def derive_cuts(survivors: Survivors) -> tuple[Cut, ...]:
    """Say what a choice means for every weight, for every input that reads it."""
    coupling, cuts = survivors.coupling, dict[Cut, None]()
    own = {(use.weight, use.node, use.slot) for use in coupling.uses}
    for use in coupling.uses:
        axes = [
            (axis, kept) for axis, kept in enumerate(survivors.use(use)) if kept is not None
        ]
        shape = [labels.size for labels in use.labels]
        if not axes:
            continue
        for node, slot in _readers(coupling, use, own):
            if node in survivors.gone:
                continue
            name = reader_name(coupling.graph.nodes[node])
            for axis, kept in axes:
                cuts[_derived(use.weight, shape, axis, kept, name, slot)] = None
    return tuple(cuts)


def derive_interface(survivors: Survivors) -> tuple[InterfaceCut, ...]:
    """Say what a choice leaves of the model's inputs and outputs, where they lose indices."""
    graph = survivors.coupling.graph
    return tuple(
        InterfaceCut(name, axis, tuple(kept.tolist()))
        for name in dict.fromkeys((*graph.inputs, *graph.outputs))
        if name in survivors.coupling.allow_io
        for axis, kept in enumerate(survivors.value(name))
        if kept is not None
    )


def _derived(
    weight: str,
    shape: Sequence[int],
    axis: int,
    kept: np.ndarray | Own,
    node: str,
    slot: int,
) -> Cut:
    """The cut of one axis of a weight [shape], from what stays there."""
    if isinstance(kept, np.ndarray):
        gone = np.ones(shape[axis], bool)
        gone[kept] = False
        return Cut(weight, axis, tuple(np.flatnonzero(gone).tolist()), node, slot)
    mask = np.ones((shape[kept.over], shape[axis]), bool)
    np.put_along_axis(mask, kept.kept, False, 1)
    blocks = tuple(tuple(np.flatnonzero(row).tolist()) for row in mask)
    return Cut(weight, axis, (), node, slot, kept.over, blocks)


def _readers(
    coupling: Coupling, use: Use, own: Set[tuple[str, int, int]]
) -> list[tuple[int, int]]:
    """The inputs that see a weight as a use says: nodes by index, with the number of the input.

    `own` are the readers that see their weight in their own way.
    """
    if use.node >= 0:
        return [(use.node, use.slot)]
    nodes = coupling.graph.nodes
    return [
        (node, slot)
        for node, slot in coupling.graph.consumers.get(use.weight, ())
        if (use.weight, node, slot) not in own
        and not coupling.shape_info.is_dead(nodes[node])
    ]


def reader_name(node: Node) -> str:
    """Say what a plan calls a node: a node with subgraphs by its own name, whichever part of it reads."""
    if node.domain == control.DOMAIN and node.op == control.ENTER:
        return node.name.removesuffix("/enter")
    return (
        node.subgraph.name
        if node.subgraph is not None and node.domain == control.DOMAIN
        else node.name
    )


def derive_source_cuts(sources: Sources | None, cuts: Sequence[Cut]) -> tuple[Cut, ...]:
    """Say what cuts of a graph's weights mean for the tensors they come from.

    Raises:
        PlanError: a tensor that several layers share would be cut in two ways.
    """
    if sources is None:
        return ()
    axes: dict[str, dict[int, tuple[int, ...]]] = {}
    for cut in cuts:
        if cut.over is not None:
            raise PlanError(
                f"weight {cut.weight!r} would lose other channels in each block, which is no whole slice of a tensor; "
                "choose the same in all (--blocks alike)"
            )
        before = axes.setdefault(cut.weight, {}).setdefault(cut.axis, cut.removed)
        if before != cut.removed:
            raise PlanError(
                f"layers that share weight {cut.weight!r} would lose different channels of it"
            )
    removed = sources.removed(axes)
    return tuple(
        Cut(tensor, axis, tuple(indices.tolist()))
        for tensor, each in removed.items()
        for axis, indices in each.items()
    )
