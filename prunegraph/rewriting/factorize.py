"""Low rank forms of weights: Tucker-2, truncated SVD and the spatial split. Arrays in, arrays out.

A form has one spectrum for each of its ranks: the squared singular values of an unfolding of the weight. What a rank
drops is the tail of its spectrum; the sum of tails bounds the squared error (De Lathauwer, De Moor, Vandewalle 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Array = np.ndarray

#: Sweeps of HOOI, and the fall of the relative error below which it stops.
SWEEPS, TOLERANCE = 10, 1e-6


def unfold(weight: Array, axis: int) -> Array:
    """A tensor as a matrix [size of the axis, everything else]."""
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)


def left_vectors(matrix: Array) -> tuple[Array, Array]:
    """Left singular vectors [rows, rows] and squared singular values [rows], largest first.

    By the eigenvectors of the Gram matrix, which costs a fraction of an SVD of a wide matrix; singular values below
    1e-8 of the largest are noise.
    """
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    return vectors[:, ::-1], np.maximum(values[::-1], 0.0)


def _step(matrix: Array, vectors: Array) -> Array:
    """An orthonormal basis [rows, R] that holds at least as much of a matrix [rows, columns] as `vectors` do.

    One step of orthogonal iteration: of the orthonormal U, the Q factor of `M M' U` maximises the linear lower bound of
    the convex function `|M' U|^2` at `vectors`, so that this never falls. It costs a part of an eigendecomposition.
    """
    return np.linalg.qr(matrix @ (matrix.T @ vectors))[0]


def relative_error(weight: Array, other: Array) -> float:
    """Frobenius norm of the difference by that of the weight; 0 where both are zero."""
    return float(
        np.linalg.norm(weight - other) / max(float(np.linalg.norm(weight)), 1e-300)
    )


class Form:
    """One way to write a weight as several.

    `spectra` has a spectrum for each rank, `unfoldings` the shapes of the matrices they belong to.
    """

    method = ""
    spectra: tuple[Array, ...]
    unfoldings: tuple[tuple[int, int], ...]

    def __init__(self, weight: Array):
        raise NotImplementedError

    @property
    def full(self) -> tuple[int, ...]:
        """The ranks at which nothing is dropped."""
        return tuple(min(shape) for shape in self.unfoldings)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that it holds by now."""
        return sum(map(_nbytes, vars(self).values()))

    def bound(self, ranks: Sequence[int]) -> float:
        """Upper bound on the squared relative error at some ranks."""
        total = max(float(self.spectra[0].sum()), 1e-300)
        return (
            sum(
                float(spectrum[rank:].sum())
                for spectrum, rank in zip(self.spectra, ranks, strict=True)
            )
            / total
        )

    def factors(self, ranks: Sequence[int]) -> tuple[Array, ...]:
        """The weights at some ranks, in the order in which they are applied."""
        raise NotImplementedError

    @staticmethod
    def product(factors: Sequence[Array]) -> Array:
        """The weight that factors stand for."""
        raise NotImplementedError


def _nbytes(value: object) -> int:
    if isinstance(value, tuple):
        return sum(map(_nbytes, value))
    return value.nbytes if isinstance(value, np.ndarray | Form) else 0


class Svd(Form):
    """W [O, I, ...] = last [O, R] first [R, I, ...]: a matrix as two, a convolution as R filters that are then mixed.

    The singular values are shared between both: `(U S^1/2) (S^1/2 V)`.
    """

    method = "svd"

    def __init__(self, weight: Array):
        self.weight = weight
        matrix = weight.reshape(len(weight), -1)
        self.unfoldings = ((matrix.shape[0], matrix.shape[1]),)
        self._is_wide = matrix.shape[0] <= matrix.shape[1]
        side = matrix if self._is_wide else matrix.T
        self._gram = side @ side.T
        self.spectra = (np.maximum(np.linalg.eigvalsh(self._gram)[::-1], 0.0),)

    @cached_property
    def _vectors(self) -> Array:
        """Made when factors are: most of the cost of a large matrix, and its rank may not pay."""
        return np.linalg.eigh(self._gram)[1][:, ::-1]

    def factors(self, ranks: Sequence[int]) -> tuple[Array, ...]:
        """`first` [R, I, ...] and `last` [O, R]."""
        (rank,) = ranks
        matrix, kept = self.weight.reshape(len(self.weight), -1), self._vectors[:, :rank]
        last, first = (kept, kept.T @ matrix) if self._is_wide else (matrix @ kept, kept.T)
        # Both have columns (rows) that are orthogonal; their norms are 1 and the singular values.
        norms = np.linalg.norm(last, axis=0), np.linalg.norm(first, axis=1)
        safe = [np.where(norm > 0, norm, 1.0) for norm in norms]
        share = np.sqrt(safe[1] / safe[0])
        return (first / share[:, None]).reshape(rank, *self.weight.shape[1:]), last * share

    @staticmethod
    def product(factors: Sequence[Array]) -> Array:
        first, last = factors
        return np.tensordot(last, first, 1)


