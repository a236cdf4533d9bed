"""The list of packages is the folders on disk."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_packages_match_the_disk() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = set()
    for folder, name in ((ROOT / "prunegraph", "prunegraph"), (ROOT / "frontends", "prunegraph.frontends")):
        for path in folder.rglob("__init__.py"):
            inner = path.parent.relative_to(folder).parts
            if "frontends" not in inner:
                on_disk.add(".".join((name, *inner)))
    assert set(listed) == on_disk


def test_the_link_points_at_the_front_ends() -> None:
    link = ROOT / "prunegraph" / "frontends"
    assert link.is_symlink() and link.resolve() == (ROOT / "frontends").resolve()


def test_version_is_one() -> None:
    import prunegraph

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == prunegraph.__version__
