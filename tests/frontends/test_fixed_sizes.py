"""Axes that an ONNX file leaves open, fixed as it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import prunegraph as pg
from prunegraph.errors import ModelError
from prunegraph.runtime.session import run_values
from tests.commands import MODEL, in_process


def dims(entry: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_value or d.dim_param for d in entry.type.tensor_type.shape.dim]


def cache_model() -> onnx.ModelProto:
    """Two inputs [batch, 2, past] and [batch, 2, 1], joined to [batch, 2, past + 1]; one more of another symbol."""
    nodes = [
        helper.make_node("Concat", ["old", "new"], ["all"], axis=2, name="join"),
        helper.make_node("Relu", ["free"], ["same"]),
    ]

    def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "cache",
        [
            value("old", "batch", 2, "past"),
            value("new", "batch", 2, 1),
            value("free", "rows", 3),
        ],
        [value("all", "batch", 2, "past + 1"), value("same", "rows", 3)],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(cache_model(), tmp_path / "cache.onnx")
    return tmp_path / "cache.onnx"


def test_what_is_said_of_one_input_holds_wherever_its_symbols_stand(path: Path) -> None:
    graph = pg.load(path, input_shapes={"old": (1, 2, 4)})
    sizes = {
        each.name: dims(each)
        for each in (*graph.model.graph.input, *graph.model.graph.output)
    }
    assert sizes == {
        "old": [1, 2, 4],
        "new": [1, 2, 1],
        "free": ["rows", 3],
        "all": [1, 2, 5],
        "same": ["rows", 3],
    }


def test_the_file_that_is_read_is_not_taken_for_the_one_with_fixed_sizes(
    path: Path,
) -> None:
    assert pg.load(path, input_shapes={"old": (1, 2, 4)}).sha256 != pg.load(path).sha256
    assert pg.load(path, input_shapes={}).sha256 == pg.load(path).sha256


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": (1,)}, "has no input 'x'; it has old, new, free"),
        ({"old": (1, 2)}, r"\[1, 2\]: the model declares \[batch, 2, past\]"),
        ({"old": (1, 3, 4)}, r"\[1, 3, 4\]: the model declares"),
        ({"old": (1, 2, 0)}, r"\[1, 2, 0\]: the model declares"),
        ({"old": (1, 2, 4), "new": (2, 2, 1)}, r"'new' cannot be \[2, 2, 1\]"),
    ],
)
def test_shapes_that_the_model_does_not_have(
    path: Path, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        pg.load(path, input_shapes=shapes)


def test_a_converted_file_has_the_sizes_and_computes_the_same(tmp_path: Path) -> None:
    model, out = pg.load(MODEL), tmp_path / "one.onnx"
    (name,) = model.inputs
    done = in_process("convert", MODEL, "-o", out, "--input-shape", f"{name}=1,1,28,28")
    assert done.exit_code == 0, done.output
    fixed = pg.load(out)
    assert dims(fixed.model.graph.input[0]) == [1, 1, 28, 28]
    x = np.random.default_rng(0).standard_normal((1, 1, 28, 28)).astype(np.float32)
    ours, theirs = (run_values(each, {name: x}, each.outputs) for each in (fixed, model))
    for output in model.outputs:
        np.testing.assert_array_equal(ours[output], theirs[output])
