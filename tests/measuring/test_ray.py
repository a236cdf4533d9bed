"""A real Ray cluster of two processors on this machine."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import ClusterError, UnknownNameError
from prunegraph.measuring.parallel import pool
from tests.builders import residual_net
from tests.measuring.test_cluster import KILLER
from tests.measuring.test_parallel import adder

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")

pytestmark = [
    pytest.mark.slow,  # Ray takes long to start
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield f"ray:{context.address_info['gcs_address']}"
    ray.shutdown()


def test_results_and_errors(address: str, folder: Path) -> None:
    with pool(adder, folder, cluster=address) as workers:
        assert workers.width == 2
        assert list(workers.map(range(8))) == list(range(10, 18))
        with pytest.raises(UnknownNameError, match=r"unknown layer 'x'\. Known: y"):
            list(workers.map([1, "unknown"]))


def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((16, 3, 8, 8)).astype(np.float32)}


def test_the_same_as_in_one_process(address: str) -> None:
    given = {"algorithm": "l2", "ratios": [0.25, 0.5], "data": data()}
    here = pg.sensitivity(residual_net(), jobs=1, **given)
    there = pg.sensitivity(residual_net(), cluster=address, **given)
    assert json.dumps(here.to_json()) == json.dumps(there.to_json())


def test_a_worker_that_dies_costs_only_its_piece(address: str, tmp_path: Path) -> None:
    metric, marker = tmp_path / "metric.py", tmp_path / "marker"
    metric.write_text(
        KILLER.format(marker=str(marker)).replace(
            'output["out"]', "next(iter(output.values()))"
        )
    )
    given = {
        "algorithm": "l2",
        "ratios": [0.5],
        "data": data(),
        "metric": f"{metric}:score",
    }
    here = pg.sensitivity(residual_net(), jobs=1, **given)

    def arm(stage: str) -> None:
        if stage == "score":
            marker.write_text("armed")

    there = pg.sensitivity(residual_net(), cluster=address, progress=arm, **given)
    assert marker.read_text() == "done", "a worker was killed"
    assert here == there


def test_no_cluster() -> None:
    if ray.is_initialized():
        ray.shutdown()
    with (
        pytest.raises(
            ClusterError, match=r"no Ray cluster answers at 'ray:127\.0\.0\.1:9'"
        ),
        pool(adder, Path("."), cluster="ray:127.0.0.1:9"),
    ):
        pass
