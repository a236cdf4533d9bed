"""Files of strangers, damaged: a result or one clear error, and no memory for what a header says."""

from __future__ import annotations

import contextlib
import resource
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import PrunegraphError
from tests.fuzzing.formats import FORMATS, Format, damage

#: Bytes that a test may take beyond what the process has.
MEMORY = 2**29

TIMES = {"external": 60, "symbol": 25, "params": 25, "plan": 60, "ranges": 12}


def attempt(each: Format, path: Path) -> bool:
    """Read a damaged file; whether it could be."""
    try:
        each.read(path)
    except PrunegraphError:
        return False
    return True


def peak() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_of_every_format(name: str, tmp_path: Path) -> None:
    each = FORMATS[name]
    path = each.write(tmp_path)
    whole = path.read_bytes()
    assert attempt(each, path), "as it is, it is read"
    before = peak()
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    outcomes = set()
    for _ in range(TIMES.get(name, 120)):
        path.write_bytes(damage(whole, rng))
        outcomes.add(attempt(each, path))  # where it fails, the file is still there
    assert False in outcomes
    assert peak() - before < MEMORY


@pytest.mark.parametrize("name", ["plan", "sensitivity", "ranges", "recipe", "symbol"])
@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "",
        "null",
        "[]",
        "1",
        '"x"',
        "\x00",
        "\ufeff{}",
        '{"format": 1e999}',
        "1" * 10_000,
        "a = " + "[" * 50_000,
        "a" + ".a" * 50_000 + " = 1",
    ],
)
def test_text_that_is_nested_without_end_or_is_nothing(
    name: str, text: str, tmp_path: Path
) -> None:
    each = FORMATS[name]
    path = each.write(tmp_path)
    path.write_text(text)
    with pytest.raises(PrunegraphError):
        each.read(path)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")
    from prunegraph.errors import TrainingError
    from prunegraph.training import Batches, GraphModule, TrainingConfig, fit
    from tests.builders import residual_net

    path = tmp_path / "run.pt"
    samples = {"x": np.ones((8, 3, 8, 8), np.float32), "labels": np.zeros(8, np.int64)}

    def resume() -> None:
        fit(
            GraphModule(residual_net()),
            Batches(samples, 4),
            TrainingConfig(epochs=1),
            checkpoint=path,
        )

    resume()
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    before = peak()
    for _ in range(12):
        path.write_bytes(damage(whole, rng))
        with contextlib.suppress(PrunegraphError):
            resume()
    good = torch.load(_written(path, whole), weights_only=True)
    for key in ("origin", "module", "optimizer", "callbacks", "run"):
        for value in (None, [], {"x": 1}, 3):
            torch.save({**good, key: value}, path)
            if value != good[key]:
                with pytest.raises(TrainingError, match=r"run\.pt"):
                    resume()
    for content in (None, [], 3, {"origin": good["origin"]}):
        torch.save(content, path)
        with pytest.raises(TrainingError, match=r"run\.pt"):
            resume()
    assert peak() - before < MEMORY


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_pickled_checkpoint_runs_nothing(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the extra [torch] is not installed")
    import pickle

    from prunegraph.errors import TrainingError
    from prunegraph.training import Batches, GraphModule, TrainingConfig, fit
    from tests.builders import residual_net

    class Touch:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "run.pt"
    path.write_bytes(pickle.dumps(Touch()))
    samples = {"x": np.ones((8, 3, 8, 8), np.float32), "labels": np.zeros(8, np.int64)}
    with pytest.raises(TrainingError, match="not a checkpoint"):
        fit(
            GraphModule(residual_net()),
            Batches(samples, 4),
            TrainingConfig(epochs=1),
            checkpoint=path,
        )
    assert not (tmp_path / "ran").exists()


def test_inputs_of_any_declared_size_are_not_made_up(tmp_path: Path) -> None:
    from tests.builders import Builder

    b = Builder()
    x = b.op("ReduceMean", b.input("n", 4, 2**20, 2**20), axes=[2, 3], keepdims=0)
    graph = b.graph(b.linear(b.relu(b.linear(x, 4, 8)), 8, 3))
    before = peak()
    with pytest.raises(PrunegraphError, match="too large for random numbers; give --data"):
        pg.prune(graph, out=tmp_path / "out.onnx", budget=pg.Budget(ratio=0.5), round_to=1)
    assert not list(tmp_path.iterdir())
    assert peak() - before < MEMORY
