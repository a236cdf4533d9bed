"""Signal to quantization noise, value by value: how much of what a float graph computes a quantized one keeps.

SQNR = 10 log10(sum x^2 / sum (x - x')^2), in dB; 6 dB are one bit. At most `MOST`, which stands for equal values.
Elements that are infinite or not a number have to be so in both, and do not count. What is no float, as a class number
or an index, is right or wrong: each element counts 1, and one that differs is noise of 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import closing
from itertools import tee

import numpy as np

from prunegraph.graph.model import Graph
from prunegraph.operators import is_dequantize, is_quantize
from prunegraph.runtime.data import Batch
from prunegraph.runtime.session import run_batches

#: Bytes of values of either graph that are fetched at a time.
FETCH = 2**26

#: dB of values that do not differ.
MOST = 200.0


def dequantized(graph: Graph) -> dict[str, str]:
    """Say what stands for each value in a quantized graph, behind its QuantizeLinear and DequantizeLinear."""
    result = {}
    for node in graph.nodes:
        if not is_dequantize(node) or node.inputs[0] not in graph.producer:
            continue
        before = graph.nodes[graph.producer[node.inputs[0]]]
        if is_quantize(before) and before.subgraph is None:
            value = (
                node.outputs[0] if node.outputs[0] in graph.outputs else before.inputs[0]
            )
            result[value] = node.outputs[0]
    return result


def sqnr(
    first: Graph,
    second: Graph,
    batches: Iterable[Batch],
    values: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """SQNR in dB of values of a float graph in a quantized one, as ONNX Runtime's default session computes it.

    Outputs are measured in a session that gives nothing else, as a user opens the file: integer kernels may add in
    16 bits, which arithmetic in float would not show.

    Args:
        first: the float graph.
        second: the quantized graph.
        batches: inputs of both.
        values: the value of `second` for each of `first`; by default what `dequantized` finds, and the outputs.

    Raises:
        ModelError: one of them does not run.
    """
    if values is None:
        pairs = {
            name: other
            for name, other in dequantized(second).items()
            if name in first.outer
        }
        values = {
            **pairs,
            **{name: name for name in first.outputs if name in second.outputs},
        }
    outputs = {
        name: other
        for name, other in values.items()
        if name in first.outputs and other in second.outputs
    }
    inner = {name: other for name, other in values.items() if name not in outputs}
    one, two = tee(batches)
    noise = {**_noise(first, second, one, inner), **_noise(first, second, two, outputs)}
    return {name: noise[name] for name in values}


def _noise(
    first: Graph, second: Graph, batches: Iterable[Batch], values: Mapping[str, str]
) -> dict[str, float]:
    """SQNR in dB of values that one session a graph gives."""
    if not values:
        return {}
    signal, noise = dict.fromkeys(values, 0.0), dict.fromkeys(values, 0.0)
    one, two = tee(batches)
    with (
        closing(run_batches(first, one, list(values))) as expected,
        closing(run_batches(second, two, list(values.values()), fast=True)) as match,
    ):
        for pair in zip(expected, match, strict=True):
            for name, x, y in zip(values, *pair, strict=True):
                there = np.isfinite(x) if x.dtype.kind == "f" else None
                if (
                    there is not None
                    and x.shape == y.shape
                    and np.array_equal(there, np.isfinite(y))
                ):
                    signal[name] += float(np.square(x[there], dtype=np.float64).sum())
                    noise[name] += float(
                        np.square(np.subtract(x[there], y[there], dtype=np.float64)).sum()
                    )
                elif there is None and x.shape == y.shape:
                    signal[name] += x.size
                    noise[name] += int(np.count_nonzero(x != y))
                else:
                    noise[name] = math.inf
    return {name: decibels(signal[name], noise[name]) for name in values}


def decibels(signal: float, noise: float) -> float:
    """A ratio of energies in dB, between -`MOST` and `MOST`."""
    if not noise:
        return MOST
    if not signal or math.isinf(noise):
        return -MOST
    return float(np.clip(10 * math.log10(signal / noise), -MOST, MOST))
