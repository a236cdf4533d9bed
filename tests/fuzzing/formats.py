"""Damage to every other kind of file that a user may get from a stranger: what is written, damaged, and read.

Each format writes its files once, names the one that is damaged, and reads all of it in one function. The only
outcomes are a result or a PrunegraphError.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import prunegraph as pg
from prunegraph import recipes
from prunegraph.cli import main
from prunegraph.cli.quantize import read_ranges
from prunegraph.cli.recipe import lines
from prunegraph.frontends.arrays import read_arrays
from prunegraph.graph.model import Graph
from prunegraph.report import curves
from prunegraph.runtime.data import read_data
from prunegraph.selection.plan import Plan
from tests.builders import residual_net
from tests.paths import FIXTURES

MXNET = FIXTURES / "mxnet" / "tiny" / "mobilenet_tiny"

#: Numbers that a file may hold and nothing should be made of.
WILD = (0, -1, 1, 7, 2**31, 2**63 - 1, -(2**63), 10**30, 1e308, float("nan"))


@dataclass(frozen=True)
class Format:
    """`write` writes the files into a folder and returns the one to damage; `read` reads it."""

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], object]


@functools.cache
def net() -> Graph:
    return residual_net()


def _external(folder: Path) -> Path:
    model = onnx.ModelProto.FromString(net().model.SerializeToString())
    onnx.save(
        model,
        folder / "net.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="w.bin",
        size_threshold=0,
    )
    return folder / "net.onnx"


def _read_external(path: Path) -> object:
    graph = pg.load(path)
    for weight in graph.weights.values():
        weight.read()
    return pg.apply(graph, pg.select(graph, budget=pg.Budget(ratio=0.5), round_to=1))


def _symbol(folder: Path) -> Path:
    for path in MXNET.glob("model*"):
        shutil.copy(path, folder / path.name)
    return folder / "model-symbol.json"


def _params(folder: Path) -> Path:
    return _symbol(folder).with_name("model-0000.params")


def _read_mxnet(path: Path) -> object:
    return pg.load(path.with_name("model-symbol.json"))


def _plan(folder: Path) -> Path:
    pg.select(net(), budget=pg.Budget(ratio=0.5), round_to=1).save(folder / "plan.json")
    return folder / "plan.json"


def _read_plan(path: Path) -> object:
    return pg.apply(net(), Plan.load(path))


def _sensitivity(folder: Path) -> Path:
    points = [{"ratio": r, "macs": 100, "error": r} for r in (0.1, 0.5)]
    groups = [
        {"id": "g0", "layers": ["a"], "points": points},
        {"id": "g1", "layers": ["b"], "points": points},
    ]
    (folder / "s.json").write_text(
        json.dumps({"format": curves.FORMAT, "metric": "error", "groups": groups})
    )
    return folder / "s.json"


def _read_sensitivity(path: Path) -> object:
    return curves.parse(curves.read(path)).ratios


def _ranges(folder: Path) -> Path:
    quantized = pg.quantize(
        net(), {"x": np.ones((4, 3, 8, 8), np.float32)}, method="minmax"
    )
    (folder / "ranges.json").write_text(json.dumps(quantized.ranges))
    return folder / "ranges.json"


def _read_ranges(path: Path) -> object:
    return pg.quantize(
        net(),
        {"x": np.ones((4, 3, 8, 8), np.float32)},
        method="minmax",
        ranges=read_ranges(str(path)),
    )


def _recipe(folder: Path) -> Path:
    pg.save(net(), folder / "net.onnx")
    steps = [
        recipes.RecipeStep(
            "prune",
            {
                "model": str(folder / "net.onnx"),
                "output": "a.onnx",
                "ratio": "0.5",
                "keep": ["x"],
            },
        ),
        recipes.RecipeStep(
            "quantize",
            {"output": "b.onnx", "data": str(folder / "net.onnx"), "equalize": True},
        ),
    ]
    recipes.save(steps, folder / "r.toml")
    return folder / "r.toml"


def _read_recipe(path: Path) -> object:
    return lines(recipes.read(path), main)


def _arrays(folder: Path) -> Path:
    np.savez(
        folder / "x.npz",
        x=np.ones((9, 3, 8, 8), np.float32),
        labels=np.arange(9),
        more=np.array(["a", "b"]),
    )
    return folder / "x.npz"


def _packed(folder: Path) -> Path:
    np.savez_compressed(
        folder / "x.npz", x=np.ones((70, 3, 8, 8), np.float32), labels=np.arange(70)
    )
    return folder / "x.npz"


def _feed(folder: Path) -> Path:
    (folder / "feeds").mkdir()
    np.savez(folder / "feeds" / "x.npz", x=np.ones((9, 3, 8, 8), np.float32))
    return folder / "feeds" / "x.npz"


def _array(folder: Path) -> Path:
    (folder / "arrays").mkdir()
    np.save(folder / "arrays" / "x.npy", np.ones((9, 3, 8, 8), np.float32))
    return folder / "arrays" / "x.npy"


def _read_data(path: Path) -> object:
    source = path.parent if path.parent.name in ("feeds", "arrays") else path
    data = read_data(str(source)).fit(net())
    return sum(len(batch["x"]) for batch in data.batches(net(), 4)), data.digest


FORMATS = {
    each.name: each
    for each in (
        Format("external", _external, _read_external),
        Format(
            "external data",
            lambda folder: _external(folder).with_name("w.bin"),
            lambda path: _read_external(path.with_name("net.onnx")),
        ),
        Format("symbol", _symbol, _read_mxnet),
        Format("params", _params, _read_mxnet),
        Format("plan", _plan, _read_plan),
        Format("sensitivity", _sensitivity, _read_sensitivity),
        Format("ranges", _ranges, _read_ranges),
        Format("recipe", _recipe, _read_recipe),
        Format("npz", _arrays, _read_data),
        Format("packed npz", _packed, _read_data),
        Format("feed", _feed, _read_data),
        Format("npy", _array, _read_data),
        Format("example inputs", _arrays, lambda path: read_arrays(str(path))),
    )
}


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """A file with bytes changed, cut out or doubled, or with its end cut off; JSON also with a value replaced."""
    if data[:1] == b"{" and rng.random() < 0.6:
        return _other_value(data, rng)
    damaged = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not damaged:
            break
        at = int(rng.integers(len(damaged)))
        kind = rng.integers(6)
        if kind < 2:
            damaged[at] = (
                int(rng.integers(256))
                if kind
                else damaged[at] ^ (1 << int(rng.integers(8)))
            )
        elif kind == 2:
            del damaged[at : at + int(rng.integers(1, 40))]
        elif kind == 3:
            damaged[at:at] = damaged[at : at + int(rng.integers(1, 40))]
        elif kind == 4:
            damaged[at : at + 8] = int(rng.choice([2**31, 2**40, 2**62])).to_bytes(
                8, "little"
            )
        else:
            del damaged[max(at, len(damaged) // 2) :]
    return bytes(damaged)


def _other_value(data: bytes, rng: np.random.Generator) -> bytes:
    """The same JSON with one value in it replaced by one of another kind."""
    content = json.loads(data)
    holder, key = _place(content, rng)
    if holder is None:
        return data
    values = (None, True, "", "x", [], {}, [[]], [1], *WILD)
    holder[key] = values[rng.integers(len(values))]
    return json.dumps(content).encode()


def _place(content: object, rng: np.random.Generator) -> tuple[dict | list | None, object]:
    """A random place in JSON: its holder, and the key or index there."""
    holder: dict | list | None = None
    key: object = None
    while (
        isinstance(content, dict | list)
        and content
        and (holder is None or rng.random() < 0.8)
    ):
        holder = content
        keys = list(content) if isinstance(content, dict) else range(len(content))
        key = keys[rng.integers(len(keys))]
        content = content[key]  # type: ignore[index,call-overload]
    return holder, key
