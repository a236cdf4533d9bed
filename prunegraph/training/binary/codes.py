"""Binary weights of a layer that reproduce given outputs best, from Gram matrices alone.

For one filter with codes b in {-1, 1}^D, scale a >= 0, inputs x and wanted outputs y:
sum (y - a b'x)^2 = c - 2 a q'b + a^2 b'Gb, with G = sum xx', q = sum xy, c = sum y^2. Scale and codes are improved in
turn: the scale in closed form, the codes one after the other. No step raises the error, so it ends.
With a scale for each of K groups of inputs, the weights are w = B a, column k of B holding the codes of group k and
zeros elsewhere: scales solve B'GB a = B'q, and a code is worth what its weight is.
Sources: Hu, Wang, Cheng 2018 (BWNH); Wang, Hu, Zhang, Zhang, Liu, Cheng 2018 (two-step quantization).
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

#: Rounds of scales and codes, and sweeps over the codes in a round.
ROUNDS, SWEEPS = 10, 20

#: Columns that are looked through at once.
BLOCK = 32


class Alternation:
    """Codes and scales of a layer's filters, improved in turn; filters do not depend on each other.

    Args:
        gram: sum of products of inputs, [D, D].
        cross: sum of products of inputs and wanted outputs, [D, filters].
        codes: -1 or 1, where to start, [filters, D].
        groups: of D / groups inputs, which follow each other; each has a scale.

    Attributes:
        codes: [filters, D].
        scales: [filters, groups], never negative.
        flips: how many codes changed so far.
    """

    def __init__(self, gram: Array, cross: Array, codes: Array, groups: int = 1):
        self.gram = np.ascontiguousarray(gram, np.float64)
        self.cross = np.ascontiguousarray(cross.T, np.float64)
        self.codes = codes.astype(np.float64)
        self.scales = np.zeros((len(codes), groups))
        self.flips = 0
        self._products = np.zeros_like(self.codes)

    @property
    def weights(self) -> Array:
        """Codes times the scales of their groups, [filters, D]."""
        return self.codes * self._sizes()

    def _sizes(self) -> Array:
        return np.repeat(self.scales, len(self.gram) // self.scales.shape[1], 1)

    def set_scales(self, scales: Array) -> None:
        """Take scales [filters, groups]; where one is negative, all codes of the group turn."""
        self.scales = scales
        weights = self.codes * self._sizes()
        self.codes = np.where(self._sizes() < 0, -self.codes, self.codes)
        self.scales = np.abs(scales)
        self._products = weights @ self.gram

    def losses(self) -> Array:
        """Squared error of each filter without the constant c."""
        weights = self.weights
        return (weights * (self._products - 2 * self.cross)).sum(1)

    def update_scales(self) -> None:
        """The best scales for the codes; where one would be negative, all codes of its group turn."""
        filters, groups = self.scales.shape
        parts = self.codes.reshape(filters, groups, -1)
        pulls = (parts * self.cross.reshape(parts.shape)).sum(2)
        energies = self._energies(parts)
        # Inputs that cancel under the codes: a little of G's diagonal keeps the scales finite.
        floor, damping = 1e-9 * np.trace(self.gram), 0.01 * np.trace(self.gram)
        own = np.einsum("fkk->fk", energies)
        own += np.where(own > floor, 0.0, damping) + 1e-300
        if groups == 1:
            self.set_scales(pulls / own)
            return
        # Groups that say the same share what they say.
        inverse = np.linalg.pinv(energies, rcond=1e-9, hermitian=True)
        self.set_scales((inverse @ pulls[..., None])[..., 0])

    def _energies(self, parts: Array) -> Array:
        """B'GB of each filter, [filters, groups, groups], from codes [filters, groups, D / groups]."""
        groups, size = parts.shape[1:]
        result = np.empty((len(parts), groups, groups))
        for k in range(groups):
            block = parts[:, k] @ self.gram[k * size : (k + 1) * size]
            result[:, k] = (block.reshape(parts.shape) * parts).sum(2)
        return result

    def sweep(self) -> int:
        """Codes in turn set to what is best with all others as they are; how many changed.

        Columns are looked through in blocks, and only those of a block where a code wants to change are visited: what a
        change earlier in the block brings about later in it waits for the next sweep.
        """
        before = self.flips
        for start in range(0, len(self.gram), BLOCK):
            block = slice(start, start + BLOCK)
            waiting = (self._pull(block) * self.codes[:, block] < 0).any(0)
            for j in (start + np.flatnonzero(waiting)).tolist():
                self._turn(
                    j,
                    np.flatnonzero(
                        self._pull(slice(j, j + 1))[:, 0] * self.codes[:, j] < 0
                    ),
                )
        return self.flips - before

    def _pull(self, block: slice) -> Array:
        """For some columns, the sign that each code should have, times how much it matters."""
        own = np.diagonal(self.gram)[block] * self.codes[:, block] * self._size(block)
        return self.cross[:, block] - (self._products[:, block] - own)

    def _size(self, block: slice) -> Array:
        """Magnitudes of some columns' weights."""
        width = len(self.gram) // self.scales.shape[1]
        columns = np.arange(len(self.gram))[block] // width
        return self.scales[:, columns]

    def _turn(self, j: int, filters: Array) -> None:
        self.codes[filters, j] *= -1
        sizes = self._size(slice(j, j + 1))[filters, 0]
        self._products[filters] += np.outer(
            2 * self.codes[filters, j] * sizes, self.gram[j]
        )
        self.flips += len(filters)

    def run(self, rounds: int = ROUNDS, sweeps: int = SWEEPS) -> Alternation:
        """Scales and codes in turn until no code changes."""
        self.update_scales()
        for _ in range(rounds):
            before = self.flips
            for _ in range(sweeps):
                if not self.sweep():
                    break
            self.update_scales()
            if self.flips == before:
                break
        return self


def by_magnitude(weight: Array, groups: int = 1) -> tuple[Array, Array]:
    """Codes [filters, D] and scales [filters, groups] nearest to real weights: signs, and mean magnitudes."""
    codes = np.where(weight >= 0, 1.0, -1.0)
    return codes, np.abs(weight).reshape(len(weight), groups, -1).mean(2)
