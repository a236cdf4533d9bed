"""What commands tell, as plain JSON: one format a command, all in the published schema (docs/output.schema.json)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prunegraph.preview import changed_widths

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prunegraph.graph.model import Graph
    from prunegraph.measuring.compare import Comparison
    from prunegraph.measuring.latency import Latency
    from prunegraph.pipeline import PruneResult
    from prunegraph.proof.result import Proof
    from prunegraph.quantization.precision import PrecisionResult
    from prunegraph.quantization.quantize import QuantizeResult
    from prunegraph.registry import Entry
    from prunegraph.training.binary.binarize import BinarizeResult
    from prunegraph.training.methods import TrainResult
    from prunegraph.training.outcome import Outcome

PRUNED = "prunegraph/pruned@1"
PROOF = "prunegraph/proof@1"
COMPARED = "prunegraph/compared@1"
QUANTIZED = "prunegraph/quantized@1"
TRAINED = "prunegraph/trained@1"
BINARIZED = "prunegraph/binarized@1"
CONVERTED = "prunegraph/converted@1"
ALGORITHMS = "prunegraph/algorithms@1"


def pruned(
    result: PruneResult, out: str, evaluated: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What `prune` and `apply` did: cost and widths before and after, the proof, and what came after it.

    `evaluated` is a metric of both models, as `measured` gives it.
    """
    timing, rounding = result.latency, result.rounding
    return {
        "format": PRUNED,
        "output": out,
        "before": asdict(result.before),
        "after": asdict(result.after),
        "layers": [asdict(each) for each in changed_widths(result.original, result.model)],
        "branches": list(result.plan.branches),
        "provenance": result.plan.provenance,
        "proof": _proof(result.proof),
        "left_out": list(result.left_out),
        "blame": result.blame,
        "repair": result.repair,
        "latency": _latency(timing) if timing is not None else None,
        "round_to": rounding.chosen if rounding is not None else None,
        "rotated": len(result.rotated.rotation.turns) if result.rotated is not None else 0,
        "vocabulary": len(result.vocabulary.kept)
        if result.vocabulary is not None
        else None,
        "quantized": quantized(result.quantized) if result.quantized is not None else None,
        "precision": precision(result.precision),
        "files": [str(path) for path in result.configured.paths]
        if result.configured
        else [],
        "measured": evaluated,
    }


def quantized(result: QuantizeResult) -> dict[str, Any]:
    """What `quantize` did to each layer, the ranges it took, and the noise at the outputs."""
    reach = result.weight_range
    return {
        "format": QUANTIZED,
        "layers": [asdict(layer) for layer in result.layers],
        "outputs": result.outputs,
        "weight_range": asdict(reach) if reach is not None else None,
        "ranges": result.ranges,
    }


def proof(result: Proof) -> dict[str, Any]:
    """What `verify` found."""
    return {"format": PROOF, **(_proof(result) or {})}


def _proof(result: Proof | None) -> dict[str, Any] | None:
    return asdict(result) if result is not None else None


def _latency(timing: Latency) -> dict[str, Any]:
    return {**asdict(timing), "kept": timing.kept}


def compared(result: Comparison) -> dict[str, Any]:
    """What `compare` measured."""
    both = measured(result.measured) if result.measured is not None else None
    return {"format": COMPARED, **asdict(result), "measured": both}


def measured(both: tuple[str, float, float, str]) -> dict[str, Any]:
    """A metric of two models."""
    return dict(zip(("metric", "first", "second", "unit"), both, strict=True))


def trained(result: TrainResult, outcome: Outcome, out: str) -> dict[str, Any]:
    """What `train` did, epoch by epoch, and what came of it."""
    return {
        "format": TRAINED,
        "output": out,
        "history": [dict(record) for record in result.history],
        "notes": list(result.notes),
        "outcome": _outcome(outcome),
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    metric = outcome.metric
    return {
        "difference": outcome.difference,
        "same": outcome.same,
        "metric": metric.name if metric is not None else None,
        "before": outcome.before if metric is not None else None,
        "after": outcome.after if metric is not None else None,
    }


def binarized(
    result: BinarizeResult, outcome: Outcome, timing: Latency | None, out: str
) -> dict[str, Any]:
    """What `binarize` did to each layer, and what came of it."""
    bits = result.compression
    return {
        "format": BINARIZED,
        "output": out,
        "layers": [asdict(update) for update in result.updates],
        "skipped": dict(result.skipped),
        "losses": dict(result.losses),
        "smaller": {"layers": bits.layers, "whole": bits.whole(32)},
        "latency": _latency(timing) if timing is not None else None,
        "notes": list(result.notes),
        "outcome": _outcome(outcome),
    }


def converted(
    graph: Graph, out: str, precise: PrecisionResult | None = None
) -> dict[str, Any]:
    """What `convert` wrote, and what came of 16-bit floats."""
    counts = {"nodes": len(graph.nodes), "weights": len(graph.weights)}
    return {"format": CONVERTED, "output": out, **counts, "precision": precision(precise)}


def precision(result: PrecisionResult | None) -> dict[str, Any] | None:
    """What 16-bit floats did: how much became of them, what stayed in float32 and why, and the error."""
    if result is None:
        return None
    return {
        "dtype": result.dtype,
        "converted": result.converted,
        "kept": dict(result.kept),
        "outputs": dict(result.outputs),
        "differences": dict(result.differences),
        "samples": result.samples,
    }


def algorithms(entries: Iterable[Entry], options: Mapping[str, str]) -> dict[str, Any]:
    """Registered names; `options` by kind and name, `kind/name`."""
    return {
        "format": ALGORITHMS,
        "entries": [
            {
                "kind": entry.kind,
                "name": entry.name,
                "origin": entry.origin,
                "summary": entry.summary,
                "options": options[f"{entry.kind}/{entry.name}"],
            }
            for entry in entries
        ],
    }
