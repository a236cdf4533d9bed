"""OpenVINO as a runtime: it computes what ONNX Runtime computes, is timed as that is, and says no in one line."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import prunegraph as pg
from prunegraph import studies
from prunegraph.errors import ModelError, UnknownNameError
from prunegraph.measuring.latency import Stopwatch
from prunegraph.ops.cost import cost
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.runtimes import OnnxRuntime, OpenVino, find
from prunegraph.tuning.sensitivity import Sensitivity
from tests.builders import Builder, residual_net
from tests.paths import FIXTURES
from tests.random_graphs import draw_graph
from tests.runtime.budgets import pruned_in

pytest.importorskip("openvino", reason="the extra [openvino] is not installed")

FASHION = FIXTURES / "fashion_resnet.onnx"


def errors(found: Sensitivity) -> list[float]:
    return [point.error for curve in found.curves for point in curve.points]


def far(graph: pg.Graph, inputs: dict[str, np.ndarray]) -> float:
    """The largest difference between the runtimes' outputs, as a share of the largest value."""
    pairs = zip(
        OnnxRuntime().open(graph).run(inputs),
        OpenVino().open(graph).run(inputs),
        strict=True,
    )
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def test_devices_by_name() -> None:
    assert (OpenVino().provider, OpenVino("cpu").provider) == ("CPU", "CPU")
    with pytest.raises(
        UnknownNameError, match=r"device of OpenVINO 'abacus'.*Known: .*CPU"
    ):
        find("openvino", "abacus")


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(graph=draw_graph())
def test_random_networks_compute_the_same(graph: pg.Graph) -> None:
    assert far(graph, random_inputs(graph, batch=1)) < 1e-4


def test_floats_are_those_of_the_file() -> None:
    """Not bfloat16, which OpenVINO would choose where the processor has it."""
    graph = pg.load(FASHION)
    assert far(graph, random_inputs(graph, batch=8)) < 1e-4


def test_sizes_may_differ_from_run_to_run() -> None:
    graph = pg.load(FASHION)
    model = OpenVino().open(graph)
    for batch in (1, 3, 2):
        inputs = random_inputs(graph, batch=batch)
        first = model.run(inputs)[0]
        assert first.shape[0] == batch
        kept = first.copy()
        model.run(random_inputs(graph, batch=batch, seed=1))
        np.testing.assert_array_equal(first, kept)  # a result is nobody else's memory


def test_one_thread_does_all_the_work() -> None:
    """So its CPU time is the model's: other threads of the process have done next to nothing meanwhile."""
    graph = residual_net(width=64)
    model, inputs = OpenVino(threads=1).open(graph), random_inputs(graph, batch=1)
    model.run(inputs)
    process, thread = time.process_time(), time.thread_time()
    for _ in range(50):
        model.run(inputs)
    process, thread = time.process_time() - process, time.thread_time() - thread
    assert thread > 0.8 * process


def test_what_openvino_does_not_know_is_an_error_in_one_line(tmp_path: Path) -> None:
    b = Builder()
    x = b.op("Inverse", b.input(3, 3), domain="com.microsoft")
    graph = b.graph(x, domains=[("com.microsoft", 1)])
    OnnxRuntime().open(graph)
    with pytest.raises(ModelError, match=r"OpenVINO cannot load it: .*Inverse") as raised:
        OpenVino().open(graph, "net")
    assert "\n" not in str(raised.value) and str(raised.value).startswith("net: ")
    with pytest.raises(ModelError, match="nothing was written: without --runtime"):
        pg.save(graph, tmp_path / "out.onnx", runtime="openvino")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ModelError, match="OpenVINO cannot run the model"):
        OpenVino().open(pg.load(FASHION)).run({"image": np.zeros((1, 5), np.float32)})


def test_kernels_of_a_profiled_model() -> None:
    graph = residual_net()
    model = OpenVino(profiled=True).open(graph)
    model.run(random_inputs(graph, batch=1))
    layers = [node for node in model.nodes() if node.op == "Convolution"]
    assert len(layers) == sum(node.op == "Conv" for node in graph.nodes)
    assert all("f32" in node.kernel.lower() for node in layers)
    assert sum(node.milliseconds for node in model.nodes()) > 0


def test_a_latency_budget_is_met_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "small.onnx"
    result = pruned_in("openvino", out, monkeypatch)
    assert result.latency.provider == "CPU"
    assert result.latency.kept == pytest.approx(
        cost(result.model).macs / result.before.macs
    )
    assert result.latency.kept <= 0.6
    inputs = random_inputs(result.model, batch=2)
    np.testing.assert_allclose(
        OpenVino().open(out).run(inputs)[0],
        OnnxRuntime().open(result.model).run(inputs)[0],
        atol=1e-4,
    )


def test_a_wider_network_takes_longer() -> None:
    """Real clocks, at a distance that no load hides: the CPU time of one thread."""
    narrow, wide = residual_net(width=8), residual_net(width=128)
    latency = Stopwatch(wide, runtime=OpenVino()).against(narrow)
    assert (latency.runtime, latency.threads) == ("openvino", 1)
    assert latency.ratio > 2


def test_sensitivities_are_those_of_onnx_runtime() -> None:
    graph = residual_net()
    few = random_inputs(graph, batch=8)
    first, second, third = (
        studies.sensitivity(
            graph, data=few, ratios=[0.5], jobs=1, runtime=name, provider=device
        )
        for name, device in (("onnxruntime", None), ("openvino", None), ("openvino", "CPU"))
    )
    assert errors(first) == pytest.approx(errors(second), rel=1e-3)
    assert errors(third) == pytest.approx(errors(second), rel=1e-6)
    with pytest.raises(UnknownNameError, match="NPU7"):
        studies.sensitivity(graph, data=few, jobs=1, runtime="openvino", provider="NPU7")
