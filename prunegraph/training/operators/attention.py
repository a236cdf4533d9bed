"""Attention and RotaryEmbedding as single operators (opset 23 and later)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf

from prunegraph.training.operators.table import DTYPES, Call, Tensor, operator

#: What `qk_matmul_output_mode` asks for, besides the bare scores (0).
CAPPED, BIASED, WEIGHTS = 1, 2, 3


def _split_heads(x: Tensor, heads: int | None) -> Tensor:
    """[batch, steps, heads * size] as [batch, heads, steps, size]."""
    if x.dim() == 4:
        return x
    assert heads is not None
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _bias(
    call: Call,
    like: Tensor,
    shape: tuple[int, int],
    mask: Tensor | None,
    past: int,
    valid: Tensor | None,
) -> Tensor:
    """Say what is added to the scores: 0 where a query may look, -inf where it may not, and the user's own mask."""
    queries, keys = shape
    nothing = torch.full((), -math.inf, dtype=like.dtype, device=like.device)
    bias = torch.zeros(shape, dtype=like.dtype, device=like.device)
    if mask is not None:
        short = keys - mask.shape[-1]
        added = (
            torch.where(mask, torch.zeros_like(nothing), nothing)
            if mask.dtype == torch.bool
            else mask
        )
        bias = bias + (nnf.pad(added, (0, short), value=-math.inf) if short > 0 else added)
    # Position of a query among the keys: behind what the cache holds.
    offset: Tensor | int = (
        past if valid is None or past else valid.reshape(-1, 1, 1, 1) - queries
    )
    place = torch.arange(queries, device=like.device).reshape(-1, 1) + offset
    ahead = torch.arange(keys, device=like.device) - place
    right = 0 if call.get("is_causal", 0) else call.get("right_window_size", -1)
    match = call.get("left_window_size", -1)
    if right >= 0:
        bias = bias + torch.where(ahead > right, nothing, torch.zeros_like(nothing))
    if match >= 0:
        bias = bias + torch.where(-ahead > match, nothing, torch.zeros_like(nothing))
    if valid is not None:
        real = torch.arange(keys, device=like.device) < valid.reshape(-1, 1, 1, 1)
        bias = bias + torch.where(real, torch.zeros_like(nothing), nothing)
    return bias


@operator("Attention")
def attention(
    call: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    flat, kind = q.dim() == 3, q.dtype
    q = _split_heads(q, call.get("q_num_heads"))
    k, v = (_split_heads(x, call.get("kv_num_heads")) for x in (k, v))
    k = k if past_key is None else torch.cat([past_key, k], 2)
    v = v if past_value is None else torch.cat([past_value, v], 2)
    shared = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(shared, 1) if shared > 1 else x for x in (k, v))
    # Both sides get the root, as ONNX does, for the sake of half precision.
    root = math.sqrt(call.get("scale", 1 / math.sqrt(q.shape[3])))
    scores = (q * root) @ (keys * root).transpose(2, 3)
    cap, mode = call.get("softcap", 0.0), call.get("qk_matmul_output_mode", 0)
    capped = cap * torch.tanh(scores / cap) if cap else scores
    past = 0 if past_key is None else past_key.shape[2]
    bias = _bias(call, q, (q.shape[2], k.shape[2]), mask, past, valid)
    biased = capped + bias
    # A query that may look nowhere gets 0, not NaN.
    blind = torch.isneginf(bias).all(-1, keepdim=True)
    precision = DTYPES.get(call.get("softmax_precision", 0), kind)
    weights = torch.softmax(torch.where(blind, 0.0, biased).to(precision), -1)
    weights = torch.where(blind, 0.0, weights).to(kind)
    created = weights @ values
    shown = {CAPPED: capped, BIASED: biased, WEIGHTS: weights}.get(
        mode, capped if mode and cap else scores
    )
    return (created.transpose(1, 2).flatten(2) if flat else created), k, v, shown.to(kind)


@operator("RotaryEmbedding")
def rotary_embedding(
    call: Call, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None
) -> Tensor:
    flat = x.dim() == 3
    heads = (
        x.reshape(x.shape[0], x.shape[1], call.get("num_heads"), -1)
        if flat
        else x.transpose(1, 2)
    )
    size = call.get("rotary_embedding_dim", 0) or heads.shape[-1]
    turned, rest = heads[..., :size], heads[..., size:]
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    if call.get("interleaved", 0):
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned.chunk(2, -1)
    parts = [cos * first - sin * second, sin * first + cos * second]
    turned = (
        torch.stack(parts, -1).flatten(-2)
        if call.get("interleaved", 0)
        else torch.cat(parts, -1)
    )
    created = torch.cat([turned, rest], -1)
    return created.flatten(2) if flat else created.transpose(1, 2)
