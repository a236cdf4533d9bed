"""Multi-head attention whose heads, or their widths, no longer make up the width of the embedding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from prunegraph.errors import ModelError

#: For every tensor that is cut: axis -> indices that stay.
Kept = Mapping[int, np.ndarray]


@dataclass(frozen=True)
class RemainingHeads:
    """What is left of an attention: heads, rows of queries, keys and values, and the original's scale of scores."""

    count: int
    rows: tuple[int, int, int]
    scale: float


def heads_left(
    module: nn.MultiheadAttention, kept: Mapping[str, Kept], path: str
) -> RemainingHeads:
    """Say what cuts of its parameters leave of an attention. Raises ModelError where heads would differ in width."""
    if module.bias_k is not None or module.add_zero_attn:
        raise ModelError(
            f"module {path!r} (MultiheadAttention): extra keys (add_bias_kv, add_zero_attn) cannot be cut"
        )
    count, width = module.num_heads, module.head_dim
    stays = np.ones((3, count, width), bool)
    if "in_proj_weight" in kept:
        stays[:] = _mask(kept["in_proj_weight"], 3 * count * width).reshape(3, count, width)
    for index, name in enumerate(("q_proj_weight", "k_proj_weight", "v_proj_weight")):
        if name in kept:
            stays[index] = _mask(kept[name], count * width).reshape(count, width)
    widths = stays.sum(axis=2)
    alive: np.ndarray = widths > 0
    remaining = alive[0]
    uneven = any(len({int(w) for w in widths[part][remaining]}) > 1 for part in range(3))
    if (
        (alive != remaining).any()
        or uneven
        or widths[0][remaining][0] != widths[1][remaining][0]
    ):
        raise ModelError(
            f"module {path!r} (MultiheadAttention): its heads would have different widths; "
            "train the pruned graph instead (prunegraph.training.GraphModule)"
        )
    rows = tuple(int(part.sum()) for part in stays)
    return RemainingHeads(
        int(remaining.sum()), (rows[0], rows[1], rows[2]), 1 / math.sqrt(width)
    )


def _mask(kept: Kept, size: int) -> np.ndarray:
    stays = np.zeros(size, bool)
    stays[kept.get(0, np.arange(size))] = True
    return stays


class PrunedAttention(nn.Module):
    """`nn.MultiheadAttention` with any number of heads of any width; parameters have the same names.

    Args:
        cut: the attention whose parameters were cut; they are taken over.
        heads: what is left.
    """

    def __init__(self, cut: nn.MultiheadAttention, heads: RemainingHeads):
        super().__init__()
        self.num_heads, self.rows, self.scale = heads.count, heads.rows, heads.scale
        self.batch_first, self.dropout = cut.batch_first, cut.dropout
        self.is_packed = cut.in_proj_weight is not None
        # What `nn.TransformerEncoderLayer` looks at before it takes a fast path that knows nothing of this module.
        self._qkv_same_embed_dim = False
        for name in (
            "in_proj_weight",
            "q_proj_weight",
            "k_proj_weight",
            "v_proj_weight",
            "in_proj_bias",
        ):
            self.register_parameter(name, getattr(cut, name))
        self.out_proj = cut.out_proj
        self.embed_dim = cut.out_proj.weight.shape[0]
        self.head_dim = heads.rows[0] // heads.count
        self.train(cut.training)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `nn.MultiheadAttention.forward`."""
        is_batched = query.dim() == 3
        if not is_batched:
            query, key, value = (each.unsqueeze(0) for each in (query, key, value))
        elif not self.batch_first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        q, k, v = (
            self._project(each, part) for part, each in enumerate((query, key, value))
        )
        scores = q @ k.transpose(-2, -1) * self.scale + self._mask(
            attn_mask, key_padding_mask, q, k, is_causal
        )
        weights = functional.softmax(scores, dim=-1)
        mixed = functional.dropout(weights, self.dropout, self.training) @ v
        out: torch.Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        shown = (
            (weights.mean(dim=1) if average_attn_weights else weights)
            if need_weights
            else None
        )
        if not is_batched:
            return out.squeeze(0), shown if shown is None else shown.squeeze(0)
        return (out if self.batch_first else out.transpose(0, 1)), shown

    def _project(self, x: torch.Tensor, part: int) -> torch.Tensor:
        """Queries, keys or values [batch, heads, positions, width]."""
        if self.is_packed:
            weight = self.in_proj_weight.split(self.rows)[part]
        else:
            weight = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)[part]
        bias = (
            None if self.in_proj_bias is None else self.in_proj_bias.split(self.rows)[part]
        )
        return (
            functional.linear(x, weight, bias)
            .unflatten(2, (self.num_heads, -1))
            .transpose(1, 2)
        )

    def _mask(
        self,
        attn_mask: Any,
        padding: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        is_causal: bool,
    ) -> torch.Tensor:
        """Say what is added to scores, broadcast to [batch, heads, queries, keys]."""
        added = torch.zeros((), dtype=q.dtype, device=q.device)
        if attn_mask is None and is_causal:
            attn_mask = torch.ones(
                q.shape[2], k.shape[2], dtype=torch.bool, device=q.device
            ).triu(1)
        if attn_mask is not None:
            mask = _additive(attn_mask, q)
            added = added + (
                mask.unflatten(0, (-1, self.num_heads)) if mask.dim() == 3 else mask
            )
        if padding is not None:
            added = added + _additive(padding, q)[:, None, None, :]
        return added


def _additive(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(
        mask, -math.inf
    )
