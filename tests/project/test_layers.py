"""Imports point one way: down the list in docs/architecture.md."""

from __future__ import annotations

import ast
from pathlib import Path

import networkx

from tests.paths import ROOT

#: From the bottom to the top; a module may import from its own layer and those before it.
LAYERS = [
    ["errors"],
    ["operators"],
    ["plugins"],
    ["registry"],
    ["options"],
    ["keywords"],
    ["graph"],
    ["frontends"],
    ["runtime"],
    ["data"],
    ["labels"],
    ["ops"],
    ["coupling"],
    ["selection"],
    ["rewriting"],
    ["measuring"],
    ["latency"],
    ["masked"],
    ["proof"],
    ["isolate"],
    ["rotation"],
    ["recovery"],
    ["execution"],
    ["quantization"],
    ["tuning"],
    ["ranks"],
    ["depth"],
    ["training"],
    ["pipeline"],
    ["decoders"],
    ["preparation"],
    ["preview", "overview"],
    ["report"],
    ["api"],
    ["studies"],
    ["hybrid"],
    ["recipes"],
    ["cli.files", "cli.progress", "cli.reading"],
    ["cli.command"],
    ["cli.console", "cli.options"],
    ["cli.loading", "cli.recipe", "cli.results"],
    ["cli.distillation", "cli.evaluated"],
    ["cli"],
    ["cli.app", "cli.__init__", "__main__"],
]


def layer(module: str) -> int:
    """Layer of a module named below `prunegraph`; the longest match counts."""
    best, match = -1, -1
    for index, names in enumerate(LAYERS):
        for name in names:
            if (module == name or module.startswith(name + ".")) and len(name) > best:
                best, match = len(name), index
    assert match >= 0, f"{module} is in no layer"
    return match


def modules() -> list[tuple[str, Path]]:
    result = []
    for folder, prefix in ((ROOT / "prunegraph", ""), (ROOT / "frontends", "frontends.")):
        for path in sorted(folder.rglob("*.py")):
            name = ".".join(path.relative_to(folder).with_suffix("").parts)
            if (
                not name.startswith("frontends")
                and path != ROOT / "prunegraph" / "__init__.py"
            ):
                result.append((prefix + name, path))
    return result


def is_type_checking(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def at_run_time(path: Path) -> ast.Module:
    """A file without what is for type checking only."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if is_type_checking(node):
            node.body = []
    return tree


def imported(path: Path) -> list[str]:
    """Modules of the package that a file imports, except for type checking only."""
    return imported_by(at_run_time(path))


def imported_by(tree: ast.Module) -> list[str]:
    """Modules of the package, or names in them, that a tree imports anywhere."""
    result = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "prunegraph"
        ):
            module = (node.module or "").removeprefix("prunegraph").removeprefix(".")
            names = [
                f"{module}.{alias.name}" if module else alias.name for alias in node.names
            ]
            result += [name for name in names if name not in ("__version__",)]
    return result


def test_imports_point_down() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, path in modules()
        for target in imported(path)
        if layer(target) > layer(module)
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_make_no_circle() -> None:
    """Nor do those inside of functions or for type checking."""
    paths = dict(modules())
    graph = networkx.DiGraph()
    for name, path in paths.items():
        for target in imported_by(ast.parse(path.read_text())):
            known = target if target in paths else target.rpartition(".")[0]
            if known in paths:
                graph.add_edge(name, known)
    assert list(networkx.simple_cycles(graph)) == []


def test_commands_do_not_import_one_another() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, path in modules()
        for target in imported(path)
        if module.startswith("cli.") and layer(module) == layer(target) == layer("cli")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_masked_original_shares_nothing_with_the_cut() -> None:
    """A fault in what cuts cannot be in what the cut is compared with."""
    editors = ("rewriting", "recovery", "quantization", "graph.names", "graph.surgeon")
    shared = [
        f"{module} imports {target}"
        for module, path in modules()
        if module.split(".")[0] in ("masked", "proof")
        for target in imported(path)
        if target.startswith(editors)
    ]
    assert not shared, "\n".join(shared)


def test_only_the_extra_imports_torch() -> None:
    for module, path in modules():
        names = {
            alias.name.split(".")[0]
            for node in ast.walk(at_run_time(path))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert "torch" not in names or module.startswith(
            ("frontends.pytorch.", "training.")
        )


def test_no_file_is_too_long() -> None:
    for module, path in modules():
        assert len(path.read_text().splitlines()) <= 600, module
