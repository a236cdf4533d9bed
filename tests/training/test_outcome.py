"""What `train` says of its result, what it does not write, and how it reads models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import prunegraph as pg
from prunegraph.errors import ModelError
from prunegraph.frontends import FRONTENDS
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime import session
from prunegraph.runtime.data import Data
from prunegraph.training import Batches, GraphModule, TrainingConfig, fit
from prunegraph.training.outcome import OutcomeJudge
from tests.builders import Builder, residual_net
from tests.commands import in_process as cli
from tests.frontends.mxnet import cases as cases
from tests.training.test_batching import fixed
from tests.training.test_fit import task
from tests.training.test_losses import ends
from tests.training.test_normalising import images, nearly, net

MXNET = cases.ROOT / "tiny" / "resnet_v1_basic_tiny"


def learnt() -> pg.Graph:
    module = GraphModule(residual_net())
    fit(module, Batches(task(), 24), TrainingConfig(epochs=6, lr=0.1))
    return module.write_back()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pg.save(learnt(), "net.onnx")
    rng = np.random.default_rng(0)
    np.savez("good.npz", **task())
    np.savez("wrong.npz", x=task()["x"], labels=rng.permutation(task()["labels"]))
    np.savez("test.npz", **task(200, seed=1))
    return tmp_path


def test_a_worse_result_is_not_written(folder: Path) -> None:
    words = "train net.onnx -o out.onnx --data wrong.npz --eval test.npz --epochs 3 --lr 0.1 --batch 24"
    done = cli(*words.split())
    assert done.exit_code == 1 and not Path("out.onnx").exists()
    assert done.stderr.splitlines()[-1].startswith(
        "error: the result is worse than what training started from: top1 "
    )
    assert "--force" in done.stderr and "outputs against the start: " in done.stderr
    done = cli(*words.split(), "--force")
    assert done.exit_code == 0 and Path("out.onnx").exists()
    before, after = (figure(Path(name)) for name in ("net.onnx", "out.onnx"))
    assert f"top1 {before:.4g} -> {after:.4g} %" in done.stderr


def figure(path: Path) -> float:
    data = task(200, seed=1)
    (logits,) = session.run(session.session(path), {"x": data["x"]})
    return 100 * float((logits.argmax(1) == data["labels"]).mean())


def test_without_eval_the_training_data_judge(folder: Path) -> None:
    words = "train net.onnx -o out.onnx --data good.npz --epochs 1 --batch 24 --lr 1e-3"
    done = cli(*words.split())
    assert done.exit_code == 0 and "top1" in done.stderr and Path("out.onnx").exists()
    judge = OutcomeJudge(pg.load("net.onnx"), Data.of(task()))
    assert judge(residual_net()).is_worse and not judge(pg.load("net.onnx")).is_worse


def test_a_cut_that_was_asked_for_is_not_held_against_the_result(folder: Path) -> None:
    """Half of the MACs without fine-tuning: what that costs is said, and written."""
    words = "train net.onnx -o out.onnx --data good.npz --eval test.npz --epochs 1 --batch 24 --macs 0.3 --lr 1e-3"
    done = cli(*words.split(), "--method", "gfr:round_to=1,repair=absorb,tune=false")
    assert done.exit_code == 0, done.stderr
    before, after = (figure(Path(name)) for name in ("net.onnx", "out.onnx"))
    assert after < before and f"top1 {before:.4g} -> {after:.4g} %" in done.stderr


@pytest.mark.parametrize("method", ["sparse", "gfr"])
def test_sparse_training_is_judged_from_where_scales_are_gone(
    method: str, folder: Path
) -> None:
    """A third of the channels goes on purpose; what the rest of the run makes of that counts."""
    words = "train net.onnx -o out.onnx --data good.npz --eval test.npz --epochs 6 --batch 24 --lr 0.02"
    done = cli(*words.split(), "--method", method, "--json", "run.json")
    history = json.loads(Path("run.json").read_text())["history"]
    gone = [record for record in history if "faded" in record]
    assert [record["epoch"] for record in gone] == [3] and gone[0]["faded"] > 0.25
    assert done.exit_code == 0, done.stderr
    after = figure(Path("out.onnx"))
    assert f"top1 {gone[0]['metric']:.4g} -> {after:.4g} %" in done.stderr
    lines = [line for line in done.stderr.splitlines() if "faded" in line]
    assert len(lines) == 1 and lines[0].startswith(f"{method}: epoch   3")


def test_a_strength_of_ones_own_is_judged_by_the_start(folder: Path) -> None:
    words = "train net.onnx -o out.onnx --data good.npz --eval test.npz --epochs 2 --batch 24 --lr 0.05"
    done = cli(*words.split(), "--method", "sparse:strength=30")
    assert done.exit_code == 1 and not Path("out.onnx").exists()
    assert f"top1 {figure(Path('net.onnx')):.4g} -> " in done.stderr


def test_outputs_and_small_data_of_a_fixed_batch(folder: Path) -> None:
    """What is learnt of which output is said; five samples do not fill 64, and train a graph of batch one."""
    pg.save(ends("scores", "boxes", "numbers"), "heads.onnx")
    np.savez(
        "heads.npz",
        x=np.random.default_rng(0).standard_normal((8, 3, 32, 32)).astype(np.float32),
    )
    words = "train heads.onnx -o out.onnx --data heads.npz --original heads.onnx --epochs 1 --batch 4 --lr 1e-4"
    done = cli(*words.split())
    assert done.exit_code == 0, done.stderr
    for text in (
        "scores of classes: head.out",
        "values: ",
        "left out (no gradient): argmax",
        "no gradient reached 2 ",
    ):
        assert text in done.stderr, text
    pg.save(fixed(residual_net()), "one.onnx")
    np.savez("few.npz", **task(5))
    done = cli(
        "train", "one.onnx", "-o", "out.onnx", "--data", "few.npz", "--epochs", 1, "--force"
    )
    assert done.exit_code == 0 and "free during training" in done.stderr, done.stderr


@pytest.mark.parametrize("command", ["train", "binarize"])
def test_labels_that_are_boxes_are_one_error(command: str, folder: Path) -> None:
    np.savez("boxes.npz", x=task(240)["x"], labels=np.zeros((240, 6, 5), np.float32))
    Path("lists.py").write_text(
        "import numpy as np\n"
        "def read():\n"
        "    labels = np.array([np.zeros((i % 3, 5)) for i in range(240)], dtype=object)\n"
        "    yield {'x': np.load('boxes.npz')['x'], 'labels': labels}\n"
    )
    for data, text in (
        ("boxes.npz", "`labels` have shape"),
        ("lists.py:read", "lists of different lengths"),
    ):
        done = cli(
            command,
            "net.onnx",
            "-o",
            "out.onnx",
            "--data",
            data,
            *["--min-inputs", 16] * (command == "binarize"),
        )
        assert (
            done.exit_code == 2
            and done.stderr.startswith("error: ")
            and text in done.stderr
        ), done.stderr
        assert done.stderr.count("\n") == 1 and not Path("out.onnx").exists()
    done = cli(
        "train",
        "net.onnx",
        "-o",
        "out.onnx",
        "--data",
        "good.npz",
        "--eval",
        "lists.py:read",
    )
    assert done.exit_code == 2 and "lists of different lengths" in done.stderr


def test_what_is_said_of_a_result_is_measured() -> None:
    start, other, data = residual_net(), residual_net(seed=4), task(100)
    a, b = (
        session.run(session.session(graph), {"x": data["x"]})[0] for graph in (start, other)
    )
    outcome = OutcomeJudge(start, Data.of(data))(other)
    varies = np.square(a - a.mean(0)).sum()
    assert outcome.difference == pytest.approx(np.square(a - b).sum() / varies, rel=1e-4)
    assert outcome.same == pytest.approx(100 * (a.argmax(1) == b.argmax(1)).mean())
    first, second = (100 * (each.argmax(1) == data["labels"]).mean() for each in (a, b))
    assert (outcome.before, outcome.after) == (pytest.approx(first), pytest.approx(second))
    # Measured on training data, of which 3 standard deviations may be chance.
    chance = 3 * np.sqrt(sum(p * (100 - p) for p in (first, second)) / 100)
    assert outcome.is_worse == (first - second > chance)
    judged = OutcomeJudge(start, Data.of({"x": data["x"]}), evaluation=Data.of(data))(other)
    assert judged.is_worse == (second < first)
    alone = OutcomeJudge(start, Data.of({"x": data["x"]}), original=start)(other)
    assert alone.metric is None and not alone.is_worse
    towards = OutcomeJudge(start, Data.of({"x": data["x"]}), original=other)(other)
    assert towards.metric is not None and not towards.is_worse
    assert (
        OutcomeJudge(other, Data.of({"x": data["x"]}), original=other)(other).difference
        == 0
    )


def test_a_metric_that_is_no_number_is_worse() -> None:
    start = residual_net()
    broken = GraphModule(start)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    data = Data.of({"x": task(32)["x"]})
    judge = OutcomeJudge(
        start, data, evaluation=data, original=residual_net(seed=1), metric="error"
    )
    assert judge(broken.write_back()).is_worse


PLUGIN = """
import prunegraph as pg

