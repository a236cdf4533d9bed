"""Real architectures rotated and proved (all of them: slow, minutes)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import prunegraph as pg
from fixtures import light_models
from prunegraph.rotation.choose import choose_rotation, prepare
from prunegraph.rotation.run import rotated
from tests.paths import FIXTURES

PATHS = sorted(
    path
    for folder in ("zoo", "zoo_transformers")
    for path in (FIXTURES / folder).glob("*.xz")
)

#: Spaces of some of them: heads of queries with keys and of values, residual streams, and those of RMS normalisation.
COUNTS = {
    "hf__bert__ts": 16,
    "hf__gpt2__dynamo": 16,
    "hf__llama_gqa__dynamo": 5,
    "hf__mamba__dynamo": 1,
    "hf__t5__ts": 48,
    "timm__tf_efficientnet_lite0": 7,
}


def proved(path: Path) -> int:
    """How many spaces a graph has, once it is proved to be the same in other bases."""
    graph = pg.load(light_models.load(path))
    ready, folded, spaces = prepare(graph)
    if not spaces:
        return 0
    rotation = replace(choose_rotation(ready, spaces), folded=folded)
    result = rotated(graph, rotation)
    assert result.proof is not None
    return len(rotation.turns)


@pytest.mark.parametrize("name", [name for name in COUNTS if name.startswith("hf__")])
def test_heads_of_transformers(name: str) -> None:
    assert proved(FIXTURES / "zoo_transformers" / f"{name}.light.xz") == COUNTS[name]


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name.split(".")[0])
def test_rotated(path: Path) -> None:
    name = path.name.removesuffix(".light.xz")
    count = proved(path)
    assert count == COUNTS.get(name, count)
