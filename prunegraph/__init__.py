"""prunegraph: structured pruning of neural networks on the graph itself.

    import prunegraph as pg

    model = pg.load("resnet50.onnx")
    coupling = pg.analyze(model)
    plan = pg.select(model, coupling, algorithm="l2", budget=pg.Budget(macs=0.5))
    pruned = pg.apply(model, plan)
    proof = pg.verify(model, plan, pruned)
    pg.save(pruned, "resnet50-half.onnx")

Public names are loaded when they are first used, so that importing the package is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Budget": "prunegraph.selection.budget",
    "CompressResult": "prunegraph.hybrid.compress",
    "Context": "prunegraph.selection.criteria.base",
    "Coupling": "prunegraph.coupling.coupling",
    "DecomposeResult": "prunegraph.rewriting.decompose",
    "Graph": "prunegraph.graph.model",
    "Group": "prunegraph.coupling.groups",
    "Plan": "prunegraph.selection.plan",
    "Proof": "prunegraph.proof.result",
    "QuantizeResult": "prunegraph.quantization.quantize",
    "PruneResult": "prunegraph.pipeline",
    "SearchResult": "prunegraph.studies",
    "Sensitivity": "prunegraph.tuning.sensitivity",
    "analyze": "prunegraph.api",
    "apply": "prunegraph.api",
    "compare": "prunegraph.api",
    "compress": "prunegraph.hybrid.compress",
    "criterion": "prunegraph.selection.criteria.base",
    "decompose": "prunegraph.latency.low_rank",
    "errors": "prunegraph",
    "frontend": "prunegraph.frontends.base",
    "load": "prunegraph.api",
    "prune": "prunegraph.api",
    "push": "prunegraph.report.publish",
    "quantize": "prunegraph.quantization.quantize",
    "save": "prunegraph.api",
    "search": "prunegraph.studies",
    "select": "prunegraph.api",
    "selector": "prunegraph.selection.selectors",
    "sensitivity": "prunegraph.studies",
    "verify": "prunegraph.api",
}

__all__ = [
    "Budget",
    "CompressResult",
    "Context",
    "Coupling",
    "DecomposeResult",
    "Graph",
    "Group",
    "Plan",
    "Proof",
    "PruneResult",
    "QuantizeResult",
    "SearchResult",
    "Sensitivity",
    "analyze",
    "apply",
    "compare",
    "compress",
    "criterion",
    "decompose",
    "errors",
    "frontend",
    "load",
    "prune",
    "push",
    "quantize",
    "save",
    "search",
    "select",
    "selector",
    "sensitivity",
    "verify",
]

if TYPE_CHECKING:
    from prunegraph import errors
    from prunegraph.api import analyze, apply, compare, load, prune, save, select, verify
    from prunegraph.coupling.coupling import Coupling
    from prunegraph.coupling.groups import Group
    from prunegraph.frontends.base import frontend
    from prunegraph.graph.model import Graph
    from prunegraph.hybrid.compress import CompressResult, compress
    from prunegraph.latency.low_rank import decompose
    from prunegraph.pipeline import PruneResult
    from prunegraph.proof.result import Proof
    from prunegraph.quantization.quantize import QuantizeResult, quantize
    from prunegraph.report.publish import push
    from prunegraph.rewriting.decompose import DecomposeResult
    from prunegraph.selection.budget import Budget
    from prunegraph.selection.criteria.base import Context, criterion
    from prunegraph.selection.plan import Plan
    from prunegraph.selection.selectors import selector
    from prunegraph.studies import SearchResult, search, sensitivity
    from prunegraph.tuning.sensitivity import Sensitivity


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("prunegraph.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'prunegraph' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
