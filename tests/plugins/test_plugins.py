"""Plug-ins from files: what they can do, and that every mistake is one error that names them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import prunegraph as pg
from prunegraph import plugins
from prunegraph.cli import main
from prunegraph.errors import DataError, PluginError, UnknownNameError
from prunegraph.frontends import FRONTENDS
from prunegraph.ops import rule
from prunegraph.runtime import statistics as statistics_module
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run_values
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.criteria.base import CRITERIA, Context
from prunegraph.selection.selectors import SELECTORS
from tests.builders import Builder, residual_net

Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    shared = dict(CRITERIA._entries)
    for registry, entries in (
        (CRITERIA, shared),
        (SELECTORS, shared),
        (FRONTENDS, dict(FRONTENDS._entries)),
    ):
        monkeypatch.setattr(registry, "_entries", entries)
    monkeypatch.setattr(
        rule, "_RULES", {key: list(rules) for key, rules in rule._RULES.items()}
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, inputs for it, and a model with an operator of nobody's domain."""
    pg.save(residual_net(), tmp_path / "net.onnx")
    np.savez(
        tmp_path / "inputs.npz",
        x=np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32),
    )
    pg.save(custom_net(), tmp_path / "custom.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def custom_net() -> pg.Graph:
    """An operator that ONNX does not know and ONNX Runtime cannot run."""
    b = Builder()
    x = b.op(
        "Scale",
        b.linear(b.input("n", 6), 6, 16, name="first"),
        b.weight(16),
        domain="com.example",
    )
    return b.graph(b.linear(x, 16, 4, name="last"), domains=[("com.example", 1)])


@pytest.fixture
def cli(folder: Path) -> Cli:
    return lambda *words: CliRunner().invoke(main, " ".join(words).split())


HEAD = "import numpy as np\nimport prunegraph as pg\n"
PRUNE = (
    "prune net.onnx -o out.onnx --ratio 0.5 --round-to 1 --plugin mine.py --algorithm mine"
)


def criterion(body: str) -> str:
    return f'{HEAD}@pg.criterion("mine")\ndef mine(group, context):\n    """Mine."""\n    {body}\n'


def selector(body: str) -> str:
    return f'{HEAD}@pg.selector("mine")\ndef mine(coupling, context, budget):\n    """Mine."""\n    {body}\n'


def propagate(
    body: str, register: str = "propagate=propagate, shapes=lambda node, inputs: inputs[:1]"
) -> str:
    return (
        f"{HEAD}from prunegraph.ops.rule import register\n"
        f'def propagate(site):\n    {body}\nregister("Scale", domain="com.example", {register})\n'
    )


def assert_one_error(done: Result, folder: Path, *parts: str) -> None:
    assert done.exit_code == 2, (done.output, done.exception)
    assert isinstance(done.exception, SystemExit)
    line = done.stderr
    assert line.startswith("error: ") and line.count("\n") == 1, line
    for part in parts:
        assert part in line
    assert not done.stdout
    assert not (folder / "out.onnx").exists()


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


# -- what goes wrong ----------------------------------------------------------------------

CRITERION_MISTAKES = {
    "short": (
        "return np.zeros(3)",
        "returned shape [3] for group 'g0', not one score for each of its 8 channels",
    ),
    "matrix": ("return np.zeros((group.channels, 2))", "returned shape [8, 2]"),
    "number": ("return 1.0", "returned shape []"),
    "nan": (
        "return np.where(np.arange(group.channels) == 2, np.nan, 1)",
        "returned NaN for channel 2 of group 'g0'",
    ),
    "minus inf": ("return np.full(group.channels, -np.inf)", "returned -inf for channel 0"),
    "nothing": ("pass", "returned NoneType for group 'g0'"),
    "text": (
        "return ['a'] * group.channels",
        "returned list for group 'g0', not an array of real numbers",
    ),
    "ragged": ("return [[1], [1, 2]]", "returned list"),
    "complex": ("return np.zeros(group.channels, complex)", "returned complex128 array"),
    "exception": (
        "return 1 / 0",
        "failed: ZeroDivisionError: division by zero (mine.py:6)",
    ),
    "many lines": (
        "raise OSError('first\\nsecond')",
        "failed: OSError: first second (mine.py:6)",
    ),
    "exit": ("raise SystemExit(0)", "failed: SystemExit: 0 (mine.py:6)"),
    "weight": ("return context.weight('c99')", "unknown weight 'c99', did you mean"),
    "criterion": ("return context.scores('l3')[group.id]", "unknown algorithm 'l3'"),
}


@pytest.mark.parametrize("name", CRITERION_MISTAKES)
def test_mistakes_of_a_criterion(folder: Path, cli: Cli, name: str) -> None:
    body, message = CRITERION_MISTAKES[name]
    (folder / "mine.py").write_text(criterion(body))
    assert_one_error(cli(PRUNE), folder, "criterion 'mine' (file mine.py)", message)


DATA_MISTAKES = {
    "value": (
        "return context.activations('relu99.out')",
        "unknown value 'relu99.out', did you mean",
    ),
    "axis": ("return context.moments('x', 7).mean", "AxisError"),
    "layer": ("return context.gram('stemm')", "unknown layer 'stemm', did you mean 'stem'"),
    "samples": ("return context.activations('x', 0)", "samples must be at least 1"),
    "writing": ("context.activations('x')[:] = 0", "read-only"),
}


@pytest.mark.parametrize("name", DATA_MISTAKES)
def test_mistakes_with_data(folder: Path, cli: Cli, name: str) -> None:
    body, message = DATA_MISTAKES[name]
    (folder / "mine.py").write_text(criterion(body))
    assert_one_error(
        cli(PRUNE, "--data inputs.npz"), folder, "criterion 'mine' (file mine.py)", message
    )
    if "context" in body:
        assert_one_error(
            cli(PRUNE), folder, "algorithm 'mine' needs data: give --data FILE"
        )


SELECTOR_MISTAKES = {
    "group": (
        "return {'g99': [0]}",
        "the plan names group 'g99'; the model has 2 groups, g0 to g1",
    ),
    "number for a group": ("return {0: [0]}", "names a group by 0"),
    "channel": (
        "return {'g0': [8]}",
        "removes channel 8 of group 'g0', which has 8 channels",
    ),
    "negative": ("return {'g0': [-1]}", "removes channel -1"),
    "all": (
        "return {'g0': range(8)}",
        "removes all 8 channels of group 'g0'; one must stay",
    ),
    "twice": ("return {'g0': [1, 1]}", "removes a channel of group 'g0' twice"),
    "nothing": ("pass", "returned NoneType, not a Plan or a mapping"),
    "list": ("return [0, 1]", "returned list, not a Plan or a mapping"),
    "mask": (
        "return {'g0': np.arange(8) < 2}",
        "no list of channel numbers; np.flatnonzero",
    ),
    "fraction": ("return {'g0': [0.5]}", "no list of channel numbers"),
    "one number": ("return {'g0': 3}", "no list of channel numbers"),
    "text": ("return {'g0': '12'}", "no list of channel numbers"),
    "ragged": ("return {'g0': [[1], [2, 3]]}", "no list of channel numbers"),
    "other model": ("return pg.Plan('0' * 64, {})", "the plan is for another model"),
    "plan of text": (
        "return pg.Plan(coupling.graph.sha256, 'g0')",
        "returned str, not a Plan or a mapping",
    ),
    "plan of masks": (
        "return pg.Plan(coupling.graph.sha256, {'g0': [True]})",
        "no list of channel numbers",
    ),
    "exception": ("return {}['g0']", "failed: KeyError: 'g0' (mine.py:6)"),
    "own group": ("return coupling.group('g7')", "failed: "),
    "criterion": ("return context.scores('mine')", "unknown criterion 'mine'"),
}


@pytest.mark.parametrize("name", SELECTOR_MISTAKES)
def test_mistakes_of_a_selector(folder: Path, cli: Cli, name: str) -> None:
    body, message = SELECTOR_MISTAKES[name]
    (folder / "mine.py").write_text(selector(body))
    assert_one_error(cli(PRUNE), folder, "selector 'mine' (file mine.py)", message)


def test_a_selector_keeps_to_what_the_user_asked_for(folder: Path, cli: Cli) -> None:
    (folder / "mine.py").write_text(selector("return {'g0': [0], 'g1': range(12)}"))
    who = "selector 'mine' (file mine.py)"
    assert_one_error(
        cli(PRUNE, "--keep block1"),
        folder,
        who,
        "removes channels of group 'g1', which is protected",
    )
    assert_one_error(
        cli(PRUNE, "--min-channels 5"),
        folder,
        who,
        "leaves 4 channels in group 'g1'; at least 5",
    )
    bound = PRUNE.replace("--ratio 0.5", "--params 0.1")
    assert_one_error(cli(bound), folder, who, "params, above the budget of")
    assert_one_error(
        cli(PRUNE, "--allocation global"),
        folder,
        "selector 'mine' shares the budget itself",
    )
    done = cli(PRUNE.replace("--ratio 0.5", "--params 0.9"), "--min-channels 4 --keep head")
    assert done.exit_code == 0, done.stderr


LOADING_MISTAKES = {
    "syntax": ("def mine(:\n", "cannot be loaded: SyntaxError"),
    "import": (
        "import not_there_at_all\n",
        "ModuleNotFoundError: No module named 'not_there_at_all' (mine.py:1)",
    ),
    "exception": (
        "\n\nx = undefined\n",
        "cannot be loaded: NameError: name 'undefined' is not defined (mine.py:3)",
    ),
    "exit": ("import sys\nsys.exit(3)\n", "cannot be loaded: SystemExit: 3 (mine.py:2)"),
    "nothing": (
        "def mine(group, context):\n    return 1\n",
        "registers nothing; decorate a function",
    ),
    "built in": (
        criterion("pass").replace('"mine"', '"l2"'),
        "'l2' is registered twice (built in and file mine.py)",
    ),
    "twice": (
        criterion("pass") * 2,
        "'mine' is registered twice (file mine.py and file mine.py)",
    ),
    "both kinds": (
        criterion("pass") + selector("pass"),
        "algorithm 'mine' is registered twice",
    ),
    "no brackets": (
        f"{HEAD}@pg.criterion\ndef mine(group, context): pass\n",
        "a name of one word, not <function",
    ),
    "two words": (
        criterion("pass").replace('"mine"', '"my own"'),
        "under a name of one word, not 'my own'",
    ),
    "parameters": (
        f"{HEAD}@pg.criterion('mine')\ndef mine(group): pass\n",
        "criterion 'mine' (file mine.py) must be a function (group, context), not (group)",
    ),
    "criterion as selector": (
        f"{HEAD}@pg.selector('mine')\ndef mine(group, context): pass\n",
        "selector 'mine' (file mine.py) must be a function (coupling, context, budget), not (group, context)",
    ),
    "no function": (
        f"{HEAD}pg.criterion('mine')(3)\n",
        "must be a function (group, context), not int",
    ),
    "rule twice": (
        propagate("pass") + propagate("pass"),
        "operator com.example::Scale has two rules since version 1",
    ),
    "rule parameters": (
        propagate(
            "pass",
            "shapes=lambda node, inputs: inputs[:1], propagate=propagate, macs=propagate",
        ),
        "macs of the rule for com.example::Scale (file mine.py) must be a function (node, inputs, outputs), not (site)",
    ),
    "pattern": (
        f"{HEAD}from prunegraph.ops.pattern import by_pattern\n"
        + propagate("pass", "propagate=by_pattern('n c')"),
        "cannot be loaded: ValueError",
    ),
    "front end twice": (
        f"{HEAD}pg.frontend('.onnx')(lambda source: None)\n",
        "'.onnx' is registered twice",
    ),
}


@pytest.mark.parametrize("name", LOADING_MISTAKES)
@pytest.mark.parametrize(
    "command", ["algorithms --plugin mine.py", PRUNE], ids=["algorithms", "prune"]
)
def test_mistakes_when_loading(folder: Path, cli: Cli, name: str, command: str) -> None:
    text, message = LOADING_MISTAKES[name]
    (folder / "mine.py").write_text(text)
    assert_one_error(cli(command), folder, "plug-in mine.py", message)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.py", "plug-in none.py: no such file"),
        ("some/where", "plug-in some/where: no such file"),
        ("./", "is a folder"),
        ("net.onnx", "plug-in net.onnx is no Python file"),
        (
            "not.there",
            "plug-in not.there cannot be loaded: ModuleNotFoundError: No module named 'not'",
        ),
        (
            "mine",
            "plug-in mine cannot be loaded: ModuleNotFoundError: No module named 'mine'; did you mean",
        ),
        (".mine", "plug-in .mine cannot be loaded: TypeError"),
    ],
)
def test_what_is_not_there(folder: Path, cli: Cli, source: str, message: str) -> None:
    (folder / "mine.py").write_text(criterion("pass"))
    assert_one_error(cli("inspect net.onnx --plugin", source), folder, message)


