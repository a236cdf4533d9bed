"""Sequences of tensors; they are Python lists here."""

from __future__ import annotations

import torch

from prunegraph.training.operators.table import Call, Tensor, ints, operator, scalar


@operator("SequenceEmpty")
def sequence_empty(call: Call) -> list[Tensor]:
    return []


@operator("SequenceConstruct")
def sequence_construct(call: Call, *inputs: Tensor) -> list[Tensor]:
    return list(inputs)


@operator("SequenceAt", host=(1,))
def sequence_at(call: Call, sequence: list[Tensor], position: Tensor) -> Tensor:
    return sequence[int(scalar(position))]


@operator("SequenceLength")
def sequence_length(call: Call, sequence: list[Tensor]) -> Tensor:
    return torch.tensor(len(sequence), dtype=torch.int64)


@operator("SequenceInsert", host=(2,))
def sequence_insert(
    call: Call, sequence: list[Tensor], x: Tensor, position: Tensor | None = None
) -> list[Tensor]:
    at = int(scalar(position, len(sequence)))
    at = at + len(sequence) if at < 0 else at
    return [*sequence[:at], x, *sequence[at:]]


@operator("SequenceErase", host=(1,))
def sequence_erase(
    call: Call, sequence: list[Tensor], position: Tensor | None = None
) -> list[Tensor]:
    at = int(scalar(position, -1)) % len(sequence)
    return [*sequence[:at], *sequence[at + 1 :]]


@operator("ConcatFromSequence")
def concat_from_sequence(call: Call, sequence: list[Tensor]) -> Tensor:
    axis = call.get("axis")
    return (
        torch.stack(sequence, axis)
        if call.get("new_axis", 0)
        else torch.cat(sequence, axis)
    )


@operator("SplitToSequence", host=(1,))
def split_to_sequence(call: Call, x: Tensor, split: Tensor | None = None) -> list[Tensor]:
    axis = call.get("axis", 0)
    if split is None:
        parts = list(torch.split(x, 1, axis))
        return parts if call.get("keepdims", 1) else [part.squeeze(axis) for part in parts]
    sizes = ints(split) or []
    return list(torch.split(x, sizes[0] if split.dim() == 0 else sizes, axis))
