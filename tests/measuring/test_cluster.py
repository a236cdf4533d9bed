"""A real Dask cluster of two worker processes on this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import ClusterError, MissingExtraError, UnknownNameError
from prunegraph.measuring.parallel import pool
from prunegraph.runtime.session import run, session
from tests.builders import residual_net
from tests.commands import cli
from tests.measuring.test_parallel import adder

distributed = pytest.importorskip("distributed", reason="the extra [dask] is not installed")

#: A metric that kills its worker the first time it is measured there, after the original's turn.
KILLER = """
import os, signal
from pathlib import Path

def score(outputs, batches):
    marker = Path({marker!r})
    if marker.exists() and marker.read_text() == "armed":
        marker.write_text("done")
        os.kill(os.getpid(), signal.SIGKILL)
    return -sum(float((output["out"].astype("float64") ** 2).sum()) for output in outputs)
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster.scheduler_address


def test_results_and_errors(address: str, folder: Path) -> None:
    with pool(adder, folder, cluster=address) as workers:
        assert workers.width == 2
        assert list(workers.map(range(8))) == list(range(10, 18))
        with pytest.raises(UnknownNameError, match=r"unknown layer 'x'\. Known: y"):
            list(workers.map([1, "unknown"]))
        with pytest.raises(ZeroDivisionError, match="a bug"):
            list(workers.map(["bug"]))
        assert list(workers.map([])) == []
    # The folder went there as bytes: nothing was opened in this one.
    assert not list(folder.glob("opened-*"))


def batches() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((16, 3, 8, 8)).astype(np.float32)} for _ in range(3)]


def test_search_on_a_cluster_with_a_killed_worker_finds_what_one_process_finds(
    address: str, tmp_path: Path
) -> None:
    graph, marker, metric = (
        residual_net(width=16),
        tmp_path / "marker",
        tmp_path / "metric.py",
    )
    metric.write_text(
        KILLER.format(marker=str(marker)).replace('"out"', repr(graph.outputs[0]))
    )
    options = {
        "data": batches(),
        "tolerance": 20.0,
        "metric": f"{metric}:score",
        "method": "bisection",
        "round_to": 1,
    }
    alone = pg.search(graph, jobs=1, **options)

    def arm(stage: str) -> None:
        # Once the original has been measured, here, the next measurement is a worker's.
        if stage.startswith("search") and not marker.exists():
            marker.write_text("armed")

    together = pg.search(graph, cluster=address, progress=arm, **options)
    assert marker.read_text() == "done", "no worker was killed"
    assert together.result.plan.remove == alone.result.plan.remove
    assert len(together.trace.candidates) == len(alone.trace.candidates)
    # A loss is the difference of two scores: it is as exact as those are, and kernels round by the threads they have.
    score = sum(
        float(np.square(run(session(graph), batch)[0], dtype=np.float64).sum())
        for batch in batches()
    )
    for mine, other in zip(together.trace.candidates, alone.trace.candidates, strict=True):
        assert (mine.strength, mine.cost, mine.accepted) == (
            other.strength,
            other.cost,
            other.accepted,
        )
        assert abs(mine.loss - other.loss) < 1e-5 * score


def test_sensitivity_on_a_cluster_is_the_same_from_the_command_line(
    address: str, tmp_path: Path
) -> None:
    pg.save(residual_net(width=16), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([batch["x"] for batch in batches()]))
    common = (
        "sensitivity",
        "net.onnx",
        "--data",
        "data.npz",
        "--ratios",
        "0.25,0.5",
        "--algorithm",
        "l2",
        "--json",
        "-",
    )
    here, there = (
        cli(*common, *where, cwd=tmp_path)
        for where in (("--jobs", 1), ("--cluster", address))
    )
    assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr
    assert json.loads(here.stdout)["groups"][0]["points"][1]["error"] > 0
    assert here.stdout == there.stdout


def test_a_cluster_that_is_not_there_is_one_clear_line() -> None:
    with pytest.raises(
        ClusterError,
        match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:1' within 5 s",
    ) as caught:
        pg.sensitivity(residual_net(), data=batches(), cluster="tcp://127.0.0.1:1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", ["", "nowhere", "nowhere:8786", "tcp://nowhere", "tcp://:8786", "tcp://a:b"]
)
def test_what_is_no_address(wrong: str, folder: Path) -> None:
    with (
        pytest.raises(ClusterError, match="is no address of a Dask scheduler"),
        pool(adder, folder, cluster=wrong),
    ):
        pass


def test_a_cluster_without_workers(folder: Path) -> None:
    with (
        distributed.LocalCluster(
            n_workers=0, dashboard_address=":0", silence_logs=logging.CRITICAL
        ) as cluster,
        pytest.raises(ClusterError, match="has no workers; start some with `dask worker`"),
        pool(adder, folder, cluster=cluster.scheduler_address),
    ):
        pass


def test_without_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with (
        pytest.raises(
            MissingExtraError, match=r"dask.distributed: pip install 'prunegraph\[dask\]'"
        ),
        pool(adder, folder, cluster="tcp://127.0.0.1:1"),
    ):
        pass
