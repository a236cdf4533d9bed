"""Recipes: command lines as TOML, and back."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import prunegraph as pg
from prunegraph import recipes
from prunegraph.cli import main
from prunegraph.cli.recipe import Writes, key, line, lines, spelled
from prunegraph.errors import RecipeError
from prunegraph.recipes import Recipe, RecipeStep
from tests.builders import residual_net
from tests.commands import FIXTURES, MODEL, cli

HEAD = f'format = "{recipes.FORMAT}"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pg.save(residual_net(width=16), tmp_path / "net.onnx")
    return tmp_path


def test_text_is_toml_of_the_same() -> None:
    steps = [
        RecipeStep(
            "prune",
            {
                "model": 'a "b"\\c\n\tü\x7f\x01.onnx',
                "keep": ["x", "y y"],
                "no-verify": True,
                "seed": 3,
            },
        ),
        RecipeStep("quantize", {"percentile": 99.9, "output": ""}),
    ]
    content = tomllib.loads(recipes.text(steps))
    assert content["format"] == recipes.FORMAT and content["version"] == pg.__version__
    assert content["step"] == [{"command": step.command, **step.options} for step in steps]


def test_read_gives_back_what_was_saved(tmp_path: Path) -> None:
    steps = (
        RecipeStep("prune", {"model": "a.onnx", "macs": "0.5"}),
        RecipeStep("inspect", {"json": "-"}),
    )
    recipes.save(steps, tmp_path / "r.toml")
    assert recipes.read(tmp_path / "r.toml") == Recipe(steps, str(tmp_path / "r.toml"))


@pytest.mark.parametrize("name", sorted(name for name in main.commands if name != "run"))
def test_every_option_of_every_command_has_a_name_in_recipes(name: str) -> None:
    """A line with every option is spelled as a step, and the step is the same line again."""
    command = main.commands[name]
    words: list[str] = []
    for parameter in command.params:
        if isinstance(parameter, click.Option) and key(parameter) != "save-recipe":
            words += (
                [f"--{key(parameter)}"] if parameter.is_flag else [f"--{key(parameter)}=1"]
            )
            words += [f"--{key(parameter)}=-2"] if parameter.multiple else []
        elif isinstance(parameter, click.Argument):
            words.append("name.onnx")
    step = spelled(command, words)
    assert len(step.options) == len(
        {key(p) for p in command.params if key(p) != "save-recipe"}
    )
    again = line(command, step, "here")
    assert again[0] == name and spelled(command, again[1:]) == step


def test_commands_that_write_a_model_can_be_saved() -> None:
    writing = {
        name
        for name, command in main.commands.items()
        if any("--output" in p.opts for p in command.params) and name != "init"
    }  # that one writes the recipe
    assert writing == {
        name for name, command in main.commands.items() if isinstance(command, Writes)
    }
    assert {
        "prune",
        "search",
        "apply",
        "convert",
        "compress",
        "decompose",
        "quantize",
        "train",
    } <= writing


#: A line of each command that writes a model, and what it writes besides.
LINES = (
    "prune net.onnx -o out.onnx --macs 0.8 --keep conv2 --round-to 4 --ratio-for conv5=0.25 --save-plan plan.json",
    "apply net.onnx given.json -o out.onnx --no-verify",
    "decompose net.onnx -o out.onnx --method auto --macs 0.7 --round-to=2 --json layers.json",
    "quantize net.onnx -o out.onnx --weights int8 --activations none --float first --float last",
    "compress net.onnx -o out.onnx --params 0.6 --round-to 2 --json layers.json --seed 3",
    "compress net.onnx -o out.onnx --method source-004 --cluster paper --rank ratio:0.5",
    "convert net.onnx -o out.onnx",
)


@pytest.mark.parametrize("words", LINES, ids=lambda words: words[:40])
def test_a_saved_recipe_gives_the_same_bytes(
    folder: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    names = [node.name for node in pg.load("net.onnx").layers]
    words = words.replace("conv2", names[1]).replace("conv5", names[2])
    pg.select(pg.load("net.onnx"), budget=pg.Budget(ratio=0.5), round_to=2).save(
        "given.json"
    )
    before = set(folder.iterdir())
    done = CliRunner().invoke(main, [*words.split(), "--save-recipe", "recipe.toml"])
    assert done.exit_code == 0, done.output
    written = {path.name: path.read_bytes() for path in set(folder.iterdir()) - before}
    assert "out.onnx" in written
    for name in written.keys() - {"recipe.toml"}:
        Path(name).unlink()
    done = CliRunner().invoke(main, ["run", "recipe.toml"])
    assert done.exit_code == 0, done.output
    assert {
        path.name: path.read_bytes() for path in set(folder.iterdir()) - before
    } == written


def test_a_chain_hands_the_output_on(tmp_path: Path) -> None:
    (tmp_path / "chain.toml").write_text(
        HEAD
        + f"""
        [[step]]
        command = "prune"
        model = "{MODEL}"
        output = "narrow.onnx"
        macs = 0.6
        data = "{FIXTURES / "fashion_calibration.npz"}"
        [[step]]
        command = "decompose"
        output = "low.onnx"
        method = "auto"
        macs = 0.8
        [[step]]
        command = "quantize"
        output = "int8.onnx"
        activations = "none"
        [[step]]
        command = "inspect"
        json = "-"
        """
    )
    shown = cli("run", "chain.toml", "--dry-run", cwd=tmp_path)
    assert shown.returncode == 0 and not (tmp_path / "narrow.onnx").exists()
    assert shown.stdout.splitlines()[1:] == [
        "prunegraph decompose --output=low.onnx --method=auto --macs=0.8 narrow.onnx",
        "prunegraph quantize --output=int8.onnx --activations=none low.onnx",
        "prunegraph inspect --json=- int8.onnx",
    ]
    done = cli("run", "chain.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step 2 of 4: prunegraph decompose" in done.stderr
    assert json.loads(done.stdout)["model"]["name"] == "int8.onnx"
    by_hand = [line.split()[1:] for line in shown.stdout.splitlines()[:3]]
    once = (tmp_path / "int8.onnx").read_bytes()
    for words in by_hand:
        assert cli(*words, cwd=tmp_path).returncode == 0
    assert (tmp_path / "int8.onnx").read_bytes() == once


def test_options_of_one_step_do_not_reach_the_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a front end reads besides the model is kept in the context of a command."""
    monkeypatch.chdir(folder)
    Path("r.toml").write_text(
        HEAD
        + '[[step]]\ncommand = "convert"\nsource = "net.onnx"\noutput = "a.onnx"\ninput-shape = ["x=1,3,8,8"]\n'
        '[[step]]\ncommand = "convert"\nsource = "net.onnx"\noutput = "b.onnx"\n'
    )
    assert CliRunner().invoke(main, ["run", "r.toml"]).exit_code == 0
    shapes = [pg.load(name).model.graph.input[0].type for name in ("a.onnx", "b.onnx")]
    batches = [each.tensor_type.shape.dim[0].dim_value for each in shapes]
    assert batches == [1, 0]
    Path("r.toml").write_text(
        Path("r.toml").read_text().replace("input-shape", "params-file")
    )
    done = CliRunner().invoke(main, ["run", "r.toml"])
    assert "r.toml, step 1 (convert)" in done.output, "an ONNX file takes no parameters"


