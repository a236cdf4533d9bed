"""No command writes over what it reads, or one file twice."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

import prunegraph as pg
from prunegraph.errors import ModelError
from tests.builders import residual_net
from tests.commands import in_process

PRUNE = "prune net.onnx -o out.onnx --ratio 0.5 --round-to 1"


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, the same with its weights in another file, data, a plan and a result."""
    folder = tmp_path_factory.mktemp("made")
    graph = residual_net()
    pg.save(graph, folder / "net.onnx")
    proto = onnx.load(folder / "net.onnx")
    for location in ("weights.onnx", "out.onnx.data"):
        name = f"outside_{location.partition('.')[0]}.onnx"
        onnx.save(
            onnx.ModelProto.FromString(proto.SerializeToString()),
            folder / name,
            save_as_external_data=True,
            location=location,
            size_threshold=0,
        )
    x = np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, labels=np.arange(8) % 5)
    pg.prune(
        graph,
        folder / "small.onnx",
        budget=pg.Budget(ratio=0.5),
        save_plan=folder / "plan.json",
    )
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        *(
            f"{PRUNE} --data data.npz {option} {file}"
            for option in ("--save-plan", "--json", "--report", "--save-recipe")
            for file in ("net.onnx", "./data.npz")
        ),
        f"{PRUNE} --vocabulary plan.json --json plan.json",
        *(
            f"apply net.onnx plan.json -o out.onnx {option} plan.json"
            for option in ("--save-plan", "--json", "--report", "--save-recipe")
        ),
        "apply net.onnx plan.json -o out.onnx --save-plan net.onnx",
        "verify net.onnx plan.json small.onnx --json small.onnx",
        "search net.onnx -o out.onnx --data data.npz --tolerance 1 --save-plan net.onnx",
        "sensitivity net.onnx --data data.npz --resume data.npz",
        "quantize net.onnx -o out.onnx --data data.npz --json data.npz",
        "binarize net.onnx -o out.onnx --data data.npz --checkpoint data.npz",
        "train net.onnx -o out.onnx --data data.npz --report data.npz",
        "convert net.onnx -o out.onnx --dtype float16 --json net.onnx",
        "compare net.onnx small.onnx --json small.onnx",
        "inspect net.onnx --json net.onnx",
        "inspect net.onnx --params-file data.npz --json data.npz",
    ],
)
def test_what_is_read_stays(folder: Path, words: str) -> None:
    before = digests(folder)
    done = in_process(*words.split())
    assert done.exit_code == 2
    assert "output and input are the same file" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert digests(folder) == before


@pytest.mark.parametrize(
    "words",
    [
        f"{PRUNE} --save-plan out.onnx",
        f"{PRUNE} --save-plan ./a/../out.onnx",
        f"{PRUNE} --save-plan a.json --json a.json",
        f"{PRUNE} --save-recipe a --report a",
        "search net.onnx -o out.onnx --data data.npz --tolerance 1 --resume a --save-plan a",
        "train net.onnx -o out.onnx --data data.npz --checkpoint out.onnx",
        "data data.npz --model net.onnx --show a.png --json a.png",
    ],
)
def test_nothing_is_written_twice(folder: Path, words: str) -> None:
    (folder / "a").mkdir() if "/a/" in words else None
    before = digests(folder)
    done = in_process(*words.split())
    assert done.exit_code == 2
    assert "two outputs are the same file" in done.stderr
    assert digests(folder) == before


@pytest.mark.parametrize(
    "words",
    [
        "prune outside_weights.onnx -o weights.onnx --ratio 0.5",
        "prune outside_out.onnx -o out.onnx --ratio 0.5",
        *(
            f"prune outside_weights.onnx -o out.onnx --ratio 0.5 {option} weights.onnx"
            for option in ("--save-plan", "--json", "--report")
        ),
        "quantize outside_weights.onnx -o weights.onnx --data data.npz",
        "convert outside_weights.onnx -o weights.onnx --dtype float16",
        "inspect outside_weights.onnx --json weights.onnx",
        "compare net.onnx outside_weights.onnx --json weights.onnx",
        "verify net.onnx plan.json outside_weights.onnx --json weights.onnx",
    ],
)
def test_weights_beside_a_model_stay(folder: Path, words: str) -> None:
    before = digests(folder)
    done = in_process(*words.split())
    assert done.exit_code == 2
    assert "holds weights of outside_" in done.stderr
    assert digests(folder) == before


def test_weights_beside_a_model_stay_in_python(folder: Path) -> None:
    before, budget = digests(folder), pg.Budget(ratio=0.5)
    with pytest.raises(ModelError, match="holds weights of"):
        pg.prune("outside_weights.onnx", "weights.onnx", budget=budget)
    with pytest.raises(ModelError, match="holds weights of"):
        pg.prune("outside_out.onnx", "out.onnx", budget=budget)
    graph = pg.load("outside_weights.onnx")
    with pytest.raises(ModelError, match="holds weights of"):
        pg.save(pg.prune(graph, budget=budget).model, "weights.onnx")
    with pytest.raises(ModelError, match="two outputs are the same file"):
        pg.prune(graph, "a.onnx", budget=budget, save_plan="a.onnx")
    assert digests(folder) == before


def test_a_model_may_be_written_over_its_own_file(folder: Path) -> None:
    """In Python, where the graph is in hand; the weights beside it are then its own."""
    result = pg.prune(pg.load("outside_out.onnx"), budget=pg.Budget(ratio=0.5)).model
    pg.save(result, "outside_out.onnx")
    assert pg.load("outside_out.onnx").outputs == result.outputs


def test_a_result_does_not_go_to_the_terminal(folder: Path) -> None:
    done = in_process("prune", "net.onnx", "-o", "-", "--ratio", 0.5)
    assert done.exit_code == 2
    assert "give a file name" in done.stderr
    assert not (folder / "-").exists()
