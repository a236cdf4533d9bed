"""Symbol files (JSON) of every release from 0.8 to 2.0, as frozen data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prunegraph.errors import ModelError
from prunegraph.frontends.mxnet.aliases import canonical

#: The operator of a variable.
VARIABLE = "null"

#: Attribute dictionaries, from the weakest to the strongest: <= 0.8, 0.9 to 0.12, >= 1.0.
ATTRIBUTES = ("param", "attr", "attrs")

#: Operators whose inputs 3 and 4 are auxiliary states.
NORMALISATIONS = ("BatchNorm", "BatchNorm_v1", "_contrib_SyncBatchNorm")

#: Operators whose input 1 is a label, which only training reads.
LABELLED = (
    "SoftmaxOutput",
    "LinearRegressionOutput",
    "LogisticRegressionOutput",
    "MAERegressionOutput",
    "SVMOutput",
)


@dataclass(frozen=True)
class SymbolOutput:
    """One output of a node: what an input reads."""

    node: int
    output: int


@dataclass(frozen=True)
class SymbolNode:
    """A variable or an operator. `op` is the canonical name, `written` the one in the file."""

    name: str
    op: str
    written: str
    inputs: tuple[SymbolOutput, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    subgraphs: tuple[Symbol, ...] = ()

    @property
    def is_variable(self) -> bool:
        return self.op == VARIABLE


@dataclass(frozen=True)
class Symbol:
    """A network: nodes in topological order, and the outputs.

    `numpy_shapes` says that full reductions have rank 0 instead of shape (1,). `version` is
    MXNet's own number, major * 10000 + minor * 100 + patch, 0 where the file does not say.
    """

    nodes: tuple[SymbolNode, ...]
    heads: tuple[SymbolOutput, ...]
    version: int = 0
    numpy_shapes: bool = False
    source: str = "symbol"

    def variables(self) -> list[str]:
        """Names of variables, each once: two of the same name are one."""
        return list(dict.fromkeys(node.name for node in self.nodes if node.is_variable))

    def readers(self, name: str) -> list[tuple[SymbolNode, int]]:
        """Operators that read a variable, with the position among their inputs."""
        return [
            (node, position)
            for node in self.nodes
            for position, source in enumerate(node.inputs)
            if self.nodes[source.node].is_variable and self.nodes[source.node].name == name
        ]

    def labels(self) -> set[str]:
        """Variables that only training reads."""
        result = {
            name
            for name in self.variables()
            if (readers := self.readers(name)) and all(map(_is_label, readers))
        }
        return result - {self.nodes[head.node].name for head in self.heads}

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Say what the file says of a variable's shape; None where it does not know."""
        from prunegraph.frontends.mxnet.values import parse, wholes

        for node in self.nodes:
            if node.is_variable and node.name == name and "__shape__" in node.attributes:
                try:
                    sizes = wholes(parse(node.attributes["__shape__"]))
                except ValueError:
                    continue
                return tuple(size if size > 0 else None for size in sizes) or None
        return None


def _is_label(reader: tuple[SymbolNode, int]) -> bool:
    return reader[0].op in LABELLED and reader[1] == 1


def load(path: str | Path) -> Symbol:
    """A Symbol from a file. Raises ModelError."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not an MXNet symbol file: {error}") from error
    return parse(content, str(path))


def parse(content: Any, source: str = "symbol") -> Symbol:
    """A Symbol from decoded JSON. Raises ModelError."""
    if not isinstance(content, dict) or not isinstance(content.get("nodes"), list):
        raise ModelError(f"{source}: not an MXNet symbol file: it has no list 'nodes'")
    nodes = [_node(raw, index, source) for index, raw in enumerate(content["nodes"])]
    nodes = _with_states(nodes)
    heads = tuple(
        _source(raw, len(content["nodes"]), f"{source}: 'heads'")
        for raw in _list(content, "heads", source)
    )
    if not heads:
        raise ModelError(f"{source}: the network has no outputs ('heads' is empty)")
    wrong = [
        nodes[head.node].name
        for head in heads
        if nodes[head.node].is_variable and head.output
    ]
    if wrong:
        raise ModelError(
            f"{source}: 'heads' names output 1 of variable {wrong[0]!r}, which has one"
        )
    extra = content.get("attrs")
    return Symbol(
        tuple(nodes),
        heads,
        _graph_attribute(extra, "mxnet_version"),
        bool(_graph_attribute(extra, "is_np_shape")),
        source,
    )


def _list(content: dict[str, Any], key: str, source: str) -> list[Any]:
    match = content.get(key)
    if not isinstance(match, list):
        raise ModelError(f"{source}: not an MXNet symbol file: it has no list {key!r}")
    return match


def _graph_attribute(extra: Any, key: str) -> int:
    """A number among the attributes of the graph, which are [type, value]; 0 where there is none."""
    pair = extra.get(key) if isinstance(extra, dict) else None
    value = pair[1] if isinstance(pair, list) and len(pair) == 2 else pair
    return value if isinstance(value, int) else 0


def _node(raw: Any, index: int, source: str) -> SymbolNode:
    where = f"{source}: node {index}"
    if (
        not isinstance(raw, dict)
        or not isinstance(raw.get("op"), str)
        or not isinstance(raw.get("name"), str)
    ):
        raise ModelError(f"{where} must have a text 'op' and a text 'name'")
    where += f" ({raw['name']!r})"
    attributes: dict[str, str] = {}
    for key in ATTRIBUTES:
        result = raw.get(key) or {}
        if not isinstance(result, dict):
            raise ModelError(f"{where}: {key!r} must be an object")
        attributes |= {
            str(name): value if isinstance(value, str) else str(value)
            for name, value in result.items()
        }
    inputs = tuple(_source(pair, index, where) for pair in raw.get("inputs") or ())
    if raw["op"] == VARIABLE and inputs:
        raise ModelError(f"{where} is a variable and has inputs")
    subgraphs = tuple(
        parse(body, f"{where}: its subgraph") for body in raw.get("subgraphs") or ()
    )
    return SymbolNode(
        raw["name"],
        canonical(raw["op"]),
        raw["op"],
        inputs,
        MappingProxyType(attributes),
        subgraphs,
    )


def _source(raw: Any, limit: int, where: str) -> SymbolOutput:
    """An input [node, output] or [node, output, version]; the node must come before `limit`."""
    if (
        not isinstance(raw, Sequence)
        or len(raw) not in (2, 3)
        or any(type(item) is not int for item in raw)
    ):
        raise ModelError(
            f"{where}: an input must be [node, output] or [node, output, version], not {raw!r}"
        )
    node, output = raw[0], raw[1]
    if not 0 <= node < limit:
        raise ModelError(f"{where} reads node {node}, which does not come before it")
    if output < 0:
        raise ModelError(f"{where} reads output {output} of node {node}")
    return SymbolOutput(node, output)


def _with_states(nodes: list[SymbolNode]) -> list[SymbolNode]:
    """Nodes with the auxiliary states of a normalisation, which files up to 0.8 leave out.

    The new variables come last: inputs of other nodes keep their numbers.
    """
    result = list(nodes)
    for index, node in enumerate(nodes):
        if node.op in NORMALISATIONS and len(node.inputs) == 3:
            states = tuple(SymbolOutput(len(result) + k, 0) for k in range(2))
            result += [
                SymbolNode(f"{node.name}_moving_{what}", VARIABLE, VARIABLE)
                for what in ("mean", "var")
            ]
            result[index] = SymbolNode(
                node.name,
                node.op,
                node.written,
                (*node.inputs, *states),
                node.attributes,
                node.subgraphs,
            )
    return result
