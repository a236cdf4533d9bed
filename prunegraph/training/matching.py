"""The loss `features`: values inside a network, learnt from the same values of its original.

Values of one shape count by their squared difference over the original's variance. Where channels were pruned, the maps
that are left are compared instead: the mean square over the channels at every place, divided by its norm (attention
transfer). Source: Zagoruyko, Komodakis 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf

from prunegraph.errors import DataError, UnknownNameError
from prunegraph.graph.model import FLOAT_TYPES, Graph
from prunegraph.graph.shapes import shape_info
from prunegraph.runtime.data import LABELS
from prunegraph.training.losses import Batch, Loss, squared_error
from prunegraph.training.module import GraphModule
from prunegraph.training.operators.table import Tensor


def features(graph: Graph, original: GraphModule, match: Sequence[str] = ()) -> Loss:
    """How far inner values are from the original's: the mean over them.

    Args:
        graph: what is trained.
        original: the teacher, with values of the same names.
        match: names of values; by default those at the ends of stages, see `stage_ends`.

    Raises:
        UnknownNameError: a value is not in one of the graphs.
        DataError: none is given, and no stage ends in a value that both have.
    """
    for name in match:
        for where in (graph, original.graph):
            if name not in where.producer or name not in where.outer:
                raise UnknownNameError(
                    f"value of {where.source}",
                    name,
                    sorted(where.outer & where.producer.keys()),
                )
    chosen = tuple(match) or stage_ends(graph, original.graph)
    if not chosen:
        raise DataError(
            "no inner value at the end of a stage has the same name in both models: name some with --match"
        )

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        inner = outputs[len(outputs) - len(chosen) :]
        original.eval()
        with torch.no_grad():
            inputs = {name: value for name, value in batch.items() if name != LABELS}
            wanted = original.values(chosen, inputs)
        parts = [
            _distance(mine, wanted[name], name)
            for name, mine in zip(chosen, inner, strict=True)
        ]
        return torch.stack(parts).mean()

    loss.inner = chosen  # type: ignore[attr-defined]
    loss.notes = (f"inner values that are learnt: {', '.join(chosen)}",)  # type: ignore[attr-defined]
    return loss


def stage_ends(graph: Graph, original: Graph) -> tuple[str, ...]:
    """The last value of each size of maps [n, channels, ...] that both graphs have, before the sizes get smaller."""
    known, other = shape_info(graph), shape_info(original)
    last: dict[tuple[int, ...], str] = {}
    for node in original.nodes:
        for name in node.outputs:
            shape = other.shapes.get(name, ())
            if (
                len(shape) > 2
                and name in original.outer
                and name in graph.producer
                and name not in graph.outputs
                and len(known.shapes.get(name, ())) == len(shape)
                and tuple(known.shapes[name][2:]) == tuple(shape[2:])
                and other.types.get(name, 1) in FLOAT_TYPES
                and any(size > 1 for size in shape[2:])
            ):
                last[tuple(shape[2:])] = name
    return tuple(last.values())


def _distance(mine: Tensor, wanted: Tensor, name: str) -> Tensor:
    if not (isinstance(mine, torch.Tensor) and isinstance(wanted, torch.Tensor)):
        raise DataError(f"value {name!r} is a sequence, which cannot be learnt")
    mine, wanted = mine.float(), wanted.float()
    if mine.shape == wanted.shape:
        return squared_error(mine, wanted)
    if (
        mine.dim() < 3
        or mine.shape[0] != wanted.shape[0]
        or mine.shape[2:] != wanted.shape[2:]
    ):
        raise DataError(
            f"value {name!r} has shape {list(mine.shape)}, that of the original {list(wanted.shape)}: only "
            "their numbers of channels may differ"
        )
    return nnf.mse_loss(_map(mine), _map(wanted), reduction="sum") / len(mine)


def _map(value: Tensor) -> Tensor:
    """Mean squares over the channels [n, places], divided by their norm."""
    return nnf.normalize(value.square().mean(1).flatten(1), dim=1)
