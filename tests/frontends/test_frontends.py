"""Which front end reads a source, and what it is given."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import MissingExtraError, ModelError
from prunegraph.frontends import arrays, factory
from tests.builders import residual_net


def test_without_the_extra_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.pt2").write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'prunegraph\[torch\]'"):
        pg.load(tmp_path / "net.pt2")


def test_no_framework_is_imported() -> None:
    code = (
        "import sys, prunegraph.api, prunegraph.frontends; "
        "print({'torch', 'mxnet', 'onnxscript'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_options_that_a_source_does_not_have(tmp_path: Path) -> None:
    pg.save(residual_net(), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="is read without 'inputs'"):
        pg.load(tmp_path / "net.onnx", {"x": np.ones(3)})
    with pytest.raises(ModelError, match="is read without 'params_file'"):
        pg.load(residual_net().model, params_file="a.params")
    assert pg.load(tmp_path / "net.onnx", params_file=None).inputs == ("x",)


def test_a_graph_is_read_as_it_is() -> None:
    graph = residual_net()
    assert pg.load(graph) is graph


def test_factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factory may return anything that a front end reads."""
    monkeypatch.chdir(tmp_path)
    Path("makes.py").write_text(
        "from tests.builders import residual_net\ndef net():\n    return residual_net().model\nnumber = 3\n"
    )
    assert pg.load("makes.py:net").inputs == ("x",)
    for source, messages in (
        ("makes.py:number", "TypeError"),
        ("makes.py:other", "AttributeError"),
        ("nothing.py:net", "no such file"),
        ("no.such.module:net", "ModuleNotFoundError"),
    ):
        with pytest.raises(ModelError, match=messages):
            pg.load(source)
    assert not factory.is_factory("net.onnx") and not factory.is_factory("C:/net.onnx")


def test_arrays_that_cannot_be_read(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.ones(2))
    (tmp_path / "broken.npz").write_bytes(b"PK no archive")
    for name in ("one.npy", "broken.npz", "missing.npz"):
        with pytest.raises(ModelError, match=name):
            arrays.read_arrays(str(tmp_path / name))
    np.savez(tmp_path / "good.npz", x=np.ones(2))
    assert set(arrays.read_arrays(str(tmp_path / "good.npz"))) == {"x"}
