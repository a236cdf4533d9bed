"""Every command and snippet of README and docs runs, in order, in a folder of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The project's own commands; setting up an environment is left to a fresh machine."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("prunegraph ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands(page: Path, folder: Path) -> None:
    for command in commands(page):
        words = [sys.executable, "-m", "prunegraph", *command.split()[1:]]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets(page: Path, folder: Path) -> None:
    for snippet in blocks(page, "python"):
        done = subprocess.run([sys.executable, "-c", snippet], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{snippet}\n{done.stderr}"


def test_readme_has_two_set_up_and_go_commands() -> None:
    lines = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines()]
    assert len([line for line in lines if "pip install" in line]) == 2
    assert len(commands(ROOT / "README.md")) >= 6


def test_links_resolve() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
