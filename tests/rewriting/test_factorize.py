"""Low rank forms of weights and their ranks: golden numbers, identities and bounds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from prunegraph.rewriting.factorize import (
    Evbmf,
    Form,
    Spatial,
    Svd,
    Tucker2,
    energy_rank,
    hooi,
    relative_error,
    tau_bar,
    unfold,
)

RNG = np.random.default_rng(0)


def planted(rows: int, columns: int, rank: int, noise: float) -> np.ndarray:
    signal = (
        RNG.standard_normal((rows, rank)) @ RNG.standard_normal((rank, columns))
        if rank
        else 0
    )
    return signal + noise * RNG.standard_normal((rows, columns))


def spectrum(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrix, compute_uv=False) ** 2


@pytest.mark.parametrize(
    ("ratio", "root"), [(1, 2.51286), (0.5, 1.78264), (0.25, 1.27261), (0.1, 0.82221)]
)
def test_tau_bar(ratio: float, root: float) -> None:
    assert tau_bar(ratio) == pytest.approx(root, abs=5e-6)


@pytest.mark.parametrize(
    ("rows", "columns", "rank", "noise"),
    [
        (64, 576, 8, 0.05),
        (64, 576, 8, 0.3),
        (256, 2304, 40, 0.1),
        (50, 50, 5, 0.1),
        (576, 64, 8, 0.3),
    ],
)
def test_evbmf_finds_planted_ranks_and_the_noise(
    rows: int, columns: int, rank: int, noise: float
) -> None:
    result = Evbmf(spectrum(planted(rows, columns, rank, noise)), (rows, columns))
    assert result.rank == rank
    assert result.variance == pytest.approx(noise**2, rel=0.06)


@pytest.mark.parametrize("shape", [(64, 576), (50, 50), (256, 300)])
def test_evbmf_of_noise_is_zero(shape: tuple[int, int]) -> None:
    assert Evbmf(spectrum(planted(*shape, 0, 0.1)), shape).rank == 0


def test_evbmf_without_noise_or_without_anything() -> None:
    assert Evbmf(spectrum(planted(20, 30, 4, 0.0)), (20, 30)).rank == 4
    assert Evbmf(np.zeros(20), (20, 30)).rank == 0


def test_energy_rank() -> None:
    values = np.array([8.0, 1.0, 1.0, 0.0])
    assert [energy_rank(values, share) for share in (0.1, 0.8, 0.81, 0.9, 0.95, 1.0)] == [
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    assert energy_rank(np.zeros(3), 0.9) == 1


def exact(kind: type[Form]) -> tuple[np.ndarray, tuple[int, ...]]:
    """A weight of exactly some ranks."""
    if kind is Tucker2:
        core = RNG.standard_normal((5, 4, 3, 3))
        return np.einsum(
            "or,rsyx,is->oiyx",
            RNG.standard_normal((16, 5)),
            core,
            RNG.standard_normal((12, 4)),
        ), (5, 4)
    if kind is Spatial:
        return np.einsum(
            "rih,orw->oihw",
            RNG.standard_normal((6, 12, 3)),
            RNG.standard_normal((16, 6, 5)),
        ), (6,)
    return np.einsum(
        "or,riyx->oiyx", RNG.standard_normal((16, 6)), RNG.standard_normal((6, 12, 3, 3))
    ), (6,)


@pytest.mark.parametrize("kind", [Tucker2, Svd, Spatial])
def test_the_exact_rank_gives_the_weight_back(kind: type[Form]) -> None:
    weight, ranks = exact(kind)
    form = kind(weight)
    assert tuple(energy_rank(each, 1 - 1e-10) for each in form.spectra) == ranks
    assert relative_error(weight, form.product(form.factors(ranks))) < 1e-6
    assert relative_error(weight, form.product(form.factors(form.full))) < 1e-6


@pytest.mark.parametrize("kind", [Tucker2, Svd, Spatial])
@pytest.mark.parametrize("shape", [(16, 12, 3, 3), (4, 20, 3, 5), (40, 3, 1, 3)])
def test_the_bound_holds_and_is_exact_with_one_rank(
    kind: type[Form], shape: tuple[int, ...]
) -> None:
    weight = RNG.standard_normal(shape)
    form = kind(weight)
    for share in (0.3, 0.6, 0.9):
        ranks = [energy_rank(each, share) for each in form.spectra]
        result = relative_error(weight, form.product(form.factors(ranks))) ** 2
        assert result <= form.bound(ranks) + 1e-12
        if len(ranks) == 1:
            assert result == pytest.approx(form.bound(ranks), rel=1e-9)


def test_svd_is_the_best_of_its_rank() -> None:
    for shape in ((30, 20), (20, 30)):
        matrix = RNG.standard_normal(shape)
        first, last = Svd(matrix).factors((7,))
        u, s, v = np.linalg.svd(matrix, full_matrices=False)
        np.testing.assert_allclose(last @ first, u[:, :7] * s[:7] @ v[:7], atol=1e-10)
        np.testing.assert_allclose(
            np.linalg.norm(last, axis=0), np.linalg.norm(first, axis=1)
        )


def test_hooi_only_improves_on_hosvd_and_both_obey_their_bounds() -> None:
    weight = RNG.standard_normal((24, 16, 3, 3))
    form, ranks = Tucker2(weight), (10, 6)
    start = tuple(
        np.linalg.svd(unfold(weight, axis))[0][:, : ranks[axis]] for axis in (0, 1)
    )
    errors = []
    for studies in range(5):
        outer, core, inner = hooi(weight, (start[0], start[1]), studies)
        np.testing.assert_allclose(outer.T @ outer, np.eye(10), atol=1e-10)
        errors.append(np.linalg.norm(weight - form.product((inner.T, core, outer))) ** 2)
        assert errors[-1] == pytest.approx((weight**2).sum() - (core**2).sum(), rel=1e-9)
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(errors))
    assert errors[-1] < errors[0]
    tails = [each[rank:].sum() for each, rank in zip(form.spectra, ranks, strict=True)]
    assert max(tails) <= errors[-1] <= errors[0] <= sum(tails)
    assert form.bound(ranks) * (weight**2).sum() == pytest.approx(errors[0], rel=1e-9)
