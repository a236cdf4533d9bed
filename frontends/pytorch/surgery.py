"""Modules without the channels of a plan."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from prunegraph.errors import ModelError, PlanError
from prunegraph.frontends.pytorch.attention import PrunedAttention, heads_left

if TYPE_CHECKING:
    from prunegraph.selection.plan import Plan

#: For every tensor that is cut: axis -> indices that stay.
Kept = dict[int, np.ndarray]

#: What modules call the number of heads, and the width of one.
HEADS = ("num_heads", "n_heads", "heads", "n_head", "num_attention_heads", "nhead")
WIDTHS = ("head_dim", "dim_head", "d_head", "head_size", "attention_head_size")

#: What they call what makes queries, keys and values.
PROJECTION = re.compile(r"(^|_)w?(q|k|v|kv|qk|qkv|query|key|value|in_proj|c_attn)(_|$)")

#: What they call the width of all heads together.
INNER = ("inner_dim", "all_head_size", "attn_dim", "inner_size")


def cut(module: nn.Module, plan: Plan) -> nn.Module:
    """A copy of a module without the plan's channels; see `prunegraph.frontends.pytorch.apply`."""
    if plan.branches:
        raise PlanError(
            f"the plan drops branch {plan.branches[0]!r}; a module's forward is code, which still runs it: use the "
            "ONNX model, or --depth never"
        )
    if plan.remove and not plan.source_cuts:
        reason = plan.provenance.get(
            "source_error", "it was not made for a graph that was loaded from a module"
        )
        raise PlanError(
            f"the plan does not say what goes from the module's parameters: {reason}"
        )
    try:
        pruned = copy.deepcopy(module)
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__}: cannot be copied: {type(error).__name__}: {error}"
        ) from error
    owners = _owners(pruned, plan)
    before = {path: pruned.get_submodule(path) for path in owners}
    shapes = {
        path: {name: tuple(_tensor(owner, name).shape) for name in owners[path]}
        for path, owner in before.items()
    }
    kept = {
        path: {name: _kept(each, shapes[path][name]) for name, each in owners[path].items()}
        for path in owners
    }
    replaced = _replacements(pruned, kept)
    _slice(pruned, kept)
    for path, owner in before.items():
        _adjust(owner, path, kept[path], shapes[path])
    _adjust_heads(pruned, kept, shapes)
    for path, output in replaced.items():
        pruned = _put(pruned, path, output(pruned.get_submodule(path)))
    return pruned


def _owners(
    module: nn.Module, plan: Plan
) -> dict[str, dict[str, dict[int, Sequence[int]]]]:
    """Say what goes, by module, name of the tensor, and axis. Raises PlanError."""
    result: dict[str, dict[str, dict[int, Sequence[int]]]] = {}
    for each in plan.source_cuts:
        path, _, name = each.weight.rpartition(".")
        try:
            shape = _tensor(module.get_submodule(path), name).shape
        except AttributeError:
            raise PlanError(
                f"the plan cuts {each.weight!r}, which {type(module).__name__} does not have"
            ) from None
        if each.axis >= len(shape) or max(each.removed) >= shape[each.axis]:
            raise PlanError(
                f"the plan cuts index {max(each.removed)} of axis {each.axis} of {each.weight!r}, "
                f"which has the shape {tuple(shape)}"
            )
        result.setdefault(path, {}).setdefault(name, {})[each.axis] = each.removed
    return result


def _tensor(owner: nn.Module, name: str) -> torch.Tensor:
    result = getattr(owner, name)
    if not isinstance(result, torch.Tensor):
        raise AttributeError(name)
    return result


def _kept(removed: Mapping[int, Sequence[int]], shape: tuple[int, ...]) -> Kept:
    return {
        axis: np.setdiff1d(np.arange(shape[axis]), list(indices))
        for axis, indices in removed.items()
    }


def _slice(module: nn.Module, kept: Mapping[str, Mapping[str, Kept]]) -> None:
    """Cut tensors; what several modules share stays shared."""
    created: dict[int, torch.Tensor] = {}
    for path, tensors in kept.items():
        owner = module.get_submodule(path)
        for name, axes in tensors.items():
            old = _tensor(owner, name)
            new = old.detach()
            for axis, indices in axes.items():
                new = new.index_select(axis, torch.from_numpy(indices).to(new.device))
            if isinstance(old, nn.Parameter):
                created[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad)
            else:
                created[id(old)] = new
    for owner in module.modules():
        for name, value in [
            *owner.named_parameters(recurse=False),
            *owner.named_buffers(recurse=False),
        ]:
            if id(value) in created:
                setattr(owner, name, created[id(value)])


# -- what modules know of their sizes -------------------------------------------------------


