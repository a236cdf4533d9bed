"""Fixtures written by real MXNet: where they are, and what they compute here."""

from __future__ import annotations

import functools
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from prunegraph.frontends import mxnet
from prunegraph.frontends.mxnet.bind import read_params
from prunegraph.frontends.mxnet.symbol import load
from tests.paths import FIXTURES

ROOT = FIXTURES / "mxnet"
SETS = ("tiny", "sym", "legacy", "np")


def folders() -> list[Path]:
    """Folders of whole networks."""
    return [
        path for name in SETS for path in sorted((ROOT / name).iterdir()) if path.is_dir()
    ]


@functools.cache
def operator_folders() -> list[Path]:
    """Folders of single operators, unpacked once."""
    folder = Path(tempfile.mkdtemp(prefix="mxnet-ops-"))
    for name in ("ops", "more"):
        with zipfile.ZipFile(ROOT / f"{name}.zip") as archive:
            archive.extractall(folder / name)
    return sorted(path for path in folder.glob("*/*") if path.is_dir())


def inputs(folder: Path) -> dict[str, np.ndarray]:
    """Stored inputs by name."""
    files = {
        path.stem.removeprefix("input_"): np.load(path)
        for path in sorted(folder.glob("input*.npy"))
    }
    if set(files) != {"input"}:
        return files
    symbol = load(folder / "model-symbol.json")
    params = read_params(folder / "model-0000.params", symbol)
    free = [
        name
        for name in symbol.variables()
        if name not in params and name not in symbol.labels()
    ]
    return {"data" if "data" in free else free[0]: files["input"]} if free else {}


def outputs(folder: Path) -> list[np.ndarray]:
    """Outputs that MXNet computed."""
    return [
        np.load(path)
        for path in sorted(folder.glob("output[0-9].npy")) or [folder / "output.npy"]
    ]


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """MXNet's shapes of all outputs of all nodes."""
    return {
        name: tuple(shape)
        for name, shape in json.loads((folder / "shapes.json").read_text()).items()
    }


def read(folder: Path) -> mxnet.Converted:
    return mxnet.read(
        str(folder / "model-symbol.json"),
        input_shapes={name: put.shape for name, put in inputs(folder).items()},
    )


def run(model: onnx.ModelProto, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    types = {
        put.name: onnx.helper.tensor_dtype_to_np_dtype(put.type.tensor_type.elem_type)
        for put in model.graph.input
    }
    feeds = {
        put.name: given[put.name].astype(types[put.name]) for put in session.get_inputs()
    }
    return session.run(None, feeds)


def difference(result: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest difference relative to the largest element; shapes must be equal."""
    assert [x.shape for x in result] == [x.shape for x in wanted]
    return max(
        float(np.abs(x.astype(np.float64) - y).max() / max(np.abs(y).max(), 1e-30))
        if y.size
        else 0.0
        for x, y in zip(result, wanted, strict=True)
    )
