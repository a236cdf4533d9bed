"""Graph, Node and Weight: a read-only view over an ONNX model.

The `ModelProto` is the canonical form because nothing else keeps every fact of a file.
This module adds what analysis needs: nodes in topological order with their parents,
weights wherever a file keeps them, and unique names.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from prunegraph import operators
from prunegraph.errors import ModelError
from prunegraph.graph import control, order, wire
from prunegraph.graph.control import Subgraph
from prunegraph.graph.intake import Intake
from prunegraph.graph.sources import Sources
from prunegraph.graph.stored import stored

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True)
class Channels:
    """Channel data of a node: channel counts where it has them, weight names by role."""

    inputs: int | None
    outputs: int | None
    weights: dict[str, str]


@dataclass(frozen=True)
class Weight:
    """A constant tensor of the model.

    `holder` is None for an initializer, else the `Constant` node that carries the tensor.
    `read` returns the values as an array of `shape`; it may read from disk.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    tensor: onnx.TensorProto = field(repr=False)
    holder: onnx.NodeProto | None = field(repr=False)
    read: Callable[[], np.ndarray] = field(repr=False)

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        return self.tensor.data_type in FLOAT_TYPES


FLOAT_TYPES = frozenset(
    getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
)


#: Types with several elements in a byte.
PACKED_TYPES = frozenset(
    getattr(onnx.TensorProto, name)
    for name in ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2")
    if hasattr(onnx.TensorProto, name)
)


