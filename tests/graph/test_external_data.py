"""External data: which files a model may name, and how many bytes of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import prunegraph as pg
from prunegraph.cli import main
from prunegraph.errors import ModelError

W = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)


def external(
    location: str, offset: object = 0, length: object = 1024, name: str = "w"
) -> TensorProto:
    tensor = TensorProto(
        name=name,
        data_type=TensorProto.FLOAT,
        dims=[16, 16],
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def model(
    *weights: TensorProto, nodes: list[onnx.NodeProto] | None = None
) -> onnx.ModelProto:
    """MatMul, Relu, MatMul; its first weight is w."""
    nodes = nodes or []
    nodes = [
        *nodes,
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 16])],
        [helper.make_tensor_value_info("y", 1, ["N", 4])],
        [*weights, numpy_helper.from_array(np.ones((16, 4), np.float32), "w2")],
    )
    created = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    created.ir_version = 8
    return created


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a model's, with its data; what it must not get at lies beside it."""
    inside = tmp_path / "model"
    inside.mkdir()
    W.tofile(tmp_path / "secret.bin")
    (inside / "w.bin").write_bytes(W.tobytes())
    (inside / "below").mkdir()
    (inside / "below" / "w.bin").write_bytes(b"\0" * 4 + W.tobytes())
    return inside


def save(
    folder: Path, *weights: TensorProto, nodes: list[onnx.NodeProto] | None = None
) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model(*weights, nodes=nodes).SerializeToString())
    return path


def up(folder: Path) -> str:
    return "../secret.bin"


def absolute(folder: Path) -> str:
    return str(folder.parent / "secret.bin")


def link(folder: Path) -> str:
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    return "link.bin"


def linked_folder(folder: Path) -> str:
    (folder / "there").symlink_to(folder.parent)
    return "there/secret.bin"


def around(folder: Path) -> str:
    return "below/../../secret.bin"


def back_inside(folder: Path) -> str:
    return "../model/w.bin"


def windows(folder: Path) -> str:
    return "..\\secret.bin"


def drive(folder: Path) -> str:
    return "C:secret.bin"


@pytest.mark.parametrize(
    "place", [up, absolute, link, linked_folder, around, back_inside, windows, drive]
)
def test_files_outside_are_refused(folder: Path, place: Callable[[Path], str]) -> None:
    location = place(folder)
    path = save(folder, external(location))
    done = CliRunner().invoke(
        main,
        [
            "prune",
            str(path),
            "-o",
            str(folder / "o.onnx"),
            "--ratio",
            "0.5",
            "--round-to",
            "1",
        ],
    )
    assert done.exit_code == 2
    assert (
        "'w'" in done.stderr
        and repr(location) in done.stderr
        and done.stderr.count("\n") == 1
    )
    assert not list(folder.glob("o.onnx*"))


@pytest.mark.parametrize(
    ("offset", "length", "message"),
    [
        (0, 10**15, "takes 1024 bytes"),
        (0, 1020, "takes 1024 bytes"),
        (4, 1024, "the file has 1024"),
        (10**18, 1024, "the file has 1024"),
        (-4, 1024, "no whole number"),
        ("x", 1024, "no whole number"),
        ("9" * 5000, None, "no whole number"),
        (4, None, "the file has 1024"),
    ],
)
def test_bytes_that_are_not_there_are_refused(
    folder: Path, offset: object, length: object, message: str
) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        pg.load(save(folder, external("w.bin", offset, length)))
    assert "'w'" in str(raised.value) and "w.bin" in str(raised.value)


@pytest.mark.parametrize("what", ["", ".", "below", "none.bin", "w.bin/x", "fifo"])
def test_only_plain_files_are_read(folder: Path, what: str) -> None:
    os.mkfifo(folder / "fifo")
    with pytest.raises(ModelError, match="is missing"):
        pg.load(save(folder, external(what)))


def test_a_shape_larger_than_the_file_takes_no_memory(folder: Path) -> None:
    tensor = external("w.bin", length=None)
    del tensor.dims[:]
    tensor.dims.extend([2**40, 2**40])
    with pytest.raises(ModelError, match="are needed"):
        pg.load(save(folder, tensor))


def constant(folder: Path) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Constant", [], ["c"], value=external("../secret.bin", name="c"))
    ]


def body(folder: Path) -> list[onnx.NodeProto]:
    inner = [helper.make_node("Identity", ["v"], ["o"])]
    out = [helper.make_tensor_value_info("o", 1, [16, 16])]
    graph = helper.make_graph(inner, "b", [], out, [external("../secret.bin", name="v")])
    given = helper.make_node(
        "Constant", [], ["go"], value=numpy_helper.from_array(np.array(True))
    )
    return [
        given,
        helper.make_node("If", ["go"], ["c"], then_branch=graph, else_branch=graph),
    ]


