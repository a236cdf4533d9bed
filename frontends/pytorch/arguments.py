"""Example inputs, however they are given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from prunegraph.errors import ModelError


def arguments(module: torch.nn.Module, inputs: Any) -> tuple[Any, ...]:
    """Positional arguments of `forward` from a tensor or array, a sequence of arguments, or a mapping by name.

    Raises:
        ModelError: there are none, or they do not fit the parameters of `forward`.
    """
    label = type(module).__name__
    if inputs is None:
        raise ModelError(
            f"{label}: an nn.Module needs example inputs: give inputs=(tensor, ...); on the command line --inputs "
            "FILE.npz, or let its function return a pair (module, inputs)"
        )
    if isinstance(inputs, torch.Tensor | np.ndarray):
        inputs = (inputs,)
    signature = inspect.signature(module.forward)
    try:
        bound = (
            signature.bind(**inputs)
            if isinstance(inputs, Mapping)
            else signature.bind(*inputs)
        )
    except TypeError as error:
        raise ModelError(
            f"{label}: the inputs do not fit its forward{signature}: {error}"
        ) from error
    return tuple(
        pytree.tree_map(_tensor, each) for each in (*bound.args, *bound.kwargs.values())
    )


def names(module: torch.nn.Module, args: tuple[Any, ...]) -> list[str]:
    """A name for every tensor among the arguments: the parameter's, numbered where it holds several."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    result: list[str] = []
    for position, value in enumerate(args):
        parameter = parameters[min(position, len(parameters) - 1)]
        leaves = [
            leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)
        ]
        several = len(leaves) > 1 or parameter.kind is inspect.Parameter.VAR_POSITIONAL
        result += [
            f"{parameter.name}_{len(result)}" if several else parameter.name for _ in leaves
        ]
    return result


def batch(args: tuple[Any, ...]) -> int | None:
    """The size of the first axis, if all tensors have the same; else None."""
    sizes = {
        leaf.shape[0] if leaf.ndim else None
        for leaf in pytree.tree_leaves(args)
        if isinstance(leaf, torch.Tensor)
    }
    return sizes.pop() if len(sizes) == 1 else None


def doubled(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments with every sample twice: an axis of size 1 would be taken for a constant."""
    return pytree.tree_map(
        lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) else leaf,
        args,
    )


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