STEP = HEAD + '[[step]]\ncommand = "decompose"\nmodel = "net.onnx"\noutput = "out.onnx"\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("step = [", "not a TOML file"),
        ("[[step]]\n", 'must begin with format = "prunegraph/recipe@1"'),
        (HEAD, "has no steps"),
        (HEAD + "step = 3\n", "has no steps"),
        (HEAD + 'data = "x.npz"\n', "has 'data', which means nothing there"),
        (HEAD + '[[step]]\nmodel = "net.onnx"\n', "step 1: says no command"),
        (
            HEAD + '[[step]]\ncommand = "prun"\n',
            "step 1: unknown command 'prun', did you mean 'prune'?",
        ),
        (HEAD + '[[step]]\ncommand = "run"\nrecipe = "r.toml"\n', "unknown command 'run'"),
        (
            STEP + "mac = 0.5\n",
            "step 1 (decompose): unknown option 'mac', did you mean 'macs'?",
        ),
        (STEP + "save-recipe = 'x'\n", "unknown option 'save-recipe'"),
        (STEP + 'method = "tucker"\n', "'tucker' is not one of 'tucker2'"),
        (STEP + 'round-to = "many"\n', "'many' is neither a number nor one of"),
        (STEP + "round-to = true\n", "'round-to' must be text or a number"),
        (STEP + "macs = [0.5, 0.6]\n", "'macs' must be one value, not a list"),
        (STEP + "macs = 1979-05-27\n", "'macs' must be text, a number"),
        (STEP + "keep = {a = 1}\n", "'keep' must be text, a number"),
        (
            STEP + 'data = "none.npz"\n',
            "step 1 (decompose): none.npz: no such file, and no step before it",
        ),
        (
            HEAD
            + '[[step]]\ncommand = "compare"\nfirst = "net.onnx"\nsecond = "gone.onnx"\n',
            "step 1 (compare): gone.onnx: no such file, and no step before it",
        ),
        (HEAD + '[[step]]\ncommand = "decompose"\noutput = "o.onnx"\n', "says no 'model'"),
        (
            HEAD + '[[step]]\ncommand = "decompose"\nmodel = "net.onnx"\n',
            "Missing option '-o' / '--output'",
        ),
        (
            HEAD + '[[step]]\ncommand = "apply"\nmodel = "net.onnx"\noutput = "o.onnx"\n',
            "says no 'plan'",
        ),
        (
            STEP.replace("decompose", "prune") + "no-verify = 1\n",
            "'no-verify' must be true or false, got 1",
        ),
        (STEP + 'report = "a\\u0000"\n', "'report' must be text without null"),
        (STEP + 'rank = "most"\n', "step 1 (decompose): rank 'most'"),
        (STEP + 'keep = ["nothing"]\n', "step 1 (decompose): unknown layer 'nothing'"),
    ],
)
def test_errors_say_what_and_where(
    folder: Path, content: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("r.toml").write_text(content)
    done = CliRunner().invoke(main, ["run", "r.toml"])
    assert done.exit_code == 2 and not Path("out.onnx").exists()
    (text,) = [row for row in done.output.splitlines() if row.startswith("error: ")]
    assert message in text and "r.toml" in text


def test_a_later_step_is_checked_before_the_first_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("r.toml").write_text(
        STEP + '[[step]]\ncommand = "prune"\noutput = "b.onnx"\nmcas = 0.5\n'
    )
    done = CliRunner().invoke(main, ["run", "r.toml"])
    assert done.exit_code == 2 and "step 2 (prune): unknown option 'mcas'" in done.output
    assert not Path("out.onnx").exists()


def test_a_step_does_not_write_over_what_it_reads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where that is what a step before it will have written."""
    monkeypatch.chdir(folder)
    Path("r.toml").write_text(
        STEP + '[[step]]\ncommand = "prune"\noutput = "out.onnx"\nmacs = 0.5\n'
    )
    done = CliRunner().invoke(main, ["run", "r.toml"])
    assert done.exit_code == 2
    assert "step 2 (prune): out.onnx: output and input are the same file" in done.output
    assert not Path("out.onnx").exists()


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe"):
        recipes.read(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a TOML file"):
        recipes.read(tmp_path / "binary.toml")
    with pytest.raises(RecipeError, match=r"step 1 \(prune\): none.onnx: no such file"):
        lines(
            Recipe((RecipeStep("prune", {"model": "none.onnx", "output": "x"}),), "r.toml"),
            main,
        )


def test_a_recipe_is_not_written_over_another_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for name, message in (
        ("out.onnx", "two outputs"),
        ("net.onnx", "same file"),
        ("no/r.toml", "does not exist"),
    ):
        words = [
            "decompose",
            "net.onnx",
            "-o",
            "out.onnx",
            "--rank",
            "ratio:0.5",
            "--save-recipe",
            name,
        ]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 2 and message in done.output, done.output
    assert {path.name for path in folder.iterdir()} == {"net.onnx"}


def test_a_failed_command_writes_no_recipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(
        main,
        [
            "decompose",
            "net.onnx",
            "-o",
            "o.onnx",
            "--rank",
            "most",
            "--save-recipe",
            "r.toml",
        ],
    )
    assert done.exit_code == 2 and not Path("r.toml").exists()
