"""Times of layers by themselves in a report, against the shapes of the graphs that were timed."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.coupling.survivors import Survivors
from prunegraph.graph.model import Node
from prunegraph.graph.shapes import shape_info
from prunegraph.latency.cache import VARIABLE, Cache
from prunegraph.latency.layers import LayerTable
from prunegraph.measuring.latency import Latency
from prunegraph.report import html
from prunegraph.report.layer_times import TimedLayer, columns, roofline, timed_layers
from prunegraph.runtime.runtimes import find
from prunegraph.selection.plan import survivors
from tests.builders import residual_net
from tests.report.page import HOSTILE, Page, chain, prune
from tests.report.test_report import assert_loads_nothing

LATENCY = Latency(2.0, 0.5, 4.0, 30, 1)


class Counting:
    """A timer that says how many values a layer's weights have, in thousands."""

    def alone(self, graph: pg.Graph) -> float:
        return sum(weight.size for weight in graph.weights.values()) / 1000


def timed(result: pg.PruneResult, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put times of all layers where a latency budget puts them."""
    monkeypatch.setenv(VARIABLE, str(folder))
    runtime = find(LATENCY.runtime, LATENCY.provider, LATENCY.threads)
    table = LayerTable(result.coupling, Counting(), Cache.here(runtime))  # type: ignore[arg-type]
    table.predict(Survivors(result.coupling, {}))
    table.predict(survivors(result.coupling, result.plan))
    table.cache.save()


def work(graph: pg.Graph, node: Node) -> tuple[int, int]:
    """MACs of a convolution, and bytes of its input, output and weights in float32, from a graph's own shapes."""
    shapes = shape_info(graph).shapes
    weights = [graph.weights[v].shape for v in node.inputs if v in graph.weights]
    output = shapes[node.outputs[0]]
    per_output = math.prod(weights[0][1:])
    sizes = [shapes[node.inputs[0]], output, *weights]
    return math.prod(output) * per_output, 4 * sum(math.prod(size) for size in sizes)


def test_times_and_work_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = dataclasses.replace(prune(residual_net()), latency=LATENCY)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    assert timed_layers(result) == []
    timed(result, tmp_path, monkeypatch)
    layers = timed_layers(result)
    convolutions = [n for n in result.original.layers if len(n.inputs) and n.op == "Conv"]
    assert len(convolutions) >= 3
    by_name = {each.layer: each for each in layers}
    after = {node.name: node for node in result.model.layers}
    for node in convolutions:
        each = by_name[node.name]
        for graph, twin, time in (
            (result.original, node, each.before),
            (result.model, after[node.name], each.after),
        ):
            assert time is not None
            assert (time.macs, time.moved) == work(graph, twin)
            count = sum(graph.weights[v].size for v in twin.inputs if v in graph.weights)
            assert time.ms == pytest.approx(count / 1000)
            assert time.speed == pytest.approx(time.macs / (time.ms * 1e-3) / 1e9)


def test_the_page_has_both_charts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = dataclasses.replace(prune(chain(12, HOSTILE)), latency=LATENCY)
    timed(result, tmp_path, monkeypatch)
    layers = timed_layers(result)
    page = Page(html.render(result, latency=result.latency))
    kinds = [each["class"] for each in page.attributes("svg")]
    assert "chart times" in kinds and "chart roofline" in kinds
    assert_loads_nothing(page)
    before, after = (sum(each.times[i] for each in layers) for i in (0, 1))
    text = page.text(inside="times")
    assert f"{before:.3g} ms together before and {after:.3g} ms after" in text
    tips = [tip for tip in page.titles() if "billion MACs a second" in tip]
    assert len(tips) == 2 * 2 * len(layers)
    without = Page(html.render(dataclasses.replace(result, latency=None)))
    assert not [a for a in without.attributes("section") if a["id"] == "times"]


def test_nothing_is_above_the_roof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunegraph.report.layer_times import _roof

    result = dataclasses.replace(prune(residual_net()), latency=LATENCY)
    timed(result, tmp_path, monkeypatch)
    layers = timed_layers(result)
    roof = _roof(layers)
    at, height = (np.array([p[k] for p in roof]) for k in ("intensity", "speed"))
    times = [t for each in layers for t in (each.before, each.after) if t is not None]
    for time in times:
        # Straight in logarithms, as it is drawn.
        best = np.exp(np.interp(np.log(time.intensity), np.log(at), np.log(height)))
        assert time.speed <= best * (1 + 1e-9)
    assert any(time.speed == pytest.approx(height.max()) for time in times)


def test_a_layer_that_is_gone_has_no_time_after() -> None:
    from prunegraph.report.layer_times import LayerTime

    gone = TimedLayer("a", "a", LayerTime(1.0, 1000, 100), None)
    assert gone.times == (1.0, 0.0)
    drawn = columns([gone]) + roofline([gone])
    assert drawn.count("a, before: 1 ms") == 2 and "after:" not in drawn
