"""Every command and snippet of README and docs runs, in order, in a folder of its own.

A block with a title (```python title="mine.py") is a file of that name: it is there before anything runs.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import prunegraph as pg
from tests.paths import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

#: Pages whose commands or snippets need an extra: its name, a package of it, and the pages.
EXTRAS = {
    ("torch", "torch"): {
        "binary.md",
        "data.md",
        "pytorch.md",
        "source-001.md",
        "training.md",
        "tutorial-pytorch.md",
    },
    ("openvino", "openvino"): {"targets.md"},
    ("tensorflow", "tf2onnx"): {"tensorflow.md"},
    ("jax", "jax2onnx"): {"jax.md"},
}

#: Languages of programs that choose, with Debian's packages of them.
LANGUAGES = {"jq": "jq", "node": "nodejs"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
    )


def files(page: Path) -> dict[str, str]:
    """Text of files by name."""
    pattern = r"^```\w+ title=\"([^\"]+)\"\n(.*?)^```"
    return dict(re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL))


def commands(page: Path) -> list[list[str]]:
    """The project's own commands, and the page's own scripts; setting up an environment is left to a fresh machine."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    parts = [
        shlex.split(part) for line in lines for part in line.split("&&") if part.strip()
    ]
    scripts = files(page)
    return [
        [sys.executable, *(["-m", *words] if words[0] == "prunegraph" else words[1:])]
        if words[0] not in LANGUAGES
        else ["sh", "-c", shlex.join(words).replace("'>'", ">")]
        for words in parts
        if words[0] in ("prunegraph", *LANGUAGES)
        or (words[0] == "python" and words[1] in scripts)
    ]


def need(page: Path) -> None:
    """Skip a page that needs an extra, or programs in other languages, where they are not installed."""
    for (extra, package), pages in EXTRAS.items():
        if page.name in pages and importlib.util.find_spec(package) is None:
            pytest.skip(f"the extra [{extra}] is not installed")
    text = " ".join(word for command in commands(page) for word in command)
    for name, package in LANGUAGES.items():
        if re.search(rf"\b{name} ", text) and shutil.which(name) is None:
            pytest.skip(f"{name} is not installed (Debian: apt-get install {package})")


def run(programs: list[list[str]], folder: Path) -> None:
    """Run programs of a page in its folder, in order."""
    for words in programs:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"


@pytest.fixture
def folder(tmp_path: Path, page: Path) -> Path:
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    for name, text in files(page).items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands(page)], ids=lambda page: page.name
)
def test_commands(page: Path, folder: Path) -> None:
    need(page)
    run(commands(page), folder)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name
)
def test_snippets(page: Path, folder: Path) -> None:
    need(page)
    run([[sys.executable, "-c", snippet] for snippet in blocks(page, "python")], folder)


def test_readme_has_two_set_up_and_go_commands() -> None:
    lines = [
        line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines()
    ]
    assert len([line for line in lines if "pip install" in line]) == 2
    assert len(commands(ROOT / "README.md")) >= 6


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 700


def test_links_resolve() -> None:
    papers = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
    for page in [*PAGES, *papers, *ROOT.glob("[!.]*/**/README.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_the_navigation_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    listed = re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(
        page.relative_to(DOCS).as_posix() for page in PAGES if page.is_relative_to(DOCS)
    )


def test_the_reference_lists_every_public_name() -> None:
    listed = re.search(
        r"::: prunegraph\n.*?members: \[(.*?)\]",
        (DOCS / "reference-python.md").read_text(),
        re.DOTALL,
    )
    assert listed is not None
    assert sorted(listed[1].split(", ")) == sorted({*pg.__all__} - {"errors"})


def test_every_file_of_the_plugins_page_is_used() -> None:
    page = ROOT / "docs" / "plugins.md"
    words = {word for command in commands(page) for word in command}
    assert len(files(page)) >= 6
    assert files(page).keys() <= words


def test_programs_of_other_languages_are_those_of_the_examples() -> None:
    shown = files(ROOT / "docs" / "other-languages.md")
    assert shown == {
        path.name: path.read_text() for path in sorted((ROOT / "examples").iterdir())
    }


def test_sizes_that_the_plugins_page_promises() -> None:
    scripts = files(ROOT / "docs" / "plugins.md")
    lines = {
        name: [line for line in text.splitlines() if line.strip()]
        for name, text in scripts.items()
    }
    assert len(lines["quiet.py"]) <= 10
    assert len(lines["choose.py"]) <= 15
    assert "prunegraph" not in scripts["choose.py"].replace("prunegraph/plan@2", "")


def test_the_plugins_page_shows_the_entry_points_of_the_example() -> None:
    shown = tomllib.loads(blocks(ROOT / "docs" / "plugins.md", "toml")[0])["project"]
    package = tomllib.loads(
        (ROOT / "tests" / "plugins" / "plugin_example" / "pyproject.toml").read_text()
    )["project"]
    assert shown["entry-points"] == package["entry-points"]
