"""ONNX files, with sizes that they leave open or with sizes that are said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from prunegraph.errors import ModelError
from prunegraph.frontends.base import ONNX, frontend
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import load as read
from prunegraph.graph.sizes import Dimension, size_of, symbols

Shapes = Mapping[str, Sequence[int]]


@frontend(ONNX)
def load(source: str, *, input_shapes: Shapes | None = None) -> Graph:
    """A Graph from the path of an ONNX file.

    Args:
        source: the file.
        input_shapes: shapes of inputs by name, where axes that the file leaves open shall have a fixed size.

    Raises:
        ModelError: it cannot be read, has no such input, or declares another shape of it.
    """
    graph = read(source)
    return graph if not input_shapes else with_fixed_sizes(graph, input_shapes)


def with_fixed_sizes(graph: Graph, shapes: Shapes) -> Graph:
    """The graph with axes of inputs declared as fixed; `graph` is not touched.

    A symbol has its size wherever it stands: what the file says of other inputs, of outputs and of values between
    follows, also where it is an expression of symbols ("past + 1").

    Args:
        graph: the graph.
        shapes: whole shapes by the input's name.

    Raises:
        ModelError: no such input, or what the file declares of it is another shape.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    entries = {each.name: each for each in model.graph.input if each.name in graph.inputs}
    known: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in entries:
            raise ModelError(
                f"{graph.source}: has no input {name!r}; it has {', '.join(graph.inputs)}"
            )
        _fix(graph, entries[name], shape, known)
    for entry in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in entry.type.tensor_type.shape.dim:
            _follow(dim, known)
    return Graph(model, folder=graph.folder, source=graph.source, keeps=graph)


def _fix(
    graph: Graph, entry: onnx.ValueInfoProto, shape: Sequence[int], known: dict[str, int]
) -> None:
    """Declare an input's shape in place, and note the sizes that its symbols have by it."""
    dims = entry.type.tensor_type.shape.dim
    declared = [dim.dim_value or dim.dim_param or "?" for dim in dims]
    fits = len(dims) == len(shape) and all(
        size > 0 and dim.dim_value in (0, size)
        for dim, size in zip(dims, shape, strict=True)
    )
    for dim, size in zip(dims, shape, strict=True) if fits else ():
        name = dim.dim_param
        if symbols(name) == {name}:
            known.setdefault(name, size)
        if symbols(name) and symbols(name) <= known.keys():
            fits = fits and size_of(name, known) == size
        dim.dim_value = size
    if not fits:
        given, own = (", ".join(map(str, each)) for each in (shape, declared))
        raise ModelError(
            f"{graph.source}: input {entry.name!r} cannot be [{given}]: the model declares [{own}]"
        )


def _follow(dim: Dimension, known: Mapping[str, int]) -> None:
    """Give an axis the size that follows from those of symbols, if all of its symbols have one."""
    names = symbols(dim.dim_param) if dim.dim_value <= 0 else frozenset()
    if names and names <= known.keys():
        size = size_of(dim.dim_param, known)
        if size is not None:
            dim.dim_value = size
