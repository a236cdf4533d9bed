"""Products: axes that merge several factors, row-major."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from prunegraph.labels.labels import Labels, Listed


@dataclass(frozen=True)
class Product:
    """`whole` is the row-major product of `factors`; made at node `where`."""

    whole: Labels
    factors: tuple[Labels, ...]
    where: str

    def spread(self, index: int) -> Labels:
        """The labels of one factor, repeated to the length of the whole."""
        before = math.prod(f.size for f in self.factors[:index])
        after = math.prod(f.size for f in self.factors[index + 1 :])
        factor = self.factors[index]
        if before == after == 1:
            return factor
        spread = (
            Listed(factor.ids, factor.repeat * after)
            if isinstance(factor, Listed)
            else Listed(factor.array(), after)
        )
        return spread if before == 1 else Listed(np.tile(spread.array(), before))
