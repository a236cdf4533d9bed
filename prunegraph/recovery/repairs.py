"""Repairs: ways to get accuracy back after a cut, by name.

A repair is a function `(survivors, pruned, data, progress) -> Graph`: what the cut left of the original, the pruned
graph, unlabelled inputs or None, and a callback that is told what goes on. Keyword-only parameters are options
(`prunegraph.options`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import DataError
from prunegraph.graph.model import Graph
from prunegraph.options import base_name, bound
from prunegraph.recovery import absorb, least_squares, moments, synthetic
from prunegraph.registry import Registry
from prunegraph.runtime.data import Data

Progress = Callable[[str], None]
Repair = Callable[..., Graph]
REPAIRS: Registry[Repair] = Registry("repair")

#: Repairs that can do nothing without data.
NEED_DATA = frozenset({"least-squares"})

#: Repairs that without data go by the statistics in BatchNormalization nodes.
BY_STATISTICS = frozenset({"absorb", "bn"})


@REPAIRS.register("none")
def none(
    survivors: Survivors, pruned: Graph, data: Data | None, progress: Progress
) -> Graph:
    """Leave the weights as the cut left them."""
    return pruned


@REPAIRS.register("absorb")
def absorbed(
    survivors: Survivors,
    pruned: Graph,
    data: Data | None,
    progress: Progress,
    *,
    form: absorb.Form = "mean",
) -> Graph:
    """Add what removed channels gave on average to the biases of the layers that read them."""
    return absorb.repair(survivors, pruned, data, progress, form=form)


@REPAIRS.register("bn")
def matched(
    survivors: Survivors, pruned: Graph, data: Data | None, progress: Progress
) -> Graph:
    """Set means and variances right: in BatchNormalization nodes, by scale and bias of other layers."""
    return moments.repair(survivors, pruned, data, progress)


@REPAIRS.register("least-squares")
def refitted(
    survivors: Survivors,
    pruned: Graph,
    data: Data | None,
    progress: Progress,
    *,
    activations: bool = False,
) -> Graph:
    """Refit the layers behind a cut to the original's outputs (needs data)."""
    assert data is not None  # `find` has seen to that
    return least_squares.repair(survivors, pruned, data, progress, activations=activations)


@dataclass(frozen=True)
class BoundRepair:
    """A repair with its options, by the name that it was found by."""

    name: str
    function: Repair

    @property
    def refits(self) -> bool:
        """Tell whether layers are fitted to the original's outputs, which makes up for all that came before."""
        return base_name(self.name) == "least-squares"

    def __call__(
        self, survivors: Survivors, pruned: Graph, data: Data | None, progress: Progress
    ) -> Graph:
        """The pruned graph, repaired."""
        return self.function(survivors, pruned, data, progress)


def find(name: str | None, data: Data | None, graph: Graph) -> BoundRepair:
    """A repair of a graph by its name, which may have options.

    None is the default: "least-squares" where there are data. Without them "none", so that what is written is what
    was proved; "bn" gives more accuracy then, where the graph has BatchNormalization nodes.

    Raises:
        UnknownNameError: no such repair or option.
        OptionError: an option cannot have that value.
        DataError: it needs data, or BatchNormalization nodes in their place, and there are none.
    """
    name = name or ("none" if data is None else "least-squares")
    repair = bound(REPAIRS, name)
    if data is None and base_name(name) in NEED_DATA:
        raise DataError(f"repair {name!r} needs data: give --data, or repair 'none'")
    if data is None and base_name(name) in BY_STATISTICS:
        synthetic.check(graph)
    return BoundRepair(name, repair)
