"""PyTorch: modules and exported programs in, pruned modules out. PyTorch is an extra and imported when it is needed."""

from __future__ import annotations

import importlib.util
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from prunegraph.errors import MissingExtraError, PlanError
from prunegraph.frontends.base import frontend
from prunegraph.graph.model import Graph

if TYPE_CHECKING:
    import torch

    from prunegraph.selection.plan import Plan

#: Graphs by the module they were loaded from, as long as somebody holds both.
_LOADED: weakref.WeakKeyDictionary[Any, weakref.WeakSet[Graph]] = (
    weakref.WeakKeyDictionary()
)


@frontend("torch.nn.modules.module.Module")
def load(
    source: torch.nn.Module,
    *,
    inputs: Any = None,
    exporter: str | None = None,
    dynamic_shapes: Any = None,
) -> Graph:
    """A Graph from an `nn.Module` in evaluation mode, with BatchNormalization and names of parameters kept.

    Args:
        source: the module; left as it is.
        inputs: example inputs of `forward`: a tensor, a sequence of arguments, or a mapping of keyword
            arguments. The first axis of tensors is the batch and stays free.
        exporter: "dynamo" or "torchscript"; None tries the first, then with a warning the second.
        dynamic_shapes: which axes are free, as `torch.export.export` takes it, instead of the batch.

    Raises:
        ModelError: the module cannot be exported with these inputs.
        MissingExtraError: PyTorch or its exporter is not installed.
    """
    _need_torch()
    from prunegraph.frontends.pytorch.export import from_module

    graph = from_module(source, inputs, exporter, dynamic_shapes)
    _LOADED.setdefault(source, weakref.WeakSet()).add(graph)
    return graph


@frontend(".pt2", runs_code=True)
def load_program(source: str) -> Graph:
    """A Graph from a file that `torch.export.save` wrote. Raises ModelError, MissingExtraError."""
    _need_torch()
    from prunegraph.frontends.pytorch.export import from_file

    return from_file(source)


def apply(
    module: torch.nn.Module,
    plan: Plan,
    *,
    pruned: Graph | None = None,
    inputs: Any = None,
    graph: Graph | None = None,
) -> torch.nn.Module:
    """The module without the plan's channels: a copy with smaller parameters and buffers, ready to train.

    Args:
        module: the module that the plan's graph was loaded from, with any weights.
        plan: a plan that was made for that graph. Where it leaves out what goes (`source_cuts`), that is derived
            from the graph.
        pruned: the pruned graph, to compare outputs with; its weights must come from `module`.
        inputs: example inputs to run the result on, as for `load`.
        graph: the graph that the plan was made for. Only a plan that leaves out what goes needs it, and only where
            that graph is gone; `inputs` do as well if the module's weights are still the same.

    Returns:
        A module of the same class. A `nn.MultiheadAttention` that cannot hold what is left of it is
        replaced by `prunegraph.frontends.pytorch.attention.PrunedAttention`, with the same names of parameters.

    Raises:
        PlanError: the plan does not fit the module, or says nothing of its parameters.
        ModelError: a module cannot hold what is left, or has old sizes in its own forward code: the
            message names it. The pruned graph itself can be trained: `prunegraph.training.GraphModule`.
        ExactnessError: the result's outputs differ from those of `pruned`.
        MissingExtraError: PyTorch is not installed.
    """
    _need_torch()
    from prunegraph.frontends.pytorch.check import check, run
    from prunegraph.frontends.pytorch.surgery import cut

    reduced = cut(module, _completed(module, plan, inputs, graph))
    if pruned is not None:
        check(reduced, pruned, inputs)
    elif inputs is not None:
        run(reduced, inputs)
    return reduced


def _completed(
    module: torch.nn.Module, plan: Plan, inputs: Any, graph: Graph | None
) -> Plan:
    """The plan with what goes from the module's parameters, by the graph that it was made for. Raises PlanError."""
    if plan.source_cuts or not plan.remove or "source_error" in plan.provenance:
        return plan
    if graph is not None:
        return plan.complete(graph)
    loaded = next(
        (each for each in _LOADED.get(module, ()) if each.sha256 == plan.model), None
    )
    if loaded is None and inputs is not None:
        loaded = load(module, inputs=inputs)
    if loaded is None:
        raise PlanError(
            "the plan does not say what goes from the module's parameters: give graph=, the graph that it was made "
            "for, or inputs= to load the module again"
        )
    return plan.complete(loaded)


def load_pruned(
    factory: Callable[[], Any], plan: Plan, state_dict: Mapping[str, torch.Tensor]
) -> torch.nn.Module:
    """A pruned module from what was saved of it: its plan and its `state_dict`; nothing is unpickled but tensors.

    Args:
        factory: makes the original module, or a pair of it and example inputs; its weights do not matter.
        plan: the plan that `apply` was given.
        state_dict: of the pruned module.

    Raises:
        PlanError, ModelError: as `apply`; also where the tensors do not fit.
    """
    from prunegraph.errors import ModelError

    created = factory()
    pruned = apply(created[0] if isinstance(created, tuple) else created, plan)
    try:
        pruned.load_state_dict(state_dict)
    except RuntimeError as error:
        raise ModelError(
            f"the state_dict is not that of the module pruned by this plan: {error}"
        ) from error
    return pruned


def _need_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("a PyTorch model", "torch", "torch")
