"""What the original and the pruned graph are fed, so that both compute the same thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prunegraph.coupling.survivors import Survivors
from prunegraph.runtime.data import Batch

Array = np.ndarray


class PairedInputs:
    """Inputs of the original, and the same for the pruned graph, which may take parts of them.

    Args:
        survivors: what is left of every value, inputs among them.
        ids: by input, the ids that a smaller vocabulary keeps, in the order of their new numbers.
        renumbered: whether the pruned graph takes the new numbers.
    """

    def __init__(
        self,
        survivors: Survivors,
        ids: Mapping[str, Sequence[int]] | None = None,
        renumbered: bool = True,
    ):
        graph = survivors.coupling.graph
        self._kept = {name: survivors.value(name) for name in graph.inputs}
        self._ids = {name: np.asarray(each) for name, each in (ids or {}).items()}
        self._renumbered = renumbered

    def random(self, batch: Batch, seed: int) -> Batch:
        """Random inputs that both graphs can be asked: with ids from all of those that are kept."""
        rng = np.random.default_rng(seed)
        drawn = {
            name: rng.choice(ids, batch[name].shape).astype(batch[name].dtype)
            for name, ids in self._ids.items()
        }
        return {**batch, **drawn}

    def original(self, batch: Batch) -> Batch:
        """Inputs that the pruned graph can be asked as well: ids that are gone are replaced by others."""
        result = dict(batch)
        for name, ids in self._ids.items():
            values = result[name]
            others = ids[values % len(ids)].astype(values.dtype)
            result[name] = np.where(np.isin(values, ids), values, others)
        return result

    def pruned(self, batch: Batch) -> Batch:
        """The same inputs as the pruned graph takes them."""
        result = dict(batch)
        for name, values in batch.items():
            for axis, kept in enumerate(self._kept.get(name, ())):
                if kept is not None:
                    result[name] = values = np.take(values, kept, axis)
        for name, ids in self._ids.items() if self._renumbered else ():
            # Each id is looked for among those that stay: its place there is its new number.
            order = np.argsort(ids, kind="stable")
            place = order[np.searchsorted(ids[order], result[name])]
            result[name] = place.astype(result[name].dtype)
        return result
