"""Networks with gates behind BatchNormalization, and what they answer."""

from __future__ import annotations

import numpy as np
import torch

from prunegraph.graph.model import Graph
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime.session import run, session
from prunegraph.training.gates import GatedModule
from tests.builders import Builder

Array = np.ndarray


def chain(width: int = 6) -> Graph:
    """One removable group with one BatchNormalization."""
    b = Builder()
    y = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, width), width, name="bn"))
    return b.graph(b.head(y, width))


def with_random_factors(graph: Graph, seed: int = 0) -> GatedModule:
    """A module in eval mode whose factors are anything from 0.1 to 1."""
    module = GatedModule(graph).eval()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for gate in module.gates:
            factors = module.weight(gate.factors)
            factors.copy_(
                torch.from_numpy(rng.uniform(0.1, 1, factors.shape).astype(np.float32))
            )
    return module


def unfolded(module: GatedModule) -> Graph:
    """The network's own weights, without gates."""
    revision = Revision(module.base)
    for gate in module.gates:
        for name in (gate.scale, gate.shift):
            revision.set(name, module.weight(name).detach().numpy())
    return revision.apply()


def images(count: int = 4) -> Array:
    return np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)


def answer(graph: Graph) -> Array:
    return run(session(graph), {"x": images()})[0]
