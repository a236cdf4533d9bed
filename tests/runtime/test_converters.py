"""Pruned files go on to ncnn through its own converter."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from fixtures.light_models import load
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.runtimes import OnnxRuntime
from tests.paths import FIXTURES

pytestmark = pytest.mark.slow

Array = np.ndarray

#: Models by name: a fixture, and graphs of the zoo.
MODELS = ("fashion", "torchvision__mobilenet_v2", "torchvision__resnet18")


def pruned(name: str, folder: Path) -> tuple[Path, dict[str, Array], Array]:
    """A model pruned to half of its MACs as a file, one input, and what it computes of that."""
    fashion = FIXTURES / "fashion_resnet.onnx"
    source = fashion if name == "fashion" else load(FIXTURES / "zoo" / f"{name}.light.xz")
    result = pg.prune(pg.load(source), folder / "half.onnx", budget=pg.Budget(macs=0.5))
    inputs = random_inputs(result.model, batch=1)
    return folder / "half.onnx", inputs, OnnxRuntime().open(result.model).run(inputs)[0]


def run(*words: str, folder: Path) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", MODELS)
def test_ncnn(name: str, tmp_path: Path) -> None:
    """By pnnx, with weights in 32 bits."""
    ncnn = pytest.importorskip(
        "ncnn", reason="ncnn is not installed (pip install ncnn pnnx)"
    )
    pnnx = pytest.importorskip(
        "pnnx", reason="pnnx is not installed (pip install ncnn pnnx)"
    )
    path, inputs, expected = pruned(name, tmp_path)
    image = next(iter(inputs.values()))
    shape = ",".join(map(str, image.shape))
    run(pnnx.EXEC_PATH, path.name, f"inputshape=[{shape}]", "fp16=0", folder=tmp_path)
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.num_threads = 1
    assert net.load_param(str(tmp_path / "half.ncnn.param")) == 0
    assert net.load_model(str(tmp_path / "half.ncnn.bin")) == 0
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(image[0]).clone())
    status, values = extractor.extract("out0")
    assert status == 0
    assert np.abs(np.array(values) - expected[0]).max() <= 1e-3 * np.abs(expected).max()
