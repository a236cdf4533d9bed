"""Every mistake of a plug-in is one error that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

import prunegraph as pg
from tests.plugins.snippets import (
    HEAD,
    PRUNE,
    Cli,
    assert_one_error,
    criterion,
    propagate,
    selector,
)

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
        "no front end is for its name: -symbol.json, .h5, .keras, .onnx, .pt2, .tflite",
    )
    (folder / "a.pt").write_bytes(b"text")
    assert_one_error(
        cli("inspect a.pt"), folder, "a.pt: no graph is read from a checkpoint"
    )
    with pytest.raises(
        pg.errors.ModelError,
        match=r"object of class builtins\.dict: no front end reads it; there are -symbol.json, .h5, .keras, .onnx",
    ):
        pg.load({})
