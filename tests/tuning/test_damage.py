"""Damage at the outputs: versions side by side, weights that stand for removals, curves, the allocation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.errors import DataError
from prunegraph.graph.model import Graph
from prunegraph.measuring import metrics
from prunegraph.measuring.metrics import Seen
from prunegraph.operators import is_gemm, is_matmul
from prunegraph.ops.cost import cost
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime.data import Data
from prunegraph.runtime.division import divided
from prunegraph.runtime.session import run_values
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.criteria.obs import DAMPING
from prunegraph.selection.units import Limits, make_units
from prunegraph.tuning import damage, judging, relay, substitution
from prunegraph.tuning.damage import Damage, power_law
from prunegraph.tuning.relay import Relay, Version
from prunegraph.tuning.substitution import Substitution
from tests.builders import Builder, residual_net
from tests.training.mixed import NETWORKS, attention, inputs
from tests.tuning.test_tuning import batches, dead_and_vital

GRAPHS = {**NETWORKS, "residual": lambda seed: residual_net(seed)}


def test_versions_of_matrix_products_share_a_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their weights are inputs of it: sessions do not grow with the number of versions."""
    graph = NETWORKS["attention"](0)
    shapes = pg.analyze(graph).shape_info.shapes
    layers = [n.index for n in graph.layers if is_matmul(n) or is_gemm(n)]
    opened: list[int] = []
    right = relay.opened_piece
    monkeypatch.setattr(
        relay, "opened_piece", lambda *given: opened.append(1) or right(*given)
    )
    counts = []
    for count in (1, 12):
        opened.clear()
        versions = [
            Version(
                frozenset(layers),
                lambda nodes, seed=seed: changed(  # type: ignore[misc]
                    graph, sorted(set(layers) & set(nodes)), seed
                ),
            )
            for seed in range(count)
        ]
        Relay(graph, shapes, list(graph.outputs)).run([inputs(graph)], versions)
        counts.append(len(opened))
    assert counts[0] == counts[1]


def changed(graph: Graph, nodes: list[int], seed: int) -> Revision:
    """The graph with noise on the weights of some layers."""
    rng, revision = np.random.default_rng(seed), Revision(graph)
    for index in nodes:
        matrix = revision.matrix(graph.nodes[index])
        noise = rng.standard_normal(matrix.shape) * matrix.std()
        revision.set_matrix(graph.nodes[index], matrix + noise)
    return revision