class Tucker2(Form):
    """W [O, I, *k] = core [R_o, R_i, *k] with U [O, R_o] and V [I, R_i], both orthonormal (Kim et al. 2016).

    Ranks are (R_o, R_i).
    """

    method = "tucker2"

    def __init__(self, weight: Array):
        self.weight = weight
        pairs = [left_vectors(unfold(weight, axis)) for axis in (0, 1)]
        self._starts = tuple(vectors for vectors, _ in pairs)
        self.spectra = tuple(spectrum for _, spectrum in pairs)
        self.unfoldings = tuple((size, weight.size // size) for size in weight.shape[:2])

    @cached_property
    def _kept(self) -> Array:
        """Energy that HOSVD keeps at ranks [R_o, R_i], from 0 on: sums over corners of the full core."""
        core = _times(_times(self.weight, self._starts[0].T, 0), self._starts[1].T, 1)
        energy = (core**2).reshape(*self.weight.shape[:2], -1).sum(2)
        return np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def bound(self, ranks: Sequence[int]) -> float:
        """The squared relative error of HOSVD, which HOOI begins with; at most the sum of tails."""
        total = float(self._kept[-1, -1])
        return max(1 - float(self._kept[tuple(ranks)]) / total, 0.0) if total else 0.0

    def factors(self, ranks: Sequence[int]) -> tuple[Array, ...]:
        """`first` [R_i, I], `core` [R_o, R_i, *k] and `last` [O, R_o]."""
        outer, core, inner = hooi(
            self.weight, (self._starts[0][:, : ranks[0]], self._starts[1][:, : ranks[1]])
        )
        return inner.T, core, outer

    @staticmethod
    def product(factors: Sequence[Array]) -> Array:
        first, core, last = factors
        return _times(_times(core, last, 0), first.T, 1)


def hooi(
    weight: Array, start: tuple[Array, Array], sweeps: int = SWEEPS
) -> tuple[Array, Array, Array]:
    """U [O, R_o], core [R_o, R_i, *k] and V [I, R_i] by higher-order orthogonal iteration, one step a factor.

    Args:
        weight: [O, I, *k].
        start: orthonormal U and V to begin with, such as the leading singular vectors of the unfoldings (HOSVD).
        sweeps: at most; 0 gives the core of the start. The error never rises from sweep to sweep.
    """
    outer, inner = start
    total = max(float((weight**2).sum()), 1e-300)
    core = _times(_times(weight, outer.T, 0), inner.T, 1)
    kept = float((core**2).sum())
    for _ in range(sweeps):
        outer = _step(unfold(_times(weight, inner.T, 1), 0), outer)
        half = _times(weight, outer.T, 0)
        inner = _step(unfold(half, 1), inner)
        core = _times(half, inner.T, 1)
        before, kept = kept, float((core**2).sum())
        if (
            np.sqrt(max(1 - before / total, 0)) - np.sqrt(max(1 - kept / total, 0))
            < TOLERANCE
        ):
            break
    return outer, core, inner


def _times(tensor: Array, matrix: Array, axis: int) -> Array:
    """A tensor with an axis multiplied by a matrix [new size, old size]."""
    return np.moveaxis(np.tensordot(matrix, tensor, (1, axis)), 0, axis)


class Spatial(Form):
    """W [O, I, h, w] = sum over R of last [O, R, 1, w] first [R, I, h, 1] (Jaderberg, Vedaldi and Zisserman 2014)."""

    method = "spatial"

    def __init__(self, weight: Array):
        outputs, inputs, high, wide = weight.shape
        self._sizes = weight.shape
        self._svd = Svd(weight.transpose(0, 3, 1, 2).reshape(outputs * wide, inputs * high))
        self.spectra, self.unfoldings = self._svd.spectra, self._svd.unfoldings

    def factors(self, ranks: Sequence[int]) -> tuple[Array, ...]:
        """`first` [R, I, h, 1] and `last` [O, R, 1, w]."""
        outputs, inputs, high, wide = self._sizes
        first, last = self._svd.factors(ranks)
        rank = len(first)
        return first.reshape(rank, inputs, high, 1), last.reshape(
            outputs, wide, 1, rank
        ).transpose(0, 3, 2, 1)

    @staticmethod
    def product(factors: Sequence[Array]) -> Array:
        first, last = factors
        return np.einsum("rih,orw->oihw", first[..., 0], last[:, :, 0], optimize=True)


# -- ranks ----------------------------------------------------------------------------


def energy_rank(spectrum: Array, share: float) -> int:
    """The least rank that keeps a share of the sum of squared singular values; at least 1."""
    sums = np.cumsum(spectrum)
    return max(
        1,
        min(int(np.searchsorted(sums, share * sums[-1] * (1 - 1e-12))) + 1, len(spectrum)),
    )


@dataclass(frozen=True)
class Evbmf:
    """Global analytic solution of empirical variational Bayes matrix factorization (Nakajima et al. 2013).

    Args:
        spectrum: squared singular values, largest first: all min(shape) of them.
        shape: of the matrix.
    """

    spectrum: Array
    shape: tuple[int, int]

    @property
    def _sizes(self) -> tuple[int, int]:
        return min(self.shape), max(self.shape)

    @cached_property
    def threshold(self) -> float:
        """The x above which a component is signal, `x = s^2 / (M variance)`."""
        short, long = self._sizes
        ratio = short / long
        tau = tau_bar(ratio)
        return (1 + tau) * (1 + ratio / tau)

    @cached_property
    def variance(self) -> float:
        """The variance of the noise: the one of least free energy."""
        (short, long), squares = self._sizes, self.spectrum
        highest = float(squares.sum()) / (short * long)
        if highest <= 0:
            return 0.0
        first = max(min(int(np.ceil(short / (1 + short / long))) - 1, short) - 1, 0)
        rest = squares[first + 1 :] if first + 1 < short else squares[-1:]
        lowest = max(
            float(rest[0]) / (long * self.threshold),
            float(rest.mean()) / long,
            highest * 1e-12,
        )
        low, high = np.log(min(lowest, highest)), np.log(highest)
        # The free energy has several minima: a grid, made finer around the best point.
        for _ in range(4):
            grid = np.linspace(low, high, 65)
            best = int(np.argmin([self._free_energy(float(np.exp(each))) for each in grid]))
            low, high = grid[max(best - 1, 0)], grid[min(best + 1, 64)]
        return float(np.exp(grid[best]))

    @property
    def rank(self) -> int:
        """How many components are signal; 0 for noise alone."""
        return int((self.spectrum > self._sizes[1] * self.variance * self.threshold).sum())

    def _free_energy(self, variance: float) -> float:
        short, long = self._sizes
        ratio = short / long
        x = np.maximum(self.spectrum, self.spectrum[0] * 1e-30) / (long * variance)
        noise, signal = x[x <= self.threshold], x[x > self.threshold]
        gap = signal - (1 + ratio)
        tau = (gap + np.sqrt(gap**2 - 4 * ratio)) / 2
        result = signal - tau + np.log((tau + 1) / signal) + ratio * np.log(tau / ratio + 1)
        return float((noise - np.log(noise)).sum() + result.sum())


def tau_bar(ratio: float) -> float:
    """The root of `phi(t) + phi(t / ratio)`, `phi(x) = ln(1 + x) / x - 1/2`, for 0 < ratio <= 1; by bisection."""

    def excess(tau: float) -> float:
        return float(np.log1p(tau) / tau + np.log1p(tau / ratio) * ratio / tau - 1)

    low, high = 1e-12, 3.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return low
