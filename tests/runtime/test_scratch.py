"""Temporary files: which parts are taken, and arrays that are kept there."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunegraph.runtime.scratch import Room
from prunegraph.runtime.store import Store

TYPES = (np.float32, np.int64, np.bool_, np.float16, ml_dtypes.bfloat16)


@given(
    steps=st.lists(
        st.one_of(st.integers(1, 40), st.integers(0, 9).map(lambda n: -n - 1)), max_size=60
    )
)
def test_parts_do_not_overlap_and_are_taken_again(steps: list[int]) -> None:
    """Positive steps take so many bytes, negative ones give one part back."""
    room, taken = Room(), list[tuple[int, int]]()
    for step in steps:
        if step > 0:
            start = room.take(step)
            assert all(
                start + step <= other or other + size <= start for other, size in taken
            )
            taken.append((start, step))
        elif taken:
            start, size = taken.pop(-step % len(taken))
            room.give(start, size)
        assert room.end >= max((start + size for start, size in taken), default=0)
    for start, size in taken:
        room.give(start, size)
    assert room.end == 0


def test_the_file_does_not_grow_where_as_much_is_given_back() -> None:
    room = Room()
    first = [room.take(10) for _ in range(5)]
    for _ in range(20):
        second = [room.take(10) for _ in range(5)]
        for start in first:
            room.give(start, 10)
        first = second
    assert room.end <= 100


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**20))
def test_arrays_come_back_as_they_were(data: st.DataObject, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kept: dict[tuple[int, str], np.ndarray] = {}
    with Store(keep=data.draw(st.sampled_from([0, 256, 1 << 20]))) as store:
        for _ in range(data.draw(st.integers(1, 20))):
            if data.draw(st.integers(0, 3)):
                key = data.draw(st.integers(0, 2)), data.draw(st.sampled_from("abc"))
                shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=3)))
                array = rng.standard_normal(shape) * 9
                array = np.asarray(array).astype(data.draw(st.sampled_from(TYPES)))
                kept[key] = array.T
                store.put(*key, array.T)
            else:
                name = data.draw(st.sampled_from("abc"))
                store.drop([name])
                kept = {key: each for key, each in kept.items() if key[1] != name}
            assert store.names() == {name for _, name in kept}
            for key, array in kept.items():
                read = store.get(*key)
                assert read.dtype == array.dtype
                np.testing.assert_array_equal(read, array)
        held = sum(array.nbytes for array in kept.values())
        assert store.held <= held


def test_where_the_disk_is_full_arrays_stay_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Full:
        """A file on a disk without room."""

        def seek(self, place: int) -> None: ...

        def write(self, data: memoryview) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    with Store(keep=0) as store:
        monkeypatch.setattr(store, "_file", Full())
        store.put(0, "a", np.arange(5))
        np.testing.assert_array_equal(store.get(0, "a"), np.arange(5))
        assert store.held == 40
