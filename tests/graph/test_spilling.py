"""Large files whose weights are not held: what is read, made and written is as of a file that is read as a whole."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import prunegraph as pg
from prunegraph.errors import ModelError
from prunegraph.graph import spilling
from prunegraph.graph.model import Graph
from tests.builders import residual_net
from tests.random_graphs import draw_graph

BYTES = {"float16": TensorProto.FLOAT16, "int4": TensorProto.INT4}


@pytest.fixture
def spilled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as large, and every weight as well."""
    monkeypatch.setattr(spilling, "LARGE", 0)
    monkeypatch.setattr(spilling, "MIN_BYTES", 1)


def on_disk(graph: Graph) -> list[str]:
    return [
        tensor.name
        for tensor in graph.model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    ]


def write(tmp_path: Path, width: int = 8) -> Path:
    path = tmp_path / "model.onnx"
    pg.save(residual_net(width=width), path)
    return path


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(graph=draw_graph())
def test_a_file_is_read_and_written_to_the_byte(
    graph: Graph, tmp_path: Path, spilled: None
) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    pg.save(graph, before)
    read = pg.load(before)
    assert on_disk(read)
    pg.save(read, after)
    assert after.read_bytes() == before.read_bytes()
    assert read.sha256 == pg.load(after).sha256
    for name, weight in graph.weights.items():
        np.testing.assert_array_equal(read.weights[name].read(), weight.read())


def test_a_pruned_file_is_the_same_and_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    data = {"x": np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype("f")}
    whole = pg.prune(path, data=data, budget=pg.Budget(macs=0.6), out=tmp_path / "a.onnx")
    monkeypatch.setattr(spilling, "LARGE", 0)
    apart = pg.prune(path, data=data, budget=pg.Budget(macs=0.6), out=tmp_path / "b.onnx")
    assert on_disk(apart.original)
    assert not on_disk(whole.original)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert not list(tmp_path.glob("*.data"))


def test_the_file_may_be_written_over(tmp_path: Path, spilled: None) -> None:
    path = write(tmp_path)
    graph = pg.load(path)
    before = {name: np.array(weight.read()) for name, weight in graph.weights.items()}
    path.write_bytes(b"something else")
    for name, weight in graph.weights.items():
        np.testing.assert_array_equal(weight.read(), before[name])


def test_the_folder_goes_with_the_last_graph_that_reads_from_it(
    tmp_path: Path, spilled: None
) -> None:
    graph = pg.load(write(tmp_path))
    folder = graph.folder
    assert folder is not None
    assert folder.is_dir()
    assert graph.home.folder == tmp_path
    del graph
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize("name", sorted(BYTES))
def test_types_of_other_sizes(name: str, tmp_path: Path, spilled: None) -> None:
    values = np.arange(64).reshape(8, 8) % 7
    tensor = helper.make_tensor("w", BYTES[name], values.shape, values.reshape(-1))
    raw = numpy_helper.from_array(numpy_helper.to_array(tensor), "w")
    raw.doc_string = "kept"
    graph = helper.make_graph(
        [helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT)],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 8])],
        [raw],
    )
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    path.write_bytes(model.SerializeToString(deterministic=True))
    read = pg.load(path)
    assert on_disk(read) == ["w"]
    np.testing.assert_array_equal(read.weights["w"].read(), numpy_helper.to_array(raw))
    pg.save(read, out)
    assert out.read_bytes() == path.read_bytes()


def test_weights_that_lie_elsewhere_stay_there(tmp_path: Path, spilled: None) -> None:
    path = write(tmp_path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0)
    graph = pg.load(path)
    assert graph.folder == tmp_path
    assert not graph.home.in_one_file


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_broken_files_are_as_broken_as_before(
    data: st.DataObject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
            st.integers(0, 255)
        )
    path.write_bytes(content)
    results = []
    for large in (1 << 40, 0):
        monkeypatch.setattr(spilling, "LARGE", large)
        try:
            graph = pg.load(path)
            for weight in graph.weights.values():
                weight.read()
            results.append((graph.sha256, sorted(graph.weights)))
        except ModelError as error:
            results.append(type(error))
    assert results[0] == results[1]


def test_no_room_for_the_weights(
    tmp_path: Path, spilled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spilling, "_copy", full)
    assert not on_disk(pg.load(path))
