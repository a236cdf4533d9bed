"""Random cases of attention, and of what belongs to it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tests.ops.networks import MS, Case, Net, X


def heads_of(n: Net) -> tuple[int, int]:
    """Query heads and key heads: the same, grouped, or one key head for all."""
    groups, repeats = n.pick((3, 1), (2, 2), (1, 3), (4, 1))
    return groups * repeats, groups


def mask(
    n: Net, batch: int, heads: int, queries: int, keys: int, boolean: bool = True
) -> str:
    """Added to the scores, or what takes part; with 2 to 4 axes, of full size or 1."""
    shape = [n.pick(1, batch), n.pick(1, heads), queries, keys][n.int(0, 2) :]
    if boolean and n.flag():
        value = n.rng.integers(0, 2, shape).astype(bool)
        value[..., 0] = True
        return n.b.const(value)
    return n.b.const(n.rng.standard_normal(shape), np.float32)


def along(n: Net, **axes: int) -> int:
    """Which axis the channels of an input run along: mostly the same in all inputs."""
    return (
        axes[n.pick(n.kind, n.kind, n.kind, n.kind, n.kind, *axes)]
        if n.kind in axes
        else axes["heads"]
    )


def state(n: Net, shape: list[int]) -> X | str:
    """Keys or values of earlier steps: made by a layer, or constant."""
    return (
        n.x(shape, along(n, heads=-3, size=-1)) if n.flag() else n.b.weight(*shape, scale=1)
    )


def attention(n: Net) -> str | list[str]:
    """Heads merged or apart; masks, a cache, the scores as an output."""
    opset = n.opset(23, 24)
    n.b.ir_version = 11
    query_heads, key_heads = heads_of(n)
    batch, queries, keys, size, value_size = (
        n.int(1, 2),
        n.int(2, 3),
        n.int(2, 3),
        n.int(2, 5),
        n.int(2, 5),
    )
    flat, past = n.flag(), n.pick(0, 0, 2)
    parts = []
    for length, count, width in (
        (queries, query_heads, size),
        (keys, key_heads, size),
        (keys, key_heads, value_size),
    ):
        shape = [batch, length, count * width] if flat else [batch, count, length, width]
        parts.append(
            n.x(
                shape,
                along(n, heads=2, size=2, steps=1)
                if flat
                else along(n, heads=1, size=3, steps=2),
            )
        )
    count = n.pick(1, 3, 4) if not past else n.pick(3, 4)
    # A mask of booleans makes scores that are not finite.
    bias = (
        mask(n, batch, query_heads, queries, keys + past, boolean=count < 4)
        if n.flag()
        else None
    )
    cache = (
        [state(n, [batch, key_heads, past, width]) for width in (size, value_size)]
        if past
        else []
    )
    lengths = None
    if opset >= 24 and not past and n.flag():
        lengths = n.b.const([n.int(1, keys) for _ in range(batch)], np.int64)
    given = {"q_num_heads": query_heads, "kv_num_heads": key_heads} if flat else {}
    given |= n.maybe(scale=n.float(0.2, 1), softcap=n.float(1, 3), is_causal=int(count < 4))
    inputs = [*parts, bias, *(cache or [None, None]), lengths]
    if count > 1:
        more = {"qk_matmul_output_mode": n.int(0, 3)} if count == 4 else {}
        return n.ops("Attention", *inputs, outputs=count, **given, **more)
    return n.op("Attention", *inputs, **given)


def multi_head(n: Net) -> str | list[str]:
    """Keys and values with merged heads or apart; bias, padding, scores' bias, a cache."""
    heads, _ = heads_of(n)
    batch, queries, keys, size, value_size = (
        n.int(1, 2),
        n.int(2, 3),
        n.int(2, 3),
        n.int(2, 5),
        n.int(2, 5),
    )
    apart, past = n.pick(False, False, True), n.pick(0, 0, 2)
    if apart or past:
        value_size = size
    shapes = [[batch, keys, heads * size], [batch, keys, heads * value_size]]
    if apart:
        shapes = [[batch, heads, keys, size]] * 2
    q = n.x([batch, queries, heads * size], along(n, heads=2, size=2, steps=1))
    places = {"heads": 1, "size": 3} if apart else {"heads": 2, "size": 2, "steps": 1}
    k, v = (n.x(shape, along(n, **places)) for shape in shapes)
    bias = n.b.weight(heads * (2 * size + value_size), scale=1) if n.flag() else None
    total = keys + past
    ones = np.ones([batch, total] if n.flag() else [batch, queries, total], np.int32)
    ones[..., -1] = n.int(0, 1)
    padding = n.b.const(n.pick(ones, np.full(batch, total, np.int32))) if n.flag() else None
    scores = n.b.const(
        n.rng.standard_normal([n.pick(1, batch), n.pick(1, heads), queries, total]),
        np.float32,
    )
    cache = (
        [state(n, [batch, heads, past, width]) for width in (size, value_size)]
        if past
        else []
    )
    given = {
        "num_heads": heads,
        **n.maybe(scale=n.float(0.2, 1), unidirectional=n.int(0, 1)),
    }
    inputs = [q, k, v, bias, padding, scores if n.flag() else None, *cache]
    if past or n.flag():
        return n.ops("MultiHeadAttention", *inputs, outputs=3, domain=MS, **given)
    return n.op("MultiHeadAttention", *inputs, domain=MS, **given)


