"""Algorithms in other languages: real programs choose, and every failure of one is one error."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result
from onnx import numpy_helper

import prunegraph as pg
from prunegraph import plugins
from prunegraph.errors import BudgetError, OptionError, PluginError
from prunegraph.selection import external
from tests.builders import residual_net
from tests.commands import FIXTURES, MODEL, cli, in_process
from tests.training.mixed import attention

EXAMPLES = Path(__file__).parents[2] / "examples"

needs_jq = pytest.mark.skipif(
    shutil.which("jq") is None, reason="jq is not installed (Debian: apt-get install jq)"
)
needs_node = pytest.mark.skipif(
    shutil.which("node") is None,
    reason="node is not installed (Debian: apt-get install nodejs)",
)

#: Removes channel 0 of every group.
FIRST = """
groups = document["groups"]
print(json.dumps({"format": "prunegraph/plan@2", "model": document["model"], "remove": {g["id"]: [0] for g in groups}}))
"""

Prune = Callable[..., Result]


def program(folder: Path, body: str, name: str = "choose.py") -> str:
    """`exec:` with a Python program that has read its input."""
    (folder / name).write_text(
        f"import json, os, sys, time\ndocument = json.load(sys.stdin)\n{body}"
    )
    return f"exec:{sys.executable} {name}"


@pytest.fixture
def prune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prune:
    """`prune` of a small network by a program, in a folder of its own."""
    pg.save(residual_net(), tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    return lambda algorithm, *words: in_process(
        "prune",
        "net.onnx",
        "-o",
        "out.onnx",
        "--algorithm",
        algorithm,
        "--save-plan",
        "plan.json",
        *words,
    )


def failed(done: Result, folder: Path, message: str) -> None:
    """One line, exit code 2, and nothing written."""
    assert done.exit_code == 2, done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0], done.stderr
    assert done.stderr.rstrip().splitlines()[-1] == errors[0]
    assert "Traceback (most recent call last)" not in done.stderr.replace(
        "Traceback of the program", ""
    )
    assert not {"out.onnx", "plan.json"} & {path.name for path in folder.iterdir()}


# -- real programs of other languages --------------------------------------------------------


@needs_jq
def test_a_jq_filter_removes_the_smallest(tmp_path: Path) -> None:
    """The half with the smallest producing weights, by numpy from the file itself."""
    algorithm = f"exec:jq -f '{EXAMPLES / 'smallest.jq'}'"
    done = cli(
        "prune",
        MODEL,
        "-o",
        tmp_path / "out.onnx",
        "--algorithm",
        algorithm,
        "--save-plan",
        tmp_path / "p.json",
    )
    assert done.returncode == 0, done.stderr
    assert "proof: max |difference|" in done.stderr
    plan = pg.Plan.load(tmp_path / "p.json")
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(MODEL).graph.initializer}
    groups = pg.analyze(pg.load(MODEL)).groups
    assert plan.remove.keys() == {group.id for group in groups}
    for group in groups:
        score = np.zeros(group.channels)
        for member in group.members:
            if member.role == "out" and tensors[member.weight].ndim > 1:
                rows = np.moveaxis(
                    tensors[member.weight].astype(np.float64), member.axis, 0
                )[member.positions]
                score += (rows.reshape(group.channels, -1) ** 2).sum(axis=1)
        assert sorted(plan.remove[group.id]) == sorted(
            np.argsort(score)[: group.channels // 2]
        )
    assert plan.provenance["algorithm"] == algorithm


@needs_jq
def test_a_jq_one_liner() -> None:
    least = ".groups[1].members[0].l2 | to_entries | min_by(.value).key"
    line = '{format: "prunegraph/plan@1", model, remove: {g1: [' + least + "]}}"
    graph = residual_net()
    plan = pg.select(graph, algorithm=f"exec:jq '{line}'", budget=pg.Budget(ratio="auto"))
    weight = graph.weights[graph.node("block1").inputs[1]].read()
    assert plan.remove == {
        "g1": (int(np.linalg.norm(weight.reshape(16, -1), axis=1).argmin()),)
    }


@needs_node
def test_a_node_script_meets_a_bound_with_the_quietest(tmp_path: Path) -> None:
    data = FIXTURES / "fashion_calibration.npz"
    words = ["prune", MODEL, "-o", tmp_path / "out.onnx", "--macs", "0.5", "--data", data]
    algorithm = f"exec:node '{EXAMPLES / 'quiet.js'}'"
    done = cli(
        *words,
        "--algorithm",
        algorithm,
        "--keep",
        "/stem/stem.0/Conv",
        "--save-plan",
        tmp_path / "p.json",
    )
    assert done.returncode == 0, done.stderr
    assert "quiet.js: " in done.stderr
    graph, plan = pg.load(MODEL), pg.Plan.load(tmp_path / "p.json")
    kept = next(
        group.id
        for group in pg.analyze(graph).groups
        if "/stem/stem.0/Conv" in group.layers
    )
    assert plan.remove and kept not in plan.remove
    shares = pg.compare(graph, pg.load(tmp_path / "out.onnx"), runs=1).costs
    assert 0.47 < shares[1].macs / shares[0].macs <= 0.5
    context_mean = in_process("inspect", MODEL, "--json", "-", "--data", data)
    for group in json.loads(context_mean.stdout)["groups"]:
        means = np.sum(
            [np.abs(a["mean"]) for a in group["activations"] if a["role"] == "in"], axis=0
        )
        gone = list(plan.remove.get(group["id"], ()))
        assert set(np.argsort(means)[: len(gone)]) == set(gone)


@needs_node
def test_what_a_node_script_throws_is_the_error(prune: Prune, tmp_path: Path) -> None:
    failed(
        prune(f"exec:node '{EXAMPLES / 'quiet.js'}'", "--macs", "0.5"),
        tmp_path,
        "Error: give --data FILE",
    )


@needs_node
def test_compress_asks_the_program_too(tmp_path: Path) -> None:
    data = FIXTURES / "fashion_calibration.npz"
    done = in_process(
        "compress",
        MODEL,
        "-o",
        tmp_path / "out.onnx",
        "--macs",
        "0.6",
        "--data",
        data,
        "--method",
        "prune",
        "--algorithm",
        f"exec:node '{EXAMPLES / 'quiet.js'}'",
        "--json",
        "-",
    )
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["remove"] and result["after"]["macs"] <= 0.6 * result["before"]["macs"]


# -- what a program is given -----------------------------------------------------------------


def test_the_request(prune: Prune, tmp_path: Path) -> None:
    body = 'json.dump(document, open("seen.json", "w"))\n' + FIRST
    done = prune(
        program(tmp_path, body),
        "--params",
        "0.9",
        "--min-channels",
        "2",
        "--seed",
        "7",
        "--keep",
        "head",
    )
    assert done.exit_code == 0, done.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["format"] == "prunegraph/groups@1"
    assert seen["request"] == {
        "budget": {
            "kind": "params",
            "value": "0.9",
            "bound": pytest.approx(0.9 * seen["cost"]["params"]),
        },
        "seed": 7,
        "protected": [],
        "min_channels": 2,
        "round_to": 8,
        "ratio_for": {},
    }
    assert "activations" not in seen["groups"][0]
    assert pg.Plan.load("plan.json").remove == {"g0": (0,), "g1": (0,)}
    body = (
        'assert document["request"]["budget"] == {"kind": "ratio", "value": "auto"}\n'
        + FIRST
    )
    assert prune(program(tmp_path, body)).exit_code == 0, (
        "a program chooses how much goes where nobody says it"
    )
    body = 'assert document["request"]["protected"] == ["g0"]\nprint("{}")'
    assert "'format' must be" in prune(program(tmp_path, body), "--keep", "stem").stderr


def test_what_it_says_is_shown_and_its_input_may_be_left_unread(
    prune: Prune, tmp_path: Path
) -> None:
    (tmp_path / "plan.txt").write_text("")
    sha = pg.load("net.onnx").sha256
    plan = {"format": "prunegraph/plan@2", "model": {"sha256": sha}, "remove": {"g0": [3]}}
    (tmp_path / "choose.py").write_text(
        f"import sys\nprint('thinking', file=sys.stderr)\nprint({json.dumps(plan)!r})"
    )
    done = prune(f"exec:{sys.executable} choose.py")
    assert done.exit_code == 0, done.stderr
    assert "thinking\n" in done.stderr


def test_a_large_input_and_output_do_not_block(prune: Prune, tmp_path: Path) -> None:
    """Both pipes are served at once: a program may write before it has read."""
    body = """