@pytest.mark.parametrize("network", GRAPHS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_versions_side_by_side_are_what_each_would_be_by_itself(
    network: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    graph = GRAPHS[network](seed % 7)
    shapes = pg.analyze(graph).shape_info.shapes
    layers = [node.index for node in graph.layers]
    chosen = [
        sorted(rng.choice(layers, size=rng.integers(1, len(layers) + 1), replace=False))
        for _ in range(3)
    ]
    revisions = [changed(graph, nodes, seed + i) for i, nodes in enumerate(chosen)]
    versions = [
        Version(frozenset(map(int, nodes)), lambda nodes, each=each: each)  # type: ignore[misc]
        for nodes, each in zip(chosen, revisions, strict=True)
    ]
    fed = [inputs(graph, samples=4, seed=i) for i in range(2)]
    relay = Relay(graph, shapes, graph.outputs)
    expected = relay.run(fed, versions)
    for batch, given_inputs in enumerate(fed):
        whole = run_values(graph, given_inputs, graph.outputs)
        for name, value in whole.items():
            np.testing.assert_allclose(expected[name][batch], value, rtol=1e-4, atol=1e-5)
        for version, revision in zip(versions, revisions, strict=True):
            alone = run_values(revision.apply(), given_inputs, graph.outputs)
            for name, value in alone.items():
                np.testing.assert_allclose(
                    version.values[name][batch], value, rtol=1e-4, atol=1e-4
                )
                assert abs(value - whole[name]).max() > 1e-4


def test_a_graph_is_opened_in_several_stretches_and_the_prefix_is_shared() -> None:
    graph = NETWORKS["attention"](0)
    relay = Relay(graph, pg.analyze(graph).shape_info.shapes, graph.outputs)
    assert len(relay.stretches) > 3
    indices = [node.index for stretch in relay.stretches for node in stretch.nodes]
    assert indices == sorted(set(indices))
    last = relay.stretches[-1].indices
    unchanged = Version(frozenset(), lambda nodes: pytest.fail("nothing changes"))
    late = Version(frozenset(last), lambda nodes: Revision(graph))
    relay.run([inputs(graph, samples=2)], [unchanged, late])
    assert not unchanged.values and set(late.values) == set(graph.outputs)


def statistics(graph: Graph, samples: int = 64) -> Statistics:
    return Statistics(graph, Data.of(inputs(graph, samples=samples, seed=5)))


def test_what_is_removed_is_guessed_from_what_stays() -> None:
    """Against ridge regression by numpy of the removed rows on the others."""
    b = Builder()
    x = b.relu(b.linear(b.input("n", 6), 6, 12, name="first"))
    graph = b.graph(b.linear(x, 12, 5, name="second"))
    coupling, seen = pg.analyze(graph), statistics(graph, 400)
    (group,) = coupling.groups
    gone = np.asarray([1, 4, 7])
    fed = inputs(graph, samples=400, seed=5)
    node = graph.node("second")
    rows = run_values(graph, fed, [node.inputs[0]])[node.inputs[0]].astype(np.float64)
    stay = np.setdiff1d(np.arange(12), gone)
    centred = rows - rows.mean(axis=0)
    covariance = centred.T @ centred / len(rows)
    # Inputs for each sample: what so few samples say nothing of.
    damping = max(DAMPING, 12 / 400) * np.trace(covariance) / 12
    damped = covariance + damping * np.eye(12)
    guess = np.linalg.solve(damped[np.ix_(stay, stay)], damped[np.ix_(stay, gone)])
    replaced = rows.copy()
    replaced[:, gone] = rows[:, gone].mean(axis=0) + centred[:, stay] @ guess
    revision = Revision(graph)
    expected = replaced @ revision.matrix(node)[0] + revision.intercept(node)
    revised = Substitution(coupling, seen).revision({group.id: gone}).apply()
    result = run_values(revised, fed, graph.outputs)[graph.outputs[0]]
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("keep", [0, 1 << 30])
def test_an_inverse_is_computed_once(keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many versions ask for it, and whether or not all are held: the weights are the same."""
    graph = GRAPHS["residual"](0)
    coupling = pg.analyze(graph)
    statistics = Statistics(graph, Data.of(batches()))
    removals = [
        {group.id: np.arange(1 + part) for group in coupling.groups} for part in range(3)
    ]
    expected = [Substitution(coupling, statistics).revision(each) for each in removals]
    calls: list[int] = []
    right = substitution._damped_inverse
    monkeypatch.setattr(substitution, "KEEP", keep)
    monkeypatch.setattr(
        substitution, "_damped_inverse", lambda *of: calls.append(1) or right(*of)
    )
    here = Substitution(coupling, statistics)
    found = [here.revision(each) for each in removals]
    layers = {
        node.name: node for group in coupling.groups for node, _ in here._reads(group)
    }
    rows = {statistics.rows(node).key for node in layers.values()}
    assert len(calls) == len(rows) > 1
    for one, other in zip(found, expected, strict=True):
        assert one.weights.keys() == other.weights.keys()
        for name, values in one.weights.items():
            np.testing.assert_array_equal(values, other.weights[name])


def test_queries_and_keys_that_go_are_zero() -> None:
    """No layer reads them: the graph with other weights is the graph that was cut."""
    graph = attention()
    coupling, seen = pg.analyze(graph, attention="head_dim"), statistics(graph)
    group = next(each for each in coupling.groups if "q" in each.layers)
    plan = pg.Plan(graph.sha256, {group.id: (0, 2)}, provenance={"attention": "head_dim"})
    fed = inputs(graph, samples=3, seed=1)
    revised = Substitution(coupling, seen).revision({group.id: (0, 2)}).apply()
    cut = pg.apply(graph, plan)
    for name, value in run_values(cut, fed, graph.outputs).items():
        np.testing.assert_allclose(
            run_values(revised, fed, [name])[name], value, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("network", GRAPHS)
def test_damage_rises_and_nothing_costs_nothing(network: str) -> None:
    graph = GRAPHS[network](0)
    coupling, seen = pg.analyze(graph), statistics(graph)
    measured = Damage(coupling, *divided(seen))
    removals = [
        {group.id: np.arange(count)}
        for group in coupling.groups
        for count in (0, 1, group.channels - 1)
    ]
    values = np.asarray(measured.measure(removals)).reshape(-1, 3)
    assert (values[:, 0] == 0).all()
    assert (values[:, 1] > 0).any() and (values[:, 2] > 0).all()
    assert (values[:, 2] >= values[:, 1]).mean() > 0.7


def test_damage_is_the_same_however_many_samples_run_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = residual_net(0)
    coupling, seen = pg.analyze(graph), statistics(graph)
    removals = [{group.id: np.arange(3)} for group in coupling.groups]
    runs, results = [], []
    right = Relay.run
    monkeypatch.setattr(
        Relay, "run", lambda *given: runs.append(len(given[1])) or right(*given)
    )
    for inside in (1 << 40, 1):
        monkeypatch.setattr(damage, "INSIDE", inside)
        results.append(Damage(coupling, *divided(seen)).measure(removals))
    assert runs[0] == 1 < runs[1]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4)


def test_a_network_that_is_too_large_is_measured_at_fewer_strengths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = residual_net(0)
    coupling, seen = pg.analyze(graph), statistics(graph)
    scores = {group.id: np.arange(group.channels) + 1.0 for group in coupling.groups}
    units = make_units(coupling, scores, Limits(round_to=1))
    counts = []
    right = Damage.measure
    monkeypatch.setattr(
        Damage, "measure", lambda *given: counts.append(len(given[1])) or right(*given)
    )
    for work in (1e12, 1.0):
        monkeypatch.setattr(damage, "WORK", work)
        curves = Damage(coupling, *divided(seen)).curves(units)
        assert all(len(curves[unit.id]) == len(unit.steps) for unit in units)
    assert counts == [3 * len(units), 2 * len(units)]


@pytest.mark.parametrize("place", [0, 1])
def test_scores_of_words_are_compared_without_the_last_layer(
    monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Whether it reads what goes (the second group) or only what has become of that."""
    b = Builder()
    x = b.op("MatMul", b.input("n", 6, 8), b.weight(8, 16), name="hidden")
    x = b.op("MatMul", b.relu(x), b.weight(16, 16), name="second")
    graph = b.graph(b.op("MatMul", b.relu(x), b.weight(16, 40), name="words"))
    coupling, seen = pg.analyze(graph), statistics(graph, 8)
    removed = {coupling.groups[place].id: np.arange(9)}
    monkeypatch.setattr(judging, "VOCABULARY", 40)
    judge = judging.judged_by(graph, coupling.shape_info.shapes)
    assert judge.last is not None and judge.last.name == "words"
    fitted, held = divided(seen)
    (value,) = Damage(coupling, fitted, held).measure([removed])
    (fed,) = held.batches(graph, 8)
    revised = Substitution(coupling, fitted).revision(removed).apply()
    first, second = (run_values(each, fed, graph.outputs) for each in (graph, revised))
    expected = metrics.kl([Seen(fed, first, second)])
    assert value == pytest.approx(expected, rel=2e-2) and value > 1e-3

    monkeypatch.setattr(judging, "LIKELY", 1)
    (value,) = Damage(coupling, fitted, held).measure([removed])
    assert value == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("samples", "every"), [(1, 0), (7, 0), (8, 4), (127, 4), (128, 8), (1024, 16)]
)
def test_few_samples_are_held_back(samples: int, every: int) -> None:
    graph = residual_net(0)
    fed = inputs(graph, samples=samples)
    seen = Statistics(graph, Data.of(fed))
    fitted, held = divided(seen)
    assert divided(seen) == (fitted, held), "one pass serves all who ask"
    numbers = np.arange(samples)
    mine = numbers % every == every - 1 if every else numbers >= 0
    (name,) = graph.inputs
    for data, chosen in ((held, mine), (fitted.data, ~mine if every else mine)):
        kept = np.concatenate([batch[name] for batch in data.batches(graph)])
        np.testing.assert_array_equal(kept, fed[name][chosen])


def test_stretches_end_where_little_crosses() -> None:
    """Inner values of each block are eight times as many as those between blocks."""
    b = Builder()
    x = b.input("n", 4)
    for block in range(8):
        x = b.relu(b.linear(x, 4, 32, name=f"up{block}"))
        x = b.linear(x, 32, 4, name=f"down{block}")
    graph = b.graph(x)
    relay = Relay(graph, pg.analyze(graph).shape_info.shapes, graph.outputs)
    ends = [each.gives for each in relay.stretches]
    assert ends == [graph.node(f"down{block}").outputs for block in range(8)]


def test_curves_are_powers_of_the_share() -> None:
    shares = np.asarray([0.05, 0.1, 0.25, 0.5, 0.8, 0.95])
    points = [(share, 3 * share**2.5) for share in (0.1, 0.5, 0.8)]
    curve = power_law(points, list(shares))
    np.testing.assert_allclose([share for share, _ in curve], shares)
    np.testing.assert_allclose([value for _, value in curve], 3 * shares**2.5, rtol=1e-9)
    noisy = power_law([(0.2, 0.3), (0.5, 0.1), (0.9, 0.7)], list(shares))
    assert bool((np.diff([value for _, value in noisy]) >= 0).all())
    assert [value for _, value in power_law([], [0.5])] == [0.0]


def test_the_allocation_by_damage_spares_what_is_vital() -> None:
    graph = dead_and_vital()
    plan = pg.select(
        graph,
        data=batches(),
        algorithm="l2",
        allocation="damage",
        budget=pg.Budget(macs=0.5),
        round_to=1,
    )
    pruned = pg.apply(graph, plan)
    assert cost(pruned).macs <= 0.5 * cost(graph).macs
    assert pruned.node("vital").channels.outputs == 16
    assert pruned.node("dead").channels.outputs < 12
    with pytest.raises(DataError, match="allocation 'damage' needs data"):
        pg.select(graph, allocation="damage", budget=pg.Budget(macs=0.5))


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_weights_of_a_stretch_are_those_of_the_whole(name: str) -> None:
    """No version is held as a whole: what the nodes of a stretch read is made for them alone."""
    graph = GRAPHS[name](0)
    coupling = pg.analyze(graph)
    relay = Relay(graph, coupling.shape_info.shapes, graph.outputs)
    substitution = Substitution(coupling, statistics(graph))
    removed = {group.id: tuple(range(group.channels // 3 + 1)) for group in coupling.groups}
    whole = substitution.revision(removed)
    made: set[str] = set()
    for stretch in relay.stretches:
        part = substitution.revision(removed, stretch.indices)
        read = {value for node in stretch.nodes for value in node.inputs}
        for weight in read & whole.weights.keys():
            assert np.array_equal(part.weights[weight], whole.weights[weight])
        assert {i: whole.protos[i] for i in stretch.indices & whole.protos.keys()} == {
            i: part.protos[i] for i in stretch.indices & part.protos.keys()
        }
        made |= read & part.weights.keys()
    assert made >= {w for w in whole.weights if w in graph.weights}


def test_values_are_given_up_once_nobody_reads_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A version does not hold what it read while it runs through the next batches."""
    graph = GRAPHS["residual"](0)
    coupling = pg.analyze(graph)
    substitution = Substitution(coupling, Statistics(graph, Data.of(batches())))
    group = coupling.groups[0]
    version = Version(
        frozenset(substitution.touched({group.id: np.arange(2)})),
        lambda nodes: substitution.revision({group.id: np.arange(2)}, nodes),
    )
    held: list[int] = []
    right = relay.run

    def counted(opened: object, given: dict[str, np.ndarray], names: list[str]) -> object:
        own = [array for value in version.values.values() for array in value]
        held.append(sum(array.nbytes > 0 for array in own))
        return right(opened, given, names)

    monkeypatch.setattr(relay, "run", counted)
    several = batches(6)
    shapes = coupling.shape_info.shapes
    Relay(graph, shapes, list(graph.outputs)).run(several, [version])
    assert 0 < min(count for count in held if count) < len(several)
    assert all(len(each) == len(several) for each in version.values.values())
    assert all(array.nbytes for each in version.values.values() for array in each)
