"""Which layers integers make slower, measured.

Integer kernels are slower than float ones where channels are few and images large: the first layers of a network for
images, before it has many channels. Leaving a layer inside the network in float costs two conversions more, but at the
start one is there anyway; so what is looked for is how many layers at the start are better left in float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from prunegraph.errors import OptionError
from prunegraph.graph.model import Graph
from prunegraph.measuring.latency import Stopwatch, Timer, interleaved
from prunegraph.quantization.quantize import QuantizeResult, quantize
from prunegraph.runtime.data import Data, Samples
from prunegraph.runtime.engine import Runtime

Progress = Callable[[str], None]

#: Pairs of sessions a measurement, the least share of the latency that a layer in float has to save, and how many
#: layers in a row that save nothing end the search.
PAIRS, GAIN, PATIENCE = 8, 0.005, 2


def faster_in_float(
    graph: Graph,
    data: Samples,
    *,
    float_layers: Sequence[str] = (),
    weights: str | None = None,
    activations: str | None = None,
    target: str = "cpu",
    threads: int = 1,
    runtime: Runtime | None = None,
    stopwatch: Callable[[Graph], Timer] | None = None,
    progress: Progress = lambda stage: None,
) -> tuple[str, ...]:
    """Layers at the start that a runtime runs faster in float than in integers, for `quantize(float_layers=...)`.

    Args:
        graph: the float model.
        data: unlabelled inputs; one sample is enough, ranges do not change what is measured.
        float_layers: layers that stay in float anyway.
        weights: type of the weights, as `quantize` takes it.
        activations: type of activations, as `quantize` takes it.
        threads: to measure with; 0 leaves it to ONNX Runtime.
        runtime: what to measure in, instead of ONNX Runtime; it has its own number of threads.
        target: see `quantize`.
        stopwatch: gives the timer of a model that others are measured against, instead of the runtime's.
        progress: told what was measured.

    Raises:
        OptionError: weights alone are quantized.
        PrunegraphError: what `prunegraph.quantize` raises.
    """
    if activations == "none":
        raise OptionError(
            "layers that are faster in float are looked for with activations in integers"
        )
    samples = Data.of(data).fit(graph)
    one = samples.head(max(samples.fixed(graph), 1))

    def quantized(keep: Iterable[str]) -> QuantizeResult:
        return quantize(
            graph,
            one,
            float_layers=[*float_layers, *keep],
            weights=weights,
            activations=activations,
            target=target,
            method="minmax",
            bias_correction=False,
        )

    base = quantized(())
    names = [layer.name for layer in base.layers if not layer.reason]
    timer = (stopwatch or partial(Stopwatch, threads=threads, runtime=runtime))(base.model)
    shares = [1.0]
    while True:
        counts = range(len(shares), min(_best(shares) + PATIENCE, len(names) - 1) + 1)
        races = [partial(timer.against, quantized(names[:count]).model) for count in counts]
        if not races:
            return tuple(names[: _best(shares)])
        for count, latency in zip(counts, interleaved(races, PAIRS), strict=True):
            shares.append(latency.kept)
            progress(
                f"{count} layers at the start in float: {latency.kept:.3f} of the latency in integers"
            )


def _best(shares: Sequence[float]) -> int:
    """How many layers in float give the least latency, where shares are those of 0, 1, 2, ... of them."""
    chosen = 0
    for count, share in enumerate(shares):
        if share < shares[chosen] - GAIN:
            chosen = count
    return chosen
