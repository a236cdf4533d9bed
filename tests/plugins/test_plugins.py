"""Plug-ins from files: what they can do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph import plugins
from prunegraph.errors import PluginError, UnknownNameError
from prunegraph.selection.criteria.base import CRITERIA, Context
from prunegraph.selection.selectors import SELECTORS
from tests.builders import Builder, residual_net
from tests.plugins.snippets import (
    HEAD,
    PRUNE,
    Cli,
    assert_one_error,
    criterion,
    propagate,
    selector,
)

# -- what works ---------------------------------------------------------------------------


def test_a_criterion_from_a_file(folder: Path, cli: Cli) -> None:
    (folder / "mine.py").write_text(criterion("return np.arange(group.channels)"))
    done = cli(PRUNE, "--save-plan plan.json")
    assert done.exit_code == 0, done.stderr
    assert "proof: max |difference|" in done.stderr
    plan = pg.Plan.load(folder / "plan.json")
    for group in pg.analyze(pg.load(folder / "net.onnx")).groups:
        assert plan.remove[group.id] == tuple(range(group.channels // 2))
    assert plan.provenance["algorithm"] == "mine"
    assert plan.provenance["plugin"] == "file mine.py"


def test_a_selector_has_full_control_and_its_plan_is_proved_and_repaired(
    folder: Path, cli: Cli
) -> None:
    (folder / "mine.py").write_text(selector("return {'g1': {5, 1}, 'g0': np.array([2])}"))
    done = cli(PRUNE, "--save-plan plan.json --data inputs.npz")
    assert done.exit_code == 0, done.stderr
    assert "proof: max |difference|" in done.stderr
    assert "then repaired on 8 samples: least-squares" in done.stderr
    plan = pg.Plan.load(folder / "plan.json")
    assert plan.remove == {"g0": (2,), "g1": (1, 5)}
    assert plan.cuts
    assert plan.provenance["plugin"] == "file mine.py"
    assert plan.provenance["allocation"] is None


def test_a_selector_may_return_a_plan_and_use_criteria_and_the_users_options(
    folder: Path, cli: Cli
) -> None:
    (folder / "mine.py").write_text(
        selector(
            "scores = context.scores('l2')['g1']\n"
            "    gone = np.argsort(scores)[: int(budget.ratio * len(scores)) - context.choice.min_channels]\n"
            "    return pg.Plan(coupling.graph.sha256, {'g1': tuple(map(int, gone))}, provenance={'why': 'least'})"
        )
    )
    done = cli(PRUNE, "--save-plan plan.json --min-channels 3")
    assert done.exit_code == 0, done.stderr
    plan = pg.Plan.load(folder / "plan.json")
    graph = pg.load(folder / "net.onnx")
    scores = Context(pg.analyze(graph)).scores("l2")["g1"]
    assert plan.remove == {"g1": tuple(sorted(np.argsort(scores)[:5].tolist()))}
    assert plan.provenance["why"] == "least"
    pg.verify(graph, plan, pg.load(folder / "out.onnx"))


def test_a_module_by_name(folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a_plugin_module.py").write_text(
        criterion("return np.arange(group.channels)")
    )
    monkeypatch.syspath_prepend(folder)
    for _ in range(2):  # a module that is there already registers nothing again
        done = cli("algorithms --plugin a_plugin_module")
        assert done.exit_code == 0, done.stderr
        assert "mine" in done.stdout and "module a_plugin_module" in done.stdout


def test_algorithms_lists_kinds_origins_and_summaries(folder: Path, cli: Cli) -> None:
    (folder / "mine.py").write_text(criterion("return np.zeros(group.channels)"))
    (folder / "other.py").write_text(selector("return {}").replace('"mine"', '"yours"'))
    done = cli("algorithms --plugin mine.py --plugin ./other.py --plugin mine.py")
    assert done.exit_code == 0, done.stderr
    rows = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    kinds = {name: (kind, " ".join(rest.split())) for kind, name, rest in rows}
    assert kinds["mine"] == ("criterion", "file mine.py Mine.")
    assert kinds["yours"] == ("selector", "file other.py Mine.")
    summary = "Euclidean norm of weights over producers and consumers. Options: members=all|producer|consumer"
    assert kinds["l2"] == ("criterion", f"built in {summary}")
    assert kinds["uniform"] == ("allocation", "built in Every group loses the same share.")


def test_a_rule_frees_what_an_unknown_operator_pins(folder: Path, cli: Cli) -> None:
    done = cli("inspect custom.onnx")
    assert "0 groups" in done.stderr and "Scale has no rule" in done.stderr
    text = "from prunegraph.ops.pattern import by_pattern\n" + propagate(
        "pass",
        'propagate=by_pattern("n c, c -> n c"), shapes=lambda node, inputs: [inputs[0]]',
    )
    (folder / "mine.py").write_text(text)
    done = cli("prune custom.onnx -o out.onnx --ratio 0.5 --plugin mine.py --no-verify")
    assert done.exit_code == 0, done.stderr
    pruned = pg.load(folder / "out.onnx")
    assert pruned.node("first").channels.outputs == 8
    assert pruned.weights[pruned.nodes[1].inputs[1]].shape == (8,)


def test_a_rule_may_say_that_it_cannot_follow_a_node(folder: Path, cli: Cli) -> None:
    (folder / "mine.py").write_text(propagate("raise ValueError('it is turned round')"))
    done = cli("inspect custom.onnx --plugin mine.py")
    assert done.exit_code == 0
    assert "Scale cannot be followed: it is turned round" in done.stderr


def test_a_front_end_by_suffix_and_by_class(folder: Path, cli: Cli) -> None:
    (folder / "mine.py").write_text(
        f"{HEAD}import onnx, pathlib\n@pg.frontend('.tiny.txt')\n"
        "def read(source):\n    return onnx.load(pathlib.Path(source).read_text())\n"
    )
    (folder / "a.tiny.txt").write_text("net.onnx")
    done = cli(
        "prune a.tiny.txt -o out.onnx --ratio 0.5 --round-to 1 --plugin mine.py --save-plan plan.json"
    )
    assert done.exit_code == 0, done.stderr
    assert cli("verify a.tiny.txt plan.json out.onnx --plugin mine.py").exit_code == 0

    class Source:
        pass

    class Special(Source):
        pass

    @pg.frontend(f"{__name__}.{Source.__qualname__}")
    def read(source: Source) -> pg.Graph:
        return residual_net()

    assert len(pg.analyze(pg.load(Special())).groups) == 2
    assert (
        pg.prune(
            Special(), folder / "o.onnx", budget=pg.Budget(ratio=0.5), round_to=1
        ).proof
        is not None
    )


def test_a_cell_of_a_notebook_may_run_again() -> None:
    cell = '@pg.criterion("mine")\ndef mine(group, context): return []\n'
    code = f"import prunegraph as pg\n{cell}{cell}"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    code += 'pg.criterion("mine")(lambda group, context: [])\n'
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "registered twice (module __main__ and module __main__)" in done.stderr


OK = '{"format": "prunegraph/plan@1", "model": {"sha256": "SHA"}, "remove": REMOVE}'


# -- plans of others ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ('{"g9": [0]}', "names group 'g9'"),
        ('{"g0": [99]}', "removes channel 99 of group 'g0'"),
        ('{"g0": [0, 1, 2, 3, 4, 5, 6, 7]}', "removes all 8 channels"),
        ('{"g0": [0.5]}', "channels of group 'g0' must be a list of whole numbers"),
        ('{"g0": ["1"]}', "channels of group 'g0' must be a list of whole numbers"),
        ('{"g0": "12"}', "channels of group 'g0' must be a list of whole numbers"),
        ('{"g0": [true]}', "channels of group 'g0' must be a list of whole numbers"),
        ('{"g0": NaN}', "channels of group 'g0' must be a list of whole numbers"),
        ('[["g0", [1]]]', "not a plan"),
        (
            '{"g0": [1]}, "cuts": [{"weight": "c1", "axis": 0, "removed": [2]}]',
            "'cuts' do not follow",
        ),
        (
            '{"g0": [1]}, "cuts": [{"weight": "c1", "axis": 0, "removed": "2"}]',
            "cuts of weight 'c1' must be a list",
        ),
        ('{"g0": [1]', "not a plan"),
    ],
)
def test_mistakes_in_a_plan_from_outside(
    folder: Path, cli: Cli, remove: str, message: str
) -> None:
    sha = pg.load(folder / "net.onnx").sha256
    (folder / "plan.json").write_text(OK.replace("SHA", sha).replace("REMOVE", remove))
    assert_one_error(cli("apply net.onnx plan.json -o out.onnx"), folder, message)


def test_the_groups_file_says_where_channels_are(folder: Path, cli: Cli) -> None:
    b = Builder()
    x = b.input("n", 3, 8, 8)
    x = b.op("Concat", b.conv(x, 3, 8, name="a"), b.conv(x, 3, 8, name="b"), axis=1)
    x = b.op("Reshape", b.relu(x), b.const([0, -1], np.int64))
    pg.save(b.graph(b.linear(x, 16 * 64, 4, name="last")), folder / "joined.onnx")
    done = cli("inspect joined.onnx --json -")
    assert done.exit_code == 0, done.stderr
    groups = {g.id: g for g in pg.analyze(pg.load(folder / "joined.onnx")).groups}
    kinds = set()
    for content in json.loads(done.stdout)["groups"]:
        for member, entry in zip(
            groups[content["id"]].members, content["members"], strict=True
        ):
            run = (
                [[entry["first"] + i] for i in range(content["channels"])]
                if "first" in entry
                else None
            )
            assert member.positions.tolist() == (run or entry["positions"])
            kinds.add((bool(run), entry.get("first")))
    assert kinds == {(True, 0), (True, 8), (False, None)} or kinds == {
        (True, 0),
        (False, None),
    }


# -- registries ---------------------------------------------------------------------------


def test_kinds_of_algorithms_share_names_but_not_uses() -> None:
    pg.selector("test_mine")(lambda coupling, context, budget: {})
    assert "test_mine" in SELECTORS and "test_mine" not in CRITERIA
    assert "test_mine" in CRITERIA.names()
    with pytest.raises(UnknownNameError, match="unknown criterion 'test_mine'"):
        CRITERIA.get("test_mine")
    with pytest.raises(PluginError, match="registered twice"):
        pg.criterion("test_mine")(lambda group, context: np.zeros(1))


def test_origins() -> None:
    assert CRITERIA.entry("l2").origin == "built in"
    pg.criterion("test_here")(lambda group, context: np.zeros(1))
    assert CRITERIA.entry("test_here").origin == f"module {__name__}"
    assert plugins.BUILT_IN not in str(CRITERIA.entry("l2"))


def test_what_a_plug_in_is_the_first_to_import_is_not_its_own(tmp_path: Path) -> None:
    """In a process of its own, where nothing of ours was imported before."""
    (tmp_path / "mine.py").write_text(
        "import prunegraph as pg\n"
        "from prunegraph.ops.pattern import by_pattern\n"
        "from prunegraph.ops.rule import register\n"
        "@pg.criterion('mine')\n"
        "def mine(group, context): return [1.0] * group.channels\n"
        "register('Mine', domain='test', propagate=by_pattern('n c *s -> n c *s'), partial=True)\n"
    )
    (tmp_path / "empty.py").write_text(
        "import prunegraph as pg\nfrom prunegraph.ops.rule import register\npg.criterion\n"
    )
    code = (
        "import sys\n"
        "from prunegraph import plugins\n"
        "from prunegraph.errors import PluginError\n"
        "try: plugins.load('empty.py')\n"
        "except PluginError as error: assert 'registers nothing' in str(error), error\n"
        "else: sys.exit('an empty plug-in was taken')\n"
        "plugins.load('mine.py')\n"
        "from prunegraph.selection.criteria.base import CRITERIA\n"
        "from prunegraph.ops.rule import rules\n"
        "assert CRITERIA.entry('l2').origin == 'built in', CRITERIA.entry('l2')\n"
        "assert CRITERIA.entry('mine').origin == 'file mine.py', CRITERIA.entry('mine')\n"
        "assert rules()['', 'If'][0].partial and rules()['test', 'Mine'][0].partial\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
