"""Linear regression of a layer's outputs on its inputs, with or without an activation behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from prunegraph.graph import symmetric
from prunegraph.recovery.passing import Passing

Array = np.ndarray

#: How firmly weights are held to those that are known before, relative to the mean energy of an input, at least.
RIDGE = 1e-3

#: Outputs that are worked on at a time, of at least `ROWS` samples: what stays in a processor's cache.
CACHED = 2**19
ROWS = 1024


class Regression:
    """Least squares for one set of inputs and any outputs, near to weights that are known before.

    Args:
        x: inputs [groups, samples, inputs], float32; taken over, and centred in place.
        centred: whether there is an intercept.
        ridge: weight of the weights to stay near to, relative to the mean energy of an input; may be
            set anew for other outputs (`recovery.ridge`).
    """

    def __init__(self, x: Array, *, centred: bool = True, ridge: float = RIDGE):
        self.x, self.centred, self.ridge = x, centred, ridge
        self.mean = np.zeros((len(x), x.shape[2]))
        if centred:
            self.mean = x.mean(axis=1, dtype=np.float64)
            x -= self.mean[:, None].astype(np.float32)
        #: Means of products of the inputs [groups, inputs, inputs].
        self.gram: Array = x.swapaxes(1, 2) @ x
        self.gram /= x.shape[1]
        level = np.trace(self.gram, axis1=1, axis2=2, dtype=np.float64) / x.shape[2]
        self._level: Array = level + np.finfo(np.float32).tiny
        self._known: tuple[float, Array] | None = None

    def damping(self, ridge: float) -> Array:
        """What a ridge adds to the diagonal of each Gram matrix [groups]."""
        return ridge * self._level

    @property
    def _inverse(self) -> Array:
        """The inverse of the damped Gram matrices [groups, inputs, inputs]."""
        if self._known is None or self._known[0] != self.ridge:
            gram = self.gram.astype(np.float64)
            diagonal = np.arange(gram.shape[1])
            gram[:, diagonal, diagonal] += self.damping(self.ridge)[:, None]
            self._known = self.ridge, symmetric.inverse(gram)
        return self._known[1]

    def solve(self, y: Array, anchor: Array) -> tuple[Array, Array]:
        """Weights [groups, inputs, outputs] and intercept [groups, outputs] for outputs [groups, samples, outputs].

        `anchor` are weights to stay near to where the samples say nothing.
        """
        return self.solve_parts(lambda part: y[:, part], anchor)

    def solve_parts(
        self, outputs: Callable[[slice], Array], anchor: Array
    ) -> tuple[Array, Array]:
        """The same for outputs [groups, samples, outputs] that are computed for some samples at a time."""
        products = np.zeros(anchor.shape, np.float32)
        total = np.zeros((len(anchor), anchor.shape[2]))
        for part in self._parts(anchor.shape[2]):
            y = outputs(part).astype(np.float32, copy=False)
            products += self.x[:, part].swapaxes(1, 2) @ y
            total += y.sum(axis=1, dtype=np.float64)
        count = self.x.shape[1]
        target = products.astype(np.float64)
        target /= count
        target += self.damping(self.ridge)[:, None, None] * anchor
        weights = self._inverse @ target
        mean = total / count if self.centred else np.zeros_like(total)
        return weights, mean - np.einsum("gi,gio->go", self.mean, weights)

    def predict(self, weights: Array, intercept: Array, part: slice = slice(None)) -> Array:
        """Outputs [groups, samples, outputs] of some samples."""
        result = self.x[:, part] @ weights.astype(np.float32, copy=False)
        shift = intercept + np.einsum("gi,gio->go", self.mean, weights)
        result += shift[:, None].astype(np.float32)
        return result

    def _parts(self, outputs: int) -> Iterator[slice]:
        size = max(ROWS, CACHED // outputs)
        for start in range(0, self.x.shape[1], size):
            yield slice(start, start + size)


def behind(
    regression: Regression,
    y: Array,
    anchor: Array,
    passing: Passing,
    added: Array | None = None,
) -> tuple[Array, Array]:
    """Weights and intercept for outputs that something follows: only what passes it has to be right.

    Targets and weights are found in turn: `z` minimises `(f(y) - f(z))^2 + s (z - created)^2`
    for every sample by itself, then the weights are fitted to `z`. Source: Zhang et al. 2016
    (accelerating very deep networks, nonlinear case).

    Args:
        regression: of the layer's inputs.
        y: what the original has before what follows [groups, samples, outputs].
        anchor: weights to stay near to where the samples say nothing.
        passing: what follows.
        added: what is added to the layer's outputs before that [groups, samples, outputs].
    """

    def wanted(part: slice) -> Array:
        return y[:, part] if added is None else y[:, part] - added[:, part]

    weights, intercept = regression.solve_parts(wanted, anchor)
    for strength in passing.schedule:
        now = weights.astype(np.float32), intercept

        def pulled(
            part: slice,
            now: tuple[Array, Array] = now,
            strength: float = strength,
        ) -> Array:
            created = regression.predict(*now, part)
            if added is None:
                return passing.pulled(y[:, part], created, strength)
            created += added[:, part]
            return passing.pulled(y[:, part], created, strength) - added[:, part]

        weights, intercept = regression.solve_parts(pulled, anchor)
    return weights, intercept