def _conv(
    module: Any, kept: Mapping[str, Kept], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    weight, axes = module.weight, kept.get("weight", {})
    module.groups = (
        _blocks_left(shapes["weight"][0], module.groups, axes.get(0))
        if "weight" in shapes
        else module.groups
    )
    first, second = weight.shape[0], weight.shape[1] * module.groups
    is_transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    module.in_channels, module.out_channels = (
        (first, second) if is_transposed else (second, first)
    )


def _blocks_left(size: int, blocks: int, kept: np.ndarray | None) -> int:
    """How many equal blocks of an axis have anything left. Raises ModelError where they are no longer equal."""
    if kept is None or blocks == 1:
        return blocks
    counts = np.bincount(kept // (size // blocks), minlength=blocks)
    remaining = counts[counts > 0]
    if (remaining != remaining[0]).any():
        raise ModelError("its groups would have different sizes")
    return len(remaining)


def _linear(module: nn.Linear, kept: Any, shapes: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


def _batch_norm(module: Any, kept: Mapping[str, Kept], shapes: Any) -> None:
    module.num_features = len(next(iter(next(iter(kept.values())).values())))


def _layer_norm(module: nn.LayerNorm, kept: Any, shapes: Any) -> None:
    module.normalized_shape = tuple(module.weight.shape)


def _group_norm(
    module: nn.GroupNorm, kept: Mapping[str, Kept], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    module.num_groups = _blocks_left(
        shapes["weight"][0], module.num_groups, kept["weight"].get(0)
    )
    module.num_channels = module.weight.shape[0]


def _embedding(module: nn.Embedding, kept: Any, shapes: Any) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _prelu(module: nn.PReLU, kept: Any, shapes: Any) -> None:
    module.num_parameters = module.weight.shape[0]


def _recurrent(module: nn.RNNBase, kept: Any, shapes: Any) -> None:
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    widths = {
        parameter.shape[0] // gates
        for name, parameter in module.named_parameters()
        if "weight_hh" in name
    }
    if len(widths) > 1 or module.proj_size:
        raise ModelError(
            "its layers and directions would have different hidden sizes, or it has projections"
        )
    module.hidden_size, module.input_size = widths.pop(), module.weight_ih_l0.shape[1]


def _kept_as_it_is(module: nn.Module, kept: Any, shapes: Any) -> None:
    """Modules with their own tensors: only their forward code can tell."""


_ADJUST: list[tuple[tuple[type, ...], Callable[..., None]]] = [
    ((nn.modules.conv._ConvNd,), _conv),
    ((nn.Linear,), _linear),
    ((nn.modules.batchnorm._NormBase,), _batch_norm),
    ((nn.LayerNorm, getattr(nn, "RMSNorm", nn.LayerNorm)), _layer_norm),
    ((nn.GroupNorm,), _group_norm),
    ((nn.Embedding,), _embedding),
    ((nn.PReLU,), _prelu),
    ((nn.RNNBase,), _recurrent),
]


def _adjust(
    module: nn.Module,
    path: str,
    kept: Mapping[str, Kept],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    adjust = next(
        (function for classes, function in _ADJUST if isinstance(module, classes)),
        _kept_as_it_is,
    )
    try:
        adjust(module, kept, shapes)
    except ModelError as error:
        raise ModelError(
            f"module {path!r} ({type(module).__name__}) cannot hold what the plan leaves: {error}; "
            "train the pruned graph instead (prunegraph.training.GraphModule)"
        ) from error


# -- attention -------------------------------------------------------------------------------


def _replacements(
    module: nn.Module, kept: Mapping[str, Mapping[str, Kept]]
) -> dict[str, Callable[[Any], nn.Module]]:
    """For every attention that is cut, how to make the module that holds what is left, from the cut one."""
    result: dict[str, Callable[[Any], nn.Module]] = {}
    for path, each in module.named_modules():
        if isinstance(each, nn.MultiheadAttention):
            mine = dict(kept.get(path, {}))
            mine |= {
                f"out_proj.{name}": axes
                for name, axes in kept.get(f"{path}.out_proj", {}).items()
            }
            if mine:
                result[path] = partial(PrunedAttention, heads=heads_left(each, mine, path))
    return result


def _put(module: nn.Module, path: str, new: nn.Module) -> nn.Module:
    if not path:
        return new
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)
    return module


def _adjust_heads(
    module: nn.Module,
    kept: Mapping[str, Mapping[str, Kept]],
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]],
) -> None:
    """Correct numbers of heads and their widths in modules that hold their own projections.

    A projection is a linear layer right below the module whose outputs are heads of queries, keys
    or values, or of all three after one another. What cannot be read that way stays, and shows
    when the module runs.
    """
    for path, owner in module.named_modules():
        heads = next(
            (name for name in HEADS if isinstance(getattr(owner, name, None), int)), None
        )
        if heads is None or isinstance(owner, nn.MultiheadAttention):
            continue
        for name, child in owner.named_children():
            inner = f"{path}.{name}".lstrip(".")
            axes = kept.get(inner, {}).get("weight", {})
            if 0 in axes and isinstance(child, nn.Linear) and PROJECTION.search(name):
                size = shapes[inner]["weight"][0]
                if _adjust_head(owner, heads, _parts(name), size, axes[0]):
                    break


def _parts(name: str) -> int:
    """How many of queries, keys and values a projection makes, by its usual names."""
    if any(word in name for word in ("qkv", "in_proj", "c_attn")):
        return 3
    return 2 if "kv" in name else 1


def _adjust_head(
    owner: nn.Module, heads: str, parts: int, size: int, kept: np.ndarray
) -> bool:
    count = getattr(owner, heads)
    widths = [name for name in WIDTHS if isinstance(getattr(owner, name, None), int)]
    if size % (parts * count) or any(
        getattr(owner, name) * parts * count != size for name in widths
    ):
        return False
    stays = np.zeros(size, bool)
    stays[kept] = True
    per_head = stays.reshape(parts, count, -1).sum(axis=2)
    alive = per_head[0] > 0
    wide = int(per_head[0].max())
    if (per_head != per_head[0]).any() or (per_head[0][alive] != wide).any():
        return False
    inner = size // parts
    for name in widths:
        setattr(owner, name, wide)
    for name in INNER:
        if getattr(owner, name, None) == inner:
            setattr(owner, name, int(alive.sum()) * wide)
    setattr(owner, heads, int(alive.sum()))
    return True
