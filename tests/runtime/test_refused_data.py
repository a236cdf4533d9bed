"""Files of data that are refused."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import DataError
from prunegraph.runtime.data import Data, read_data
from tests.runtime.feeding import call, edges, normal, scalar, text


def packed(**members: bytes) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    stream = BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


ROWS = npy(np.ones((4, 7), np.float32))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x": ROWS, "s": npy(np.array(["a"] * 4, object), pickled=True)}, "dtype=str"),
        ({"x": ROWS, "s": npy(np.arange(4))}, "input 's' wants text"),
        ({"x": ROWS}, "no array for model input 's'"),
        ({"x": ROWS, "s": npy(np.array(["a"] * 3))}, "one length"),
        (
            {"x": npy(np.ones((4, 6), np.float32)), "s": npy(np.array(["a"] * 4))},
            "wants shape",
        ),
        ({"x": ROWS, "s": npy(np.array([["a"]] * 4))}, "wants shape"),
        ({"x": header((10**12, 7)), "s": npy(np.array(["a"]))}, "not as long as its shape"),
        ({"x": header((4, 2**62)), "s": npy(np.array(["a"]))}, "not as long as its shape"),
        ({"x": header((-4, 7)), "s": npy(np.array(["a"]))}, "not as long as its shape"),
        (
            {"x": npy(np.zeros((2**25, 1), np.float32)), "s": npy(np.array(["a"]))},
            "unpacks from",
        ),
        ({"x": ROWS[:-1], "s": npy(np.array(["a"] * 4))}, "not as long as its shape"),
        ({"x": b"\x93NUMPY\x01\x00\xff\xff{(", "s": ROWS}, "not an .npz file of arrays"),
    ],
)
def test_archives_that_are_refused(
    files: Path, members: dict[str, bytes], message: str
) -> None:
    pg.save(text(), "net.onnx")
    Path("data.npz").write_bytes(packed(**members))
    done = call("prune net.onnx -o small.onnx --ratio 0.5 --data data.npz", code=2)
    assert (
        message in done.stderr
        and done.stderr.startswith("error: data.npz")
        and done.stderr.count("\n") == 1
    )
    assert not Path("small.onnx").exists()


def test_a_folder_of_pickled_arrays_is_refused(files: Path) -> None:
    Path("data").mkdir()
    np.save("data/x.npy", np.array([object]), allow_pickle=True)
    with pytest.raises(DataError, match="dtype=str"):
        read_data("data").fit(scalar())


def test_feeds_and_arrays_do_not_mix(files: Path) -> None:
    Path("data").mkdir()
    np.savez("data/a.npz", x=normal(2, 7))
    np.save("data/x.npy", normal(2, 7))
    with pytest.raises(DataError, match="one kind"):
        read_data("data")


def test_feeds_have_the_same_arrays(files: Path) -> None:
    Path("data").mkdir()
    np.savez("data/a.npz", x=normal(2, 7), e=np.array([0]))
    np.savez("data/b.npz", x=normal(2, 7))
    with pytest.raises(
        DataError, match=r"b\.npz: every feed needs the same arrays, and e differs"
    ):
        list(read_data("data").fit(edges("E")).batches(edges("E")))


def test_objects_that_are_no_text_are_refused() -> None:
    with pytest.raises(DataError, match="other objects"):
        Data.of({"x": normal(2, 7), "s": np.array([1, None], object)}).fit(text())


def test_the_digest_is_of_the_text_not_of_where_it_lies() -> None:
    one, two = (
        Data.of({"x": np.ones((2, 7)), "s": np.array(t, object)}).digest
        for t in (["a", "b"], ["ab", ""])
    )
    again = Data.of(
        {"x": np.ones((2, 7)), "s": np.array(["".join("a"), "b"], object)}
    ).digest
    assert one == again != two
