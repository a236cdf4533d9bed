"""The package as PyPI would have it: built, checked, installed where nothing else is, and used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import FIXTURES, ROOT


def run(*words: str | Path, cwd: Path) -> str:
    """Run a program that knows nothing of this checkout; its output."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_wheel_prunes_in_an_empty_environment(tmp_path: Path) -> None:
    for name in ("build", "twine"):
        pytest.importorskip(name, reason="the extra [dev] is not installed")
    source, dist, environment = (tmp_path / name for name in ("source", "dist", "env"))
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("prunegraph", "frontends"):
        shutil.copytree(
            ROOT / name,
            source / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    run(sys.executable, "-m", "build", "--outdir", dist, source, cwd=tmp_path)
    [wheel], [sdist] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, cwd=tmp_path)
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    run(environment / "bin" / "pip", "install", "--quiet", wheel, cwd=tmp_path)
    model = shutil.copy(FIXTURES / "fashion_resnet.onnx", tmp_path / "model.onnx")
    command = environment / "bin" / "prunegraph"
    run(command, "prune", model, "-o", "half.onnx", "--ratio", "0.5", cwd=tmp_path)
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * model.stat().st_size
    where = "import prunegraph, prunegraph.frontends.mxnet; print(prunegraph.__file__)"
    printed = run(environment / "bin" / "python", "-c", where, cwd=tmp_path)
    assert Path(printed.strip()).is_relative_to(environment)
