"""A finished file is opened as its user opens it before it is there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

import prunegraph as pg
from prunegraph.cli import main
from prunegraph.errors import ModelError
from prunegraph.graph.onnx_io import write_whole
from prunegraph.runtime import writing
from tests.builders import Builder, residual_net


def unrunnable() -> pg.Graph:
    """A graph that loads and does not run: 8 channels are reshaped into 9."""
    b = Builder()
    x = b.op("Reshape", b.conv(b.input("n", 3, 8, 8), 3, 8), b.const([1, 9, 64], np.int64))
    return b.graph(b.op("ReduceMean", x, axes=[2]))


def unloadable() -> pg.Graph:
    """A graph with an operator of ONNX that does not exist."""
    b = Builder()
    return b.graph(b.op("Reluu", b.conv(b.input("n", 3, 4, 4), 3, 8)))


def custom() -> pg.Graph:
    """A graph with an operator of somebody's own."""
    b = Builder()
    model = b.graph(
        b.conv(b.op("Mine", b.input("n", 3, 4, 4), domain="com.example"), 3, 8)
    ).model
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return pg.load(model)


@pytest.mark.parametrize("external", [False, True])
def test_a_file_that_does_not_run_is_not_written(external: bool, tmp_path: Path) -> None:
    graph = unrunnable()
    if external:
        onnx.save(
            graph.model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0
        )
        read = pg.load(tmp_path / "m.onnx")
        graph = type(read)(read.model, folder=read.folder)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(
        ModelError, match=r"y\.onnx: .*cannot run.*though the model it was made from runs"
    ):
        pg.save(graph, tmp_path / "y.onnx", like=residual_net())
    assert sorted(tmp_path.iterdir()) == before


def test_an_older_result_stays(tmp_path: Path) -> None:
    (tmp_path / "y.onnx").write_text("older")
    with pytest.raises(ModelError):
        pg.save(unloadable(), tmp_path / "y.onnx")
    assert (tmp_path / "y.onnx").read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_does_not_load_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"y\.onnx: ONNX Runtime cannot load it.*nothing was written"
    ):
        pg.save(unloadable(), tmp_path / "y.onnx", like=residual_net())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("like", [None, custom()])
