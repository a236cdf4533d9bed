"""What the original and the pruned graph are fed, so that both compute the same thing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunegraph.coupling.survivors import Survivors
from prunegraph.runtime.data import Batch

Array = np.ndarray


class Feeds:
    """Inputs of the original, and the same for the pruned graph, which may take parts of them.

    Args:
        survivors: what is left of every value, inputs among them.
        numbered: by input, the ids that a smaller vocabulary keeps, in the order of their new numbers.
    """

    def __init__(
        self, survivors: Survivors, numbered: dict[str, Sequence[int]] | None = None
    ):
        graph = survivors.coupling.graph
        self._kept = {name: survivors.value(name) for name in graph.inputs}
        self._ids = {name: np.asarray(ids) for name, ids in (numbered or {}).items()}

    def original(self, batch: Batch) -> Batch:
        """Inputs that the pruned graph can be asked as well: ids are replaced by others that are kept."""
        result = dict(batch)
        for name, ids in self._ids.items():
            values = result[name]
            lost = ~np.isin(values, ids)
            result[name] = np.where(lost, ids[values % len(ids)], values).astype(
                values.dtype
            )
        return result

    def pruned(self, batch: Batch) -> Batch:
        """The same inputs as the pruned graph takes them."""
        result = dict(batch)
        for name, values in batch.items():
            for axis, kept in enumerate(self._kept.get(name, ())):
                if kept is not None:
                    result[name] = values = np.take(values, kept, axis)
        for name, ids in self._ids.items():
            # Each id is looked for among those that stay: its place there is its new number.
            order = np.argsort(ids, kind="stable")
            place = order[np.searchsorted(ids[order], result[name])]
            result[name] = place.astype(result[name].dtype)
        return result
