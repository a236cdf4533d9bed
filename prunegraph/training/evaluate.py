"""The project's metrics, measured on a module while it is trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from prunegraph.errors import UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.measuring.metrics import METRICS, Seen
from prunegraph.runtime import session
from prunegraph.runtime.data import CHUNK, Data
from prunegraph.training.fit import Evaluate
from prunegraph.training.losses import outputs_of
from prunegraph.training.operators.table import to_numpy, to_torch

Array = np.ndarray


def measure(
    data: Data | Sequence[Mapping[str, Array]] | Mapping[str, Array],
    original: Graph,
    metric: str = "",
    *,
    size: int = CHUNK,
) -> Evaluate:
    """A function for `fit(evaluate=...)`: a metric of a module against the original, larger is better.

    Args:
        data: inputs, and `labels` for "top1".
        original: gives names of inputs and outputs, and what "agreement", "error" and "kl" compare with.
        metric: one of these four; those that fall as a model gets better are negated. By default "top1" with
            labels, else "agreement".
        size: samples that are run at a time.

    Raises:
        UnknownNameError: no such metric.
        DataError: the data do not fit.
    """
    samples = Data.of(data).fit(original)
    name = metric or ("top1" if samples.labels is not None else "agreement")
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    chosen = METRICS[name]

    def batches() -> Iterator[dict[str, Array]]:
        return samples.batches(original, size, labels=True)

    # Labels say enough for top1; the other metrics need the original's outputs, which never change.
    outputs = [] if name == "top1" else list(_outputs(original, batches()))
    expected: Iterable[dict[str, Array]] = outputs or itertools.repeat({})

    def evaluate(module: torch.nn.Module) -> float:
        def seen() -> Iterator[Seen]:
            # A graph in integers has no parameters.
            held = next(itertools.chain(module.parameters(), module.buffers()), None)
            device = held.device if held is not None else "cpu"
            for batch, wanted in zip(batches(), expected, strict=False):
                inputs = {
                    value: to_torch(batch[value]).to(device) for value in original.inputs
                }
                created = (
                    to_numpy(y.float() if y.dtype == torch.bfloat16 else y)
                    for y in outputs_of(module, inputs)
                )
                yield Seen(batch, wanted, dict(zip(original.outputs, created, strict=True)))

        value = chosen.measure(seen())
        return value if chosen.rises else -value

    # For checkpoints: what is measured, not what the original gave for it on this machine.
    evaluate.identity = (name, samples, size)  # type: ignore[attr-defined]
    return evaluate


def _outputs(
    graph: Graph, batches: Iterable[Mapping[str, Array]]
) -> Iterator[dict[str, Array]]:
    """The graph's outputs by name, in ONNX Runtime."""
    opened = session.session(graph)
    for batch in batches:
        values = session.run(opened, {name: batch[name] for name in graph.inputs})
        yield dict(zip(graph.outputs, values, strict=True))
