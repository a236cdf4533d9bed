"""Grids, bilinear samplers and correlations, against loops over what MXNet's documentation says of them.

What real MXNet computes of 13 cases is in `fixtures/mxnet/more.zip`; `test_convert.py` compares with it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import prunegraph as pg
from prunegraph.errors import ModelError
from prunegraph.frontends import mxnet
from prunegraph.frontends.mxnet import params as params_file
from prunegraph.frontends.mxnet.operators import sampling
from prunegraph.frontends.mxnet.symbol import parse
from tests.frontends.mxnet import cases
from tests.frontends.mxnet.test_convert import one

Array = np.ndarray


def convert(op: str, inputs: dict[str, Array], **attributes: object) -> Array:
    """What the converted operator computes."""
    written = {name: str(value) for name, value in attributes.items()}
    model = mxnet.convert(
        parse(one(op, *inputs, **written)), {}, {n: x.shape for n, x in inputs.items()}
    ).model
    return cases.run(model, inputs)[0]


# -- references ------------------------------------------------------------------------------


def correlated(
    a: Array, b: Array, k: int, most: int, s1: int, s2: int, pad: int, multiply: bool
) -> Array:
    """Each patch of one map with those of the other around it, one number at a time."""
    count, channels, height, width = a.shape
    pads = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    a, b = (np.pad(each.astype(np.float64), pads) for each in (a, b))
    border, radius = most + (k - 1) // 2, most // s2
    rows, columns = (
        math.ceil((size + 2 * pad - 2 * border) / s1) for size in (height, width)
    )
    side = 2 * radius + 1
    result = np.zeros((count, side * side, rows, columns))
    for n, d, i, j in np.ndindex(result.shape):
        y, x = i * s1 + most, j * s1 + most
        dy, dx = (d // side - radius) * s2, (d % side - radius) * s2
        one, other = (
            m[n, :, y + v : y + v + k, x + h : x + h + k]
            for m, v, h in ((a, 0, 0), (b, dy, dx))
        )
        both = one * other if multiply else abs(one - other)
        result[n, d, i, j] = both.sum() / (k * k * channels)
    return result


def sampled(data: Array, grid: Array) -> Array:
    """Values between four pixels, those outside being 0."""
    _, _, height, width = data.shape
    result = np.zeros((*data.shape[:2], *grid.shape[2:]))
    for n, i, j in np.ndindex(grid.shape[0], *grid.shape[2:]):
        x = (float(grid[n, 0, i, j]) + 1) * (width - 1) / 2
        y = (float(grid[n, 1, i, j]) + 1) * (height - 1) / 2
        for v in (math.floor(y), math.floor(y) + 1):
            for h in (math.floor(x), math.floor(x) + 1):
                if 0 <= v < height and 0 <= h < width:
                    part = (1 - abs(y - v)) * (1 - abs(x - h))
                    result[n, :, i, j] += part * data[n, :, v, h]
    return result


def placed(matrices: Array, height: int, width: int) -> Array:
    """Positions that affine matrices give the pixels of an output."""
    result = np.zeros((len(matrices), 2, height, width))
    for n, i, j in np.ndindex(len(matrices), height, width):
        x, y = 2 * j / (width - 1) - 1, 2 * i / (height - 1) - 1
        result[n, :, i, j] = matrices[n].reshape(2, 3) @ [x, y, 1]
    return result


# -- against them -----------------------------------------------------------------------------


@st.composite
def correlations(draw: st.DrawFn) -> dict[str, Any]:
    """Attributes of a correlation that fit a map, and the map's shape."""
    k, most = draw(st.sampled_from([1, 3, 5])), draw(st.integers(0, 4))
    pad = draw(st.integers(0, 5))
    least = max(1, 2 * (most + (k - 1) // 2) - 2 * pad + 1)
    shape = (
        draw(st.integers(1, 2)),
        draw(st.integers(1, 4)),
        draw(st.integers(least, least + 5)),
        draw(st.integers(least, least + 5)),
    )
    return {
        "shape": shape,
        "kernel_size": k,
        "max_displacement": most,
        "stride1": draw(st.integers(1, 3)),
        "stride2": draw(st.integers(1, 3)),
        "pad_size": pad,
        "is_multiply": draw(st.booleans()),
    }


@settings(max_examples=30, deadline=None)
@given(correlations(), st.integers(0, 999))
def test_correlations(drawn: dict[str, Any], seed: int) -> None:
    shape = drawn.pop("shape")
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal(shape).astype(np.float32) for _ in "ab")
    result = convert("Correlation", {"data1": a, "data2": b}, **drawn)
    wanted = correlated(a, b, *drawn.values())
    assert result.shape == wanted.shape
    assert np.allclose(result, wanted, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*(st.integers(1, 6) for _ in range(2))),
    st.tuples(*(st.integers(1, 6) for _ in range(2))),
    st.floats(0.2, 3),
    st.integers(0, 999),
)
def test_samplers(
    size: tuple[int, int], target: tuple[int, int], reach: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((2, 3, *size)).astype(np.float32)
    grid = rng.uniform(-reach, reach, (2, 2, *target)).astype(np.float32)
    result = convert("BilinearSampler", {"data": data, "grid": grid})
    assert np.allclose(result, sampled(data, grid), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.integers(2, 7), st.integers(2, 7)), st.integers(0, 999))
