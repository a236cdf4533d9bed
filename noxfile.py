"""Tasks: `nox -s check`, `test`, `slow`, `docs`, `package`. Plain `nox` runs check and test.

They run in the environment that calls them (`pip install -e '.[dev]'` first); `.ci/run` makes one of its own.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["check", "test"]


@nox.session
def check(session: nox.Session) -> None:
    """Lint, format and types."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def test(session: nox.Session) -> None:
    """Run the default suite; arguments go to pytest."""
    session.run("python", "-m", "pytest", "-n", "2", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the slow tests: the whole zoo, models that packages ship, the package as PyPI would have it."""
    session.run("python", "fixtures/packages.py")
    session.run("python", "-m", "pytest", "-n", "2", "-m", "slow", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into site/; a broken link or reference is an error."""
    session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build the wheel and the sdist, and check what PyPI would check."""
    session.run("python", "-m", "build", "--outdir", "dist", *session.posargs)
    session.run("python", "-m", "twine", "check", "--strict", "dist/*")