def grouped_query(n: Net) -> str | list[str]:
    """Packed or apart, a prompt or one step behind a cache; rotation, scores' bias, sinks, the scores as an output."""
    query_heads, key_heads = heads_of(n)
    past = n.pick(0, 2)
    rotary = n.int(0, 1)
    batch, steps, size = (
        n.int(1, 2),
        1 if past else n.int(2, 3),
        n.pick(16, 32) if rotary else n.pick(8, 16, 24),
    )
    if n.flag():
        parts: list[Any] = [
            n.x([batch, steps, (query_heads + 2 * key_heads) * size], 2),
            None,
            None,
        ]
    else:
        parts = [
            n.x([batch, steps, count * size], 2)
            for count in (query_heads, key_heads, key_heads)
        ]
    cache = (
        [state(n, [batch, key_heads, past, size]) for _ in range(2)]
        if past
        else [None, None]
    )
    last = [
        n.b.const(np.full(batch, past + steps - 1), np.int32),
        n.b.const(past + steps, np.int32),
    ]
    tables = (
        [n.b.weight(8, size // 2, scale=1) for _ in range(2)] if rotary else [None, None]
    )
    positions = (
        n.b.const(np.tile(np.arange(past, past + steps), (batch, 1)), np.int64)
        if rotary and n.flag()
        else None
    )
    shape = [n.pick(1, batch), n.pick(1, query_heads), steps, past + steps]
    scores = n.b.const(n.rng.standard_normal(shape), np.float32) if n.flag() else None
    sink = n.b.weight(query_heads, scale=1) if n.flag() else None
    given = {"num_heads": query_heads, "kv_num_heads": key_heads, "do_rotary": rotary}
    given |= n.maybe(scale=n.float(0.2, 1), softcap=n.float(1, 3), local_window_size=2)
    given |= n.maybe(rotary_interleaved=1) if rotary else {}
    inputs = [*parts, *cache, *last, *tables, positions, scores, sink]
    if n.flag():
        return n.ops(
            "GroupQueryAttention",
            *inputs,
            outputs=4,
            domain=MS,
            qk_output=n.int(1, 2),
            **given,
        )
    return n.ops("GroupQueryAttention", *inputs, outputs=3, domain=MS, **given)


def packed_attention(n: Net) -> str | list[str]:
    """The layer that makes queries, keys and values is part of it; values may be narrower, a cache may go before."""
    heads, _ = heads_of(n)
    batch, steps, size, past = n.int(1, 2), n.int(2, 3), n.int(2, 4), n.pick(0, 0, 2)
    x = n.x([batch, steps, n.int(3, 6)], 2)
    value_size = size if past else n.int(2, 4)
    widths = [heads * size, heads * size, heads * value_size]
    given = {"num_heads": heads, **n.maybe(scale=n.float(0.2, 1), unidirectional=1)}
    if value_size != size or n.flag():
        given["qkv_hidden_sizes"] = widths
    ones = np.ones([batch, steps + past], np.int32)
    ones[:, 0] = n.int(0, 1)
    padding = (
        n.b.const(n.pick(ones, np.full(batch, steps + past, np.int32)))
        if n.flag()
        else None
    )
    cache = n.b.weight(2, batch, heads, past, size, scale=1) if past else None
    if past and n.flag():
        cache = n.x([2, batch, heads, past, size], along(n, heads=2, size=4)).name
    shape = [n.pick(1, batch), n.pick(1, heads), steps, steps + past]
    scores = (
        n.b.const(n.rng.standard_normal(shape), np.float32)
        if not past and n.flag()
        else None
    )
    inputs = [
        x,
        n.b.weight(x.c, sum(widths), scale=0.5),
        n.b.weight(sum(widths)),
        padding,
        cache,
        scores,
    ]
    if past or (value_size == size and n.flag()):
        return n.ops("Attention", *inputs, outputs=2, domain=MS, **given)
    return n.op("Attention", *inputs, domain=MS, **given)


def rotary(n: Net) -> str:
    """Heads merged or apart, halves or neighbours, all of a head or a part; tables looked up or given."""
    n.opset(23)
    n.b.ir_version = 11
    batch, steps, heads, size = n.int(1, 2), n.int(1, 3), n.int(1, 3), 2 * n.int(2, 5)
    flat, part = n.flag(), n.pick(0, 0, 2)
    x = (
        n.x([batch, steps, heads * size], 2)
        if flat
        else n.x([batch, heads, steps, size], n.pick(1, 3))
    )
    half = (part or size) // 2
    look = n.flag()
    tables = [
        n.b.weight(*([6] if look else [batch, steps]), half, scale=1) for _ in range(2)
    ]
    positions = n.b.const(n.rng.integers(0, 6, (batch, steps)), np.int64) if look else None
    given = {"num_heads": heads} if flat else {}
    given |= n.maybe(interleaved=n.int(0, 1)) | (
        {"rotary_embedding_dim": part} if part else {}
    )
    return n.op("RotaryEmbedding", x, *tables, positions, **given)


def rotary_contrib(n: Net) -> str:
    """As above, with a table of all positions and one or many to look up."""
    batch, steps, heads, size = n.int(1, 2), n.int(1, 3), n.int(1, 3), 2 * n.int(2, 5)
    flat, part = n.flag(), n.pick(0, 0, 2)
    x = (
        n.x([batch, steps, heads * size], 2)
        if flat
        else n.x([batch, heads, steps, size], n.pick(1, 3))
    )
    tables = [n.b.weight(6, (part or size) // 2, scale=1) for _ in range(2)]
    positions = n.b.const(
        [1] if n.flag() else n.rng.integers(0, 6, (batch, steps)), np.int64
    )
    given = n.maybe(num_heads=heads) if flat and not part else {"num_heads": heads}
    given |= n.maybe(interleaved=n.int(0, 1)) | (
        {"rotary_embedding_dim": part} if part else {}
    )
    return n.op("RotaryEmbedding", x, positions, *tables, domain=MS, **given)


def skip_norm(op: str, n: Net) -> str | list[str]:
    """The sum may be asked for too, and the skip may be the same for all samples."""
    n.least = 2
    batch, steps = "n" if n.symbolic else n.int(1, 2), n.int(1, 3)
    x = n.x([batch, steps, n.int(3, 6)], 2)
    skip = n.x(n.pick(x.shape, [steps, x.c], [1, steps, x.c]), -1) if n.flag() else x
    inputs: list[Any] = [x, skip, n.b.const(n.rng.uniform(0.5, 1.5, x.c), np.float32)]
    if op == "SkipLayerNormalization":
        inputs.append(n.b.weight(x.c) if n.flag() else None)
    inputs.append(n.b.weight(x.c) if n.flag() else None)
    attributes = n.maybe(epsilon=1e-3)
    if n.flag():
        outputs = n.ops(op, *inputs, outputs=4, domain=MS, **attributes)
        n.b.nodes[-1].output[1], n.b.nodes[-1].output[2] = "", ""
        return [outputs[0], outputs[3]]
    return n.op(op, *inputs, domain=MS, **attributes)


CASES: dict[tuple[str, str], Case] = {
    **{
        (MS, op): partial(skip_norm, op)
        for op in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
    },
    ("", "Attention"): attention,
    ("", "RotaryEmbedding"): rotary,
    (MS, "Attention"): packed_attention,
    (MS, "GroupQueryAttention"): grouped_query,
    (MS, "MultiHeadAttention"): multi_head,
    (MS, "RotaryEmbedding"): rotary_contrib,
}