def sparse(folder: Path) -> list[onnx.NodeProto]:
    values = external("../secret.bin", name="v")
    indices = numpy_helper.from_array(np.arange(256), "i")
    node = helper.make_node("Constant", [], ["c"])
    attribute = node.attribute.add(
        name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR
    )
    attribute.sparse_tensor.CopyFrom(
        onnx.SparseTensorProto(values=values, indices=indices, dims=[256])
    )
    return [node]


@pytest.mark.parametrize("nodes", [constant, body, sparse])
def test_tensors_inside_of_nodes_are_looked_at_too(
    folder: Path, nodes: Callable[[Path], list[onnx.NodeProto]]
) -> None:
    with pytest.raises(ModelError, match=r"'../secret.bin' of weight '[cv]' is outside"):
        pg.load(save(folder, numpy_helper.from_array(W, "w"), nodes=nodes(folder)))


def test_many_tensors_over_the_same_bytes_do_not_multiply_them(folder: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], [f"c{i}"], value=external("w.bin", name=f"c{i}"))
        for i in range(40)
    ]
    with pytest.raises(ModelError, match="too often"):
        pg.load(save(folder, numpy_helper.from_array(W, "w"), nodes=nodes))


# -- what is right stays right -------------------------------------------------------------


def read(path: Path) -> np.ndarray:
    """The weight as it is read, and as it is in the pruned file when nothing of it is cut."""
    graph = pg.load(path)
    out = path.parent / "out.onnx"
    pg.save(graph, out)
    written = onnx.load(out)
    assert np.array_equal(
        numpy_helper.to_array(written.graph.initializer[0]), graph.weights["w"].read()
    )
    return graph.weights["w"].read()


@pytest.mark.parametrize(
    ("location", "offset", "length"),
    [
        ("w.bin", 0, 1024),
        ("w.bin", None, None),
        ("below/w.bin", 4, None),
        ("./w.bin", 0, 1024),
    ],
)
def test_files_beside_and_below_the_model_are_read(
    folder: Path, location: str, offset: object, length: object
) -> None:
    assert np.array_equal(read(save(folder, external(location, offset, length))), W)


def test_a_link_that_stays_in_the_folder_is_read(folder: Path) -> None:
    (folder / "link.bin").symlink_to("below/w.bin")
    assert np.array_equal(read(save(folder, external("link.bin", 4))), W)


def test_a_folder_that_is_a_link_is_read(folder: Path) -> None:
    save(folder, external("w.bin"))
    (folder.parent / "other").symlink_to(folder)
    assert np.array_equal(read(folder.parent / "other" / "m.onnx"), W)


def cache(root: Path) -> Path:
    """The cache of Hugging Face's hub: files in snapshots are links to blobs."""
    blobs, snapshot = root / "blobs", root / "snapshots" / "abc" / "onnx"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "1f").write_bytes(model(external("model.onnx_data")).SerializeToString())
    (blobs / "2e").write_bytes(W.tobytes())
    (snapshot / "model.onnx").symlink_to("../../../blobs/1f")
    (snapshot / "model.onnx_data").symlink_to("../../../blobs/2e")
    return snapshot / "model.onnx"


def test_a_cache_of_links_is_read(tmp_path: Path) -> None:
    assert np.array_equal(read(cache(tmp_path)), W)


def test_in_a_cache_data_lead_to_where_the_model_is_and_nowhere_else(
    tmp_path: Path,
) -> None:
    path = cache(tmp_path)
    W.tofile(tmp_path / "secret.bin")
    data = path.with_name("model.onnx_data")
    data.unlink()
    data.symlink_to("../../../secret.bin")
    with pytest.raises(ModelError, match="is a link to"):
        pg.load(path)


def test_packed_types_are_read_through_the_cache(tmp_path: Path) -> None:
    path = cache(tmp_path)
    tensor = external("model.onnx_data", 0, 4, name="q")
    tensor.data_type = TensorProto.INT4
    del tensor.dims[:]
    tensor.dims.extend([7])
    (tmp_path / "blobs" / "1f").write_bytes(
        model(external("model.onnx_data"), tensor).SerializeToString()
    )
    bits = np.frombuffer(W.tobytes()[:4], np.uint8)
    wanted = np.stack([bits & 15, bits >> 4], 1).ravel()[:7].astype(np.int8)
    wanted[wanted > 7] -= 16
    assert np.array_equal(pg.load(path).weights["q"].read().astype(np.int8), wanted)
