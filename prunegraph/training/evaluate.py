"""The project's metrics, measured on a module while it is trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from prunegraph.graph.model import Graph
from prunegraph.measuring.detection import are_boxes
from prunegraph.measuring.metrics import Named, Seen, portable, resolve
from prunegraph.runtime import session
from prunegraph.runtime.data import CHUNK, LABELS, Data
from prunegraph.training.fit import Evaluate
from prunegraph.training.losses import outputs_of
from prunegraph.training.operators.table import to_numpy, to_torch

Array = np.ndarray


def measure(
    data: Data | Sequence[Mapping[str, Array]] | Mapping[str, Array],
    original: Graph,
    metric: Named = "",
    *,
    size: int = CHUNK,
) -> Evaluate:
    """A function for `fit(evaluate=...)`: a metric of a module against the original, larger is better.

    Args:
        data: inputs, and `labels` for metrics that need them.
        original: gives names of inputs and outputs, and what metrics without labels compare with.
        metric: one of `prunegraph.measuring.metrics.METRICS`, `file.py:function` or a function; those that fall as a
            model gets better are negated. By default "map50" with boxes, "top1" with other labels, else "agreement".
        size: samples that are run at a time.

    Raises:
        UnknownNameError: no such metric.
        PluginError: the metric's file cannot be read.
        DataError: the data do not fit.
    """
    samples = Data.of(data).fit(original)

    def batches() -> Iterator[dict[str, Array]]:
        return samples.batches(original, size, labels=True)

    labelled = samples.labels is not None
    name = portable(metric or _usual(next(batches(), {}), labelled))
    chosen = resolve(name)
    # Labels say enough for some; the other metrics need the original's outputs, which never change.
    needed = chosen.needs_original(labelled)
    outputs = list(_outputs(original, batches())) if needed else []
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


def _usual(batch: Mapping[str, Array], labelled: bool) -> str:
    """The metric where none is named."""
    if not labelled:
        return "agreement"
    return "map50" if are_boxes(batch.get(LABELS)) else "top1"


def _outputs(
    graph: Graph, batches: Iterable[Mapping[str, Array]]
) -> Iterator[dict[str, Array]]:
    """The graph's outputs by name, in ONNX Runtime."""
    opened = session.session(graph)
    for batch in batches:
        values = session.run(opened, {name: batch[name] for name in graph.inputs})
        yield dict(zip(graph.outputs, values, strict=True))
