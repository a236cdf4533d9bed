"""The models of a proof as files, and their values in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from prunegraph.errors import ModelError
from prunegraph.graph.external import write_graph
from prunegraph.graph.model import Graph, Node
from prunegraph.proof.feeds import PairedInputs
from prunegraph.runtime.data import Batch
from prunegraph.runtime.session import run, session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = np.ndarray

#: How ONNX Runtime runs a graph: as the file has it, with what it simplifies, and as users do.
LEVELS = ("off", "basic", "default")


class Models:
    """The masked original and the pruned graph in a folder, run at one level of optimization.

    Args:
        graph: the original.
        pruned: the pruned graph; written at once, the masked original is by others.
        folder: where files are written.
        feeds: what the pruned graph is fed, from what the original is.
    """

    def __init__(self, graph: Graph, pruned: Graph, folder: Path, feeds: PairedInputs):
        self.graph, self.feeds = graph, feeds
        self.masked, self.pruned = folder / "masked.onnx", folder / "pruned.onnx"
        self.original = folder / "original.onnx"
        self.level = "off"
        write_graph(pruned, self.pruned)

    def open(self, path: Path, level: str | None = None) -> InferenceSession:
        """A session of a model, at a level or at that of all."""
        level = level or self.level
        name = f"{self.graph.source} ({path.stem})"
        return session(path, name=name, fast=level == "default", optimized=level != "off")

    def values(
        self,
        path: Path,
        inputs: Sequence[Batch],
        names: Sequence[str],
        level: str | None = None,
    ) -> list[list[Array]]:
        """Values of a model by name, also inner ones, for every input of the original."""
        if path.name.endswith(self.pruned.name):
            inputs = [self.feeds.pruned(each) for each in inputs]
        extra = [name for name in names if name not in self.graph.outputs]
        if extra:
            model = onnx.load(path, load_external_data=False)
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
            path = path.with_name(f"inner_{path.name}")
            path.write_bytes(model.SerializeToString())
        opened = self.open(path, level)
        return [run(opened, each, list(names)) for each in inputs]

    def runs(self, path: Path, inputs: Sequence[Batch]) -> bool:
        """Tell whether a model runs in a default session."""
        try:
            self.values(path, inputs, self.graph.outputs, "default")
        except ModelError:
            return False
        return True


def own(value: str) -> str:
    """The name of what a node makes by itself of a value that is given."""
    return f"{value}/own"


def without_nodes(
    path: Path, nodes: Sequence[Node], values: Batch, watched: Collection[str] = ()
) -> Path:
    """The model of a file with nodes taken out; their outputs are inputs of it now.

    Nodes that make a `watched` value stay, and make it under another name (`own`), which nothing reads.
    """
    model = onnx.load(path, load_external_data=False)
    gone = {output for node in nodes for output in node.outputs}
    for proto in [proto for proto in model.graph.node if gone.intersection(proto.output)]:
        if proto.output[0] in watched:
            proto.output[0] = own(proto.output[0])
        else:
            model.graph.node.remove(proto)
    for name in sorted(gone - {""}):
        kind = onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype)
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(name, kind, [None] * values[name].ndim)
        )
    path = path.with_name(f"given_{path.name}")
    path.write_bytes(model.SerializeToString())
    return path
