"""The list of packages is the folders on disk."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.paths import ROOT


def test_packages_match_the_disk() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "packages"
    ]
    on_disk = set()
    for folder, name in (
        (ROOT / "prunegraph", "prunegraph"),
        (ROOT / "frontends", "prunegraph.frontends"),
    ):
        for path in folder.rglob("__init__.py"):
            inner = path.parent.relative_to(folder).parts
            if "frontends" not in inner:
                on_disk.add(".".join((name, *inner)))
    assert set(listed) == on_disk


def test_package_data_names_every_file_that_is_no_module() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]
    missing = [
        path
        for path in (ROOT / "prunegraph").rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and path.name != "README.md"  # for readers of the repository
        and not is_package_data(path, listed)
    ]
    assert not missing


def is_package_data(path: Path, listed: dict[str, list[str]]) -> bool:
    """Whether a pattern of the nearest package above a file, or of all packages, takes it in."""
    package = next(folder for folder in path.parents if (folder / "__init__.py").exists())
    name = ".".join(package.relative_to(ROOT).parts)
    return any(
        path in package.glob(pattern) for pattern in [*listed["*"], *listed.get(name, [])]
    )


def test_the_link_points_at_the_front_ends() -> None:
    link = ROOT / "prunegraph" / "frontends"
    assert link.is_symlink() and link.resolve() == (ROOT / "frontends").resolve()


def test_version_is_one() -> None:
    import prunegraph

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == prunegraph.__version__