def test_a_module_that_registers_nothing(
    folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "an_idle_module.py").write_text("")
    monkeypatch.syspath_prepend(folder)
    assert_one_error(
        cli("inspect net.onnx --plugin an_idle_module"),
        folder,
        "plug-in an_idle_module registers nothing",
    )


RULE_MISTAKES = {
    "propagate": (
        propagate("site.nothing()"),
        "AttributeError: 'NodeSite' object has no attribute 'nothing' (mine.py:5)",
    ),
    "slot": (
        propagate("site.labels(5)"),
        "IndexError: tuple index out of range (mine.py:5)",
    ),
    "macs": (
        propagate(
            "site.set_output(site.labels(0))",
            "shapes=lambda node, inputs: inputs[:1], propagate=propagate, macs=lambda n, i, o: 'many'",
        ),
        "macs returned 'many'",
    ),
    "shapes": (
        propagate("pass", "propagate=propagate, shapes=lambda n, i: i[0]"),
        "shapes returned (1, 16) for node 'scale5'",
    ),
    "no shapes": (
        propagate("pass", "propagate=propagate, shapes=lambda n, i: None"),
        "shapes returned None for node 'scale5'",
    ),
    "repair": (
        propagate(
            "site.set_output(site.labels(0))",
            "shapes=lambda node, inputs: inputs[:1], propagate=propagate, "
            "fix_up=lambda edit: edit.kept('nowhere', 0) + {}",
        ),
        "failed: ",
    ),
}


