"""Real architectures with random weights: pruned to half of every group, and proved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from benchmarks.zoo import ZOO, entry, is_convolutional, names
from fixtures.light_models import load
from prunegraph.ops.cost import cost
from prunegraph.selection.budget import Meter
from prunegraph.selection.plan import make_plan

#: One of each kind of coupling, for the default run.
FAST = [
    "torchvision__resnet18",
    "torchvision__mobilenet_v3_small__dynamo",
    "torchvision__shufflenet_v2_x1_0",
    "torchvision__densenet121",
    "torchvision__regnet_y_400mf",
    "ultralytics__yolov8n",
    "ultralytics__yolov5n__dynamo",
    "timm__ghostnet_100",
    "timm__poolformer_s12",
    "timm__mixer_s32_224",
    "timm__test_resnet__dynamo",
    "timm__resnest26d",
]


#: Small transformers, and what is left of them where nothing makes the stream stay.
TRANSFORMERS = ZOO.with_name("zoo_transformers")
LANGUAGE = sorted(
    path.name.removesuffix(".light.xz") for path in TRANSFORMERS.glob("*.light.xz")
)
FREE = [name for name in LANGUAGE if "bert" not in name]


def prune_and_prove(
    name: str,
    algorithm: str,
    seed: int,
    attention: str | None = None,
    folder: Path = ZOO,
    blocks: str = "alike",
) -> float:
    graph = pg.load(load(folder / f"{name}.light.xz", seed))
    result = pg.prune(
        graph,
        algorithm=algorithm,
        budget=pg.Budget(ratio=0.5),
        round_to=1,
        seed=seed,
        attention=attention,
        blocks=blocks,
    )
    assert result.proof is not None
    assert result.proof.relative <= 1e-4
    assert result.model.outputs == graph.outputs
    return result.after.params / result.before.params


@pytest.mark.parametrize("name", FAST)
def test_fast_zoo(name: str) -> None:
    assert prune_and_prove(name, "l2", 0) <= 0.42


@pytest.mark.slow
@pytest.mark.parametrize("blocks", ["own", "both"])
@pytest.mark.parametrize("folder", [ZOO, TRANSFORMERS])
def test_blocks_of_the_zoo_choose_channels_of_their_own(folder: Path, blocks: str) -> None:
    choosing = 0
    for path in sorted(folder.glob("*.light.xz")):
        name = path.name.removesuffix(".light.xz")
        coupling = pg.analyze(pg.load(load(path, 1)), blocks=blocks)
        if any(group.cells is not None for group in coupling.groups):
            prune_and_prove(name, "random", 1, None, folder, blocks)
            choosing += 1
    # Heads, and groups of convolutions, that nothing keeps alike.
    assert choosing >= (13 if folder == TRANSFORMERS else 18)


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_zoo(name: str) -> None:
    shares = [
        prune_and_prove(name, "l2", 0),
        *(prune_and_prove(name, "random", seed) for seed in (1, 2, 3)),
    ]
    assert max(shares) <= (0.55 if is_convolutional(name) else 0.6)


def drop_and_prove(path: Path, share: float) -> int:
    """Drop all branches, or half of them and half of the channels; returns how many branches went."""
    graph = pg.load(load(path, 0))
    coupling = pg.analyze(graph)
    rng = np.random.default_rng(0)
    chosen = [b.id for b in coupling.branches if rng.random() < share]
    channels = {
        g.id: rng.permutation(g.channels)[: int(g.channels * (1 - share))]
        for g in coupling.groups
    }
    plan = make_plan(coupling, {**channels, **dict.fromkeys(chosen, (0,))})
    pruned = pg.apply(graph, plan)
    assert pg.verify(graph, plan, pruned).relative <= 1e-4
    assert cost(pruned).macs == Meter(coupling).measure(plan.removal).macs
    return len(plan.branches)


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize(
    "name", ["zoo/torchvision__mobilenet_v2", "zoo_transformers/hf__whisper__dynamo"]
)
def test_branches_of_the_fast_zoo(name: str, share: float) -> None:
    assert drop_and_prove(ZOO.parent / f"{name}.light.xz", share)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize(
    "path",
    sorted([*ZOO.glob("*.light.xz"), *TRANSFORMERS.glob("*.light.xz")]),
    ids=lambda path: path.name.removesuffix(".light.xz"),
)
def test_branches_of_the_zoo(path: Path, share: float) -> None:
    drop_and_prove(path, share)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in names() if not is_convolutional(name)])
@pytest.mark.parametrize("attention", ["heads", "head_dim"])
def test_zoo_by_attention(name: str, attention: str) -> None:
    prune_and_prove(name, "l2", 0, attention)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["heads", "head_dim"])
def test_transformers(attention: str) -> None:
    """BERT's stream is an output of it; of all others a third is left."""
    shares = {
        name: prune_and_prove(name, "l2", 0, attention, TRANSFORMERS) for name in LANGUAGE
    }
    assert np.median([shares[name] for name in FREE]) <= 0.36
    assert max(shares.values()) <= 0.6


@pytest.mark.parametrize("attention", ["heads", "head_dim"])
def test_grouped_queries_with_dynamic_axes(attention: str) -> None:
    name = "hf__llama_gqa_9h3kv_dynamic__dynamo"
    assert prune_and_prove(name, "l2", 0, attention, TRANSFORMERS) <= 0.36


def test_the_zoo_is_whole() -> None:
    assert len(names()) == 108
    assert len(LANGUAGE) == 20


def test_a_row_of_the_benchmark() -> None:
    row = entry("torchvision__resnet18", 0.5)
    assert row.groups == 12
    assert 0.2 < row.params < 0.3
    assert row.difference <= 1e-4
