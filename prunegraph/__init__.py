"""prunegraph: structured pruning of neural networks on the graph itself.

    import prunegraph as pg

    model = pg.load("resnet50.onnx")
    found = pg.analyze(model)
    plan = pg.select(model, found, algorithm="l2", budget=pg.Budget(macs=0.5))
    small = pg.apply(model, plan)
    proof = pg.verify(model, plan, small)
    pg.save(small, "resnet50-half.onnx")

Public names are loaded when they are first used, so that importing the package is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Budget": "prunegraph.selection.budget",
    "Compressed": "prunegraph.hybrid.compress",
    "Context": "prunegraph.selection.criteria.base",
    "Coupling": "prunegraph.coupling.analysis",
    "Decomposed": "prunegraph.rewriting.decompose",
    "Graph": "prunegraph.graph.model",
    "Group": "prunegraph.coupling.groups",
    "Plan": "prunegraph.selection.plan",
    "Proof": "prunegraph.proof",
    "Quantized": "prunegraph.quantization.quantize",
    "Result": "prunegraph.pipeline",
    "Search": "prunegraph.sweeps",
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
    "quantize": "prunegraph.quantization.quantize",
    "save": "prunegraph.api",
    "search": "prunegraph.sweeps",
    "select": "prunegraph.api",
    "selector": "prunegraph.selection.selectors",
    "sensitivity": "prunegraph.sweeps",
    "verify": "prunegraph.api",
}

__all__ = [
    "Budget", "Compressed", "Context", "Coupling", "Decomposed", "Graph", "Group", "Plan", "Proof", "Quantized",
    "Result", "Search", "Sensitivity", "analyze", "apply", "compare", "compress", "criterion", "decompose",
    "errors", "frontend", "load", "prune", "quantize", "save", "search", "select", "selector", "sensitivity",
    "verify",
]  # fmt: skip

if TYPE_CHECKING:
    from prunegraph import errors
    from prunegraph.api import analyze, apply, compare, load, prune, save, select, verify
    from prunegraph.coupling.analysis import Coupling
    from prunegraph.coupling.groups import Group
    from prunegraph.frontends.base import frontend
    from prunegraph.graph.model import Graph
    from prunegraph.hybrid.compress import Compressed, compress
    from prunegraph.latency.low_rank import decompose
    from prunegraph.pipeline import Result
    from prunegraph.proof import Proof
    from prunegraph.quantization.quantize import Quantized, quantize
    from prunegraph.rewriting.decompose import Decomposed
    from prunegraph.selection.budget import Budget
    from prunegraph.selection.criteria.base import Context, criterion
    from prunegraph.selection.plan import Plan
    from prunegraph.selection.selectors import selector
    from prunegraph.sweeps import Search, search, sensitivity
    from prunegraph.tuning.sensitivity import Sensitivity


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("prunegraph.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'prunegraph' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
