"""What a front end is, and which one reads a source."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx

from prunegraph import plugins
from prunegraph.errors import ModelError, PluginError
from prunegraph.frontends import factory, hub
from prunegraph.graph import onnx_io
from prunegraph.graph.model import Graph
from prunegraph.registry import Registry

#: The suffix of the front end that reads files of unknown suffixes.
ONNX = ".onnx"

#: Ends of names of files that hold weights, or pickled modules, and no graph.
CHECKPOINTS = frozenset({".pt", ".pth", ".ckpt", ".safetensors"})

#: Keyword-only parameters are options of a front end.
Frontend = Callable[..., Graph | onnx.ModelProto]
FRONTENDS: Registry[Frontend] = Registry(
    "front end", "prunegraph.frontends", parameters=("source",)
)

#: Names of the front ends that read programs: reading a file may run what is in it.
_PROGRAMS: set[str] = set()


def frontend(name: str, *, runs_code: bool = False) -> Callable[[Frontend], Frontend]:
    """Decorator that registers a front end, a function `(source) -> Graph or onnx.ModelProto`.

    `name` is what it reads: the end of a file's name (".netlist.json"; the longest match reads a
    file), or the qualified name of a class (one of a source's own or inherited classes,
    "torch.nn.modules.module.Module"). Keyword-only parameters with defaults are its options: what
    `read` is given besides the source. It raises ModelError for a source it cannot read. With `runs_code` reading a
    file may run what is in it (pickles, layers of others): recipes read none without `--trust`.

    Raises PluginError for a name that is taken, or a function with other parameters.
    """
    register = FRONTENDS.register(name)
    if runs_code:
        _PROGRAMS.add(name)
    return register


def runs_code(source: str) -> bool:
    """Tell whether reading a path, or what else names a model, may run code that is not this package's."""
    return factory.is_factory(source) or _suffix(_inside(source)) in _PROGRAMS


def read(source: object, **options: Any) -> Graph:
    """A Graph from a path, an `onnx.ModelProto`, or an object of a class that a front end reads.

    `options` are those of the front end; None is as good as left out.

    Raises:
        ModelError: it cannot be read, no front end reads it, or the one that does has no such option.
        PluginError: the front end of a plug-in is broken.
    """
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(source, Graph):
        return source
    if isinstance(source, onnx.ModelProto):
        _check_options("an ONNX model", (), options)
        return onnx_io.from_model(source)
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        if hub.is_address(path):
            path = hub.fetch(path)
        path = _inside(path)
        if factory.is_factory(path):
            output, options["inputs"] = factory.call(path, options.get("inputs"))
            return read(output, **options)
        return _read_file(path, options)
    classes = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(source).__mro__]
    for name in classes:
        if name in FRONTENDS:
            return _run(name, source, classes[0], options)
    raise ModelError(
        f"cannot load an object of class {classes[0]}: no front end reads it; there are {_known()}"
    )


def takes(source: str, option: str) -> bool:
    """Tell whether the front end that reads a file, or `package.module:factory`, has an option."""
    if factory.is_factory(source):
        return option == "inputs"
    name = _suffix(_inside(source)) or ONNX
    return option in [each.name for each in _options(name)]


def _inside(path: str) -> str:
    """A folder's file that a front end reads by its whole name (`saved_model.pb`); all else as it is."""
    if not Path(path).is_dir():
        return path
    names = (name for name in FRONTENDS.names() if (Path(path) / name).is_file())
    return next((str(Path(path) / name) for name in names), path)


def _suffix(path: str) -> str:
    """The front end for a file's name, or "" where there is none."""
    return max(
        (name for name in FRONTENDS.names() if path.endswith(name)), key=len, default=""
    )


def _options(name: str) -> list[inspect.Parameter]:
    """Options of a front end."""
    parameters = inspect.signature(FRONTENDS.entry(name).thing).parameters.values()
    return [each for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]


def _read_file(path: str, options: Mapping[str, Any]) -> Graph:
    suffix = _suffix(path)
    if suffix and not Path(path).exists():
        raise ModelError(f"{path}: no such file")
    try:
        return _run(suffix or ONNX, path, path, options)
    except ModelError as error:
        if suffix or not Path(path).is_file():
            raise
        if Path(path).suffix in CHECKPOINTS:
            raise ModelError(
                f"{path}: no graph is read from a checkpoint; give file.py:function, a function that makes the "
                "module and loads it"
            ) from error
        raise ModelError(
            f"{error}; it was read as ONNX, because no front end is for its name: {_known()}"
        ) from error


def _known() -> str:
    return ", ".join(FRONTENDS.names())


def _check_options(who: str, known: Iterable[str], options: Mapping[str, Any]) -> None:
    for option in options:
        if option not in known:
            raise ModelError(f"{who} is read without {option!r}; leave it out")


def _run(name: str, source: object, label: str, options: Mapping[str, Any]) -> Graph:
    """A Graph by the front end of that name. `label` is what to call the source."""
    entry = FRONTENDS.entry(name)
    if name in _PROGRAMS:
        plugins.may_run(label)
    known = [each.name for each in _options(name)]
    _check_options(f"{label} ({entry.kind} {name!r})", known, options)
    with plugins.attributed(f"{entry}, reading {label},"):
        created = entry.thing(source, **options)
    if isinstance(created, Graph):
        return created
    if not isinstance(created, onnx.ModelProto):
        raise PluginError(
            f"{entry} returned {type(created).__name__} for {label}, not a Graph or an onnx.ModelProto"
        )
    try:
        return onnx_io.from_model(created, path=Path(label), source=label)
    except ModelError as error:
        raise PluginError(f"{entry} made an invalid model: {error}") from error
