"""The walk: where the channels that layers make travel, as long as nothing acts on single ones but what is linear.

Data movement is run on the numbers of the channels themselves. Sums tie the channels of their operands; a
product with something that differs from row to row parts the rows; a sum of the squares of all channels, as in RMS
normalisation, is the same in any orthogonal basis; whatever is not known here fixes what it reads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from prunegraph.errors import MISFIT
from prunegraph.graph.linear import LinearLayer, groups, output_axis
from prunegraph.graph.model import FLOAT_TYPES, Graph, Node
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import (
    info,
    is_concat,
    is_convolution,
    is_dropout,
    is_gather,
    is_matmul,
    is_resize,
)
from prunegraph.rotation.carried import MAX_ELEMENTS, Carried, aligned, pairs
from prunegraph.rotation.notes import Notes

Array = np.ndarray

#: A layer that reads channels which differ along further axes is followed up to that many different lines.
MAX_LINES = 4096


def walk(graph: Graph) -> Notes:
    """Follow the channels of all layers of a graph, and note what becomes of them."""
    return _Walk(graph).run()


class _Walk:
    """Channels by value, so far; nodes come in topological order."""

    def __init__(self, graph: Graph):
        self.graph, self.info, self.notes = graph, shape_info(graph), Notes()
        self.carried: dict[str, Carried] = {}
        #: Values that hold the squares of channels.
        self.squares: dict[str, Carried] = {}
        #: Channels of tables that vectors are looked up in.
        self.tables: dict[str, Array] = {}
        self.by_mixing: dict[str, Callable[[Node], Carried | None]] = {
            "alike": self._alike,
            "places": self._places,
            "sum": self._sum,
            "product": self._product,
            "quotient": self._product,
            "reduction": self._reduction,
        }
        self.by_squaring: dict[str, Callable[[Node], bool]] = {
            "alike": self._keep_squares,
            "power": self._square,
            "product": self._square,
            "reduction": self._sum_squares,
            "squares": self._sum_squares,
        }

    def run(self) -> Notes:
        for node in self.graph.nodes:
            self._visit(node)
        for value in self.graph.outputs:
            self.notes.fix(self.carried.get(value), self.squares.get(value))
        self.notes.values = {
            value: np.unique(carried.ids) for value, carried in self.carried.items()
        }
        return self.notes

    def _visit(self, node: Node) -> None:
        for value in node.captured:
            self.notes.fix(self.carried.get(value), self.squares.get(value))
        layer = LinearLayer(self.graph, node)
        if not layer.no_product() and self.shape(node.outputs[0]) is not None:
            self._read_layer(layer)
            self._make(layer)
            return
        if self._look_up(node):
            return
        unread = info(node).unread
        inputs = [
            each.get(value)
            for slot, value in enumerate(node.inputs)
            if slot not in unread
            for each in (self.carried, self.squares)
        ]
        if not any(each is not None for each in inputs):
            return
        squaring = self.by_squaring.get(info(node).mixes)
        if squaring is not None and self._is_followed(node) and squaring(node):
            return
        result = None if node.subgraph is not None else self._pass(node)
        if result is None:
            self.notes.fix(*inputs)
            return
        for output, carried in zip(node.outputs, result, strict=False):
            if output and carried is not None:
                self.carried[output] = carried

    def _pass(self, node: Node) -> list[Carried | None] | None:
        """Channels of a node's outputs; None where it does what is not followed."""
        if not self._is_followed(node) or any(v in self.squares for v in node.inputs):
            return None
        if is_matmul(node):
            return self._multiply(node)
        if mixing := self.by_mixing.get(info(node).mixes):
            result = mixing(node)
            return None if result is None else [result]
        if is_concat(node):
            return self._join(node)
        return self._move(node) if info(node).moves else None

    def _is_followed(self, node: Node) -> bool:
        """Tell whether a node is a standard operator on values of known shapes."""
        return (
            not node.domain
            and node.subgraph is None
            and all(self.shape(v) is not None for v in (*node.inputs, *node.outputs) if v)
        )

    def shape(self, value: str) -> tuple[int, ...] | None:
        """Shape of a value or weight."""
        weight = self.graph.weights.get(value)
        return weight.shape if weight is not None else self.info.shapes.get(value)

    def sizes(self, value: str) -> tuple[int, ...]:
        """Shape of a value that is known to have one."""
        shape = self.shape(value)
        assert shape is not None
        return shape

    def is_own(self, weight: str) -> bool:
        """Tell whether a float weight has one reader, and may be another one."""
        graph = self.graph
        return (
            graph.weights[weight].is_float
            and len(graph.consumers.get(weight, ())) == 1
            and weight not in graph.outputs
        )

    # -- layers ---------------------------------------------------------------------------

    def _read_layer(self, layer: LinearLayer) -> None:
        """A layer takes channels in along the axis that it contracts; along no other axis they may differ."""
        node, value = layer.node, layer.node.inputs[0]
        carried = self.carried.get(value)
        if carried is None:
            return
        axis = 1 if is_convolution(node) else carried.ids.ndim - 1
        if (
            layer.is_transposed
            or not self.is_own(node.inputs[1])
            or not carried.varies(axis)
            or groups(node) > 1
        ):
            self.notes.fix(carried)
            return
        ids, rows = (
            np.moveaxis(each, axis, -1).reshape(-1, each.shape[axis])
            for each in (carried.ids, carried.rows)
        )
        numbers = np.stack([_numbered(row) for row in rows[:MAX_LINES]])
        if len(rows) > MAX_LINES or (numbers != numbers[0]).any():
            self.notes.fix(carried)
            return
        # One weight reads them all.
        self.notes.tie(ids, ids[:1])
        shape = Carried.along(ids[0], axis, carried.ids.ndim, 0).ids.shape
        reading = self._in_rows(ids[0].reshape(shape), numbers[0].reshape(shape))
        self.notes.touch(node.inputs[1], [1 - output_axis(node)], reading, node, value)
        self.notes.read(value, reading, node)

    def _make(self, layer: LinearLayer) -> None:
        """A layer whose weights are its own makes channels; those of a grouped convolution are in one row a group."""
        node = layer.node
        bias = layer.bias
        if layer.rest or not self.is_own(node.inputs[1]) or layer.no_refit():
            return
        if bias and (
            not self.is_own(bias) or self.graph.weights[bias].shape[-1:] != (layer.outputs,)
        ):
            return
        rank = len(self.sizes(node.outputs[0]))
        axis = 1 if is_convolution(node) else rank - 1
        ids = self.notes.fresh(layer.outputs)
        per_group = layer.outputs // groups(node)
        rows = self.notes.new_rows(np.arange(layer.outputs) // per_group)
        carried = Carried.along(ids, axis, rank, 0)
        carried = Carried(carried.ids, rows.reshape(carried.ids.shape))
        self.carried[node.outputs[0]] = carried
        self.notes.note_rows(carried)
        flat = Carried(ids, rows)
        self.notes.touch(node.inputs[1], [output_axis(node)], flat, node)
        if bias:
            last = len(self.graph.weights[bias].shape) - 1
            self.notes.touch(bias, [last], flat, node)

    def _look_up(self, node: Node) -> bool:
        """Rows of a table are made of channels, as a layer's outputs are. False where something else reads it, too."""
        name = node.inputs[0] if node.inputs else ""
        if not self._is_lookup(node) or not self._is_followed(node):
            return False
        if not all(
            self._is_lookup(self.graph.nodes[i]) for i, _ in self.graph.consumers[name]
        ):
            return False
        rank = len(self.sizes(node.outputs[0]))
        if name not in self.tables:
            self.tables[name] = ids = self.notes.fresh(self.graph.weights[name].shape[1])
            self.notes.touch(name, [1], Carried(ids, np.zeros_like(ids)), node)
        carried = Carried.along(self.tables[name], rank - 1, rank, 0)
        self.carried[node.outputs[0]] = self._in_rows(carried.ids, carried.rows)
        return True

    def _is_lookup(self, node: Node) -> bool:
        """Tell whether a node looks up rows of a float matrix that may be another one."""
        table = self.graph.weights.get(node.inputs[0]) if is_gather(node) else None
        return (
            table is not None
            and table.is_float
            and len(table.shape) == 2
            and node.attributes.get("axis", 0) % 2 == 0
            and not node.domain
            and table.name not in self.graph.outputs
        )

    # -- what mixes linearly -----------------------------------------------------------------

    def _alike(self, node: Node) -> Carried | None:
        """One factor for all elements, or none."""
        types = self.info.types
        if types.get(node.outputs[0]) not in FLOAT_TYPES:
            return None
        if is_dropout(node) and (node.version < 7 or not self._is_false(node.input(2))):
            return None
        return self.carried.get(node.inputs[0])

    def _is_false(self, value: str) -> bool:
        constant = self.info.constant(value) if value else np.asarray(False)
        return constant is not None and not constant.any()

    def _places(self, node: Node) -> Carried | None:
        """Places are mixed, with factors that are the same for all channels, which are along axis 1."""
        carried = self.carried.get(node.inputs[0])
        before, after = self.sizes(node.inputs[0]), self.sizes(node.outputs[0])
        if carried is None or carried.axes != (1,) or before[:2] != after[:2]:
            return None
        if is_resize(node) and node.attributes.get("extrapolation_value"):
            return None
        return aligned(carried, len(after))

    def _reduction(self, node: Node) -> Carried | None:
        """Sum or mean over axes on which the channels do not depend."""
        carried = self.carried.get(node.inputs[0])
        axes = self._axes(node, carried)
        if carried is None or not axes or any(carried.varies(axis) for axis in axes):
            return None
        if node.attributes.get("keepdims", 1):
            return carried
        return Carried(carried.ids.squeeze(axes), carried.rows.squeeze(axes))

    def _axes(self, node: Node, carried: Carried | None) -> tuple[int, ...]:
        """The axes that a reduction sums over; none where they are not known, or not named."""
        given = node.attributes.get("axes")
        if given is None and node.input(1):
            given = self.info.constant(node.inputs[1])
        if carried is None or given is None:
            return ()
        return tuple(int(axis) % carried.ids.ndim for axis in given)

    # -- squares -----------------------------------------------------------------------------

    def _square(self, node: Node) -> bool:
        """A value times itself, or to the power of two."""
        carried = self.carried.get(node.inputs[0])
        if carried is None or node.version < 7:
            return False
        if info(node).mixes == "power":
            power = self.info.constant(node.inputs[1])
            if power is None or not (power == 2).all():
                return False
        elif node.inputs[0] != node.inputs[1]:
            return False
        self.squares[node.outputs[0]] = aligned(carried, len(self.sizes(node.outputs[0])))
        return True

    def _keep_squares(self, node: Node) -> bool:
        """Squares that are all multiplied alike."""
        squares = self.squares.get(node.inputs[0])
        if squares is None or self.info.types.get(node.outputs[0]) not in FLOAT_TYPES:
            return False
        if is_dropout(node):
            return False
        self.squares[node.outputs[0]] = squares
        return True

    def _sum_squares(self, node: Node) -> bool:
        """A sum or mean of squares over whole rows: no basis but an orthogonal one leaves it as it is."""
        source = self.carried if info(node).mixes == "squares" else self.squares
        squares = source.get(node.inputs[0])
        axes = self._axes(node, squares)
        if squares is None or not set(squares.axes) <= set(axes):
            return False
        self.notes.tie_dual(squares.ids, squares.ids)
        self._in_rows(squares.ids, pairs(squares.rows, np.zeros(1, np.int64)))
        return True

    def _sum(self, node: Node) -> Carried | None:
        """Channels of all operands are the same, element by element; a constant that is added is one of theirs."""
        if node.version < 7:
            return None
        rank = len(self.sizes(node.outputs[0]))
        values = [value for value in node.inputs if value]
        operands = [
            aligned(self.carried[value], rank) for value in values if value in self.carried
        ]
        result = operands[0]
        for other in operands[1:]:
            self.notes.tie(result.ids, other.ids)
            rows = self.notes.new_rows(pairs(result.rows, other.rows))
            ids = np.maximum(*np.broadcast_arrays(result.ids, other.ids))
            result = Carried(ids, rows)
            self.notes.note_rows(result)
        for value in values:
            if value not in self.carried and not self._adopt(node, value, result):
                return None
        return result

    def _adopt(self, node: Node, value: str, carried: Carried) -> bool:
        """Let a constant hold channels, where it holds one value for each. False where it does not."""
        weight = self.graph.weights.get(value)
        if weight is None:
            return False
        rank = carried.ids.ndim
        if len(weight.shape) > rank:
            return False
        shape = (1,) * (rank - len(weight.shape)) + weight.shape
        if any(carried.varies(axis) and shape[axis] == 1 for axis in range(rank)):
            return (
                weight.is_float and weight.size <= MAX_ELEMENTS and not weight.read().any()
            )
        if not self.is_own(value):
            return False
        skipped = rank - len(weight.shape)
        own = Carried(
            carried.ids.reshape(carried.ids.shape[skipped:]),
            carried.rows.reshape(carried.rows.shape[skipped:]),
        )
        axes = own.axes
        self.notes.touch(
            value, axes, Carried(own.ids.reshape(-1), own.rows.reshape(-1)), node
        )
        return True

    def _product(self, node: Node) -> Carried | None:
        """A product, or a quotient, with something without channels: rows part along the axes of that."""
        if node.version < 7 or node.inputs[0] == node.inputs[1]:
            return None
        slots = [slot for slot in (0, 1) if node.inputs[slot] in self.carried]
        if len(slots) != 1 or (info(node).mixes == "quotient" and slots != [0]):
            return None
        slot = slots[0]
        rank = len(self.sizes(node.outputs[0]))
        carried = aligned(self.carried[node.inputs[slot]], rank)
        return self._parted(carried, self.sizes(node.inputs[1 - slot]), rank)

    def _parted(
        self, carried: Carried, other: tuple[int, ...], rank: int, stretch: bool = False
    ) -> Carried:
        """Channels behind something that differs along all axes on which it has more than one element.

        With `stretch` channels get rows of their own for each index of an axis on which they did not depend; not for
        samples, which stand along axis 0.
        """
        shape = (1,) * (rank - len(other)) + other
        sizes = list(carried.ids.shape)
        index = np.zeros([1] * rank, np.int64)
        for axis, size in enumerate(shape):
            if size > 1 and (carried.varies(axis) or (stretch and axis > 0)):
                sizes[axis] = size
                step = np.arange(size).reshape(
                    [-1 if i == axis else 1 for i in range(rank)]
                )
                index = index * size + step
        whole = carried.expanded(sizes)
        return self._in_rows(whole.ids, pairs(whole.rows, index))

    def _in_rows(self, ids: Array, rows: Array) -> Carried:
        """Channels in new rows, which are noted."""
        result = Carried(ids, self.notes.new_rows(rows))
        self.notes.note_rows(result)
        return result

    # -- products of two values ----------------------------------------------------------

    def _multiply(self, node: Node) -> list[Carried | None] | None:
        """A product of two values: it mixes the places of one, or contracts the channels of both."""
        first, second = node.inputs
        shapes = [self.sizes(value) for value in (first, second)]
        if min(len(shape) for shape in shapes) < 2 or first == second:
            return None
        rank = max(len(shape) for shape in shapes)
        here = [slot for slot in (0, 1) if node.inputs[slot] in self.carried]
        operands = [aligned(self.carried[node.inputs[slot]], rank) for slot in here]
        if len(here) == 2:
            return self._contract(node, *operands)
        if operands[0].varies(rank - 1 - here[0]):
            return None
        batch = (*shapes[1 - here[0]][:-2], 1, 1)
        return [self._parted(operands[0], batch, rank, stretch=True)]

    def _contract(
        self, node: Node, first: Carried, second: Carried
    ) -> list[Carried | None] | None:
        """Both operands have channels along the axis that is contracted, and along leading axes at most."""
        rank = first.ids.ndim
        if first.varies(rank - 2) or second.varies(rank - 1):
            return None
        if not (first.varies(rank - 1) and second.varies(rank - 2)):
            return None
        turned = Carried(second.ids.swapaxes(-1, -2), second.rows.swapaxes(-1, -2))
        self.notes.tie_dual(first.ids, turned.ids)
        shape = np.broadcast_shapes(first.ids.shape, turned.ids.shape)
        read = []
        for carried in (first, turned):
            whole = carried.expanded(shape)
            self._in_rows(whole.ids, pairs(whole.rows, _lines(shape)))
            own = pairs(carried.rows, _lines(carried.ids.shape))
            read.append(Carried(carried.ids, self.notes.new_rows(own)))
        back = Carried(read[1].ids.swapaxes(-1, -2), read[1].rows.swapaxes(-1, -2))
        self.notes.read(node.inputs[0], read[0], node, node.inputs[1])
        self.notes.read(node.inputs[1], back, node, node.inputs[0])
        return [None]

    # -- data movement ---------------------------------------------------------------------

    def _join(self, node: Node) -> list[Carried | None] | None:
        """A Concat: constants beside channels hold the same ones, if they are joined along another axis."""
        rank = len(self.sizes(node.outputs[0]))
        axis = node.attributes["axis"] % rank
        known = [self.carried[value] for value in node.inputs if value in self.carried]
        parts = []
        for value in node.inputs:
            carried = self.carried.get(value)
            if carried is None:
                model = known[0]
                if value in self.graph.weights and not model.varies(axis):
                    if not self._adopt(node, value, model):
                        return None
                    carried = model
                elif not model.varies(axis):
                    return None
                else:
                    nothing = np.zeros([1] * rank, np.int64)
                    carried = Carried(nothing, nothing)
            parts.append(carried)
        shapes = [list(self.sizes(value)) for value in node.inputs]
        if sum(int(np.prod(shape)) for shape in shapes) > MAX_ELEMENTS:
            return None
        whole = [each.expanded(shape) for each, shape in zip(parts, shapes, strict=True)]
        joined = Carried(
            np.concatenate([each.ids for each in whole], axis),
            np.concatenate([each.rows for each in whole], axis),
        )
        return [joined.collapsed()]

    def _move(self, node: Node) -> list[Carried | None] | None:
        """Run the movement on the numbers of channels and rows."""
        carried = self.carried.get(node.inputs[0])
        shape = self.sizes(node.inputs[0])
        if carried is None or int(np.prod(shape)) > MAX_ELEMENTS:
            return None
        operands: list[Array] = []
        numbers = info(node).numbers + ((1,) if info(node).indices == "axis" else ())
        for slot, value in enumerate(node.inputs[1:], start=1):
            if not value:
                continue
            constant = self.info.constant(value) if slot in numbers else None
            if constant is None:
                return None
            operands.append(constant)
        whole = carried.expanded(shape)
        try:
            ids, rows = (
                _run(node, each, operands, self.info) for each in (whole.ids, whole.rows)
            )
        except (*MISFIT, RuntimeError):
            return None
        result: list[Carried | None] = []
        for output, *arrays in zip(node.outputs, ids, rows, strict=True):
            if output and arrays[0].shape != self.sizes(output):
                return None
            result.append(Carried(*arrays).collapsed())
        return result


def _lines(shape: tuple[int, ...]) -> Array:
    """Number the lines of an array of that shape along its last axis [..., 1]."""
    return np.arange(int(np.prod(shape[:-1]))).reshape(*shape[:-1], 1)


def _numbered(rows: Array) -> Array:
    """Rows numbered by their first element."""
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _run(node: Node, data: Array, operands: list[Array], known: ShapeInfo) -> list[Array]:
    """Outputs of a node that moves whole numbers."""
    names = [value for value in node.inputs if value]
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    evaluator = ReferenceEvaluator(proto, opsets={"": node.version})
    feeds = dict(zip(names, [np.ascontiguousarray(data), *operands], strict=True))
    return [np.asarray(each) for each in evaluator.run(None, feeds)]
