"""Binary weights of a layer that reproduce given outputs best, from Gram matrices alone.

For one filter with codes b in {-1, 1}^D, scale a >= 0, inputs x and wanted outputs y:
sum (y - a b'x)^2 = c - 2 a q'b + a^2 b'Gb, with G = sum xx', q = sum xy, c = sum y^2. Scale and codes are improved in
turn: the scale in closed form, the codes one after the other. No step raises the error, so it ends.
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

    Attributes:
        codes: [filters, D].
        scales: [filters], never negative.
        flips: how many codes changed so far.
    """

    def __init__(self, gram: Array, cross: Array, codes: Array):
        self.gram = np.ascontiguousarray(gram, np.float64)
        self.cross = np.ascontiguousarray(cross.T, np.float64)
        self.codes = codes.astype(np.float64)
        self.scales = np.zeros(len(codes))
        self.flips = 0
        self._products = self.codes @ self.gram

    def losses(self) -> Array:
        """Squared error of each filter without the constant c."""
        energy = (self.codes * self._products).sum(1)
        return self.scales**2 * energy - 2 * self.scales * (self.codes * self.cross).sum(1)

    def update_scales(self) -> None:
        """The best scales for the codes; where one would be negative, all codes of the filter turn."""
        energy = (self.codes * self._products).sum(1)
        # Inputs that cancel under the codes: a little of G's diagonal keeps the scale finite.
        floor = 1e-9 * np.trace(self.gram)
        damping = 0.01 * np.trace(self.gram)
        scales = (self.codes * self.cross).sum(1) / np.maximum(
            np.where(energy > floor, energy, energy + damping), 1e-300
        )
        turned = scales < 0
        self.codes[turned] *= -1
        self._products[turned] *= -1
        self.scales = np.abs(scales)

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
        own = np.diagonal(self.gram)[block] * self.codes[:, block]
        return self.cross[:, block] - self.scales[:, None] * (
            self._products[:, block] - own
        )

    def _turn(self, j: int, filters: Array) -> None:
        self.codes[filters, j] *= -1
        self._products[filters] += np.outer(2 * self.codes[filters, j], self.gram[j])
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


def by_magnitude(weight: Array) -> tuple[Array, Array]:
    """Codes [filters, D] and scales [filters] nearest to real weights [filters, D]: signs, and mean magnitudes."""
    return np.where(weight >= 0, 1.0, -1.0), np.abs(weight).mean(1)
