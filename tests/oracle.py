"""The oracle of nearly every test: prune, and prove against the masked original."""

from __future__ import annotations

import numpy as np

from prunegraph.api import analyze, apply, verify
from prunegraph.coupling.coupling import Coupling
from prunegraph.graph.model import Graph
from prunegraph.proof.result import Proof
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.session import run, session
from prunegraph.selection.plan import Plan, make_plan


def random_plan(coupling: Coupling, seed: int = 0, ratio: float = 0.5) -> Plan:
    """Remove a random share of every group."""
    rng = np.random.default_rng(seed)
    remove = {
        g.id: rng.permutation(g.channels)[: int(g.channels * ratio)]
        for g in coupling.groups
    }
    return make_plan(coupling, remove)


def prove(graph: Graph, seed: int = 0, ratio: float = 0.5) -> tuple[Graph, Proof]:
    """Prune a random share of every group and prove the result."""
    plan = random_plan(analyze(graph), seed, ratio)
    pruned = apply(graph, plan)
    return pruned, verify(graph, plan, pruned)


def outputs(graph: Graph, seed: int = 0, batch: int = 2) -> list[np.ndarray]:
    """Outputs on random inputs."""
    return run(session(graph, fast=False), random_inputs(graph, seed=seed, batch=batch))


def fixed_reasons(graph: Graph) -> dict[str, str]:
    return {fixed.layer: fixed.reason for fixed in analyze(graph).fixed}
