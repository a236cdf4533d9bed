"""Why a result is as it is, layer by layer and group by group: scores, damage, ranks, quantization, times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prunegraph.report.network.notes import Remarks

if TYPE_CHECKING:
    from prunegraph.coupling.groups import Group
    from prunegraph.pipeline import PruneResult
    from prunegraph.quantization.report import LayerReport
    from prunegraph.report.layer_times import TimedLayer
    from prunegraph.rewriting.decompose import Row


@dataclass(frozen=True)
class GroupRow:
    """A group in the table of groups.

    Args:
        id: of the group.
        layers: that make its channels.
        kept: channels that stay.
        of: channels there were.
        gone_score: the highest score of what went; None where nothing went, or scores are not known.
        kept_score: the lowest score of what stays; None where they are not known.
        damage: error at the outputs if the group alone loses as much as it does; None where that was not measured.
    """

    id: str
    layers: tuple[str, ...]
    kept: int
    of: int
    gone_score: float | None
    kept_score: float | None
    damage: float | None


def group_rows(result: PruneResult) -> list[GroupRow]:
    """All groups, in order, with what their widths rest on."""
    return [_group_row(result, group) for group in result.coupling.groups]


def _group_row(result: PruneResult, group: Group) -> GroupRow:
    removed = np.asarray(result.plan.remove.get(group.id, ()), np.int64)
    gone, kept, damage = None, None, None
    grounds = result.grounds
    if grounds is not None and group.id in grounds.scores:
        scores = np.asarray(grounds.scores[group.id], float)
        stays = np.ones(group.channels, bool)
        stays[removed] = False
        gone = float(scores[~stays].max()) if len(removed) else None
        kept = float(scores[stays].min()) if stays.any() else None
        damage = _damage(grounds.curves.get(group.id, ()), len(removed) / group.channels)
    count = group.channels - len(removed)
    return GroupRow(group.id, group.layers, count, group.channels, gone, kept, damage)


def _damage(curve: Sequence[tuple[float, float]], share: float) -> float | None:
    """Error at a share of a curve, in a straight line between its points; from 0, where nothing is gone."""
    if not curve or share <= 0:
        return None
    points = sorted({0.0: 0.0, **dict(curve)}.items())
    shares, errors = zip(*points, strict=True)
    return float(np.interp(share, shares, errors))


def remarks(
    result: PruneResult, rows: Sequence[GroupRow], timed: Sequence[TimedLayer] = ()
) -> Remarks:
    """What notes on layers and groups say besides widths and costs."""
    layers: dict[str, list[tuple[str, str]]] = {}
    for name, label, text in (
        *_low_rank(result),
        *_integers(result),
        *_times(timed),
    ):
        layers.setdefault(name, []).append((label, text))
    groups = {row.id: list(_why(row)) for row in rows}
    for name in _rotated(result):
        groups.setdefault(name, []).append(
            "Its channels had another basis before the cut, with the least in the last ones."
        )
    return Remarks(layers, groups)


def _why(row: GroupRow) -> Iterator[str]:
    if row.gone_score is not None and row.kept_score is not None:
        yield (
            f"Scores: what went, up to {row.gone_score:.3g}; what stays, from {row.kept_score:.3g}."
        )
    elif row.kept_score is not None:
        yield f"Lowest score: {row.kept_score:.3g}."
    if row.damage is not None:
        yield f"That alone costs {row.damage:.2g} at the outputs."


def _low_rank(result: PruneResult) -> Iterator[tuple[str, str, str]]:
    for row in low_rank_rows(result).values():
        ranks = " x ".join(map(str, row.ranks))
        yield row.name, "low rank", f"{row.method} {ranks}, error {row.error:.2g}"


def low_rank_rows(result: PruneResult) -> dict[str, Row]:
    """Layers that became several of low rank, by name."""
    if result.decomposed is None:
        return {}
    return {row.name: row for row in result.decomposed.layers}


def quantized_rows(result: PruneResult) -> dict[str, LayerReport]:
    """What quantization did to layers, by name."""
    if result.quantized is None:
        return {}
    return {layer.name: layer for layer in result.quantized.layers}


def _integers(result: PruneResult) -> Iterator[tuple[str, str, str]]:
    for layer in quantized_rows(result).values():
        if layer.reason:
            yield layer.name, "in float", layer.reason
            continue
        text = f"{layer.weights} weights, {layer.activations} activations"
        if layer.sqnr is not None:
            text += f", output SQNR {layer.sqnr:.1f} dB"
        yield layer.name, "quantized", text


def _times(timed: Sequence[TimedLayer]) -> Iterator[tuple[str, str, str]]:
    for each in timed:
        before, after = each.times
        yield each.layer, "by itself", f"{before:.3g} → {after:.3g} ms"


def _rotated(result: PruneResult) -> Iterator[str]:
    """Ids of groups whose channels were given another basis."""
    if result.rotated is None:
        return
    turned = {turn.layer for turn in result.rotated.rotation.turns}
    for group in result.coupling.groups:
        if turned & set(group.layers):
            yield group.id
