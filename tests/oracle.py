"""The oracle of nearly every test: prune, and prove against the masked original."""

from __future__ import annotations

import numpy as np

from prunegraph.api import analyze, apply, verify
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.graph.model import Graph
from prunegraph.proof.result import Proof
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.session import run, session
from prunegraph.selection.plan import Plan, make_plan


def random_plan(coupling: Coupling, seed: int = 0, ratio: float = 0.5) -> Plan:
    """Remove a random share of every group, of each of its cells the same one."""
    rng = np.random.default_rng(seed)
    remove = {g.id: _share(g, rng, ratio) for g in coupling.groups}
    return make_plan(coupling, remove)


def _share(group: Group, rng: np.random.Generator, ratio: float) -> np.ndarray:
    if group.cells is None:
        return rng.permutation(group.channels)[: int(group.channels * ratio)]
    return rng.permuted(group.cells, axis=1)[
        :, : int(group.cells.shape[1] * ratio)
    ].reshape(-1)


def prove(
    graph: Graph, seed: int = 0, ratio: float = 0.5, blocks: str = "alike"
) -> tuple[Graph, Proof]:
    """Prune a random share of every group and prove the result."""
    plan = random_plan(analyze(graph, blocks=blocks), seed, ratio)
    pruned = apply(graph, plan)
    return pruned, verify(graph, plan, pruned)


def outputs(graph: Graph, seed: int = 0, batch: int = 2) -> list[np.ndarray]:
    """Outputs on random inputs."""
    return run(session(graph, fast=False), random_inputs(graph, seed=seed, batch=batch))


def fixed_reasons(graph: Graph) -> dict[str, str]:
    return {fixed.layer: fixed.reason for fixed in analyze(graph).fixed}
