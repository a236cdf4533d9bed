"""Source 004: which layers are pruned and which decomposed (ALGORITHMS 5.4), both modes of clustering (5.10)."""

from __future__ import annotations

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.coupling.sample import full_cost
from prunegraph.errors import BudgetError
from prunegraph.graph.model import Graph
from prunegraph.hybrid.published import verdicts
from tests.builders import Builder
from tests.paths import FIXTURES
from tests.selection.test_weight_stats import layer as planted

LENET = FIXTURES / "lenet5.onnx"


def weak(outputs: int, inputs: int, kernel: int, seed: int = 0) -> np.ndarray:
    """Filters of which a quarter is ten times weaker."""
    rng = np.random.default_rng(seed)
    scale = np.where(np.arange(outputs) < outputs // 4, 0.1, 1.0) * np.exp(
        0.1 * rng.standard_normal(outputs)
    )
    values = (
        rng.standard_normal((outputs, inputs, kernel, kernel)) * scale[:, None, None, None]
    )
    return values / np.sqrt(inputs * kernel * kernel)


def low(outputs: int, inputs: int, kernel: int, rank: int = 16) -> np.ndarray:
    rng = np.random.default_rng(1)
    core = rng.standard_normal((rank, rank, kernel, kernel))
    values = np.einsum(
        "or,rsyx,is->oiyx",
        rng.standard_normal((outputs, rank)),
        core,
        rng.standard_normal((inputs, rank)),
    )
    return values / np.linalg.norm(values) * np.sqrt(outputs)


def mixed_net() -> Graph:
    """Layers of every kind: 64 (low), a depthwise one, 192 (between; one weak, one even), 256 (high), a linear one."""
    b = Builder()
    x = b.op(
        "Conv",
        b.input("n", 32, 6, 6),
        b.const(weak(64, 32, 3), np.float32),
        pads=[1] * 4,
        name="low",
    )
    x = b.op(
        "Conv",
        b.relu(x),
        b.weight(64, 1, 3, 3, scale=0.01),
        group=64,
        pads=[1] * 4,
        name="depthwise",
    )
    x = b.op(
        "Conv",
        b.relu(x),
        b.const(weak(192, 64, 3, 2), np.float32),
        pads=[1] * 4,
        name="between",
    )
    x = b.conv(b.relu(x), 192, 256, name="even")
    x = b.op(
        "Conv", b.relu(x), b.const(low(256, 256, 3), np.float32), pads=[1] * 4, name="high"
    )
    x = b.op("Conv", b.relu(x), b.const(low(256, 256, 1), np.float32), name="pointwise")
    return b.graph(b.head(b.relu(x), 256))


def test_the_rule() -> None:
    result = verdicts(pg.analyze(mixed_net()), "robust")
    decomposed = {name: verdict.decompose for name, verdict in result.items()}
    assert decomposed["low"] is False and result["low"].reason == "low dimension (64 x 32)"
    assert decomposed["depthwise"] is False and "depthwise" in result["depthwise"].reason
    assert decomposed["high"] and decomposed["pointwise"]
    assert result["high"].reason == "high dimension (256 x 256)"
    # A weak quarter has a hundredth of the energy: pruning it costs less than any decomposition of noise.
    assert decomposed["between"] is False and "by pruning" in result["between"].reason
    assert decomposed["even"] and "no weak filters" in result["even"].reason


def test_robust_prunes_the_weak_quarter_and_nothing_even() -> None:
    graph = mixed_net()
    result = pg.compress(graph, method="source-004", rank="evbmf:0", round_to=1)
    rows = {row.name: row for row in result.layers}
    groups = {group.layers[0]: group.id for group in pg.analyze(graph).groups}
    assert result.plan.remove == {
        groups["low"]: tuple(range(16)),
        groups["between"]: tuple(range(48)),
    }
    assert {name: row.action for name, row in rows.items()} == {
        "low": "prune",
        "depthwise": "prune",
        "between": "prune",
        "even": "decompose",
        "high": "decompose",
        "pointwise": "decompose",
        next(reversed(rows)): "keep",
    }
    assert (rows["high"].method, rows["high"].ranks) == ("tucker2", (16, 16))
    assert (rows["pointwise"].method, rows["pointwise"].ranks) == ("svd", (16,))
    assert rows["high"].error is not None and rows["high"].error < 1e-5
    assert (
        rows["even"].ranks == (8, 8)
        and "evbmf found rank 0 x 0, 8 is the least" in rows["even"].reason
    )
    assert result.proof is not None


def test_the_published_mode_prunes_even_layers_too() -> None:
    """A documented difference of the modes: k-means always splits."""
    b = Builder()
    even = planted(0, 0.3)[0].reshape(64, 32, 3, 3)
    x = b.op(
        "Conv", b.input("n", 32, 6, 6), b.const(even, np.float32), pads=[1] * 4, name="even"
    )
    graph = b.graph(b.head(b.relu(x), 64))
    assert not pg.compress(graph, method="source-004", cluster="robust").plan.remove
    paper = pg.compress(graph, method="source-004", cluster="paper")
    (gone,) = paper.plan.remove.values()
    assert 0.3 * 64 <= len(gone) <= 0.5 * 64, "about half: the cap"


def test_a_budget_sets_the_ranks_of_what_is_decomposed() -> None:
    graph = mixed_net()
    result = pg.compress(graph, method="source-004", params=0.2)
    assert result.after.params <= 0.2 * result.before.params
    free = pg.compress(graph, method="source-004", rank="evbmf:0")
    assert {row.name for row in result.layers if "decompose" in row.action} <= {
        "even",
        "high",
        "pointwise",
    }
    assert {row.name for row in free.layers if "prune" in row.action} == {
        "low",
        "depthwise",
        "between",
    }
    with pytest.raises(BudgetError, match="cannot fall"):
        pg.compress(graph, method="source-004", params=0.001)


def test_kept_layers() -> None:
    result = pg.compress(mixed_net(), method="source-004", keep=["low", "high"])
    rows = {row.name: row for row in result.layers}
    assert rows["low"].action == rows["high"].action == "keep"
    assert rows["high"].reason == "high dimension (256 x 256); kept"


@pytest.mark.parametrize("cluster", ["robust", "paper"])
def test_lenet(cluster: str) -> None:
    graph = pg.load(LENET)
    assert full_cost(graph).params == 431_080
    convs = 20 * 25 * 24 * 24 + 50 * 20 * 25 * 8 * 8
    assert full_cost(graph).macs == convs + 800 * 500 + 500 * 10
    result = pg.compress(graph, method="source-004", cluster=cluster)
    rows = {row.outputs[0]: row for row in result.layers}
    assert rows[500].action == "decompose" and rows[500].method == "svd"
    assert rows[10].action == "keep"
    pruned = {width for width, row in rows.items() if "prune" in row.action}
    assert pruned == ({20, 50} if cluster == "paper" else set())
    assert result.after.params < 0.7 * 431_080
    out = result.model.model.graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_value or d.dim_param for d in out] == ["batch", 10]