@pg.frontend(".network")
def read(source):
    return pg.load("net.onnx").model
"""


def test_models_are_read_as_by_every_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the plug-in registers is gone after the test.
    monkeypatch.setattr(FRONTENDS, "_entries", dict(FRONTENDS._entries))
    Path("plugin.py").write_text(PLUGIN)
    Path("my.network").write_text("")
    done = cli(
        "train",
        "my.network",
        "-o",
        "out.onnx",
        "--data",
        "good.npz",
        "--epochs",
        1,
        "--plugin",
        "plugin.py",
        "--force",
        "--lr",
        1e-4,
    )
    assert done.exit_code == 0, done.stderr
    words = "binarize my.network -o out.onnx --data good.npz --plugin plugin.py --min-inputs 16 --samples 60"
    done = cli(*words.split())
    assert done.exit_code == 0 and "outputs against the start: " in done.stderr, done.stderr


@pytest.mark.parametrize("command", ["train", "binarize", "quantize", "decompose"])
def test_reading_options_are_there(command: str) -> None:
    text = cli(command, "--help").stdout
    assert all(
        option in text
        for option in ("--plugin", "--inputs", "--input-shape", "--params-file")
    )


@pytest.fixture
def symbol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for path in MXNET.iterdir():
        if path.suffix in (".json", ".params"):
            name = path.name.replace("model", "kept" if path.suffix == ".params" else "net")
            (tmp_path / name).write_bytes(path.read_bytes())
    rng = np.random.default_rng(0)
    np.savez("data.npz", data=rng.standard_normal((64, 3, 32, 32)).astype(np.float32))
    return tmp_path


def test_a_network_from_mxnet_is_written_as_one(symbol: Path) -> None:
    params = next(symbol.glob("*.params")).name
    given = ["--params-file", params, "--input-shape", "data=1,3,32,32"]
    text = "train net-symbol.json -o out-symbol.json --data data.npz --epochs 1 --lr 1e-3 --batch 16"
    words = [*text.split(), *given, "--original"]
    done = cli(*words, "net-symbol.json")
    # The original has no parameters of its own beside it.
    assert (
        done.exit_code == 2
        and done.stderr.startswith("error: ")
        and not Path("out-symbol.json").exists()
    )
    pg.save(
        pg.load(
            "net-symbol.json", params_file=params, input_shapes={"data": (1, 3, 32, 32)}
        ),
        "net.onnx",
    )
    done = cli(*words, "net.onnx")
    assert done.exit_code == 0, done.stderr
    assert Path("out-symbol.json").read_bytes() == Path("net-symbol.json").read_bytes()
    before, after = (
        pg.load("net.onnx"),
        pg.load("out-symbol.json", input_shapes={"data": (1, 3, 32, 32)}),
    )
    assert any(
        not np.array_equal(w.read(), after.weights[n].read())
        for n, w in before.weights.items()
        if w.is_float
    )


COMMANDS = {
    "train": "",
    "train joint": "--method joint --macs 0.5",
    "binarize": "",
    "quantize": "",
    "decompose": "",
    "compress": "--macs 0.5",
    "prune": "--macs 0.5",
    "search": "--tolerance 1",
    "convert": "",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "out", ["y-symbol.json", "y.params", "y.json", "y.npz", "y.pt", "Y-SYMBOL.JSON"]
)
def test_names_of_other_formats_are_refused(command: str, out: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    pg.save(residual_net(), path)
    np.savez(tmp_path / "data.npz", **task(48))
    data = [] if command in ("decompose", "convert") else ["--data", tmp_path / "data.npz"]
    done = cli(
        command.split()[0], path, "-o", tmp_path / out, *data, *COMMANDS[command].split()
    )
    assert (
        done.exit_code == 2
        and done.stderr.startswith("error: ")
        and done.stderr.count("\n") == 1
    ), done.stderr
    assert out in done.stderr and ".onnx" in done.stderr and not (tmp_path / out).exists()


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"train"}))
def test_what_is_no_symbol_is_not_called_one(command: str, symbol: Path) -> None:
    data = [] if command in ("decompose", "convert") else ["--data", "data.npz"]
    done = cli(
        command.split()[0],
        "net-symbol.json",
        "-o",
        "y-symbol.json",
        *data,
        *COMMANDS[command].split(),
    )
    assert (
        done.exit_code == 2 and "written as ONNX, not as an MXNet symbol" in done.stderr
    ), done.stderr
    assert not Path("y-symbol.json").exists()


def test_the_python_interface_refuses_them_too(tmp_path: Path) -> None:
    graph = residual_net()
    for call in (
        lambda out: pg.save(graph, out),
        lambda out: pg.prune(graph, out, budget=pg.Budget(ratio=0.5)),
    ):
        with pytest.raises(ModelError, match="written as ONNX"):
            call(tmp_path / "y-symbol.json")
    assert not list(tmp_path.iterdir())


def test_metrics_are_given_inputs(tmp_path: Path) -> None:
    """Heads with anchors need the size of images, as a metric by options; it falls to 0 with the objects."""
    pytest.importorskip("pycocotools", reason="the extra [detection] is not installed")
    b = Builder()
    image = b.input("n", 3, 32, 32)
    pooled = b.op("AveragePool", image, kernel_shape=[8, 8], strides=[8, 8])
    graph = b.graph(b.conv(pooled, 3, 7, 1, name="head"))
    weight, bias = np.zeros((7, 3, 1, 1), np.float32), np.zeros(7, np.float32)
    weight[4, 0], bias[4:] = 20, (-10, 9, -9)
    names = graph.layers[0].inputs[1:]
    revision = Revision(graph)
    for name, value in zip(names, (weight, bias), strict=True):
        revision.set(name, value)
    graph = revision.apply()
    x = np.zeros((6, 3, 32, 32), np.float32)
    labels = np.zeros((6, 1, 5), np.float32)
    for index, (row, column) in enumerate(((0, 0), (1, 2), (3, 3), (2, 1), (0, 3), (3, 0))):
        x[index, 0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1
        labels[index, 0, 1:] = 8 * np.array([column, row, column + 1, row + 1])
    data = Data.of({"x": x, "labels": labels})
    judge = OutcomeJudge(graph, data, evaluation=data, metric="map50:anchors=8x8")
    assert judge(graph).before == judge(graph).after == pytest.approx(100)
    revision = Revision(graph)
    revision.set(names[0], -weight)
    assert judge(revision.apply()).is_worse


def test_maps_that_are_clearly_further_off_are_worse() -> None:
    """Without classes there is no share to be judged by: the error towards the original is."""
    original = net()
    data = Data.of(images(32, 0.0))
    start = nearly(net(), 0.01)
    judge = OutcomeJudge(start, data, original=original)
    assert not judge(start).is_worse and not judge(nearly(net(), 0.005)).is_worse
    far = judge(nearly(net(), 0.02))
    assert far.is_worse and far.metric is not None and far.metric.name == "error"
    assert not OutcomeJudge(original, data, original=original)(original).is_worse
