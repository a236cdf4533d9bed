"""Pruned modules against the pruned graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from prunegraph.errors import ExactnessError, ModelError
from prunegraph.frontends.pytorch import arguments
from prunegraph.graph.model import Graph

#: As in every proof: the largest difference, relative to the largest value.
TOLERANCE = 1e-4


def run(module: torch.nn.Module, inputs: Any) -> list[np.ndarray]:
    """Outputs in evaluation mode. Raises ModelError that names the module whose forward code fails."""
    args = arguments.arguments(module, inputs)
    was = {each: each.training for each in module.modules()}
    module.eval()
    inside: list[tuple[str, torch.nn.Module]] = []
    hooks = []
    for path, each in module.named_modules():
        hooks.append(
            each.register_forward_pre_hook(lambda m, _, path=path: inside.append((path, m)))
        )
        hooks.append(each.register_forward_hook(lambda *_: inside.pop() and None))
    try:
        with torch.no_grad():
            created = module(*args)
    except Exception as error:
        path, at_fault = inside[-1] if inside else ("", module)
        if inside and not any(True for _ in at_fault.children()) and len(inside) > 1:
            path, at_fault = inside[-1] if _is_users(at_fault) else inside[-2]
        raise ModelError(
            f"module {path!r} ({type(at_fault).__name__}) has sizes in its own forward code that no longer fit: "
            f"{' '.join(str(error).split())[:200]}; train the pruned graph instead (prunegraph.training.GraphModule)"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for each, training in was.items():
            each.training = training
    return [
        leaf.cpu().numpy()
        for leaf in pytree.tree_leaves(created)
        if isinstance(leaf, torch.Tensor)
    ]


def _is_users(module: torch.nn.Module) -> bool:
    return not type(module).__module__.startswith("torch.nn")


def check(module: torch.nn.Module, pruned: Graph, inputs: Any) -> None:
    """Compare a module's outputs with those of a graph. Raises ExactnessError, ModelError."""
    import onnxruntime

    args = [
        leaf
        for leaf in pytree.tree_leaves(arguments.arguments(module, inputs))
        if isinstance(leaf, torch.Tensor)
    ]
    session = onnxruntime.InferenceSession(
        pruned.model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {
        name: leaf.cpu().numpy() for name, leaf in zip(pruned.inputs, args, strict=True)
    }
    for name, expected, got in zip(
        pruned.outputs, session.run(None, feeds), run(module, inputs), strict=True
    ):
        if expected.shape != got.shape:
            raise ExactnessError(
                f"output {name!r} of the module has the shape {got.shape}, the graph's {expected.shape}"
            )
        largest = float(np.abs(expected).max(initial=0))
        difference = float(np.abs(expected.astype(np.float64) - got).max(initial=0))
        if not difference <= TOLERANCE * largest:
            raise ExactnessError(
                f"output {name!r} of the pruned module differs from the pruned graph by {difference:.3g} "
                f"(largest value {largest:.3g}): a module keeps a number of its old sizes, such as the scale of "
                "attention scores; train the pruned graph instead (prunegraph.training.GraphModule)"
            )
