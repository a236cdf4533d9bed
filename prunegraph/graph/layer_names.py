"""Layers as the framework that made a model calls them, and the layers that a pattern names.

Exporters leave the names of modules in different places. PyTorch's first exporter builds node names of them
(`/encoder/layer.0/attention/self/query/MatMul`), the newer one writes them as metadata of nodes, both name weights by
them (`encoder.layer.0.attention.self.query.weight`), and tf2onnx keeps TensorFlow's names of operations.
"""

from __future__ import annotations

import ast
import fnmatch
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from prunegraph.errors import OptionError, UnknownNameError
from prunegraph.graph.model import Graph, Node

#: Where PyTorch's newer exporter writes the modules that a node is in, from the outermost to its own operation.
SCOPES = "pkg.torch.onnx.name_scopes"

#: How parameters of modules are called, behind the name of the module.
PARAMETERS = (".weight", ".bias")

#: Begins a pattern that is a regular expression.
REGULAR = "re:"

#: Around the names of operations in what TensorFlow calls a function.
CALLED = "StatefulPartitionedCall/"

#: Operations of TensorFlow behind the name of a layer: what is added to its sums, its sums, what follows them.
ADDED = r"/(BiasAdd|biases)"
SUMS = (
    r"/(Conv[123]D|Conv2DBackpropInput|DepthwiseConv2dNative|depthwise|MatMul|Tensordot)"
    r"(_\d+)?"
)
OPERATION = re.compile(rf"({ADDED}|{SUMS}|/FusedBatchNormV3|/Relu6?)(/.*)?$")


def layer_names(graph: Graph) -> dict[str, str]:
    """The framework's name of every layer by its ONNX name; the ONNX name itself where nothing better is known."""
    if "layer names" not in graph.cache:
        names = dict(_unique(graph))
        graph.cache["layer names"] = {node.name: names[node.name] for node in graph.layers}
    result: dict[str, str] = graph.cache["layer names"]
    return result


def shown(graph: Graph, name: str) -> str:
    """A node as a person may know it: a layer by the framework's name, anything else by its own."""
    return layer_names(graph).get(name, name)


def named_layers(
    graph: Graph, patterns: Iterable[str], among: Collection[str] | None = None
) -> list[str]:
    """ONNX names of the layers that patterns name, in the order of the graph.

    A pattern is the name of a layer in the file or in the framework; the name of a module, for all layers in it; with
    `*`, `?` or `[` what such names look like; or `re:` and a regular expression that is found in them. Where
    nothing is called so, modules around the ones that a pattern names may be missing from it.

    Args:
        graph: the graph.
        patterns: what is named.
        among: ONNX names that can be meant, instead of those of all layers.

    Raises:
        OptionError: a regular expression is none.
        UnknownNameError: a pattern names no layer.
    """
    own = layer_names(graph)
    names = {name: own.get(name, name) for name in (own if among is None else among)}
    match: set[str] = set()
    for pattern in patterns:
        result = _named(names, pattern) or _inner(names, pattern)
        if not result:
            raise UnknownNameError(
                "layer", pattern, dict.fromkeys([*names, *names.values()])
            )
        match.update(result)
    return [name for name in names if name in match]


def _named(names: dict[str, str], pattern: str) -> list[str]:
    """ONNX names of what one pattern names, of framework names by ONNX name. Raises OptionError."""
    if pattern in names:
        return [pattern]
    if pattern.startswith(REGULAR):
        try:
            regular = re.compile(pattern.removeprefix(REGULAR))
        except re.error as error:
            raise OptionError(f"{pattern!r} is no regular expression: {error}") from error
        return [n for n, own in names.items() if regular.search(n) or regular.search(own)]
    equal = [name for name, own in names.items() if own == pattern]
    if equal:
        return equal
    inside = [
        n for n, own in names.items() if own.startswith((f"{pattern}.", f"{pattern}/"))
    ]
    if inside or not set(pattern) & set("*?["):
        return inside
    return [
        name
        for name, own in names.items()
        if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(own, pattern)
    ]


def _inner(names: dict[str, str], pattern: str) -> list[str]:
    """ONNX names of what is inside of the modules that a pattern names, or leaves out the modules around it."""
    ends = (f"{pattern}.*", f"*.{pattern}", f"*.{pattern}.*")
    return [n for n, own in names.items() if any(fnmatch.fnmatchcase(own, e) for e in ends)]


def _unique(graph: Graph) -> Iterator[tuple[str, str]]:
    """ONNX names with names that no two layers share: where a module has several layers, with the operation's name."""
    layers = {node.name: _candidates(graph, node) for node in graph.layers}
    given = set(layers)
    for depth in (0, 1):
        count = Counter(c[depth] for c in layers.values() if len(c) > depth)
        for name, candidates in list(layers.items()):
            taken = candidates[depth] if len(candidates) > depth else name
            if count[taken] > 1 or (taken != name and taken in given):
                continue
            yield name, taken
            del layers[name]
    for name in layers:
        yield name, name


def _candidates(graph: Graph, node: Node) -> list[str]:
    """The module of a layer, and that with the operation's name, as far as they are known."""
    # A damaged file may have names that are no text.
    module, operation = _by_path(str(node.name))
    scopes = _scopes(node)
    if len(scopes) > 1:
        module, operation = scopes[-2], scopes[-1]
    module = _by_weight(graph, node) or module
    if not module:
        return []
    return [module, f"{module}/{operation}"] if operation else [module]


def _scopes(node: Node) -> list[str]:
    """The modules a node is in, and its operation, as PyTorch's newer exporter says; empty where it does not."""
    text = next((e.value for e in node.proto.metadata_props if e.key == SCOPES), "")
    try:
        scopes = ast.literal_eval(text) if text else []
    except (SyntaxError, ValueError):
        return []
    is_list = isinstance(scopes, list) and all(isinstance(each, str) for each in scopes)
    return scopes if is_list else []


def _by_weight(graph: Graph, node: Node) -> str:
    """The module whose parameters a layer reads, if no other layer reads them; else nothing."""
    for value in node.inputs:
        module = next(
            (value.removesuffix(end) for end in PARAMETERS if value.endswith(end)), ""
        )
        if module and value in graph.weights and len(graph.consumers.get(value, ())) == 1:
            return module
    return ""


def _by_path(name: str) -> tuple[str, str]:
    """Module and operation in the name of a node, empty where it has none.

    A module that is run by another one's `__call__` has the whole path below that in its name: `/stem/stem.0/Conv`
    is the operation Conv in `stem.0`.
    """
    if name.startswith("/"):
        *scopes, operation = name[1:].split("/")
        modules: list[str] = []
        for scope in scopes:
            if modules and scope.startswith(f"{modules[-1]}."):
                modules[-1] = scope
            else:
                modules.append(scope)
        return ".".join(modules), operation
    parts = [part.removeprefix(CALLED) for part in name.split(";")]
    part = next(
        (part for kind in (ADDED, SUMS) for part in parts if re.search(kind, part)),
        parts[0],
    )
    if "/" not in part:
        return "", ""
    layer = OPERATION.sub("", part)
    return layer, part.removeprefix(f"{layer}/") if layer != part else ""