def test_grids_of_matrices(target: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrices = rng.standard_normal((2, 6)).astype(np.float32)
    grid = placed(matrices, *target)
    options = {"transform_type": "affine", "target_shape": target}
    result = convert("GridGenerator", {"data": matrices}, **options)
    assert np.allclose(result, grid, atol=1e-5)
    data = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
    both = {"data": data, "loc": matrices}
    result = convert("SpatialTransformer", both, sampler_type="bilinear", **options)
    assert np.allclose(result, sampled(data, grid), atol=1e-4)


def test_a_flow_moves_by_pixels() -> None:
    """A flow of whole pixels takes each value from where it points to."""
    data = np.arange(30, dtype=np.float32).reshape(1, 1, 5, 6) + 1
    flow = np.zeros((1, 2, 5, 6), np.float32)
    flow[0, 0], flow[0, 1] = 2, -1
    grid = convert("GridGenerator", {"data": flow}, transform_type="warp")
    result = convert("BilinearSampler", {"data": data, "grid": grid})
    wanted = np.zeros_like(data)
    wanted[0, 0, 1:, :4] = data[0, 0, :-1, 2:]
    assert np.allclose(result, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("op", "attributes", "message"),
    [
        ("Correlation", {"kernel_size": 2}, "kernel_size=2 must be odd"),
        ("Correlation", {"stride2": 0}, "strides must be positive"),
        ("Correlation", {"max_displacement": 9}, "do not fit into the padded map"),
        ("Correlation", {"max_displacement": 40, "pad_size": 40}, "6561 displacements"),
        ("Correlation", {"pad_size": 10**6}, "makes a map of .* places"),
        ("GridGenerator", {"transform_type": "affine"}, "at least 2 high and wide"),
        (
            "GridGenerator",
            {"transform_type": "affine", "target_shape": (1, 4)},
            r"target_shape=\(1, 4\) must be",
        ),
        ("GridGenerator", {"transform_type": "turn"}, "transform_type='turn'"),
    ],
)
def test_what_cannot_be_said(op: str, attributes: dict[str, Any], message: str) -> None:
    maps = {name: np.zeros((1, 2, 6, 6), np.float32) for name in ("data1", "data2")}
    inputs = maps if op == "Correlation" else {"data": np.zeros((1, 6), np.float32)}
    with pytest.raises(ModelError, match=message) as caught:
        convert(op, inputs, **attributes)
    assert f"MXNet operator '{op}', node 'it'" in str(caught.value)


def test_x_for_y_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = sampling._ends
    monkeypatch.setattr(sampling, "_ends", lambda count: ends(count)[::-1])
    folder = next(f for f in cases.operator_folders() if f.name == "sampler_affine")
    result = cases.run(cases.read(folder).model, cases.inputs(folder))
    assert cases.difference(result, cases.outputs(folder)) > 0.01


# -- pruned ---------------------------------------------------------------------------------


class Network:
    """A symbol that is put together node by node, with random parameters."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.arrays: dict[str, Array] = {}
        self.rng = np.random.default_rng(0)

    def variable(self, name: str, *shape: int) -> int:
        if shape:
            self.arrays[name] = (0.3 * self.rng.standard_normal(shape)).astype(np.float32)
        self.nodes.append({"op": "null", "name": name, "inputs": []})
        return len(self.nodes) - 1

    def node(self, op: str, name: str, *inputs: int, **attributes: object) -> int:
        self.nodes.append(
            {
                "op": op,
                "name": name,
                "inputs": [[each, 0, 0] for each in inputs],
                "attrs": {key: str(value) for key, value in attributes.items()},
            }
        )
        return len(self.nodes) - 1

    def convolution(self, name: str, x: int, weight: int, filters: int) -> int:
        y = self.node(
            "Convolution", name, x, weight,
            kernel=(3, 3), pad=(1, 1), num_filter=filters, no_bias=True,
        )  # fmt: skip
        return self.node("Activation", f"{name}_relu", y, act_type="relu")

    def save(self, folder: Path) -> str:
        variables = [i for i, node in enumerate(self.nodes) if node["op"] == "null"]
        symbol = {
            "nodes": self.nodes,
            "arg_nodes": variables,
            "heads": [[len(self.nodes) - 1, 0, 0]],
            "attrs": {"mxnet_version": ["int", 10901]},
        }
        (folder / "net-symbol.json").write_text(json.dumps(symbol))
        stored = {f"arg:{name}": array for name, array in self.arrays.items()}
        params_file.save(stored, folder / "net-0000.params")
        return str(folder / "net-symbol.json")


def matching() -> Network:
    """Features of two images by the same weights, correlated, and a convolution of that (as FlowNet has it)."""
    net = Network()
    first, second = net.variable("left"), net.variable("right")
    weights = [net.variable("a_weight", 8, 3, 3, 3), net.variable("b_weight", 12, 8, 3, 3)]
    maps = []
    for side, image in (("left", first), ("right", second)):
        x = net.convolution(f"{side}_a", image, weights[0], 8)
        maps.append(net.convolution(f"{side}_b", x, weights[1], 12))
    y = net.node("Correlation", "matched", *maps, max_displacement=2, pad_size=2, stride2=2)
    net.convolution("out", y, net.variable("out_weight", 4, 9, 3, 3), 4)
    return net


def transformed() -> Network:
    """A spatial transformer between two convolutions; a dense layer finds the matrices."""
    net = Network()
    image = net.variable("data")
    x = net.convolution("a", image, net.variable("a_weight", 8, 3, 3, 3), 8)
    pooled = net.node(
        "Pooling", "pooled", x, global_pool=True, pool_type="avg", kernel=(1, 1)
    )
    found = net.node(
        "FullyConnected", "found", pooled, net.variable("found_weight", 6, 8),
        num_hidden=6, no_bias=True,
    )  # fmt: skip
    grid = net.node(
        "GridGenerator", "grid", found, transform_type="affine", target_shape=(6, 6)
    )
    y = net.node("BilinearSampler", "sampled", x, grid)
    net.convolution("out", y, net.variable("out_weight", 4, 8, 3, 3), 4)
    return net


@pytest.mark.parametrize("build", [matching, transformed])
def test_pruned_with_proof_and_written_back(build: Any, tmp_path: Path) -> None:
    net = build()
    names = [
        n["name"] for n in net.nodes if n["op"] == "null" and n["name"] not in net.arrays
    ]
    shapes = dict.fromkeys(names, (2, 3, 8, 8))
    source = net.save(tmp_path)
    graph = pg.load(source, input_shapes=shapes)
    result = pg.prune(graph, budget=pg.Budget(ratio=0.5), algorithm="l2", round_to=1)
    assert result.proof is not None and result.proof.relative <= 1e-4
    widths = {n.name: n.channels.outputs for n in result.model.layers}
    first, last = ("left_a", "left_b") if build is matching else ("a", "a")
    assert (widths[first], widths[last]) == ((4, 6) if build is matching else (4, 4))
    assert widths.get("found", 6) == 6, "an affine matrix stays whole"
    small = str(tmp_path / "small-symbol.json")
    mxnet.apply(
        source, result.plan, result.model, small, str(tmp_path / "small-0000.params"),
        input_shapes=shapes,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    data = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    again = mxnet.load(small, input_shapes=shapes)
    assert (
        cases.difference(cases.run(again, data), cases.run(result.model.model, data))
        <= 1e-6
    )
