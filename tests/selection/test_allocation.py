"""How a budget is shared among groups: normalisations, structures."""

from __future__ import annotations

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import OptionError, UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.selection.normalise import NORMS, lamp, normalised
from prunegraph.selection.structure import structures
from tests.builders import Builder
from tests.training.mixed import NETWORKS, attention, chain

SCORES = np.asarray([4.0, 1.0, np.inf, 3.0, 2.0])


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("none", [4, 1, 3, 2]),
        ("sum", [0.4, 0.1, 0.3, 0.2]),
        ("mean", [1.6, 0.4, 1.2, 0.8]),
        ("max", [1, 0.25, 0.75, 0.5]),
        ("median", [1.6, 0.4, 1.2, 0.8]),
        ("standardise", [1, 0, 2 / 3, 1 / 3]),
        (
            "gaussian",
            [
                1.5 / np.sqrt(1.25),
                -1.5 / np.sqrt(1.25),
                0.5 / np.sqrt(1.25),
                -0.5 / np.sqrt(1.25),
            ],
        ),
        ("lamp", [1, 1 / 10, 3 / 7, 2 / 9]),
    ],
)
def test_normalisations(norm: str, expected: list[float]) -> None:
    result = normalised(SCORES, norm)  # type: ignore[arg-type]
    np.testing.assert_allclose(result[[0, 1, 3, 4]], expected)
    assert np.isinf(result[2])


@pytest.mark.parametrize("norm", NORMS)
def test_normalisations_of_nothing_and_of_equals(norm: str) -> None:
    for scores in (np.full(3, np.inf), np.zeros(3), np.full(3, 2.0)):
        result = normalised(scores, norm)  # type: ignore[arg-type]
        assert not np.isnan(result).any()
        assert (np.isinf(result) == np.isinf(scores)).all()


def test_lamp_is_free_of_scale_and_spares_the_largest() -> None:
    scores = np.random.default_rng(0).random(50)
    np.testing.assert_allclose(lamp(1e6 * scores), lamp(scores))
    assert lamp(scores)[scores.argmax()] == 1.0
    assert lamp(np.zeros(3)).tolist() == [0, 0, 1]


def uneven(factor: float = 100.0) -> Graph:
    """`chain`, the second layer's weights `factor` times larger."""
    graph = chain(widths=(16, 16, 16))
    name = graph.node("conv1").inputs[1]
    for tensor in graph.model.graph.initializer:
        if tensor.name == name:
            tensor.raw_data = (factor * graph.weights[name].read()).tobytes()
    return pg.load(graph.model)


def widths(graph: Graph, allocation: str) -> list[int]:
    plan = pg.select(
        graph,
        algorithm="l2:producer",
        allocation=allocation,
        budget=pg.Budget(ratio=0.5),
        round_to=1,
    )
    pruned = pg.apply(graph, plan)
    return [pruned.node(f"conv{i}").channels.outputs or 0 for i in range(3)]


def test_normalisation_decides_who_loses() -> None:
    graph = uneven()
    assert widths(graph, "global:none")[1] == 16
    assert (
        widths(graph, "global")
        == widths(graph, "global:mean")
        == widths(graph, "global:norm=mean")
    )
    for norm in set(NORMS) - {"none"}:
        assert widths(graph, f"global:{norm}") == widths(
            chain(widths=(16, 16, 16)), f"global:{norm}"
        )


def test_scores_for_what_a_channel_saves() -> None:
    """Two layers of equal scores: the channel of the one that reads more inputs saves more, and goes first."""
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 16, name="conv0"))
    x = b.op(
        "MaxPool",
        b.relu(b.conv(x, 16, 16, name="conv1")),
        kernel_shape=[2, 2],
        strides=[2, 2],
    )
    graph = b.graph(b.head(b.relu(b.conv(x, 16, 16, name="conv2")), 16))
    plan = pg.select(
        graph,
        algorithm="l2",
        allocation="global:max,per=macs",
        budget=pg.Budget(macs=0.6),
        round_to=1,
    )
    pruned = pg.apply(graph, plan)
    remaining = [pruned.node(f"conv{i}").channels.outputs or 0 for i in range(3)]
    assert remaining[2] == 16 and min(remaining[:2]) < 16
    assert pg.verify(graph, plan, pruned)
    free = pg.select(
        graph,
        algorithm="l2",
        allocation="global:max,per=channel",
        budget=pg.Budget(macs=0.6),
        round_to=1,
    )
    assert (
        free.remove
        == pg.select(
            graph,
            algorithm="l2",
            allocation="global:max",
            budget=pg.Budget(macs=0.6),
            round_to=1,
        ).remove
    )
    with pytest.raises(
        OptionError, match="option 'per' of allocation 'global' must be one of"
    ):
        pg.select(graph, allocation="global:per=watts", budget=pg.Budget(ratio=0.5))


def test_groups_of_one_structure() -> None:
    graph = chain(widths=(8, 12, 16, 20))
    coupling = pg.analyze(graph)
    kinds = structures(coupling)
    by_layer = {group.layers[0]: kinds[group.id] for group in coupling.groups}
    assert by_layer["conv0"] == by_layer["conv1"] == by_layer["conv2"]
    assert by_layer["conv3"] != by_layer["conv0"]  # read by a pooling and a linear layer


def test_operators_between_layers_make_a_structure() -> None:
    """Values of attention and hidden channels of the two linear layers have the same members, not the same way."""
    coupling = pg.analyze(attention(), attention="head_dim")
    kinds = structures(coupling)
    by_layer = {
        layer: kinds[group.id] for group in coupling.groups for layer in group.layers
    }
    assert by_layer["v"] != by_layer["fc1"]
    assert by_layer["q"] == by_layer["k"]


def test_every_structure_loses_the_same_share() -> None:
    b = Builder()
    x, c = b.input("n", 3, 8, 8), 3
    for i in range(3):
        x, c = b.relu(b.conv(x, c, 16, name=f"plain{i}")), 16
    for i in range(2):
        x = b.op("Sigmoid", b.bn(b.conv(x, 16, 16, name=f"normal{i}"), 16))
    graph = b.graph(b.head(b.relu(b.conv(x, 16, 16, name="last")), 16))
    plan = pg.select(
        graph,
        algorithm="l2",
        allocation="isomorphic",
        budget=pg.Budget(ratio=0.5),
        round_to=1,
    )
    coupling = pg.analyze(graph)
    kinds = structures(coupling)
    gone: dict[str, list[int]] = {}
    for group in coupling.groups:
        gone.setdefault(kinds[group.id], []).append(len(plan.remove.get(group.id, ())))
    assert len(gone) > 2
    assert all(abs(np.mean(counts) - 8) <= 1 for counts in gone.values())
    assert any(len(set(counts)) > 1 for counts in gone.values())


@pytest.mark.parametrize("network", NETWORKS)
def test_pruned_by_structure_and_proved(network: str) -> None:
    graph = NETWORKS[network](0)
    plan = pg.select(
        graph,
        algorithm="l2",
        allocation="isomorphic:none",
        budget=pg.Budget(params=0.6),
        round_to=1,
    )
    pruned = pg.apply(graph, plan)
    assert pg.verify(graph, plan, pruned)


def test_wrong_options() -> None:
    with pytest.raises(
        OptionError, match=r"option 'norm' of allocation 'global' must be one of .*max"
    ):
        pg.select(chain(), allocation="global:maximum", budget=pg.Budget(ratio=0.5))
    with pytest.raises(UnknownNameError, match="option of allocation 'uniform'"):
        pg.select(chain(), allocation="uniform:max", budget=pg.Budget(ratio=0.5))
