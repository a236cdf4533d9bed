"""Products of codes and binary weights bit by bit: the form for processors without wide multipliers.

For codes a of K bits and weights b in {-1, 1}: sum a b = sum_k 2^k (2 popcount(a_k & b+) - popcount(a_k)), a_k being
bit k of the codes and b+ the bits of positive weights. A reference to test kernels against.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def bit_planes(codes: Array, bits: int) -> Array:
    """Codes [..., D], whole numbers below 2^bits, as packed bits [bits, ..., ceil(D / 8)]."""
    return np.stack(
        [np.packbits((codes >> k & 1).astype(bool), axis=-1) for k in range(bits)]
    )


def serial_product(planes: Array, positive: Array) -> Array:
    """Products [samples, filters] of `bit_planes` [K, samples, bytes] and packed signs [filters, bytes]."""
    both, alone = (_popcount(bits) for bits in (planes[:, :, None] & positive, planes))
    powers = 2 ** np.arange(len(planes))
    values: Array = np.tensordot(powers, 2 * both - alone[:, :, None], 1)
    return values


def _popcount(packed: Array) -> Array:
    """Bits that are set, along the last axis."""
    return np.unpackbits(packed, axis=-1).sum(-1, dtype=np.int64)
