"""What `import prunegraph` offers, and that it stays cheap."""

from __future__ import annotations

import subprocess
import sys

import prunegraph

PUBLIC = {
    "Budget",
    "CompressResult",
    "Context",
    "Coupling",
    "DecomposeResult",
    "Graph",
    "Group",
    "Plan",
    "Proof",
    "QuantizeResult",
    "PruneResult",
    "SearchResult",
    "Sensitivity",
    "analyze",
    "apply",
    "compare",
    "compress",
    "criterion",
    "decompose",
    "errors",
    "frontend",
    "load",
    "prune",
    "push",
    "quantize",
    "save",
    "search",
    "select",
    "selector",
    "sensitivity",
    "verify",
}


def test_public_names() -> None:
    assert set(prunegraph.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(prunegraph, name).__doc__, name


def test_verify_is_the_function_also_after_the_module_was_imported() -> None:
    code = (
        "import prunegraph, prunegraph.proof.verify\n"
        "from prunegraph import verify\n"
        "import prunegraph as pg\n"
        "assert callable(pg.verify), type(pg.verify)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_and_help_load_nothing_heavy() -> None:
    code = (
        "import sys, prunegraph, prunegraph.cli\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'networkx', 'rich', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