@pytest.mark.parametrize("name", RULE_MISTAKES)
def test_mistakes_of_a_rule(folder: Path, cli: Cli, name: str) -> None:
    text, message = RULE_MISTAKES[name]
    (folder / "mine.py").write_text(text)
    done = cli("prune custom.onnx -o out.onnx --ratio 0.5 --plugin mine.py --no-verify")
    assert_one_error(done, folder, "rule for com.example::Scale (file mine.py)", message)


FRONT_END_MISTAKES = {
    "nothing": ("pass", "returned NoneType for a.tiny, not a Graph or an onnx.ModelProto"),
    "exception": (
        "return {}['layers']",
        "reading a.tiny, failed: KeyError: 'layers' (mine.py:5)",
    ),
    "invalid model": (
        "import onnx; return onnx.helper.make_model(onnx.helper.make_graph([onnx.helper.make_node('Relu', ['x'], ['y'])], 'g', [], []))",  # noqa: E501
        "made an invalid model: a.tiny: ",
    ),
}


@pytest.mark.parametrize("name", FRONT_END_MISTAKES)
def test_mistakes_of_a_front_end(folder: Path, cli: Cli, name: str) -> None:
    body, message = FRONT_END_MISTAKES[name]
    (folder / "mine.py").write_text(
        f"{HEAD}@pg.frontend('.tiny')\ndef read(source):\n    {body}\n"
    )
    (folder / "a.tiny").write_text("")
    command = "prune {} -o out.onnx --ratio 0.5 --plugin mine.py"
    assert_one_error(
        cli(command.format("a.tiny")), folder, "front end '.tiny' (file mine.py)", message
    )
    assert_one_error(cli(command.format("b.tiny")), folder, "b.tiny: no such file")


