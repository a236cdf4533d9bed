"""What a rule is, and the table of rules.

A rule says how labels travel through an operator (`propagate`), what to repair in the node
after a cut (`fix_up`, for what the generic mechanisms do not cover), and how many
multiply-accumulates it costs (`macs`). Rules are found by domain and operator; a rule may
start at a later opset version than another one for the same operator.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from prunegraph import plugins
from prunegraph.errors import PluginError
from prunegraph.graph.model import Node
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.labels.labels import Labels
from prunegraph.labels.reasons import Kind, Reason
from prunegraph.labels.space import LabelSpace
from prunegraph.operators import OperatorInfo, describe

Shape = tuple[int, ...]


class Site(Protocol):
    """One node as its rule sees it during the walk."""

    node: Node
    space: LabelSpace
    shape_info: ShapeInfo

    def shape(self, slot: int) -> Shape:
        """Concrete shape of an input."""

    def out_shape(self, slot: int = 0) -> Shape:
        """Concrete shape of an output."""

    def constant(self, slot: int) -> np.ndarray | None:
        """The numbers at an input, where they are known."""

    def labels(self, slot: int) -> tuple[Labels, ...]:
        """Labels of an input's axes."""

    def labels_of(self, value: str) -> tuple[Labels, ...]:
        """Labels of any value made so far."""

    def given(self, slot: int) -> tuple[Labels, ...]:
        """Labels an output has been given."""

    def has(self, slot: int) -> bool:
        """Tell whether an input is given."""

    def is_read(self, slot: int) -> bool:
        """Tell whether an output is given and anything reads it."""

    def is_weight(self, slot: int) -> bool:
        """Tell whether an input is a constant of the file."""

    def carries_weight(self, slot: int) -> bool:
        """Tell whether an input is a weight, or a weight behind Identity, Transpose, Dequantize, ..."""

    def is_renumbered(self, slot: int) -> bool:
        """Tell whether an input holds ids that are numbered anew when rows of their table go."""

    def is_routing(self) -> bool:
        """Tell whether the node chooses among experts, whose numbers nothing reads but lookups of their weights."""

    def routed_labels(self) -> Labels | None:
        """Labels of the experts whose numbers say what the node looks up; None where they are other numbers."""

    def set_output(self, labels: Sequence[Labels], slot: int = 0) -> None:
        """Set the labels of an output."""

    def give_sequence(self, parts: Sequence[Sequence[Labels]]) -> None:
        """Set the labels of the elements of a sequence output."""

    def pinned_axis(self, size: int, text: str, kind: Kind = Kind.OPERATOR) -> Labels:
        """A pinned axis."""

    def pin(self, labels: Labels, text: str, kind: Kind = Kind.OPERATOR) -> None:
        """Let labels stay: `text` says to people why, `kind` to programs."""

    def reason(self, text: str, kind: Kind = Kind.OPERATOR) -> Reason:
        """A reason that names this node."""

    def role(self, slot: int, axis: int, role: str) -> None:
        """Say that a weight's axis is a layer's "out" or "in" channels."""

    def reduces(
        self, slot: int, axes: Sequence[int], kind: str, zero: int | None = None
    ) -> None:
        """Say what becomes of an input's elements along axes.

        They are summed ("sum"), averaged ("mean"), normalised together ("norm"), multiplied ("product"), or the
        largest ("max") or smallest ("min") is taken. `zero` is the slot of the input's zero point, for integer data.
        """

    def bind_attribute(self, attribute: str, labels: Labels, times: int = 1) -> None:
        """Say that an attribute is the size of an axis, or a multiple of it."""

    def tag(self, labels: Labels, name: str) -> None:
        """Say what a factor is: in attention "heads" or "head_dim"; "repeated" where it repeats one element."""

    def sizes_operand(self, slot: int) -> None:
        """Say that an input lists the sizes of the first output's axes."""


class Edit(Protocol):
    """One node as its rule sees it during a cut."""

    node: Node
    shape_info: ShapeInfo

    def kept(self, value: str, axis: int) -> np.ndarray:
        """Indices of a value's axis that stay."""

    def size(self, value: str, axis: int) -> int:
        """How many indices of an axis stay."""

    def is_cut(self, value: str, axis: int | None = None) -> bool:
        """Tell whether anything of a value (of one axis) goes."""

    def set_attribute(self, name: str, value: Any) -> None:
        """Replace or add an attribute."""

    def set_input(self, slot: int, value: np.ndarray) -> None:
        """Let an input be a constant."""

    def want(self, slot: int, value: np.ndarray) -> None:
        """Let an input have a value at the sizes of the analysis, following run-time sizes where it did."""

    def gather(self, source: str, axis: int, index: np.ndarray) -> None:
        """Replace the whole node by a Gather of constant indices."""


Propagate = Callable[[Site], None]
FixUp = Callable[[Edit], None]
Macs = Callable[[Node, Sequence[Shape], Sequence[Shape]], int]
MACS = ("node", "inputs", "outputs")

#: How an operator treats an axis that has other channels in each block of another axis: it mixes them (""), it keeps
#: blocks apart wherever both axes stand ("apart"), or where the other one stands before the last two ("batches").
BlockHandling = Literal["", "apart", "batches"]
Shapes = Callable[[Node, Sequence[Shape]], Sequence[Shape]]


