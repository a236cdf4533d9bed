"""Fixtures of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import prunegraph as pg
from prunegraph.cli import main
from prunegraph.frontends import FRONTENDS
from prunegraph.ops import rule
from prunegraph.selection.criteria.base import CRITERIA
from prunegraph.selection.selectors import SELECTORS
from tests.builders import residual_net
from tests.plugins.snippets import Cli, custom_net


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    shared = dict(CRITERIA._entries)
    for registry, entries in (
        (CRITERIA, shared),
        (SELECTORS, shared),
        (FRONTENDS, dict(FRONTENDS._entries)),
    ):
        monkeypatch.setattr(registry, "_entries", entries)
    monkeypatch.setattr(
        rule, "_RULES", {key: list(rules) for key, rules in rule._RULES.items()}
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, inputs for it, and a model with an operator of nobody's domain."""
    pg.save(residual_net(), tmp_path / "net.onnx")
    np.savez(
        tmp_path / "inputs.npz",
        x=np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32),
    )
    pg.save(custom_net(), tmp_path / "custom.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(folder: Path) -> Cli:
    return lambda *words: CliRunner().invoke(main, " ".join(words).split())