def test_no_front_end_for_a_source(folder: Path, cli: Cli) -> None:
    (folder / "a.unknown").write_text("text")
    assert_one_error(
        cli("inspect a.unknown"),
        folder,
        "a.unknown: not an ONNX file",
        "no front end is for its name: -symbol.json, .onnx, .pt2",
    )
    (folder / "a.pt").write_bytes(b"text")
    assert_one_error(
        cli("inspect a.pt"), folder, "a.pt: no graph is read from a checkpoint"
    )
    with pytest.raises(
        pg.errors.ModelError,
        match=r"object of class builtins\.dict: no front end reads it; there are -symbol.json, .onnx, .pt2",
    ):
        pg.load({})


# -- plans of others ----------------------------------------------------------------------

OK = '{"format": "prunegraph/plan@1", "model": {"sha256": "SHA"}, "remove": REMOVE}'


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


# -- what a context gives -----------------------------------------------------------------


def context_of(graph: pg.Graph, **inputs: np.ndarray) -> tuple[Context, Data]:
    data = Data.of(inputs)
    return Context(pg.analyze(graph), statistics=Statistics(graph, data)), data


def test_activations_moments_and_gram_by_hand() -> None:
    graph = residual_net()
    x = np.random.default_rng(1).standard_normal((40, 3, 8, 8)).astype(np.float32)
    context, _ = context_of(graph, x=x)
    layer = graph.node("block2")
    output, read = run_values(graph, {"x": x}, [layer.outputs[0], layer.inputs[0]]).values()
    np.testing.assert_allclose(
        context.activations(layer.outputs[0]), output[:32], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(context.activations("x", 5), x[:5])
    moments = context.moments(layer.outputs[0])
    np.testing.assert_allclose(
        moments.energy, (output.astype(np.float64) ** 2).mean((0, 2, 3)), rtol=1e-5
    )
    np.testing.assert_allclose(
        context.moments(layer.outputs[0], -3).mean,
        output.mean((0, 2, 3)),
        rtol=1e-4,
        atol=1e-6,
    )
    np.testing.assert_allclose(context.moments(graph.outputs[0], -1).count, 40)
    head = graph.node("head")
    rows = run_values(graph, {"x": x}, [head.inputs[0]])[head.inputs[0]]
    gram = context.gram("head")
    assert gram is not None
    np.testing.assert_allclose(gram.products[0], rows.T @ rows / 40, rtol=1e-4, atol=1e-6)
    assert context.gram(graph.node("block1")) is not None
    assert read.shape[0] == 40


def test_a_layer_that_is_no_matrix_product_has_no_gram() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 8, 8), 3, 8, name="conv")
    x = b.op("ConvTranspose", x, b.weight(8, 8, 3, 3), name="up")
    graph = b.graph(b.head(x, 8))
    context, _ = context_of(graph, x=np.ones((2, 3, 8, 8), np.float32))
    assert context.gram("up") is None


