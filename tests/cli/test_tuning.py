"""The commands sensitivity and search as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from tests.builders import residual_net
from tests.commands import check_refused, cli


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, data with and without labels, and metrics."""
    rng = np.random.default_rng(0)
    pg.save(residual_net(width=16), tmp_path / "net.onnx")
    x = rng.standard_normal((48, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    np.savez(tmp_path / "labelled.npz", x=x, labels=rng.integers(0, 5, 48))
    np.savez(tmp_path / "wrong.npz", y=x)
    (tmp_path / "metric.py").write_text(
        "def even(outputs, batches):\n"
        "    return -sum(float(abs(list(each.values())[0]).max()) for each in outputs)\n"
        "def broken(outputs, batches):\n"
        "    return 1 / 0\n"
    )
    return tmp_path


def test_sensitivity(folder: Path) -> None:
    common = ("sensitivity", "net.onnx", "--data", "data.npz", "--jobs", 1)
    done = cli(*common, "--json", "-", cwd=folder)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["format"] == "prunegraph/sensitivity@1"
    assert [point["ratio"] for point in content["groups"][0]["points"]] == [
        0.1,
        0.25,
        0.5,
        0.75,
    ]
    assert content["algorithm"] == "obs"
    assert "what pruning a group alone costs: error" in " ".join(done.stderr.split())
    assert "block1" in done.stderr
    more = (
        "--eval",
        "labelled.npz",
        "--metric",
        "top1",
        "--ratios",
        "0.5",
        "--algorithm",
        "l2",
        "--json",
        "out.json",
    )
    done = cli(*common, *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    content = json.loads((folder / "out.json").read_text())
    assert (content["metric"], content["unit"]) == ("top1", "%")
    assert "what pruning a group alone costs: top1, % lost (of" in " ".join(
        done.stderr.split()
    )


def test_search(folder: Path) -> None:
    done = cli(
        "search",
        "net.onnx",
        "-o",
        "small.onnx",
        "--data",
        "data.npz",
        "--tolerance",
        0.2,
        "--metric",
        "error",
        "--round-to",
        1,
        "--save-plan",
        "plan.json",
        "--json",
        "-",
        "--jobs",
        1,
        "--method",
        "bisection",
        "--stages",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["format"] == "prunegraph/search@1"
    assert content["best"]["loss"] <= 0.2
    assert "proof: max |difference|" in done.stderr
    assert "flatters" in done.stderr
    assert "best" in done.stderr
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["provenance"]["search"]["tolerance"] == 0.2
    assert (
        cli("apply", "net.onnx", "plan.json", "-o", "again.onnx", cwd=folder).returncode
        == 0
    )
    pruned, again = (pg.load(folder / name) for name in ("small.onnx", "again.onnx"))
    assert {n: w.shape for n, w in pruned.weights.items()} == {
        n: w.shape for n, w in again.weights.items()
    }


def test_search_with_labels_and_a_metric_of_ones_own(folder: Path) -> None:
    common = (
        "search",
        "net.onnx",
        "-o",
        "small.onnx",
        "--jobs",
        1,
        "--repair",
        "none",
        "--round-to",
        1,
    )
    done = cli(*common, "--data", "labelled.npz", "--tolerance", 30, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "top1 of the original" in done.stderr
    done = cli(
        *common,
        "--data",
        "data.npz",
        "--tolerance",
        1,
        "--metric",
        "metric.py:even",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "metric.py:even of the original" in done.stderr


def test_prune_by_sensitivity(folder: Path) -> None:
    common = (
        "prune",
        "net.onnx",
        "-o",
        "small.onnx",
        "--macs",
        0.5,
        "--round-to",
        1,
        "--allocation",
        "sensitivity",
    )
    done = cli(*common, "--data", "data.npz", "--repair", "none", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "sensitivity" in cli("algorithms").stdout
    done = cli(*common, cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("error: allocation 'sensitivity' needs data")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "search net.onnx -o out.onnx --data data.npz --tolerance -1",
            "tolerance must be a number of at least 0",
        ),
        (
            "search net.onnx -o out.onnx --data data.npz --tolerance nan",
            "tolerance must be a number of at least 0",
        ),
        (
            "search net.onnx -o out.onnx --data data.npz --tolerance 1 --metric best",
            "unknown metric 'best'",
        ),
        (
            "search net.onnx -o out.onnx --data data.npz --tolerance 1 --metric top1",
            "metric 'top1' needs labels",
        ),
        (
            "search net.onnx -o out.onnx --data data.npz --tolerance 1 --metric metric.py:x",
            "has no function 'x'",
        ),
        (
            "search net.onnx -o out.onnx --data data.npz --tolerance 1 --metric metric.py:broken",
            "ZeroDivisionError",
        ),
        (
            "search net.onnx -o out.onnx --data data.npz --tolerance 1 --cluster tcp://127.0.0.1:1",
            "no Dask scheduler",
        ),
        (
            "search net.onnx -o out.onnx --data data.npz --tolerance 0 --metric error --jobs 1",
            "no cut stays within",
        ),
        (
            "search net.onnx -o out.onnx --data wrong.npz --tolerance 1",
            "no array for model input 'x'",
        ),
        (
            "search net.onnx -o out.onnx --data data.npz --eval none.npz --tolerance 1",
            "none.npz: no such data file",
        ),
        ("search net.onnx -o net.onnx --data data.npz --tolerance 1", "same file"),
        (
            "search net.onnx -o out.onnx --data data.npz --tolerance 1 --json missing/a.json",
            "does not exist",
        ),
        (
            "search net.onnx -o out.onnx --data data.npz --tolerance 1 --json out.onnx",
            "two outputs are the same file",
        ),
        (
            "search net.onnx -o out.onnx --data data.npz --tolerance 1 --allocation even",
            "unknown allocation 'even'",
        ),
        ("sensitivity net.onnx --data data.npz --ratios 0.5,0.2", "ratios must rise"),
        (
            "sensitivity net.onnx --data data.npz --metric top1",
            "metric 'top1' needs labels",
        ),
        (
            "sensitivity net.onnx --data data.npz --cluster nowhere",
            "'nowhere' is no address of a Dask scheduler",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    folder: Path, command: str, message: str
) -> None:
    check_refused(folder, command, message)


def test_help() -> None:
    for command, option in (("sensitivity", "--ratios"), ("search", "--tolerance")):
        done = cli(command, "--help")
        assert done.returncode == 0
        assert option in done.stdout
    assert (
        "not a list of numbers"
        in cli("sensitivity", "x.onnx", "--data", "y.npz", "--ratios", "a").stderr
    )


def test_candidates_run_on_a_device(folder: Path) -> None:
    """The device that is the default gives the same figures; one that is not here is refused before the work."""
    words = ("sensitivity", "net.onnx", "--data", "data.npz", "--jobs", 1)
    words = (*words, "--ratios", "0.5", "--algorithm", "l2", "--json")
    plain = cli(*words, cwd=folder)
    named = cli(*words, "--provider", "CPUExecutionProvider", cwd=folder)
    assert (named.returncode, named.stdout) == (0, plain.stdout), named.stderr
    search = ("search", "net.onnx", "-o", "small.onnx", "--data", "data.npz", "--jobs", 1)
    search = (*search, "--tolerance", 0.5, "--method", "bisection", "--algorithm", "l2")
    done = cli(*search, "--provider", "CPUExecutionProvider", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "small.onnx").unlink()
    for command in (words, search):
        line = " ".join(map(str, (*command, "--provider", "NoSuchDevice")))
        check_refused(folder, line, "unknown execution provider 'NoSuchDevice'")
