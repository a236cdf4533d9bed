"""The notebooks run from top to bottom, are kept without outputs, and can be found from the docs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

#: Seconds that a cell may take on a machine that is busy; a whole notebook takes less than 60 by itself.
SECONDS = 300

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(path: Path) -> list[dict[str, Any]]:
    """Cells that are run."""
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@each
def test_they_are_kept_without_outputs(path: Path) -> None:
    assert code(path)
    for cell in code(path):
        assert not cell["outputs"] and cell["execution_count"] is None
        assert not cell["metadata"]


@each
def test_docs_lead_to_them(path: Path) -> None:
    target = f"notebooks/{path.name}"
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert any(target in page.read_text() for page in pages)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@each
def test_they_run(path: Path) -> None:
    """Every cell without an error; what they claim is asserted in them."""
    for name in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(name, reason="the extra [notebooks] is not installed")
    if path.stem == "pytorch" and importlib.util.find_spec("torch") is None:
        pytest.skip("the extra [torch] is not installed")
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3")
    client.execute(cwd=str(path.parent))
    done = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in done] == [*range(1, len(done) + 1)]
