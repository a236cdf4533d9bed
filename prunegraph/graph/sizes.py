"""Concrete sizes for the symbolic axes of a graph's inputs.

A symbol (`dim_param`) is one size wherever it stands: on any axis of any input. Exporters also write
sums and products of symbols ("past + 1"); they follow from the sizes of their symbols. An axis
without a name is a size of its own.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import onnx

from prunegraph.graph.model import Graph

Shape = tuple[int, ...]
Dimension = onnx.TensorShapeProto.Dimension

#: Sizes tried for symbolic axes other than the batch, until shapes fit.
SIZES = (64, 224, 32, 128, 16, 1)

#: What exporters write for an axis that they know nothing of.
NAMELESS = frozenset({"", "?", "-1", "None"})

#: Longer names of an axis are no expressions; nor are those that give larger sizes.
MAX_TEXT = 200
MAX_RESULT = 2**16

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def symbolic_axes(graph: Graph) -> dict[str, list[int]]:
    """Axes of graph inputs that have no fixed size."""
    return {
        name: [axis for axis, dim in enumerate(dims) if dim.dim_value <= 0]
        for name, dims in _declared(graph).items()
    }


def candidate_sizes(graph: Graph, batch: int = 1) -> Iterator[dict[str, Shape]]:
    """Concrete shapes for the graph's inputs, most likely first."""
    seen = []
    for size in SIZES:
        shapes = input_shapes(graph, batch, size)
        if shapes not in seen:
            seen.append(shapes)
            yield shapes


def input_shapes(graph: Graph, batch: int, size: int) -> dict[str, Shape]:
    """Shapes of the graph's inputs with one size for the batch, and one for every other symbol."""
    inputs = _declared(graph)
    first = _batch_symbols(inputs.values())

    def concrete(dim: Dimension, axis: int) -> int:
        if dim.dim_value > 0:
            return int(dim.dim_value)
        names = symbols(dim.dim_param)
        if not names:
            return batch if axis == 0 else size
        value = size_of(
            dim.dim_param, {name: batch if name in first else size for name in names}
        )
        return size if value is None else value

    return {
        name: tuple(concrete(dim, axis) for axis, dim in enumerate(dims))
        for name, dims in inputs.items()
    }


def other_shapes(
    graph: Graph, shapes: Mapping[str, Shape], batch: int, stretch: float = 1
) -> dict[str, Shape]:
    """Input shapes with another batch than `shapes`, and with all other symbols `stretch` times as large."""
    size = next(
        (size for size in SIZES if input_shapes(graph, 1, size) == shapes), SIZES[0]
    )
    return input_shapes(graph, batch, max(int(size * stretch), 1))


def _declared(graph: Graph) -> dict[str, Sequence[Dimension]]:
    """The axes of every input that is no weight, as the file declares them."""
    return {
        entry.name: entry.type.tensor_type.shape.dim
        for entry in graph.model.graph.input
        if entry.name in graph.inputs
    }


def _batch_symbols(inputs: Iterable[Sequence[Dimension]]) -> frozenset[str]:
    """Symbols that count samples: they stand first in an input, and in none behind another symbol."""
    first: set[str] = set()
    behind: set[str] = set()
    for dims in inputs:
        names = [
            symbols(dim.dim_param) if dim.dim_value <= 0 else frozenset() for dim in dims
        ]
        if dims and dims[0].dim_value <= 0:
            first.update(names[0])
            behind.update(*names[1:])
    return frozenset(first - behind)


def symbols(text: str) -> frozenset[str]:
    """The symbols in the name of an axis; a name that is no expression is one symbol itself."""
    if text in NAMELESS:
        return frozenset()
    tree = _parse(text)
    if tree is None:
        return frozenset({text})
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def size_of(text: str, values: Mapping[str, int]) -> int | None:
    """The size that an axis has by its name, or None where its expression gives no size."""
    tree = _parse(text)
    if tree is None:
        return values[text]
    try:
        result = _value(tree, values)
    except ZeroDivisionError:
        return None
    return result if 0 < result <= MAX_RESULT else None


def _value(tree: ast.expr, values: Mapping[str, int]) -> int:
    if isinstance(tree, ast.Name):
        return values[tree.id]
    if isinstance(tree, ast.Constant):
        assert isinstance(tree.value, int)
        return tree.value
    assert isinstance(tree, ast.BinOp)
    return _OPERATORS[type(tree.op)](_value(tree.left, values), _value(tree.right, values))


@lru_cache(maxsize=1024)
def _parse(text: str) -> ast.expr | None:
    """An expression of symbols and whole numbers; None for every other text."""
    if text.isidentifier() or len(text) > MAX_TEXT:
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return (
        tree
        if _is_expression(tree)
        and any(isinstance(node, ast.Name) for node in ast.walk(tree))
        else None
    )


def _is_expression(tree: ast.expr) -> bool:
    if isinstance(tree, ast.Constant):
        return type(tree.value) is int and abs(tree.value) <= MAX_RESULT
    if isinstance(tree, ast.BinOp):
        return (
            type(tree.op) in _OPERATORS
            and _is_expression(tree.left)
            and _is_expression(tree.right)
        )
    return isinstance(tree, ast.Name)
