"""Words that say nothing of what they hold are no names of anything."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

from tests.paths import ROOT

#: The field has a word for each: coupling, survivors, pruned, result, message, ...
WORDS = {"blamed", "found", "left", "made", "small", "told"}

FILES = [
    path
    for folder in ("prunegraph", "frontends")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "prunegraph/frontends" not in path.as_posix()
]


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Arguments, variables, fields, attributes that are set, functions and classes, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def test_names_say_what_they_hold() -> None:
    bad = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in FILES
        for line, name in names(ast.parse(path.read_text()))
        if name in WORDS
    ]
    assert not bad


def test_no_two_classes_share_a_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(ROOT)))
    shared = {name: where for name, where in places.items() if len(where) > 1}
    assert not shared
