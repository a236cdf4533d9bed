"""Real and known networks: the trained fixture, the network of source 000, onnx's own topologies, shipped models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import prunegraph as pg
from fixtures.mobilenetv2_yolov3 import build
from fixtures.packages import DEFAULT, PACKAGES, RENAMED
from prunegraph.graph.onnx_io import from_model
from prunegraph.ops.cost import cost
from prunegraph.runtime.data import read_data
from prunegraph.runtime.session import run, session
from tests.paths import FIXTURES

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
SHIPPED = sorted(
    name
    for names in PACKAGES.values()
    for name in (RENAMED.get(each, each) for each in names)
    if name.endswith(".onnx")
)


def test_fashion_network() -> None:
    graph = pg.load(FIXTURES / "fashion_resnet.onnx")
    # 174,970 in PyTorch; two pairs of biases are equal (same gradients) and the exporter merged them.
    assert cost(graph).params == 174_970 - 32 - 64
    assert cost(graph).macs == 20_183_936
    assert (FIXTURES / "fashion_resnet.onnx").stat().st_size < 1_000_000
    assert sum(node.op == "BatchNormalization" for node in graph.nodes) == 15
    data = read_data(str(FIXTURES / "fashion_eval.npz"))
    assert data.samples == 1000
    result = pg.compare(graph, graph, data=data, runs=1)
    assert result.accuracy == (0.946, 0.946)
    assert read_data(str(FIXTURES / "fashion_calibration.npz")).labels is None


def test_fashion_network_at_half_its_macs() -> None:
    result = pg.prune(
        FIXTURES / "fashion_resnet.onnx", budget=pg.Budget(macs=0.5), round_to=1
    )
    assert 0.48 <= result.after.macs / result.before.macs <= 0.5
    assert result.proof is not None


def test_the_network_of_source_000() -> None:
    graph = pg.load(build(512))
    assert cost(graph).params == 6_775_393
    assert cost(graph).macs == 4_151_410_688
    assert cost(pg.load(build(416))).macs == 2_740_579_712
    coupling = pg.analyze(graph)
    assert len(coupling.groups) == 45
    assert [fixed.reason for fixed in coupling.fixed] == ["graph output"] * 3


def test_the_network_of_source_000_narrowed() -> None:
    graph = pg.load(build(64, width=0.5, classes=10))
    assert cost(graph).params == 1_740_295
    assert len(pg.analyze(graph).groups) == 45
    outputs = run(session(graph), {"image": np.zeros((2, 3, 64, 64), np.float32)})
    assert [y.shape for y in outputs] == [(2, 45, side, side) for side in (2, 4, 8)]


def test_the_network_of_source_000_with_half_its_head() -> None:
    """3,578,145 parameters and 2,304,409,600 MACs when the head keeps 0.5 and the backbone all."""
    graph = pg.load(build(512))
    coupling = pg.analyze(graph)
    plan = pg.select(
        graph,
        coupling,
        budget=pg.Budget(ratio=0.5),
        round_to=1,
        keep=keep_all_but_the_head(coupling),
    )
    pruned = cost(pg.apply(graph, plan))
    assert (pruned.params, pruned.macs) == (3_578_145, 2_304_409_600)


def keep_all_but_the_head(result: pg.Coupling) -> list[str]:
    """Layers of the 25 backbone groups: those that the graph makes first."""
    backbone = [
        g for g in result.groups if any(is_backbone(result, layer) for layer in g.layers)
    ]
    assert len(backbone) == 25
    return [layer for group in backbone for layer in group.layers]


def is_backbone(result: pg.Coupling, layer: str) -> bool:
    """Backbone layers end in a Clip or in a linear bottleneck; head layers in a LeakyRelu."""
    graph = result.graph
    norm = graph.nodes[graph.consumers[graph.node(layer).outputs[0]][0][0]]
    return all(
        graph.nodes[i].op != "LeakyRelu" for i, _ in graph.consumers[norm.outputs[0]]
    )


def refilled(path: Path) -> onnx.ModelProto:
    """A light topology of onnx with the weights of its ConstantOfShape nodes drawn anew."""
    model = onnx.load(path)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "ConstantOfShape"]
    rng = np.random.default_rng(0)
    for node in nodes:
        shape = shapes[node.input[0]].tolist()
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        values = (
            rng.uniform(0.5, 1.5, shape)
            if len(shape) == 1
            else rng.standard_normal(shape) / np.sqrt(fan_in)
        )
        model.graph.initializer.append(
            numpy_helper.from_array(values.astype(np.float32), node.output[0])
        )
        model.graph.node.remove(node)
    return model


def test_light_topologies_are_there() -> None:
    assert len(list(LIGHT.glob("light_*.onnx"))) == 9


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted(LIGHT.glob("light_*.onnx")), ids=lambda path: path.stem
)
def test_light_topologies(path: Path) -> None:
    graph = from_model(refilled(path))
    result = pg.prune(graph, budget=pg.Budget(ratio=0.3), round_to=1)
    assert result.proof is not None
    assert result.after.params < 0.9 * result.before.params


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models(name: str) -> None:
    if not (DEFAULT / name).exists():
        pytest.skip(f"{name} is not unpacked; run python fixtures/packages.py")
    result = pg.prune(DEFAULT / name, budget=pg.Budget(ratio=0.3), round_to=1)
    assert result.proof is not None
    assert result.after.params < 0.9 * result.before.params
