"""What a result may be called: the one place that says which names stand for an ONNX model, and which for others.

A name says what a file is: a front end reads by it. A result is written as ONNX, so that a name of another format is
refused before the work, unless the command can write that format (`symbol`).
"""

from __future__ import annotations

import os
from pathlib import Path

from prunegraph.errors import ModelError
from prunegraph.frontends.base import FRONTENDS, ONNX
from prunegraph.frontends.mxnet.bind import SUFFIX as SYMBOL
from prunegraph.frontends.mxnet.write import store
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import write_whole

#: Ends of names of files that are no models, or models of others.
FOREIGN = (
    ".bin",
    ".csv",
    ".data",
    ".engine",
    ".h5",
    ".htm",
    ".html",
    ".joblib",
    ".json",
    ".keras",
    ".mlmodel",
    ".npy",
    ".npz",
    ".ort",
    ".params",
    ".part",
    ".pickle",
    ".pkl",
    ".plan",
    ".pt",
    ".pt2",
    ".pth",
    ".py",
    ".safetensors",
    ".tflite",
    ".toml",
    ".txt",
    ".xml",
    ".yaml",
    ".yml",
    ".zip",
)


def check_name(
    out: str | os.PathLike[str], source: object = None, *, symbol: bool = False
) -> None:
    """Raise ModelError where a name stands for a format that is not written.

    Args:
        out: what the result is to be called.
        source: where it comes from, if that is a file.
        symbol: whether a model from MXNet can be written as NAME-symbol.json with its parameters.
    """
    name = os.fspath(out)
    end = _foreign_end(name)
    if not end:
        return
    wanted = f"{name.removesuffix(end)}{ONNX}"
    if end == SYMBOL:
        if not symbol:
            raise ModelError(
                f"{name}: this result is written as ONNX, not as an MXNet symbol: call it {wanted}"
            )
        if not (
            isinstance(source, str | os.PathLike) and os.fspath(source).endswith(SYMBOL)
        ):
            raise ModelError(
                f"{name}: only a model from MXNet (NAME{SYMBOL}) is written as a symbol: call it {wanted}"
            )
        return
    raise ModelError(
        f"{name}: a result is written as ONNX, and {end!r} is the end of other files' names: {wanted}?"
    )


def is_symbol(out: str | os.PathLike[str]) -> bool:
    """Tell whether a name is that of an MXNet symbol."""
    return os.fspath(out).endswith(SYMBOL)


def beside(symbol: str) -> str:
    """The parameter file that is written with a symbol."""
    return f"{symbol.removesuffix(SYMBOL)}-0000.params"


def _foreign_end(name: str) -> str:
    """The end of a name that stands for another format than ONNX, or ""."""
    lower = name.lower()
    ends = [end for end in (*FRONTENDS.names(), *FOREIGN) if lower.endswith(end.lower())]
    longest = max(ends, key=len, default="")
    return "" if longest == ONNX else name[len(name) - len(longest) :]


def write_trained(graph: Graph, source: str, out: str, **options: object) -> None:
    """Write a network from MXNet with other weights: its symbol as it is, and new parameters beside it.

    Args:
        graph: the network, with the nodes it was read with.
        source: the symbol file it was read from.
        out: NAME-symbol.json; NAME-0000.params goes beside it.
        options: with which it was read: `params_file`, `input_shapes`.

    Raises:
        ModelError: the graph is another network, a changed weight is no parameter, or a file cannot be written.
    """
    store(source, graph, beside(out), **options)  # type: ignore[arg-type]
    write_whole(Path(out), [Path(source).read_bytes()])