def _map(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    """External data as an array mapped from disk: what is not looked at is not read."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if not math.prod(tensor.dims):
        return np.zeros(tuple(tensor.dims), dtype)
    place = stored(tensor, folder)
    return np.memmap(
        place.path, dtype, "r", place.offset, tuple(tensor.dims) or (1,)
    ).reshape(tuple(tensor.dims))


@dataclass(frozen=True)
class Node:
    """One operator of the graph, in topological order.

    `parents` holds `(node index, output slot)` for every input that another node makes.
    `captured` are outer values that subgraphs in the attributes read. `layer` is the name
    of the layer (convolution, linear) the node belongs to: itself, or the nearest above.
    `subgraph` is the subgraph of an If, Loop or Scan the node is in, `subgraphs` those it runs, and
    `enter` the index of the node that hands values into them (see `graph.control`).
    """

    index: int
    name: str
    op: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: tuple[str, ...]
    parents: tuple[tuple[int, int], ...]
    layer: str | None
    channels: Channels
    proto: onnx.NodeProto = field(repr=False)
    subgraph: Subgraph | None = field(default=None, repr=False)
    subgraphs: tuple[Subgraph, ...] = field(default=(), repr=False)
    enter: int = field(default=-1, repr=False)

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Attribute values as Python objects; tensors and subgraphs stay protobufs."""
        return {a.name: _attribute(a) for a in self.proto.attribute[:]}

    def input(self, slot: int) -> str:
        """The value at an input slot, or "" where it is left out."""
        return self.inputs[slot] if slot < len(self.inputs) else ""


@dataclass(frozen=True)
class Home:
    """The file that a model was read from: its folder, and whether it has its weights in it, wherever they lie now.

    `weights` are other files that hold some of them.
    """

    folder: Path | None = None
    in_one_file: bool = False
    weights: frozenset[Path] = frozenset()


class Graph:
    """A model as a graph of nodes. Never changed in place: every rewrite makes a new one.

    Args:
        model: the ONNX model; external data may stay on disk.
        folder: where external data lies.
        source: what to call the model in messages and reports.
        digest: sha256 of the file the model was read from, if known.
        scratch: whether `folder` was made for this graph and goes with it.
        keeps: what has to live as long as this graph (the one whose folder it reads from).
        intake: how it reads inputs made for the graph it comes from; by default as the graph that it `keeps`.
        sources: where its weights come from, if a front end made it from something else.
        home: the file that it was read from; by default that of the graph that it `keeps`.

    Raises:
        ModelError: the graph is invalid (dangling value, cycle, a value made twice).
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        *,
        folder: Path | None = None,
        source: str = "model",
        digest: str | None = None,
        scratch: bool = False,
        keeps: object = None,
        sources: Sources | None = None,
        intake: Intake | None = None,
        home: Home | None = None,
    ):
        self.model = model
        self.sources = sources
        self._keeps = keeps
        inherited: Intake = keeps.intake if isinstance(keeps, Graph) else Intake()
        self.intake: Intake = inherited if intake is None else intake
        self.home: Home = home or (keeps.home if isinstance(keeps, Graph) else Home(folder))
        self.scratch = scratch
        if scratch and folder is not None:
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.folder = folder
        self.source = source
        self._digest, self._from_file = digest, digest is not None
        self.cache: dict[Any, Any] = {}
        self.opsets = {entry.domain: entry.version for entry in model.opset_import}
        self.weights = {weight.name: weight for weight in self._find_weights()}
        self.inputs = tuple(i.name for i in model.graph.input if i.name not in self.weights)
        self.outputs = tuple(o.name for o in model.graph.output)
        # Sparse weights are read as they are; nothing of them is cut.
        self.sparse = {s.values.name: tuple(s.dims) for s in model.graph.sparse_initializer}
        protos = order.sort(
            model.graph, {*self.weights, *self.inputs, *self.sparse}, source
        )
        protos, places = control.expand(model.graph, protos, self.opsets.get("", 1), source)
        if places:
            self._add_subgraph_weights(protos, places)
        created = {
            output: (index, slot)
            for index, proto in enumerate(protos)
            for slot, output in enumerate(proto.output[:])
            if output
        }
        self.producer: dict[str, int] = {
            output: index for output, (index, _) in created.items()
        }
        self.nodes = list(self._make_nodes(protos, places, created))
        self.consumers: dict[str, list[tuple[int, int]]] = {}
        for node in self.nodes:
            for slot, value in enumerate((*node.inputs, *node.captured)):
                if value:
                    self.consumers.setdefault(value, []).append((node.index, slot))

    # -- construction ---------------------------------------------------------------

    def _find_weights(self) -> Iterator[Weight]:
        for tensor in self.model.graph.initializer:
            yield self._weight(tensor.name, tensor, None)
        yield from self._find_constants(self.model.graph.node)

    def _find_constants(self, protos: Iterable[onnx.NodeProto]) -> Iterator[Weight]:
        for proto in protos:
            if operators.is_constant(proto) and proto.domain in ("", "ai.onnx"):
                for attribute in proto.attribute[:]:
                    if attribute.name == "value":
                        yield self._weight(proto.output[0], attribute.t, proto)
                    elif attribute.name in CONSTANT_DTYPES:
                        value = np.asarray(
                            onnx.helper.get_attribute_value(attribute),
                            CONSTANT_DTYPES[attribute.name],
                        )
                        yield self._weight(
                            proto.output[0], numpy_helper.from_array(value), proto
                        )

    def _add_subgraph_weights(
        self, protos: list[onnx.NodeProto], places: Mapping[int, control.NodeContext]
    ) -> None:
        tensors, constants = control.subgraph_weights(protos, places)
        result = [
            *(self._weight(name, tensor, None) for name, tensor in tensors),
            *self._find_constants(constants),
        ]
        self.weights.update((weight.name, weight) for weight in result)

    def _weight(
        self, name: str, tensor: onnx.TensorProto, holder: onnx.NodeProto | None
    ) -> Weight:
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        except KeyError as error:
            raise ModelError(
                f"{self.source}: weight {name!r} has an unknown data type {tensor.data_type}"
            ) from error
        return Weight(
            name,
            tuple(tensor.dims[:]),
            dtype,
            tensor,
            holder,
            lambda: self._read(name, tensor),
        )

    def _read(self, name: str, tensor: onnx.TensorProto) -> np.ndarray:
        try:
            if (
                tensor.data_location == onnx.TensorProto.EXTERNAL
                and tensor.data_type not in PACKED_TYPES
            ):
                return _map(tensor, self.folder or Path())
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                # Not by onnx's own reader, which takes no links.
                data = stored(tensor, self.folder).read()
                tensor = onnx.TensorProto(
                    data_type=tensor.data_type, dims=tensor.dims, raw_data=data
                )
            return numpy_helper.to_array(tensor)
        except Exception as error:
            raise ModelError(
                f"{self.source}: cannot read weight {name!r}: {error}"
            ) from error

    def _make_nodes(
        self,
        protos: list[onnx.NodeProto],
        places: Mapping[int, control.NodeContext],
        created: dict[str, tuple[int, int]],
    ) -> Iterator[Node]:
        taken: set[str] = set()
        layers: list[str | None] = []
        for index, proto in enumerate(protos):
            place = places.get(index, control.PLAIN)
            inputs = tuple(proto.input[:]) if place.inputs is None else place.inputs
            outputs = tuple(proto.output[:])
            base = (
                place.label
                or proto.name
                or next((o for o in outputs if o), f"{proto.op_type}_{index}")
            )
            name, copy = base, 1
            while name in taken:
                copy += 1
                name = f"{base}#{copy}"
            taken.add(name)
            # What subgraphs that are inlined capture, their own nodes read.
            captured = () if place.subgraphs else order.captured(proto)
            parents = tuple([created[v] for v in (*inputs, *captured) if v in created])
            channels = self._channels(proto, inputs)
            is_layer = operators.info(proto).is_layer and bool(channels.weights)
            layers.append(
                name
                if is_layer
                else next((layers[p] for p, _ in parents if layers[p]), None)
            )
            domain = "" if proto.domain == "ai.onnx" else proto.domain
            yield Node(
                index,
                name,
                proto.op_type,
                domain,
                self.opsets.get(proto.domain, self.opsets.get(domain, 1)),
                inputs,
                outputs,
                captured,
                parents,
                layers[index],
                channels,
                proto,
                place.subgraph,
                place.subgraphs,
                place.enter,
            )

    def _channels(self, proto: onnx.NodeProto, values: tuple[str, ...]) -> Channels:
        operator = operators.info(proto)
        roles = operator.roles
        weights: dict[str, str] = {}
        for slot, value in enumerate(values):
            if value in self.weights:
                role = (roles[slot] if slot < len(roles) else "") or f"input{slot}"
                weights[role] = value
        inputs = outputs = None
        main = self.weights.get(weights.get("weight", ""))
        if main is not None and operator.is_layer and len(main.shape) >= 2:
            numbers = {a.name: a.i for a in proto.attribute[:]}
            groups = numbers.get("group", 1) or 1
            first, second = main.shape[0], main.shape[1]
            if "hidden_size" in numbers:
                inputs, outputs = main.shape[2], numbers["hidden_size"]
            elif operator.weight_form == "filters":
                inputs, outputs = second * groups, first
            elif operator.weight_form == "turned filters":
                inputs, outputs = first, second * groups
            elif operator.weight_form == "gemm":
                inputs, outputs = (
                    (second, first) if numbers.get("transB", 0) else (first, second)
                )
            else:
                inputs, outputs = main.shape[-2], main.shape[-1]
        return Channels(inputs, outputs, weights)

    # -- what others ask ------------------------------------------------------------

    @property
    def sha256(self) -> str:
        """Digest of the model file; for a model made in memory, of the bytes `save` writes."""
        if self._digest is None:
            digest = hashlib.sha256()
            for piece in self.file_bytes():
                digest.update(piece)
            self._digest = digest.hexdigest()
        return self._digest

    def file_bytes(self) -> Iterator[bytes]:
        """What the model's file holds, in pieces; without its external data, unless they are its own."""
        return wire.pieces(self.model, self.folder, taken_in=self.home.in_one_file)

    def to_model(self) -> onnx.ModelProto:
        """A copy of the model that has all its weights in it: `model` may leave them on disk."""
        pieces = wire.pieces(self.model, self.folder, taken_in=True)
        return onnx.ModelProto.FromString(b"".join(pieces))

    def identify(self, *origin: str) -> None:
        """Let the digest follow from what the graph was made of: rounding may differ from machine to machine."""
        self._digest = hashlib.sha256("\n".join(origin).encode()).hexdigest()

    @property
    def is_file(self) -> bool:
        """Tell whether the graph is what a file holds: nothing has been made of it."""
        return self._from_file

    def in_file(self, subgraph: Subgraph | None = None) -> list[Node]:
        """Nodes of the main graph, or of a subgraph, in the order in which the file has them."""
        if subgraph is None:
            return [self._by_output[tuple(proto.output)] for proto in self.model.graph.node]
        names = subgraph.names
        return [
            self._by_output[tuple(names.get(o, o) for o in proto.output)]
            for proto in subgraph.graph.node
        ]

    @cached_property
    def _by_output(self) -> dict[tuple[str, ...], Node]:
        return {node.outputs: node for node in self.nodes if node.domain != control.DOMAIN}

    @cached_property
    def outer(self) -> frozenset[str]:
        """Values that nodes of the main graph make: those a session can be asked for."""
        return frozenset(
            output for proto in self.model.graph.node for output in proto.output if output
        )

    @cached_property
    def subgraphs(self) -> tuple[Subgraph, ...]:
        """Subgraphs of If, Loop and Scan that are inlined, the outer before the inner."""
        return tuple(
            subgraph
            for node in self.nodes
            if node.op == control.ENTER
            for subgraph in node.subgraphs
        )

    def is_read(self, value: str) -> bool:
        """Tell whether a node, a subgraph or the graph's caller reads a value."""
        return value in self.consumers or value in self.outputs

    def node(self, name: str) -> Node:
        """The node of that name. Raises KeyError."""
        return self.named[name]

    @cached_property
    def named(self) -> dict[str, Node]:
        """All nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def layers(self) -> list[Node]:
        """Nodes that contract their input with a weight, in topological order."""
        return [
            node
            for node in self.nodes
            if operators.info(node).is_layer and self.main_weight(node)
        ]

    def main_weight(self, node: Node) -> str | None:
        """The weight a layer contracts with, looked up through operators that only carry it."""
        for slot in operators.info(node).weight_slots:
            weight = self.weight_behind(node.input(slot))
            if weight is not None:
                return weight
        return None

    def weight_behind(self, value: str) -> str | None:
        """The weight that reaches `value` through Identity, Transpose, Cast or (De)Quantize nodes."""
        while value not in self.weights:
            if value not in self.producer:
                return None
            node = self.nodes[self.producer[value]]
            if not operators.passes(node, "weights"):
                return None
            value = node.inputs[0]
        return value

    def to_networkx(self) -> networkx.DiGraph:
        """Nodes by index with `name`, `op`; edges with the `value` that flows along them."""
        import networkx

        graph = networkx.DiGraph()
        for node in self.nodes:
            graph.add_node(node.index, name=node.name, op=node.op)
            for parent, slot in node.parents:
                graph.add_edge(parent, node.index, value=self.nodes[parent].outputs[slot])
        return graph


CONSTANT_DTYPES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def _attribute(attribute: onnx.AttributeProto) -> Any:
    """The result of `onnx.helper.get_attribute_value`; integers, which nearly all are, without its detours."""
    kind = attribute.type
    if kind == onnx.AttributeProto.INTS and not attribute.ref_attr_name:
        return attribute.ints[:]
    if kind == onnx.AttributeProto.INT and not attribute.ref_attr_name:
        return attribute.i
    return onnx.helper.get_attribute_value(attribute)