import sys, json
sys.stderr.write("x" * 300_000 + "\\n")
sys.stdout.write(" " * 300_000)
document = json.load(sys.stdin)
"""
    (tmp_path / "choose.py").write_text(body + FIRST)
    assert prune(f"exec:{sys.executable} choose.py").exit_code == 0


def test_groups_by_attention_come_back_as_such(tmp_path: Path) -> None:
    graph, groups = attention(heads=4, width=16), {}
    for unit in ("heads", "head_dim"):
        coupling = pg.analyze(graph, attention=unit)
        algorithm = program(tmp_path, FIRST).replace(
            "choose.py", str(tmp_path / "choose.py")
        )
        plan = pg.select(
            graph, coupling, algorithm=algorithm, budget=pg.Budget(ratio="auto")
        )
        assert plan.attention == unit
        groups[unit] = pg.apply(graph, plan)
        # The same from a file: the unit stands in the model's entry, which a program copies.
        entry = {"sha256": graph.sha256, "attention": unit}
        bare = pg.Plan.from_json(
            {"format": "prunegraph/plan@2", "model": entry, "remove": {"g0": [0]}}
        )
        assert bare.attention == unit
    lie = FIRST.replace('"remove"', '"provenance": {"attention": "heads"}, "remove"')
    algorithm = program(tmp_path, lie).replace("choose.py", str(tmp_path / "choose.py"))
    with pytest.raises(
        PluginError, match="its plan is for groups by attention 'heads'; those it was given"
    ):
        pg.select(graph, algorithm=algorithm, budget=pg.Budget(ratio="auto"))


# -- failures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit(3)", "ended with exit code 3"),
        ("sys.exit('no idea')", "ended with exit code 1: no idea"),
        ("os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ("pass", "wrote nothing to its standard output"),
        ("print('half {')", "wrote no JSON to its standard output"),
        (
            "sys.stdout.buffer.write(bytes([0xff, 0xfe, 0x00]))",
            "wrote no JSON to its standard output",
        ),
        ("print('[' * 100_000)", "wrote no JSON to its standard output"),
        ("print('3')", "its 'format' must be one of prunegraph/plan@1, prunegraph/plan@2"),
        ("print('{}')", "its 'format' must be one of prunegraph/plan@1, prunegraph/plan@2"),
        (
            FIRST.replace("[0]", "[99]"),
            "the plan removes channel 99 of group 'g0', which has 8 channels",
        ),
        (FIRST.replace("[0]", "[-1]"), "the plan removes channel -1 of group 'g0'"),
        (FIRST.replace("[0]", "[0, 0]"), "removes a channel of group 'g0' twice"),
        (
            FIRST.replace("[0]", "list(range(g['channels']))"),
            "removes all 8 channels of group 'g0'",
        ),
        (FIRST.replace("[0]", "'0'"), "must be a list of whole numbers"),
        (FIRST.replace('g["id"]', '"x" + g["id"]'), "names group 'xg0'"),
        (
            FIRST.replace('document["model"]', '{"sha256": "0" * 64}'),
            "the plan is for another model",
        ),
        (FIRST.replace('document["model"]', "3"), "not a plan"),
        (
            FIRST.replace(
                '"remove"',
                '"cuts": [{"weight": "c1", "axis": 0, "removed": [5]}], "remove"',
            ),
            "do not follow",
        ),
        ('print(\'{"format": 1, "format": 2}\')', "'format' stands in it twice"),
    ],
)
def test_every_failure_is_one_error(
    prune: Prune, tmp_path: Path, body: str, message: str
) -> None:
    algorithm = program(tmp_path, body)
    done = prune(algorithm, "--ratio", "0.5")
    failed(done, tmp_path, message)
    assert "selector 'exec:" in done.stderr


def test_what_was_asked_for_is_checked(prune: Prune, tmp_path: Path) -> None:
    algorithm = program(tmp_path, FIRST)
    failed(prune(algorithm, "--macs", "0.5"), tmp_path, "above the budget of")
    failed(prune(algorithm, "--keep", "stem"), tmp_path, "group 'g0', which is protected")
    failed(
        prune(algorithm, "--min-channels", "8"), tmp_path, "leaves 7 channels in group 'g0'"
    )


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("exec", "exec needs a command"),
        ("exec:", "exec needs a command"),
        ("exec:a 'b", "cannot be taken apart"),
        (
            "exec:nowhere-to-be-found x",
            "cannot be started: nowhere-to-be-found: No such file",
        ),
        ("exec:./net.onnx", "cannot be started: ./net.onnx: Permission denied"),
    ],
)
def test_commands_that_cannot_run(
    prune: Prune, tmp_path: Path, algorithm: str, message: str
) -> None:
    failed(prune(algorithm, "--ratio", "0.5"), tmp_path, message)


def test_too_much_output_ends_the_program(
    prune: Prune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "MAX_OUTPUT", 10_000)
    body = "while True:\n    print('x' * 1000)"
    failed(prune(program(tmp_path, body)), tmp_path, "wrote more than 10,000 bytes")


def test_nothing_is_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program is ended with what it started when the run is interrupted."""
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "alive"
    child = f"import time\nfor _ in range(6000):\n    open({str(mark)!r}, 'a').write('x')\n    time.sleep(0.02)"
    body = f"import subprocess\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"

    def interrupted(process: Any, who: str) -> bytes:
        while not mark.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(external, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pg.select(
            residual_net(), algorithm=program(tmp_path, body), budget=pg.Budget(ratio=0.5)
        )
    sizes = [-1, mark.stat().st_size]
    while sizes[-1] != sizes[-2]:
        assert len(sizes) < 25, "what the program started still runs"
        time.sleep(0.2)
        sizes.append(mark.stat().st_size)


@pytest.mark.parametrize(
    "words",
    [
        ["sensitivity", "net.onnx", "--data", "data.npz"],
        ["search", "net.onnx", "-o", "out.onnx", "--data", "data.npz", "--tolerance", "1"],
        ["prune", "net.onnx", "-o", "out.onnx", "--latency", "0.9"],
    ],
    ids=lambda words: words[0],
)
def test_commands_that_need_ranked_channels(
    prune: Prune, tmp_path: Path, words: list[str]
) -> None:
    np.savez("data.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    failed(
        in_process(*words, "--algorithm", "exec:nobody"),
        tmp_path,
        "'exec:nobody' makes whole plans; ",
    )


def test_from_python() -> None:
    with pytest.raises(OptionError, match="exec needs a command"):
        pg.select(residual_net(), algorithm="exec", budget=pg.Budget(ratio=0.5))
    with pytest.raises(BudgetError, match="leave --allocation out"):
        pg.select(
            residual_net(),
            algorithm="exec:x",
            budget=pg.Budget(ratio=0.5),
            allocation="global",
        )


# -- recipes ---------------------------------------------------------------------------------


def test_recipes_run_programs_that_are_trusted(prune: Prune, tmp_path: Path) -> None:
    algorithm = program(tmp_path, FIRST)
    assert prune(algorithm, "--save-recipe", "r.toml").exit_code == 0
    before = Path("out.onnx").read_bytes()
    Path("out.onnx").unlink()
    refused = in_process("run", "r.toml")
    assert (
        refused.exit_code == 2
        and f"step 1 (prune) --algorithm {algorithm}" in refused.stderr
    )
    assert not Path("out.onnx").exists()
    done = in_process("run", "r.toml", "--trust")
    assert done.exit_code == 0, done.stderr
    assert Path("out.onnx").read_bytes() == before


def test_programs_are_code_wherever_they_stand() -> None:
    for given in (
        "exec:sh x",
        "cycles:algorithm=exec:sh x",
        "cycles:repair=bn, algorithm=exec:x",
        "exec:",
    ):
        assert plugins.code_in(given)
    for given in ("l2:members=producer", "executive:x", "cycles:algorithm=obs"):
        assert not plugins.code_in(given)


def test_no_program_runs_where_no_code_may() -> None:
    with (
        plugins.no_code("not here"),
        pytest.raises(PluginError, match="not here: exec:touch x"),
    ):
        pg.select(residual_net(), algorithm="exec:touch x", budget=pg.Budget(ratio=0.5))
