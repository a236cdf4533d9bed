"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

import prunegraph as pg
from prunegraph.cli.results import _nothing_removed
from prunegraph.selection.criteria import CRITERIA
from tests.builders import Builder, residual_net
from tests.commands import FIXTURES, MODEL, check_refused, cli


@pytest.fixture(autouse=True)
def _cache_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNEGRAPH_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_prune_verify_apply_compare(tmp_path: Path) -> None:
    out, plan, again = (
        tmp_path / "half.onnx",
        tmp_path / "plan.json",
        tmp_path / "again.onnx",
    )
    done = cli("prune", MODEL, "-o", out, "--macs", "0.5", "--save-plan", plan)
    assert done.returncode == 0, done.stderr
    assert "proof: max |difference|" in done.stderr
    assert "parameters" in done.stderr
    assert not done.stdout
    assert cli("verify", MODEL, plan, out).returncode == 0
    assert cli("apply", MODEL, plan, "-o", again).returncode == 0
    assert out.read_bytes() == again.read_bytes()
    done = cli(
        "compare",
        MODEL,
        out,
        "--data",
        FIXTURES / "fashion_eval.npz",
        "--runs",
        3,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["costs"][1]["macs"] <= 0.5 * figures["costs"][0]["macs"]
    assert figures["accuracy"][0] == 0.946
    assert figures["samples"] == 1000
    assert figures["latency"]["ratio"] > 0


def test_nothing_removed_is_said(tmp_path: Path) -> None:
    b = Builder()
    narrow = b.linear(b.relu(b.linear(b.input("n", 4), 4, 8)), 8, 2)
    model, out, plan = (tmp_path / name for name in ("m.onnx", "o.onnx", "p.json"))
    pg.save(b.graph(narrow), model)
    command = ("prune", model, "-o", out, "--ratio", "0.5")
    done = cli(*command, "--save-plan", plan)
    said = done.stderr
    assert "nothing was removed: kept channels are a multiple of 8" in said
    assert said.index("o.onnx") < said.index("p.json")
    assert "nothing was removed" not in cli(*command, "--round-to", "1").stderr
    wide = cli("prune", model, "-o", out, "--macs", "2.1G")
    assert "nothing was removed: the model is within the budget as it is" in wide.stderr


def test_layers_of_low_rank_are_no_reason_to_cut_finer() -> None:
    factors = SimpleNamespace(layers=["conv"])
    plan = SimpleNamespace(provenance={"round_to": 8})
    coupling = SimpleNamespace(groups=["g0"])
    whole = SimpleNamespace(coupling=coupling, plan=plan, decomposed=None)
    assert "--round-to 1" in _nothing_removed(whole)  # type: ignore[arg-type]
    whole.decomposed = factors
    assert "low rank do less damage" in _nothing_removed(whole)  # type: ignore[arg-type]


def test_inspect(tmp_path: Path) -> None:
    done = cli("inspect", MODEL, "--json", "-")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["format"] == "prunegraph/groups@1"
    assert content["model"]["name"] == "fashion_resnet.onnx"
    assert len(content["groups"]) == 9
    assert {"id", "channels", "layers", "members", "macs", "params", "exact"} <= set(
        content["groups"][0]
    )
    assert content["fixed"] == [
        {
            "layer": "/classifier/Gemm",
            "reason": "graph output",
            "because": "logits",
            "channels": 10,
            "of": 10,
        }
    ]
    assert "graph output" in done.stderr
    assert cli("inspect", MODEL, "--json", tmp_path / "groups.json").returncode == 0
    assert json.loads((tmp_path / "groups.json").read_text()) == content


def test_algorithms() -> None:
    done = cli("algorithms")
    assert done.returncode == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {
        *(("criterion", name) for name in CRITERIA if not name.startswith("test_")),
        *(("allocation", name) for name in ("global", "isomorphic", "uniform")),
        *(("repair", name) for name in ("absorb", "bn", "least-squares", "none")),
    } <= {(kind, name) for kind, name, *_ in lines}
    assert "Options: norm=mean|none|sum|max|standardise|gaussian|median|lamp" in done.stdout
    assert all(len(line) > 3 for line in lines)


def test_prune_with_data_layers_and_seed(tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    keep, own = "/stem/stem.0/Conv", "/stages/stages.4/conv1/Conv"
    done = cli(
        "prune",
        MODEL,
        "-o",
        out,
        "--ratio",
        "0.5",
        "--round-to",
        "1",
        "--keep",
        keep,
        "--ratio-for",
        f"{own}=0.25",
        "--data",
        FIXTURES / "fashion_calibration.npz",
        "--algorithm",
        "random",
        "--seed",
        "3",
    )
    assert done.returncode == 0, done.stderr
    assert "4 runs" in done.stderr
    pruned = pg.load(out)
    assert pruned.node(keep).channels.outputs == 16
    assert pruned.node(own).channels.outputs == 48
    assert pruned.node("/stages/stages.5/conv1/Conv").channels.outputs == 32


def test_options_in_names_and_repair_without_data(tmp_path: Path) -> None:
    out, plan = tmp_path / "small.onnx", tmp_path / "plan.json"
    done = cli(
        "prune",
        MODEL,
        "-o",
        out,
        "--macs",
        "0.5",
        "--algorithm",
        "l2:members=producer",
        "--allocation",
        "global:max",
        "--repair",
        "bn",
        "--save-plan",
        plan,
    )
    assert done.returncode == 0, done.stderr
    assert "then repaired on the model's BatchNormalization statistics: bn" in done.stderr
    assert json.loads(plan.read_text())["provenance"]["algorithm"] == "l2:members=producer"
    pg.load(out)


def test_the_algorithms_own_ratio(tmp_path: Path) -> None:
    out, plan = tmp_path / "small.onnx", tmp_path / "plan.json"
    command = [
        "prune",
        MODEL,
        "-o",
        out,
        "--ratio",
        "auto",
        "--algorithm",
        "weight_stats:paper",
        "--save-plan",
        plan,
    ]
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    remove = json.loads(plan.read_text())["remove"]
    assert remove
    assert {len(channels) % 8 for channels in remove.values()} == {0}


def test_data_from_a_function(tmp_path: Path) -> None:
    (tmp_path / "feed.py").write_text(
        "import numpy as np\n"
        "def batches():\n"
        "    for i in range(2):\n"
        "        yield {'image': np.full((3, 1, 28, 28), i, np.float32)}\n"
    )
    done = cli(
        "prune",
        MODEL,
        "-o",
        tmp_path / "o.onnx",
        "--ratio",
        "0.3",
        "--data",
        f"{tmp_path}/feed.py:batches",
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with good and bad files."""
    graph = residual_net()
    pg.save(graph, tmp_path / "good.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "good.onnx").read_bytes()[:500])
    broken = onnx.ModelProto()
    broken.CopyFrom(graph.model)
    broken.graph.node[1].input[0] = "nowhere"
    onnx.save(broken, tmp_path / "dangling.onnx")
    plan = {"format": "prunegraph/plan@1", "model": {"sha256": "0"}, "remove": {}}
    (tmp_path / "other.json").write_text(json.dumps(plan))
    plan["model"] = {"sha256": pg.load(tmp_path / "good.onnx").sha256}
    plan["remove"] = {"g7": [1]}
    (tmp_path / "group.json").write_text(json.dumps(plan))
    np.savez(tmp_path / "wrong.npz", y=np.zeros((2, 3), np.float32))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("prune none.onnx -o out.onnx --ratio 0.5", "none.onnx: no such file"),
        ("prune text.onnx -o out.onnx --ratio 0.5", "not an ONNX file"),
        ("prune cut.onnx -o out.onnx --ratio 0.5", "cut.onnx"),
        ("prune dangling.onnx -o out.onnx --ratio 0.5", "'nowhere'"),
        (
            "prune good.onnx -o out.onnx --ratio 0.5 --algorithm l3",
            "unknown algorithm 'l3'",
        ),
        (
            "prune good.onnx -o out.onnx --ratio 0.5 --allocation even",
            "unknown allocation 'even'",
        ),
        (
            "prune good.onnx -o out.onnx --ratio 0.5 --algorithm l2:best",
            "must be one of all, producer, consumer",
        ),
        (
            "prune good.onnx -o out.onnx --ratio 0.5 --algorithm l2:part=in",
            "unknown option of criterion 'l2' 'part'",
        ),
        ("prune good.onnx -o out.onnx --ratio 0.5 --algorithm taylor", "needs gradients"),
        ("prune good.onnx -o out.onnx --ratio 0.5 --algorithm wanda", "'wanda' needs data"),
        (
            "prune good.onnx -o out.onnx --ratio 0.5 --allocation global:biggest",
            "must be one of mean, none",
        ),
        ("prune good.onnx -o out.onnx --ratio auto", "'l2' only ranks channels"),
        (
            "prune good.onnx -o out.onnx --ratio 0.5 --repair magic",
            "unknown repair 'magic'",
        ),
        (
            "prune good.onnx -o out.onnx --ratio 0.5 --repair absorb:maps",
            "must be one of mean, interior, map",
        ),
        ("prune good.onnx -o out.onnx --ratio 0.5 --repair least-squares", "needs data"),
        ("prune good.onnx -o out.onnx --ratio 1.5", "ratio must be"),
        ("prune good.onnx -o out.onnx --macs 0.0001", "cannot fall to"),
        ("prune good.onnx -o out.onnx", "give a ratio or a bound on macs"),
        ("prune good.onnx -o out.onnx --ratio 0.5 --macs 0.5", "not both; got ratio, macs"),
        (
            "prune good.onnx -o out.onnx --macs 0.9 --params 0.0001 --bytes 0.9",
            "params cannot fall to",
        ),
        ("prune good.onnx -o out.onnx --ratio 0.5 --keep stemm", "did you mean 'stem'"),
        (
            "prune good.onnx -o out.onnx --ratio 0.5 --data wrong.npz",
            "no array for model input 'x'",
        ),
        ("prune good.onnx -o out.onnx --ratio 0.5 --data none.npz", "no such data file"),
        ("prune good.onnx -o good.onnx --ratio 0.5", "same file"),
        ("prune good.onnx -o missing/out.onnx --ratio 0.5", "does not exist"),
        ("prune good.onnx -o out.onnx --latency 12", "a time such as 12ms"),
        (
            "prune good.onnx -o out.onnx --latency 0.0001",
            "latency cannot fall to 0.0001 of the original",
        ),
        (
            "prune good.onnx -o out.onnx --latency 0.5 --provider abacus",
            "unknown execution provider 'abacus'",
        ),
        (
            "prune good.onnx -o out.onnx --macs 0.5 --provider abacus",
            "CPUExecutionProvider",
        ),
        (
            "prune good.onnx -o out.onnx --macs 0.5 --round-to seven",
            "round_to must be a whole number",
        ),
        (
            "prune good.onnx -o out.onnx --macs 0.5 --round-to 0",
            "round_to must be a whole number",
        ),
        (
            "prune good.onnx -o out.onnx --latency 0.0001 --macs 0.9",
            "latency cannot fall to 0.0001 of the original",
        ),
        ("compare good.onnx good.onnx --provider abacus", "unknown execution provider"),
        ("prune good.onnx -o . --ratio 0.5", "is a folder"),
        ("apply good.onnx other.json -o out.onnx", "another model"),
        ("apply good.onnx group.json -o out.onnx", "names group 'g7'"),
        ("apply good.onnx none.json -o out.onnx", "no such plan file"),
        ("inspect text.onnx", "not an ONNX file"),
        ("compare good.onnx text.onnx", "not an ONNX file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    folder: Path, command: str, message: str
) -> None:
    check_refused(folder, command, message)


def test_bad_option_values(folder: Path) -> None:
    done = cli(
        "prune",
        "good.onnx",
        "-o",
        "out.onnx",
        "--ratio",
        "0.5",
        "--ratio-for",
        "stem",
        cwd=folder,
    )
    assert done.returncode == 2
    assert "LAYER=RATIO" in done.stderr
    done = cli("prune", "good.onnx", "-o", "out.onnx", "--ratio", "half", cwd=folder)
    assert done.returncode == 2
    assert "'half' is neither a number nor auto" in done.stderr


def test_a_failing_proof_exits_with_one_and_writes_nothing(folder: Path) -> None:
    graph = pg.load(folder / "good.onnx")
    plan = pg.select(graph, budget=pg.Budget(ratio=0.5), round_to=1)
    plan.save(folder / "plan.json")
    wrong = pg.select(
        graph, budget=pg.Budget(ratio=0.5), algorithm="random", seed=9, round_to=1
    )
    pg.save(pg.apply(graph, wrong), folder / "wrong.onnx")
    done = cli("verify", "good.onnx", "plan.json", "wrong.onnx", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "first node that differs" in done.stderr


def test_help_of_every_command() -> None:
    assert "prune" in cli("--help").stdout
    for command in ("inspect", "prune", "apply", "verify", "compare", "algorithms"):
        assert cli(command, "--help").returncode == 0
