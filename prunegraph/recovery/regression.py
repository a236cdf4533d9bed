"""Linear regression of a layer's outputs on its inputs, with or without a rectifier behind it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prunegraph.graph import symmetric

Array = np.ndarray

#: Added to the diagonal, relative to its mean: keeps the weights near the old ones where inputs hardly vary.
RIDGE = 1e-3

#: How firmly the outputs are held to what the weights make, while targets and weights are found in turn.
SCHEDULE = (0.1, 0.1, 0.1, 0.3, 0.3, 1.0)


class Regression:
    """Least squares for one set of inputs and any outputs.

    Args:
        x: inputs [groups, samples, inputs], float32.
        centred: whether there is an intercept.
        ridge: weight of the weights to stay near to, relative to the mean energy of an input.
    """

    def __init__(self, x: Array, *, centred: bool = True, ridge: float = RIDGE):
        self.x, self.centred = x, centred
        self.mean = (
            x.mean(axis=1, dtype=np.float64) if centred else np.zeros((len(x), x.shape[2]))
        )
        gram = (x.swapaxes(1, 2) @ x).astype(np.float64)
        gram /= x.shape[1]
        gram -= self.mean[:, :, None] * self.mean[:, None, :]
        damping = (
            ridge * np.trace(gram, axis1=1, axis2=2) / x.shape[2]
            + np.finfo(np.float32).tiny
        )
        self._damping = damping[:, None, None]
        diagonal = np.arange(x.shape[2])
        gram[:, diagonal, diagonal] += damping[:, None]
        self._inverse = symmetric.inverse(gram)

    def solve(self, y: Array, anchor: Array) -> tuple[Array, Array]:
        """Weights [groups, inputs, outputs] and intercept [groups, outputs] for outputs [groups, samples, outputs].

        `anchor` are weights to stay near to where the samples say nothing.
        """
        mean = (
            y.mean(axis=1, dtype=np.float64)
            if self.centred
            else np.zeros((len(y), y.shape[2]))
        )
        target = (self.x.swapaxes(1, 2) @ y.astype(np.float32, copy=False)).astype(
            np.float64
        )
        target /= y.shape[1]
        target -= self.mean[:, :, None] * mean[:, None, :]
        target += self._damping * anchor
        weights = self._inverse @ target
        return weights, mean - np.einsum("gi,gio->go", self.mean, weights)

    def predict(self, weights: Array, intercept: Array) -> Array:
        """Outputs [groups, samples, outputs]."""
        return self.x @ weights.astype(np.float32) + intercept[:, None].astype(np.float32)


def rectified(
    regression: Regression,
    y: Array,
    anchor: Array,
    to_layer: Callable[[Array], Array],
    from_layer: Callable[[Array], Array],
    ceiling: float = np.inf,
) -> tuple[Array, Array]:
    """Weights and intercept for outputs that a rectifier follows: only what passes it has to be right.

    Targets and weights are found in turn: `z` minimises `(act(y) - act(z))^2 + s (z - made)^2`
    for every sample by itself, then the weights are fitted to `z`. Source: Zhang et al. 2016
    (accelerating very deep networks, nonlinear case).

    Args:
        regression: of the layer's inputs.
        anchor: weights to stay near to where the samples say nothing.
        y: what the original has before the rectifier [groups, samples, outputs].
        to_layer: takes such values back to outputs of the layer.
        from_layer: the other way.
        ceiling: the rectifier passes values from 0 to this.
    """
    weights, intercept = regression.solve(to_layer(y), anchor)
    for strength in SCHEDULE:
        created = from_layer(regression.predict(weights, intercept))
        weights, intercept = regression.solve(
            to_layer(_pulled(y, created, strength, ceiling)), anchor
        )
    return weights, intercept


def _pulled(y: Array, created: Array, strength: float, ceiling: float) -> Array:
    """For every element, the best target below, between and above the bounds of what passes."""
    wanted = np.clip(y, 0, ceiling)
    best = np.clip((wanted + strength * created) / (1 + strength), 0, ceiling)
    cost = (wanted - best) ** 2 + strength * (best - created) ** 2
    for z in (
        np.minimum(created, 0),
        *((np.maximum(created, ceiling),) if np.isfinite(ceiling) else ()),
    ):
        other = (wanted - np.clip(z, 0, ceiling)) ** 2 + strength * (z - created) ** 2
        best, cost = np.where(other < cost, z, best), np.minimum(other, cost)
    return best
