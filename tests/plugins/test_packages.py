"""Plug-in packages, really installed: a worked example, and one that makes every mistake.

pip builds them with the setuptools of this environment (both are in the extra [test]), without
a network, into a folder of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import prunegraph as pg
from tests.paths import FIXTURES

TESTS = Path(__file__).parent
MODEL = FIXTURES / "fashion_resnet.onnx"
NETLIST = {"input": 12, "layers": [{"linear": 32}, {"scaler": 0.5}, "relu", {"linear": 4}]}


def install(name: str, folder: Path) -> Path:
    """The folder that a package of `tests/` is installed in. It is built from a copy: builds leave files behind."""
    source, target = folder / "source", folder / "installed"
    shutil.copytree(TESTS / name, source, ignore=shutil.ignore_patterns("__pycache__"))
    options = [
        "--quiet",
        "--no-index",
        "--no-build-isolation",
        "--no-deps",
        "--disable-pip-version-check",
    ]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *options,
        "--target",
        str(target),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install("plugin_example", tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install("plugin_broken", tmp_path_factory.mktemp("broken"))


def cli(
    installed: Path, *words: object, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(installed), os.environ["PYTHONPATH"]])
    command = [sys.executable, "-m", "prunegraph", *map(str, words)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_algorithms_of_a_package_are_listed(example: Path) -> None:
    done = cli(example, "algorithms")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert rows["example_energy"].startswith("criterion ")
    assert rows["example_frugal"].startswith("selector ")
    assert (
        "package prunegraph-example 1.0  Channels with the least weight"
        in rows["example_frugal"]
    )


def test_a_criterion_of_a_package_looks_at_data(example: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    data = ("--data", FIXTURES / "fashion_calibration.npz")
    command = (
        "prune",
        MODEL,
        "-o",
        out,
        "--macs",
        "0.5",
        "--algorithm",
        "example_energy",
        "--round-to",
        "1",
    )
    done = cli(example, *command)
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: algorithm 'example_energy' needs data: give --data FILE (unlabelled inputs)\n"
    )
    done = cli(example, *command, *data, "--save-plan", tmp_path / "plan.json")
    assert done.returncode == 0, done.stderr
    assert "proof: max |difference|" in done.stderr and "then repaired" in done.stderr
    assert (
        pg.Plan.load(tmp_path / "plan.json").provenance["plugin"]
        == "package prunegraph-example 1.0"
    )
    done = cli(
        example,
        "compare",
        MODEL,
        out,
        "--data",
        FIXTURES / "fashion_eval.npz",
        "--runs",
        1,
        "--json",
    )
    figures = json.loads(done.stdout)
    assert figures["costs"][1]["macs"] <= 0.5 * figures["costs"][0]["macs"]
    assert figures["accuracy"][1] > 0.85


def test_a_selector_of_a_package_meets_the_budget(example: Path, tmp_path: Path) -> None:
    out, plan, keep = tmp_path / "out.onnx", tmp_path / "plan.json", "/stem/stem.0/Conv"
    options = (
        "--algorithm",
        "example_frugal",
        "--macs",
        "0.6",
        "--keep",
        keep,
        "--min-channels",
        4,
    )
    done = cli(example, "prune", MODEL, "-o", out, "--save-plan", plan, *options)
    assert done.returncode == 0, done.stderr
    result = pg.prune(MODEL, budget=pg.Budget(ratio=0))
    pruned = pg.load(out)
    assert pruned.node(keep).channels.outputs == result.original.node(keep).channels.outputs
    proof = pg.verify(result.original, pg.Plan.load(plan), pruned)
    assert proof.relative <= 1e-4
    after = pg.prune(pruned, budget=pg.Budget(ratio=0)).before
    assert 0.55 <= after.macs / result.before.macs <= 0.6


def test_a_front_end_and_a_rule_of_a_package(example: Path, tmp_path: Path) -> None:
    (tmp_path / "net.netlist.json").write_text(json.dumps(NETLIST))
    command = (
        "prune",
        "net.netlist.json",
        "-o",
        "small.onnx",
        "--ratio",
        "0.5",
        "--save-plan",
        "plan.json",
    )
    done = cli(example, *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "proof: max |difference|" in done.stderr
    done = cli(
        example, "verify", "net.netlist.json", "plan.json", "small.onnx", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    pruned = pg.load(tmp_path / "small.onnx")
    assert pruned.node("linear0").channels.outputs == 16
    assert len(pruned.node("scaler1").attributes["scale"]) == 16
    (tmp_path / "bad.netlist.json").write_text('{"layers": []}')
    done = cli(example, "inspect", "bad.netlist.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: bad.netlist.json: not a netlist: KeyError: 'input'\n",
    )


def test_without_the_package_nobody_knows_its_things(example: Path, tmp_path: Path) -> None:
    (tmp_path / "net.netlist.json").write_text(json.dumps(NETLIST))
    done = cli(tmp_path, "inspect", "net.netlist.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "no front end is for its name: -symbol.json, .h5, .keras, .onnx" in done.stderr
    cli(
        example,
        "prune",
        "net.netlist.json",
        "-o",
        "whole.onnx",
        "--ratio",
        "0",
        "--no-verify",
        cwd=tmp_path,
    )
    done = cli(tmp_path, "inspect", "whole.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Scaler has no rule" in done.stderr
    done = cli(
        tmp_path,
        "prune",
        MODEL,
        "-o",
        tmp_path / "o.onnx",
        "--ratio",
        "0.5",
        "--algorithm",
        "example_energy",
    )
    assert "unknown algorithm 'example_energy'" in done.stderr


# -- a broken package ---------------------------------------------------------------------

PACKAGE = "package prunegraph-broken 0.1"

MISTAKES = {
    "broken_import": "ModuleNotFoundError: No module named 'a_package_that_is_not_there' (needs.py:3)",
    "broken_attribute": "AttributeError: module 'prunegraph_broken.algorithms' has no attribute 'nothing'",
    "broken_plain": "prunegraph_broken.algorithms:plain is not registered as algorithm 'broken_plain'; decorate",
    "broken_renamed": "prunegraph_broken.algorithms:renamed is not registered as algorithm 'broken_renamed'",
    "broken_nan": f"criterion 'broken_nan' ({PACKAGE}) returned NaN for channel 0 of group 'g0'",
    "broken_group": f"selector 'broken_group' ({PACKAGE}): the plan names group 'g99'; the model has 9 groups",
    "random": f"algorithm 'random' is registered twice (built in and {PACKAGE}); choose another name",
}


def assert_one_error(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize("name", MISTAKES)
def test_a_broken_algorithm(broken: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.onnx"
    done = cli(broken, "prune", MODEL, "-o", out, "--ratio", "0.5", "--algorithm", name)
    assert_one_error(done, PACKAGE, MISTAKES[name])
    assert not out.exists()


def test_a_broken_package_does_not_stand_in_the_way_of_others(
    broken: Path, tmp_path: Path
) -> None:
    done = cli(
        broken, "prune", MODEL, "-o", tmp_path / "out.onnx", "--ratio", "0.5", "--no-verify"
    )
    assert done.returncode == 0, done.stderr


def test_the_list_shows_what_works_and_the_error_what_does_not(broken: Path) -> None:
    done = cli(broken, "algorithms")
    assert_one_error(
        done, *(MISTAKES[n] for n in MISTAKES if n not in ("broken_nan", "broken_group"))
    )
    names = [line.split()[1] for line in done.stdout.splitlines()]
    assert {"l2", "random", "uniform", "broken_nan", "broken_group"} <= set(names)
    assert not {"broken_import", "broken_attribute", "broken_plain"} & set(names)


def test_a_broken_front_end(broken: Path, tmp_path: Path) -> None:
    (tmp_path / "a.broken").write_text("")
    done = cli(broken, "inspect", tmp_path / "a.broken")
    assert_one_error(done, f"front end '.broken' ({PACKAGE}) returned NoneType")


def test_broken_rules_matter_to_models_that_need_rules_only(
    broken: Path, example: Path, tmp_path: Path
) -> None:
    (tmp_path / "net.netlist.json").write_text(json.dumps(NETLIST))
    cli(
        example,
        "prune",
        "net.netlist.json",
        "-o",
        "scaler.onnx",
        "--ratio",
        "0",
        "--no-verify",
        cwd=tmp_path,
    )
    done = cli(broken, "inspect", tmp_path / "scaler.onnx")
    assert_one_error(done, PACKAGE, "operator ai.onnx::Relu has two rules since version 1")
    assert cli(broken, "inspect", MODEL).returncode == 0


def test_two_packages_with_one_name(example: Path, tmp_path: Path) -> None:
    """The same entry point from two distributions: whichever is asked for, both are named."""
    other = install("plugin_example", tmp_path)
    info = next(other.glob("*.dist-info"))
    info.rename(other / "another_example-2.0.dist-info")
    metadata = other / "another_example-2.0.dist-info" / "METADATA"
    metadata.write_text(
        metadata.read_text().replace("Name: prunegraph-example", "Name: another-example")
    )
    package = other / "another_example"
    (other / "prunegraph_example").rename(package)
    points = other / "another_example-2.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text().replace("prunegraph_example", "another_example"))
    both = Path(f"{example}{os.pathsep}{other}")
    done = cli(
        both,
        "prune",
        MODEL,
        "-o",
        tmp_path / "o.onnx",
        "--ratio",
        "0.5",
        "--algorithm",
        "example_energy",
    )
    assert_one_error(
        done,
        "'example_energy' is registered twice (package",
        "prunegraph-example 1.0",
        "another-example",
    )
    assert not (tmp_path / "o.onnx").exists()
