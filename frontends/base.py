"""What a front end is, and which one reads a source."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from prunegraph import plugins
from prunegraph.errors import ModelError, PluginError
from prunegraph.graph import onnx_io
from prunegraph.graph.model import Graph
from prunegraph.registry import Registry

#: The suffix of the front end that reads files of unknown suffixes.
ONNX = ".onnx"

Frontend = Callable[[Any], Graph | onnx.ModelProto]
FRONTENDS: Registry[Frontend] = Registry("front end", "prunegraph.frontends", parameters=("source",))


def frontend(name: str) -> Callable[[Frontend], Frontend]:
    """Decorator that registers a front end, a function `(source) -> Graph or onnx.ModelProto`.

    `name` is what it reads: the end of a file's name (".netlist.json"; the longest match reads a
    file), or the qualified name of a class (one of a source's own or inherited classes,
    "torch.nn.modules.module.Module"). It raises ModelError for a source it cannot read.

    Raises PluginError for a name that is taken, or a function with other parameters.
    """
    return FRONTENDS.register(name)


def read(source: object) -> Graph:
    """A Graph from a path, an `onnx.ModelProto`, or an object of a class that a front end reads.

    Raises:
        ModelError: it cannot be read, or no front end reads it.
        PluginError: the front end of a plug-in is broken.
    """
    if isinstance(source, onnx.ModelProto):
        return onnx_io.from_model(source)
    if isinstance(source, str | os.PathLike):
        return _read_file(os.fsdecode(source))
    classes = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(source).__mro__]
    for name in classes:
        if name in FRONTENDS:
            return _run(name, source, classes[0])
    raise ModelError(f"cannot load an object of class {classes[0]}: no front end reads it; there are {_known()}")


def _read_file(path: str) -> Graph:
    suffix = max((name for name in FRONTENDS.names() if path.endswith(name)), key=len, default="")
    if suffix and not Path(path).exists():
        raise ModelError(f"{path}: no such file")
    try:
        return _run(suffix or ONNX, path, path)
    except ModelError as error:
        if suffix or not Path(path).is_file():
            raise
        raise ModelError(f"{error}; it was read as ONNX, because no front end is for its name: {_known()}") from error


def _known() -> str:
    return ", ".join(FRONTENDS.names())


def _run(name: str, source: object, label: str) -> Graph:
    """A Graph by the front end of that name. `label` is what to call the source."""
    entry = FRONTENDS.entry(name)
    with plugins.blamed(f"{entry}, reading {label},"):
        made = entry.thing(source)
    if isinstance(made, Graph):
        return made
    if not isinstance(made, onnx.ModelProto):
        raise PluginError(f"{entry} returned {type(made).__name__} for {label}, not a Graph or an onnx.ModelProto")
    try:
        return onnx_io.from_model(made, folder=Path(label).parent, source=label)
    except ModelError as error:
        raise PluginError(f"{entry} made an invalid model: {error}") from error