def test_operators_that_the_runtime_lacks_are_no_fault_of_the_file(
    like: pg.Graph | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pg.save(custom(), tmp_path / "y.onnx", like=like)
    assert (tmp_path / "y.onnx").exists()
    assert "written unopened" in caplog.text


def test_a_custom_operator_is_no_excuse_where_the_original_loads(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load"):
        pg.save(custom(), tmp_path / "y.onnx", like=residual_net())


def test_inputs_that_the_original_does_not_take_either(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = unrunnable()
    pg.save(graph, tmp_path / "y.onnx", like=graph)
    assert (tmp_path / "y.onnx").exists()
    assert "not seen to run" in caplog.text


def test_given_data_count_where_random_numbers_do_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    b = Builder()
    table = b.weight(2, 4)  # random numbers are up to 7
    b.input("n", name="x", kind=onnx.TensorProto.INT64)
    graph = b.graph(b.op("MatMul", b.op("Gather", table, "x"), b.weight(4, 3)))
    pg.save(graph, tmp_path / "y.onnx", like=graph, data=[{"x": np.asarray([1])}])
    assert (tmp_path / "y.onnx").exists()
    assert not caplog.records


def test_it_runs_at_batch_one_and_at_its_own_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        writing,
        "run",
        lambda opened, inputs: seen.append({k: v.shape for k, v in inputs.items()}),
    )
    pg.save(residual_net(), tmp_path / "y.onnx")
    assert [shapes["x"][0] for shapes in seen] == [1, 2]


def test_unchanged_and_unchecked_files_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pg.save(residual_net(), tmp_path / "x.onnx")
    monkeypatch.setattr(writing, "session", None)
    pg.save(pg.load(tmp_path / "x.onnx"), tmp_path / "y.onnx")
    pg.save(residual_net(), tmp_path / "z.onnx", verify=False)
    assert (tmp_path / "y.onnx").read_bytes() == (tmp_path / "x.onnx").read_bytes()


@pytest.mark.parametrize("command", ["prune", "decompose", "quantize", "apply"])
def test_commands_write_nothing_that_does_not_run(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a command has made: if it does not run, there is no file and one error."""
    pg.save(residual_net(), tmp_path / "m.onnx")
    np.savez(
        tmp_path / "d.npz",
        x=np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32),
    )
    model, out, data = (str(tmp_path / name) for name in ("m.onnx", "y.onnx", "d.npz"))
    options = {
        "prune": ["--ratio", "0.5", "--round-to", "1"],
        "decompose": ["--rank", "ratio:0.5", "--round-to", "1"],
        "quantize": ["--data", data],
        "apply": [],
    }[command]
    if command == "apply":
        plan = pg.select(pg.load(model), budget=pg.Budget(ratio=0.5), round_to=1)
        plan.save(tmp_path / "plan.json")
        options = [str(tmp_path / "plan.json")]

    def damaged(self: writing._Opening, path: Path) -> None:
        loaded = onnx.load(path)
        loaded.graph.node[0].op_type = "Reluu"
        onnx.save(loaded, path)
        check(self, path)

    check = writing._Opening.check
    monkeypatch.setattr(writing._Opening, "check", damaged)
    done = CliRunner().invoke(main, [command, model, *options, "-o", out])
    assert done.exit_code == 2, done.output
    assert "nothing was written" in done.stderr.replace("\n", " ")
    assert not Path(out).exists() and not [
        p for p in tmp_path.iterdir() if p.name.startswith(".")
    ]


@pytest.mark.parametrize(
    ("command", "value"),
    [
        (["prune", "--ratio", "0.25"], np.nan),
        (["prune", "--ratio", "0.25"], np.inf),
        (["prune", "--ratio", "0.25", "--algorithm", "l2"], np.nan),
        (["prune", "--ratio", "0.25", "--algorithm", "l2", "--repair", "bn"], np.nan),
        (["prune", "--ratio", "0.25", "--algorithm", "l2", "--repair", "absorb"], np.nan),
        (["decompose", "--rank", "ratio:0.5"], np.nan),
        (["decompose", "--rank", "ratio:0.5"], np.inf),
        (["compress", "--params", "0.7"], np.nan),
        (["compress", "--params", "0.7"], np.inf),
        (["quantize"], np.inf),
    ],
)
def test_data_that_are_no_numbers_make_no_weights(
    command: list[str], value: float, tmp_path: Path
) -> None:
    pg.save(residual_net(), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    x[1, 2, 3, 4] = value
    np.savez(tmp_path / "x.npz", x=x)
    before = sorted(tmp_path.iterdir())
    words = [tmp_path / "m.onnx", "-o", tmp_path / "y.onnx", "--data", tmp_path / "x.npz"]
    rounding = [] if command[0] == "quantize" else ["--round-to", "1"]
    done = CliRunner().invoke(main, [*command, *rounding, *map(str, words)])
    assert done.exit_code == 2
    assert "number" in done.output or "infinite" in done.output
    assert sorted(tmp_path.iterdir()) == before


def test_weights_that_were_no_numbers_may_stay(tmp_path: Path) -> None:
    def net(bias: float) -> pg.Graph:
        b = Builder()
        x = b.conv(b.input("n", 3, 4, 4), 3, 8)
        return b.graph(b.op("Add", x, b.const(bias, np.float32)))

    pg.save(net(-np.inf), tmp_path / "y.onnx", like=net(np.inf))
    with pytest.raises(ModelError, match="would be infinite or not a number"):
        pg.save(net(np.nan), tmp_path / "z.onnx", like=net(0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["y.onnx"]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """A rename would take a device or a pipe away from all who use it."""
    pipe, stream, model = (tmp_path / name for name in ("pipe", "stream", "m.onnx"))
    os.mkfifo(pipe)
    stream.symlink_to("/proc/self/fd/1")
    pg.save(residual_net(), model)
    before = set(tmp_path.iterdir())
    words = ["prune", str(model), "--ratio", "0.3", "-o"]
    for there in (pipe, stream):
        with pytest.raises(ModelError, match="is a device, a pipe or a folder"):
            pg.save(pg.load(model), there)
        with pytest.raises(ModelError, match="is a device, a pipe or a folder"):
            write_whole(there, [b""])
        for asked in (
            [*words, str(there)],
            [*words, str(tmp_path / "o.onnx"), "--json", str(there)],
            [*words, str(tmp_path / "o.onnx"), "--report", str(there)],
            [*words, str(tmp_path / "o.onnx"), "--save-plan", str(there)],
        ):
            done = CliRunner().invoke(main, asked)
            assert done.exit_code == 2
            assert "is a device, a pipe or a folder" in done.output
    assert set(tmp_path.iterdir()) == before
    assert pipe.is_fifo() and stream.is_symlink()
