"""Which run a checkpoint belongs to: one digest of all that decides how a run ends.

Model, method and its options, the recipe, the loss (with the teacher's weights, and the code of a loss of the user's),
batches and the data in them. Nothing that only says where or how fast a run goes: device, progress, folders.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
from collections.abc import Mapping, Set
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from prunegraph.graph.external import without_weights
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data


def digest_of(*things: object) -> str:
    """A digest of values of any type; the same in another process for the same things."""
    digest = _Digest()
    for thing in things:
        digest.add(thing)
    return digest.hexdigest()


def structure(graph: Graph) -> bytes:
    """A graph's nodes, inputs and outputs, without its weights."""
    return without_weights(graph.model).SerializeToString(deterministic=True)


class _Digest:
    """Walks values; what was met before is named by its number, so that circles end."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._met: dict[int, int] = {}
        #: What was met stays alive, so that no number is given twice.
        self._kept: list[object] = []

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def add(self, thing: object) -> None:
        """Take in a value of any type."""
        if thing is None or isinstance(
            thing, (bool, int, float, complex, str, bytes, PurePath, np.generic, np.dtype)
        ):
            self._text(f"{type(thing).__name__} {thing!r}")
            return
        if id(thing) in self._met:
            self._text(f"met {self._met[id(thing)]}")
            return
        self._met[id(thing)] = len(self._met)
        self._kept.append(thing)
        self._text(f"{type(thing).__module__}.{type(thing).__qualname__}")
        self._add_parts(thing)

    def _text(self, text: str) -> None:
        data = text.encode()
        self._hash.update(f"{len(data)} ".encode() + data)

    def _add_parts(self, thing: Any) -> None:
        if hasattr(thing, "identity") and not isinstance(thing, type):
            self.add(thing.identity() if callable(thing.identity) else thing.identity)
        elif isinstance(thing, np.ndarray):
            self._array(thing)
        elif isinstance(thing, torch.Tensor):
            self._tensor(thing)
        elif isinstance(thing, Data):
            self._text(thing.digest)
        elif isinstance(thing, Graph):
            self.add(structure(thing))
            self.add({name: weight.read() for name, weight in thing.weights.items()})
        elif isinstance(thing, torch.nn.Module):
            self._module(thing)
        elif isinstance(thing, Mapping):
            for key in sorted(thing, key=repr):
                self.add(key)
                self.add(thing[key])
        elif isinstance(thing, Set):
            self.add(sorted(map(repr, thing)))
        elif isinstance(thing, (list, tuple)):
            self._text(str(len(thing)))
            for each in thing:
                self.add(each)
        else:
            self._object(thing)

    def _array(self, array: np.ndarray) -> None:
        self._text(f"{array.dtype} {array.shape}")
        if array.dtype.hasobject:
            self.add(array.tolist())
        else:
            self._hash.update(np.ascontiguousarray(array).tobytes())

    def _tensor(self, tensor: torch.Tensor) -> None:
        self._text(f"{tensor.dtype} {tuple(tensor.shape)}")
        flat = tensor.detach().cpu().contiguous().view(-1)
        self._hash.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")

    def _module(self, module: torch.nn.Module) -> None:
        graph = getattr(module, "graph", None)
        self.add(structure(graph) if isinstance(graph, Graph) else repr(module))
        self.add(dict(module.state_dict()))

    def _object(self, thing: Any) -> None:
        if isinstance(thing, functools.partial):
            self.add([thing.func, thing.args, thing.keywords])
        elif isinstance(thing, types.MethodType):
            self.add([thing.__func__, thing.__self__])
        elif isinstance(thing, types.FunctionType):
            self._function(thing)
        elif isinstance(thing, types.CodeType):
            self.add([thing.co_code, thing.co_consts, thing.co_names])
        elif isinstance(thing, type):
            self._text(f"{thing.__module__}.{thing.__qualname__}")
        elif dataclasses.is_dataclass(thing):
            self.add(
                {each.name: getattr(thing, each.name) for each in dataclasses.fields(thing)}
            )
        elif not isinstance(thing, types.ModuleType):
            # Of an object of a class that nobody knows, its attributes count; generators and files have none.
            self.add(dict(vars(thing)) if hasattr(thing, "__dict__") else None)

    def _function(self, function: types.FunctionType) -> None:
        """A function by its code and what it holds on to: options, the teacher of a loss."""
        self._text(f"{function.__module__}.{function.__qualname__}")
        self.add([function.__code__, function.__defaults__, function.__kwdefaults__])
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:  # a name that has no value yet
                self._text("empty")
