"""MXNet's file formats: every release's spelling is read, and damage is one clear error."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunegraph.errors import ModelError
from prunegraph.frontends.mxnet import params, symbol
from prunegraph.frontends.mxnet.aliases import ALIASES, canonical
from prunegraph.frontends.mxnet.operators import OPERATORS
from prunegraph.frontends.mxnet.values import parse, whole, wholes
from tests.frontends.mxnet.cases import ROOT

EXPECTED = sorted(
    path
    for path in ROOT.glob("*/*/*_expected.npz")
    if path.stem != "net_expected" or "v2" in str(path)
)


def original(expected: Path) -> Path:
    stem = expected.stem.removesuffix("_expected")
    names = (
        ["model-0000.params"]
        if stem == "params"
        else [f"{stem}.nd", f"{stem}.params", f"{stem}.npz"]
    )
    return next(path for name in names if (path := expected.parent / name).exists())


# -- parameters ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expected", EXPECTED, ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_parameters_are_read_bit_by_bit(expected: Path) -> None:
    result = params.load(original(expected))
    with np.load(expected) as wanted:
        assert set(result) == set(wanted.files)
        for name in wanted.files:
            assert (
                result[name].dtype == wanted[name].dtype
                and result[name].shape == wanted[name].shape
            )
            assert result[name].tobytes() == wanted[name].tobytes(), name


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("legacy/*/list.nd")), ids=lambda path: path.parent.name
)
def test_lists_without_names(path: Path) -> None:
    assert [array.shape for array in params.load(path).values()] == [(2, 3), (4,)]


def record(*parts: bytes) -> bytes:
    """A file of one array named "a"."""
    return (
        struct.pack("<QQQ", 0x112, 0, 1) + b"".join(parts) + struct.pack("<QQ", 1, 1) + b"a"
    )


def header(storage: int, *shape: int, flag: int = 0) -> bytes:
    return struct.pack(
        f"<Iii{len(shape)}qiii", params.V2, storage, len(shape), *shape, 1, 0, flag
    )


def test_bfloat16_is_widened() -> None:
    values = np.array([1.0, -2.5, 3.0], np.float32)
    data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    result = params.parse(record(header(0, 3, flag=12), data))["a"]
    assert result.dtype == np.float32 and result.tolist() == values.tolist()


@pytest.mark.parametrize("stale", [0, 2])
def test_row_sparse_with_a_stale_storage_shape(stale: int) -> None:
    parts = (
        struct.pack("<Ii", params.V2, 1)
        + struct.pack("<iqq", 2, stale, 3)
        + struct.pack("<iqq", 2, 4, 3)
    )
    parts += struct.pack("<iii", 1, 0, 0) + struct.pack("<iiq", 6, 1, 2)
    data = np.arange(6, dtype="<f4").tobytes() + np.array([1, 3], "<i8").tobytes()
    dense = params.parse(record(parts, data))["a"]
    assert dense.tolist() == [[0, 0, 0], [0, 1, 2], [0, 0, 0], [3, 4, 5]]


def test_csr() -> None:
    parts = (
        struct.pack("<Ii", params.V2, 2)
        + struct.pack("<iq", 1, 0)
        + struct.pack("<iqq", 2, 2, 3)
    )
    parts += (
        struct.pack("<iii", 1, 0, 0)
        + struct.pack("<iiq", 6, 1, 3)
        + struct.pack("<iiq", 6, 1, 3)
    )
    data = (
        np.array([5, 6, 7], "<f4").tobytes()
        + np.array([0, 1, 3], "<i8").tobytes()
        + np.array([2, 0, 1], "<i8").tobytes()
    )
    assert params.parse(record(parts, data))["a"].tolist() == [[0, 0, 5], [6, 7, 0]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an MXNet parameter file"),
        (b"hello world, no parameters", "not an MXNet parameter file"),
        (struct.pack("<QQQ", 0x112, 0, 2**60), "announces"),
        (struct.pack("<QQQ", 0x112, 1, 0), "reserved"),
        (struct.pack("<QQQQ", 0x112, 0, 0, 0) + b"x", "1 bytes after the end"),
        (record(header(0, 2**40, 2**40), b""), "bytes are needed"),
        (record(header(0, 3, flag=99), b""), "dtype flag 99"),
        (record(header(7, 3), b""), "storage type 7"),
        (record(header(0, -5), b""), "shape"),
        (record(struct.pack("<Iii", params.V2, 0, 1000)), "rank 1000"),
        (b"PK\x03\x04 and nothing", "damaged"),
        (b"\x93NUMPY\x01\x00 and nothing", "not a numpy array"),
    ],
)
def test_damage_is_one_clear_error(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        params.parse(data, "file.params")


def test_duplicate_names() -> None:
    array = header(0, 1) + struct.pack("<f", 1)
    data = (
        struct.pack("<QQQ", 0x112, 0, 2)
        + array * 2
        + struct.pack("<Q", 2)
        + (struct.pack("<Q", 1) + b"a") * 2
    )
    with pytest.raises(ModelError, match="'a' is there twice"):
        params.parse(data)


SEEDS = [
    ROOT / "legacy" / v / "dtypes.nd"
    for v in ("v0.9.5.post2", "v0.11.0", "v1.9.1", "v2.0.0b1")
] + [
    ROOT / "np" / "v1.9.1" / "npx.nd",
    ROOT / "np" / "v2.0.0b1" / "npx.npz",
]


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_truncation_is_an_error(path: Path) -> None:
    data = path.read_bytes()
    for size in range(len(data)):
        with pytest.raises(ModelError):
            params.parse(data[:size])


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_flipped_bytes_give_arrays_or_a_clear_error(path: Path) -> None:
    rng = np.random.default_rng(0)
    data = path.read_bytes()
    refused = 0
    for _ in range(1500):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        try:
            params.parse(bytes(damaged))
        except ModelError:
            refused += 1
    assert refused > 100


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"arg:{kind}": rng.integers(0, 100, (2, 3)).astype(kind)
        for kind in ("f4", "f8", "f2", "u1", "i4", "i1", "i8")
    }
    params.save(arrays, tmp_path / "a.params")
    result = params.load(tmp_path / "a.params")
    assert list(result) == list(arrays)
    assert all(
        result[k].dtype == v.dtype and np.array_equal(result[k], v)
        for k, v in arrays.items()
    )
    params.save({}, tmp_path / "b.params")
    assert (tmp_path / "b.params").stat().st_size == 32


def test_what_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    for array in (np.float32(1.0)[()].reshape(()), np.array(["text"])):
        with pytest.raises(ModelError, match="'arg:a'"):
            params.save({"arg:a": array}, tmp_path / "a.params")
        assert not list(tmp_path.iterdir())


def test_own_files_of_mxnet_are_written_alike(tmp_path: Path) -> None:
    """A file of MXNet 1.9.1, read and written again, has the same bytes."""
    path = ROOT / "tiny" / "vgg_tiny" / "model-0000.params"
    params.save(params.load(path), tmp_path / "again.params")
    assert (tmp_path / "again.params").read_bytes() == path.read_bytes()


# -- symbols --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(3, 3)", (3, 3)),
        ("(3,)", (3,)),
        ("[3,3]", (3, 3)),
        ("(3L, 3L)", (3, 3)),
        ("()", ()),
        ("[]", ()),
        ("-1", -1),
        ("1.0", 1.0),
        ("1e-05", 1e-5),
        ("None", None),
        ("True", 1),
        ("False", 0),
        ("0", 0),
        ("(None, -3)", (None, -3)),
        ("relu", "relu"),
        ("inf", float("inf")),
        ("float32", "float32"),
        ("true", 1),
    ],
)
def test_values(text: str, value: object) -> None:
    assert parse(text) == value


def test_whole_numbers() -> None:
    assert whole(1.0) == 1 and wholes(3) == (3,) and wholes((1.0, 2)) == (1, 2)
    with pytest.raises(ValueError, match="whole"):
        whole(1.5)


def test_aliases_are_mxnets_own() -> None:
    """Every alias of MXNet 1.9.1 whose operator is known leads to it."""
    known = json.loads((ROOT / "op_params.json").read_text())
    for alias, name in known["aliases"].items():
        if canonical(name) in OPERATORS:
            assert canonical(alias) == canonical(name), alias
    names = {*known["ops"], *known["aliases"]}
    # These are of MXNet before 1.9 or of 2.0.
    newer = {"_npx_group_norm", "_npx_instance_norm", "Softmax"}
    assert {name for name in ALIASES if name not in names} <= newer | {"_grad_add"} | set(
        names
    )
    assert (
        canonical("crop") == "slice"
        and canonical("Crop") == "Crop"
        and canonical("Softmax") == "SoftmaxOutput"
    )


def test_converters_are_for_real_operators() -> None:
    known = json.loads((ROOT / "op_params.json").read_text())["ops"]
    assert [name for name in OPERATORS if name not in known] == []


def minimal(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "nodes": [
            {"op": "null", "name": "data", "inputs": []},
            {"op": "relu", "name": "r", "inputs": [[0, 0, 0]]},
        ],
        "arg_nodes": [0],
        "heads": [[1, 0, 0]],
    }
    return content | changes


def test_inputs_of_two_and_three_numbers() -> None:
    for pair in ([0, 0], [0, 0, 1]):
        nodes = [minimal()["nodes"][0], {"op": "relu", "name": "r", "inputs": [pair]}]
        assert symbol.parse(minimal(nodes=nodes)).nodes[1].inputs[0].node == 0


def test_attributes_of_all_releases() -> None:
    node = {
        "op": "X",
        "name": "x",
        "param": {"a": "1", "b": "1"},
        "attr": {"b": "2"},
        "inputs": [],
    }
    assert dict(
        symbol.parse(minimal(nodes=[node], heads=[[0, 0]])).nodes[0].attributes
    ) == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no list 'nodes'"),
        ({}, "no list 'nodes'"),
        (minimal(heads=[]), "no outputs"),
        (minimal(heads=[[5, 0, 0]]), "reads node 5"),
        (minimal(heads=[[0, 1, 0]]), "output 1 of variable"),
        (minimal(heads="x"), "no list 'heads'"),
        (
            minimal(nodes=[{"op": "relu", "name": "r", "inputs": [[0, 0, 0]]}]),
            "reads node 0",
        ),
        (
            minimal(
                nodes=[
                    {"op": "null", "name": "d"},
                    {"op": "relu", "name": "r", "inputs": [[0, -1, 0]]},
                ]
            ),
            "output -1",
        ),
        (
            minimal(
                nodes=[
                    {"op": "null", "name": "d"},
                    {"op": "relu", "name": "r", "inputs": [["a"]]},
                ]
            ),
            "must be",
        ),
        (minimal(nodes=[{"op": "null"}, {"op": "relu", "name": "r"}]), "text 'name'"),
        (
            minimal(
                nodes=[
                    {"op": "null", "name": "d", "attrs": []},
                    {"op": "relu", "name": "r", "attrs": [1]},
                ]
            ),
            "object",
        ),
    ],
)
def test_broken_symbols(content: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        symbol.parse(content)


def test_unreadable_symbols(tmp_path: Path) -> None:
    path = tmp_path / "net-symbol.json"
    with pytest.raises(ModelError, match="no such file"):
        symbol.load(path)
    for data in (b"{", b"\xff\xfe", b"[" * 100000):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="not an MXNet symbol file"):
            symbol.load(path)


def test_states_that_old_files_leave_out() -> None:
    result = symbol.load(ROOT / "legacy" / "v0.8-style" / "model-symbol.json")
    norm = next(node for node in result.nodes if node.op == "BatchNorm")
    assert [result.nodes[source.node].name for source in norm.inputs[3:]] == [
        f"{norm.name}_moving_mean",
        f"{norm.name}_moving_var",
    ]
