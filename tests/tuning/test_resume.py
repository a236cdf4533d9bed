"""Searches and sensitivities that were killed go on from what they had measured."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.errors import DataError, OptionError
from prunegraph.tuning.resume import Key, MeasuredFile
from tests.builders import residual_net
from tests.commands import cli

#: A metric that counts how often it is asked in a file beside it, and kills its process at the count of another file.
COUNTER = """
import os, signal
from pathlib import Path

def score(outputs, batches):
    folder = Path({folder!r})
    count = int((folder / "count").read_text()) + 1
    if count == int((folder / "kill").read_text()):
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "count").write_text(str(count))
    return -sum(float((v.astype("float64") ** 2).sum()) for o in outputs for v in o.values())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, data, and the metric that counts."""
    rng = np.random.default_rng(0)
    pg.save(residual_net(width=16), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((16, 3, 8, 8)).astype(np.float32))
    (tmp_path / "metric.py").write_text(COUNTER.format(folder=str(tmp_path)))
    (tmp_path / "kill").write_text("-1")
    (tmp_path / "count").write_text("0")
    return tmp_path


def count(folder: Path) -> int:
    """How often the metric was asked since the last time."""
    result = int((folder / "count").read_text())
    (folder / "count").write_text("0")
    return result


@pytest.mark.parametrize(
    "command",
    [
        ("sensitivity", "net.onnx", "--ratios", "0.25,0.5,0.75"),
        ("search", "net.onnx", "-o", "out.onnx", "--tolerance", "1e9", "--round-to", "1"),
    ],
)
def test_a_killed_run_goes_on(folder: Path, command: tuple[str, ...]) -> None:
    """It measures what is missing and nothing twice, and its result is that of a run in one go."""
    common = [*command, "--data", "data.npz", "--jobs", 1, "--metric", "metric.py:score"]
    common += ["--algorithm", "l2", "--repair", "none"]
    whole = cli(*common, "--json", "whole.json", cwd=folder)
    assert whole.returncode == 0, whole.stderr
    every = count(folder)
    assert every > 4
    (folder / "kill").write_text("4")
    resumed = [*common, "--resume", "measured.jsonl", "--json", "resumed.json"]
    killed = cli(*resumed, cwd=folder)
    assert killed.returncode == -signal.SIGKILL and not (folder / "resumed.json").exists()
    assert count(folder) == 3
    (folder / "kill").write_text("-1")
    done = cli(*resumed, cwd=folder)
    assert done.returncode == 0, done.stderr
    # Both runs measure the original, which is no candidate.
    assert count(folder) == every - 2
    assert (folder / "resumed.json").read_text() == (folder / "whole.json").read_text()
    again = cli(*resumed, cwd=folder)
    assert again.returncode == 0 and count(folder) == 1, "all was there"


def sensitivity(file: Path, **options: Any) -> pg.Sensitivity:
    rng = np.random.default_rng(options.pop("seed", 0))
    data = {"x": rng.standard_normal((16, 3, 8, 8)).astype(np.float32)}
    graph = options.pop("graph", None) or residual_net()
    given = {"algorithm": "l2", "ratios": [0.5], "jobs": 1, "metric": "error", **options}
    return pg.sensitivity(graph, data=data, resume=file, **given)


def studies(file: Path) -> set[str]:
    return {json.loads(line)["study"] for line in file.read_text().splitlines() if line}


def test_only_the_same_study_is_taken(tmp_path: Path) -> None:
    """Other data, metrics, repairs and weights have figures of their own in the file; ratios and criteria share."""
    file = tmp_path / "measured.jsonl"
    first = sensitivity(file)
    lines = file.read_text()
    assert sensitivity(file) == first and file.read_text() == lines
    sensitivity(file, ratios=[0.25, 0.5], algorithm="l1")
    assert len(studies(file)) == 1
    for options in (
        {"seed": 1},
        {"metric": "cosine"},
        {"repair": "least-squares"},
        {"graph": residual_net(seed=1)},
    ):
        before = len(studies(file))
        alone = sensitivity(tmp_path / f"alone{before}.jsonl", **dict(options))
        assert sensitivity(file, **dict(options)) == alone
        assert len(studies(file)) == before + 1


def test_a_metric_in_memory_cannot_be_told_from_another(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="resume needs a metric by name"):
        sensitivity(tmp_path / "file", metric=lambda outputs, batches: 1.0)
    assert not (tmp_path / "file").exists()


KEYS = st.dictionaries(
    st.text(min_size=1), st.lists(st.integers(0, 99), min_size=1, unique=True), min_size=1
).map(lambda each: tuple((name, tuple(each[name])) for name in sorted(each)))


@settings(max_examples=25)
@given(st.dictionaries(KEYS, st.floats()), st.integers(0, 80))
def test_what_is_cut_off_is_left_out(
    tmp_path_factory: pytest.TempPathFactory, values: dict[Key, float], missing: int
) -> None:
    """A file loses its last characters when a process dies: all whole lines are still there, and more can follow."""
    path = tmp_path_factory.mktemp("resume") / "file"
    file = MeasuredFile(path, "a")
    for key, value in values.items():
        file.add(key, value)
    text = path.read_text()
    path.write_text(text[: len(text) - missing])
    whole = path.read_text().count("\n")
    again = MeasuredFile(path, "a")
    kept = list(again.values.items())
    assert len(kept) in (whole, whole + 1)  # a line may lack nothing but its end
    expected = list(values.items())[: len(kept)]
    assert [(k, repr(v)) for k, v in kept] == [(k, repr(v)) for k, v in expected]
    again.add((("new", (1,)),), 0.5)
    last = MeasuredFile(path, "a").values
    assert last[(("new", (1,)),)] == 0.5 and len(last) == len({*again.values})
    assert not MeasuredFile(path, "b").values


@pytest.mark.parametrize(
    "text",
    [
        "hello\n",
        '{"format": "prunegraph/plan@1"}\n',
        '{"format": "prunegraph/measured@1", "study": "a", "remove": [], "value": "1"}\n',
        '{"format": "prunegraph/measured@1", "study": "a", "remove": {}, "value": "x"}\n',
        "[]\n",
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(DataError, match="line 1 is no measured candidate"):
        MeasuredFile(tmp_path / "file", "a")
    assert (tmp_path / "file").read_text() == text