@dataclass(frozen=True)
class Rule:
    """How an operator treats channels. `macs` gets the shapes of inputs and outputs.

    `barrier` is the reason why the operator pins all it touches, of that `kind`; it has no
    `propagate` then. A `partial` rule also follows nodes of which some shapes are not known. `shapes` gives the
    outputs' shapes from those of the inputs, for an operator that has no inference in ONNX and
    that ONNX Runtime cannot run (else a run shows them). `blocks` tells whether blocks of an axis may have channels of
    their own there (`labels.blocks`); a rule that says nothing of it is taken to mix them.
    """

    propagate: Propagate | None = None
    fix_up: FixUp | None = None
    macs: Macs | None = None
    since: int = 1
    barrier: str | None = None
    kind: Kind = Kind.OPERATOR
    partial: bool = False
    shapes: Shapes | None = None
    blocks: BlockHandling = ""


_RULES: dict[tuple[str, str], list[Rule]] = {}
_problems: list[PluginError] | None = None


def register(
    *ops: str,
    propagate: Propagate,
    fix_up: FixUp | None = None,
    macs: Macs | None = None,
    domain: str = "",
    since: int = 1,
    partial: bool = False,
    shapes: Shapes | None = None,
    blocks: BlockHandling = "",
    info: OperatorInfo | None = None,
) -> None:
    """Add one rule for operators of a domain, from an opset version on.

    The functions are those of `Rule`; `info` is all else that is known of the operators, as by `describe`. A
    `propagate` that cannot follow a node raises ValueError; the
    node then pins all it touches.

    Raises:
        PluginError: there is a rule for that operator and version already, or a record, or a function has
            other parameters than a rule's.
    """
    origin = plugins.note_origin(propagate)
    for op in ops:
        name = f"{domain or 'ai.onnx'}::{op}"
        rule = Rule(
            propagate, fix_up, macs, since, partial=partial, shapes=shapes, blocks=blocks
        )
        if origin != plugins.BUILT_IN:
            rule = _guarded(rule, name, origin)
        rules = _RULES.setdefault((domain, op), [])
        if any(rule.since == since for rule in rules):
            raise PluginError(f"operator {name} has two rules since version {since}")
        rules.append(rule)
        rules.sort(key=lambda rule: -rule.since)
    if info is not None:
        describe(info, *ops, domain=domain)


def _guarded(rule: Rule, op: str, origin: str) -> Rule:
    """A plug-in's rule, whose mistakes are PluginErrors that name it."""
    what = f"rule for {op} ({origin})"
    parameters = {
        "propagate": ["site"],
        "fix_up": ["edit"],
        "macs": MACS,
        "shapes": ["node", "inputs"],
    }
    for name, names in parameters.items():
        function = getattr(rule, name)
        if function is not None:
            plugins.check_parameters(function, names, f"{name} of the {what}")
    return Rule(
        rule.propagate and plugins.guard(rule.propagate, what, passes=(ValueError,)),
        rule.fix_up and plugins.guard(rule.fix_up, what),
        rule.macs and _counted(plugins.guard(rule.macs, what), what),
        rule.since,
        partial=rule.partial,
        shapes=rule.shapes and _shaped(plugins.guard(rule.shapes, what), what),
        blocks=rule.blocks,
    )


def _counted(macs: Macs, what: str) -> Macs:
    def call(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
        result = macs(node, inputs, outputs)
        if not isinstance(result, int | np.integer) or result < 0:
            raise PluginError(
                f"{what}: macs returned {result!r} for node {node.name!r}, not a count"
            )
        return int(result)

    return call


def _shaped(shapes: Shapes, what: str) -> Shapes:
    def call(node: Node, inputs: Sequence[Shape]) -> Sequence[Shape]:
        result = shapes(node, inputs)
        try:
            whole = [tuple(map(operator.index, shape)) for shape in result]
        except TypeError:
            whole = []
        if len(whole) != len(node.outputs):
            raise PluginError(
                f"{what}: shapes returned {result!r} for node {node.name!r}, not one shape for each of its "
                f"{len(node.outputs)} outputs"
            )
        return whole

    return call


def register_barriers(
    reasons: Mapping[str, str], domain: str = "", kind: Kind = Kind.OPERATOR
) -> None:
    """Say of operators that they pin all they touch, and why. Raises PluginError for a duplicate."""
    plugins.note_origin(register_barriers)
    for op, reason in reasons.items():
        if (domain, op) in _RULES:
            raise PluginError(
                f"operator {domain or 'ai.onnx'}::{op} has a rule and cannot be a barrier"
            )
        _RULES[domain, op] = [Rule(barrier=reason, kind=kind)]


def rules() -> dict[tuple[str, str], list[Rule]]:
    """All rules by domain and operator, newest version first."""
    return dict(_RULES)


def rule_for(node: Node) -> Rule | None:
    """The rule of a node's operator at its version, or None: such a node pins what it touches."""
    rules = _RULES.get((node.domain, node.op))
    if rules is None:
        _load_plugins()
        rules = _RULES.get((node.domain, node.op))
    for rule in rules or ():
        if rule.since <= node.version:
            return rule
    return None


def _load_plugins() -> None:
    """Import what other packages name under `prunegraph.rules`; it calls `register`. Raises PluginError."""
    global _problems
    if _problems is None:
        _problems = []
        for point in plugins.installed("prunegraph.rules"):
            try:
                plugins.load_point(point)
            except PluginError as error:
                _problems.append(error)
    if _problems:
        raise PluginError("; ".join(map(str, _problems)))
