"""A graph rotated and proved: the step before the choice of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from prunegraph.coupling.analysis import analyze
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import ExactnessError, OptionError
from prunegraph.graph.model import Graph
from prunegraph.proof.feeds import PairedInputs
from prunegraph.proof.result import Proof
from prunegraph.proof.verify import prove
from prunegraph.rotation.choose import choose_rotation, prepare
from prunegraph.rotation.rotate import inside, rotate
from prunegraph.rotation.turned import TurnedMetrics
from prunegraph.runtime.data import Batch, Data
from prunegraph.runtime.statistics import ErrorMetrics, Statistics
from prunegraph.selection.rotation import Rotation

#: When a graph is rotated: "auto" where there are data, and where it is not known to be of no use.
When = Literal["never", "auto", "always"]

#: Weights of more bytes are not rotated unasked: they would all be in memory.
MOST = 1 << 30


@dataclass(frozen=True, eq=False)
class Rotated:
    """A rotated graph.

    Args:
        original: the graph that was rotated.
        model: the same function in other bases.
        rotation: the bases.
        proof: that both are the same; None where it was turned off.
    """

    original: Graph = field(repr=False)
    model: Graph = field(repr=False)
    rotation: Rotation = field(repr=False)
    proof: Proof | None


def check_when(when: str) -> None:
    """Raise OptionError for what does not say when a graph is rotated."""
    if when not in get_args(When):
        raise OptionError(f"rotate must be never, auto or always, not {when!r}")


def obstacle(graph: Graph, *, has_gradients: bool) -> str:
    """Why a graph is not rotated; "" where it may be."""
    if graph.sources is not None:
        return "the plan is for the tensors of its source, too, which keep their basis"
    if has_gradients:
        return "gradients are those of the weights as they are"
    return ""


def find_rotation(
    graph: Graph,
    data: Data | None,
    progress: Callable[[str], None],
    metrics: Callable[[Graph], ErrorMetrics | None] = lambda graph: None,
    *,
    scales: bool = True,
) -> tuple[Rotation, ErrorMetrics | None]:
    """The best rotation of a graph; one without turns where none of its channels can have another basis.

    Args:
        graph: the model.
        data: unlabelled inputs; without, weights alone say which basis is the best.
        progress: called with the name of each stage.
        metrics: what says what errors of a graph's layers do.
        scales: whether scales behind normalisations are folded for it.

    Returns:
        The rotation, and what `metrics` says, of the rotated graph.
    """
    progress("rotate")
    ready, outputs, spaces = prepare(graph, scales=scales)
    if not spaces:
        return Rotation(()), metrics(graph)
    known = metrics(ready)
    statistics = (
        Statistics(ready, data, progress=progress, metrics=known)
        if data is not None
        else None
    )
    rotation = replace(choose_rotation(ready, spaces, statistics), folded=outputs)
    return rotation, TurnedMetrics(known, spaces, rotation) if known is not None else None


def rotated(
    graph: Graph,
    rotation: Rotation,
    *,
    verify: bool = True,
    data: Sequence[Batch] = (),
    seed: int = 0,
) -> Rotated:
    """A graph in the bases of a rotation, proved to be the same.

    Args:
        graph: the model.
        rotation: the bases.
        verify: whether to prove it.
        data: inputs to compare on besides random ones.
        seed: of the random inputs.

    Raises:
        ExactnessError: the outputs differ.
        PlanError: the rotation is not for this graph.
    """
    result = rotate(graph, rotation)
    if not verify:
        return Rotated(graph, result, rotation, None)
    whole = Survivors(analyze(graph), {})
    try:
        paired, unlike = PairedInputs(whole), inside(graph, rotation)
        proof = prove(whole, (), result, paired, data, seed, unlike=unlike)
    except ExactnessError as error:
        raise ExactnessError(f"rotated: {error}") from error
    return Rotated(graph, result, rotation, proof)


def weight_bytes(graph: Graph) -> int:
    """Bytes of a graph's weights."""
    return sum(weight.size * weight.dtype.itemsize for weight in graph.weights.values())


def is_small_enough(graph: Graph) -> bool:
    """Tell whether a graph is rotated without being asked to."""
    return weight_bytes(graph) <= MOST