def test_data_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = residual_net()
    context, _ = context_of(graph, x=np.ones((4, 3, 8, 8), np.float32))
    runs: list[int] = []
    original = statistics_module.run_batches

    def counted(*args: object) -> object:
        runs.append(1)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(statistics_module, "run_batches", counted)
    for _ in range(2):
        for name in ("stem", "block1", "block2"):
            context.moments(graph.node(name).outputs[0])
    assert len(runs) == 1
    for _ in range(2):
        for name in ("stem", "block1", "block2"):
            context.gram(name)
    assert len(runs) == 2
    for _ in range(2):
        context.activations(graph.node("stem").outputs[0])
    assert len(runs) == 3
    monkeypatch.setattr(statistics_module, "KEEP", 1)
    for _ in range(2):
        context.activations(graph.node("block1").outputs[0])
        context.activations(graph.node("block2").outputs[0])
    assert len(runs) == 7


def test_activations_of_a_model_with_a_fixed_batch() -> None:
    b = Builder()
    x = b.relu(b.linear(b.input(2, 6), 6, 8, name="first"))
    graph = b.graph(b.linear(x, 8, 4))
    inputs = np.random.default_rng(0).standard_normal((7, 6)).astype(np.float32)
    context, _ = context_of(graph, x=inputs)
    assert context.activations(x, 32).shape == (6, 8)
    assert context.activations(x, 3).shape[0] >= 2
    few, _ = context_of(graph, x=inputs[:1])
    with pytest.raises(DataError, match="fewer samples than the model's batch size"):
        few.activations(x)


def test_a_users_arrays_stay_writeable() -> None:
    inputs = np.ones((2, 3, 8, 8), np.float32)
    context, _ = context_of(residual_net(), x=inputs)
    assert not context.activations("x").flags.writeable
    inputs[:] = 0


def test_an_algorithm_without_data_says_so() -> None:
    context = Context(pg.analyze(residual_net()), algorithm="mine")
    for ask in (
        lambda: context.activations("x"),
        lambda: context.moments("x"),
        lambda: context.gram("stem"),
    ):
        with pytest.raises(DataError, match="algorithm 'mine' needs data"):
            ask()


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
