"""What errors of layers do, once a rotation has given their outputs another basis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunegraph.graph.model import Node
from prunegraph.rotation.rotate import key
from prunegraph.rotation.spaces import Space, WeightPart
from prunegraph.runtime.statistics import ErrorMetrics
from prunegraph.selection.rotation import Rotation

Array = np.ndarray


class TurnedMetrics:
    """Error metrics of a rotated graph.

    A layer that makes channels z of a space makes z R in the rotated graph, so that M becomes `R^-1 M R^-1'`; on the
    dual side, where it makes `z R^-1'`, it becomes `R' M R`. What other layers make is the same.

    Args:
        metrics: of the graph that was rotated, its nodes folded.
        spaces: of that graph.
        rotation: the bases.
    """

    def __init__(self, metrics: ErrorMetrics, spaces: Sequence[Space], rotation: Rotation):
        self._metrics = metrics
        matrices = {turn.key: turn.matrix.astype(np.float64) for turn in rotation.turns}
        #: By layer: a part of a space that it makes, and what gradients there are multiplied by.
        self._parts: dict[str, list[tuple[WeightPart, Array]]] = {}
        #: Layers that read channels in another basis.
        self._readers: set[str] = set()
        for space in spaces:
            if (matrix := matrices.get(key(space))) is None:
                continue
            inverse = matrix.T if space.is_rigid else np.linalg.inv(matrix)
            self._readers.update(part.node.name for part in space.weights if part.reads)
            for part in space.weights:
                if not part.reads and part.node.input(1) == part.weight:
                    each = (part, matrix.T if part.dual else inverse)
                    self._parts.setdefault(part.node.name, []).append(each)

    @property
    def is_known(self) -> bool:
        """Whether it is known of any layer."""
        return self._metrics.is_known

    def of(self, node: Node) -> Array | None:
        """M [outputs, outputs] of the rotated graph's layer; None where it is not known."""
        known, parts = self._metrics.of(node), self._parts.get(node.name, ())
        if known is None or any(len(part.axes) > 1 for part, _ in parts):
            return None
        metric = known.copy() if parts else known
        for part, turn in parts:
            for columns in part.columns:
                metric[columns] = turn @ metric[columns]
                metric[:, columns] = metric[:, columns] @ turn.T
        return metric

    def contributions(self, node: Node) -> Array | None:
        """Contributions of a layer's input channels; None where these are in another basis, or it is not known."""
        return None if node.name in self._readers else self._metrics.contributions(node)
