"""Layers as frameworks call them, and what patterns name."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prunegraph as pg
from fixtures.light_models import load
from prunegraph.coupling.explain import explain
from prunegraph.errors import OptionError, UnknownNameError
from prunegraph.graph.layer_names import SCOPES, layer_names, named_layers, shown
from tests.builders import Builder, residual_net
from tests.paths import FIXTURES, ROOT


def chain(names: Sequence[str], scopes: Sequence[str | None] | None = None) -> pg.Graph:
    """Linear layers one after the other, as an exporter may name them and their modules."""
    b = Builder()
    value = b.input("n", 4)
    for _ in names:
        value = b.linear(value, 4, 4)
    model = onnx.ModelProto()
    model.CopyFrom(b.graph(value).model)
    layers = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")]
    assert len(layers) == len(names)
    for node, name, scope in zip(layers, names, scopes or [None] * len(names), strict=True):
        node.name = name
        if scope is not None:
            node.metadata_props.add(key=SCOPES, value=scope)
    return pg.load(model)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        (
            "/encoder/layer.0/attention/self/query/MatMul",
            "encoder.layer.0.attention.self.query",
        ),
        ("/stem/stem.0/Conv", "stem.0"),
        ("/features/features.1/conv/conv.0/conv.0.0/Conv", "features.1.conv.0.0"),
        ("/model.22/cv2.0/cv2.0.1/conv/Conv", "model.22.cv2.0.1.conv"),
        ("StatefulPartitionedCall/model/conv2d/Conv2D", "model/conv2d"),
        ("model/dense/MatMul;model/dense/BiasAdd", "model/dense"),
        (
            "model/re_lu/Relu;model/bn/FusedBatchNormV3;model/c4/BiasAdd/ReadVariableOp",
            "model/c4",
        ),
        ("model/tower_1/layer/Conv2D_2", "model/tower_1/layer"),
        ("Conv_12", "Conv_12"),
    ],
)
def test_names_of_nodes(name: str, module: str) -> None:
    assert layer_names(chain([name])) == {name: module}


@pytest.mark.parametrize(
    ("scope", "module"),
    [
        ("['', 'head', 'head.fc', 'linear']", "head.fc"),
        ("['', 'linear']", "node_linear"),
        ("['linear']", "node_linear"),
        ("nothing to read", "node_linear"),
        ("[1, 2]", "node_linear"),
        ("{'a': 1}", "node_linear"),
        ("", "node_linear"),
    ],
)
def test_metadata_of_the_newer_exporter(scope: str, module: str) -> None:
    assert layer_names(chain(["node_linear"], [scope])) == {"node_linear": module}


def test_layers_of_one_module_are_told_apart() -> None:
    scopes = ["['', 'm', 'linear']", "['', 'm', 'linear_1']", "['', 'own', 'linear_2']"]
    assert list(layer_names(chain(["a", "b", "c"], scopes)).items()) == [
        ("a", "m/linear"),
        ("b", "m/linear_1"),
        ("c", "own"),
    ]
    same = ["['', 'm', 'linear']"] * 2
    assert layer_names(chain(["a", "b"], same)) == {"a": "a", "b": "b"}


def test_a_name_is_never_that_of_another_layer_in_the_file() -> None:
    names = layer_names(chain(["/b/MatMul", "b"]))
    assert names == {"/b/MatMul": "b/MatMul", "b": "b"}


PIECES = st.sampled_from(["", "a", "b", "a.0", "MatMul", "m;n", "linear"])


@given(
    names=st.lists(st.lists(PIECES, max_size=4).map("/".join), max_size=5, unique=True),
    scopes=st.lists(
        st.none() | st.lists(PIECES, max_size=4).map(repr), min_size=5, max_size=5
    ),
)
def test_every_layer_has_a_name_of_its_own_that_names_it(
    names: list[str], scopes: list[str | None]
) -> None:
    graph = chain(names, scopes[: len(names)])
    result = layer_names(graph)
    layers = [node.name for node in graph.layers]
    assert list(result) == layers
    assert len(set(result.values())) == len(layers)
    for name, own in result.items():
        assert named_layers(graph, [name]) == [name]
        assert named_layers(graph, [own]) == [name]
        assert named_layers(graph, [f"re:^{re.escape(own)}$"]) == [name]
    if layers:
        assert named_layers(graph, ["*"]) == layers


@pytest.mark.parametrize(
    "model",
    [
        "zoo/torchvision__mobilenet_v2",
        "zoo/timm__convnext_atto",
        "zoo_transformers/hf__bert",
        "zoo_transformers/hf__t5",
    ],
)
def test_both_exporters_of_pytorch_give_the_same_names(model: str) -> None:
    ends = ("", "__dynamo") if model.startswith("zoo/") else ("__ts", "__dynamo")
    one, two = (pg.load(load(FIXTURES / f"{model}{end}.light.xz")) for end in ends)
    assert set(layer_names(one).values()) == set(layer_names(two).values())
    assert not set(layer_names(one)) & set(layer_names(two).values())


@pytest.fixture(scope="module")
def bert() -> pg.Graph:
    return pg.load(load(ROOT / "fixtures/zoo_transformers/hf__bert__dynamo.light.xz"))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("m.encoder.layer.0.attention.self.query", {"layer.0.attention.self.query"}),
        ("m.encoder.layer.0.*", "all of layer 0"),
        ("m.encoder.layer.0", "all of layer 0"),
        ("encoder.layer.0.*", "all of layer 0"),
        ("encoder.layer.0", "all of layer 0"),
        (r"re:layer\.0\.", "all of layer 0"),
        (
            "re:self.(query|key)$",
            {f"layer.{i}.attention.self.{n}" for i in (0, 1) for n in ("query", "key")},
        ),
        ("layer.[01].output", {"layer.0.output.dense", "layer.1.output.dense"}),
        (
            "m.encoder.layer.?.intermediate.dense",
            {"layer.0.intermediate.dense", "layer.1.intermediate.dense"},
        ),
    ],
)
def test_patterns(bert: pg.Graph, pattern: str, expected: set[str] | str) -> None:
    names = layer_names(bert)
    result = {
        names[each].removeprefix("m.encoder.") for each in named_layers(bert, [pattern])
    }
    if isinstance(expected, str):
        inner = {name.removeprefix("m.encoder.") for name in names.values()}
        expected = {name for name in inner if name.startswith("layer.0.")}
        assert len(expected) == 6
    assert result == expected


@pytest.mark.parametrize(
    "pattern", ["m.encoder.layer.7", "*.nothing", "re:nothing", "laye", ""]
)
def test_what_names_nothing_is_an_error(bert: pg.Graph, pattern: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown layer"):
        named_layers(bert, [pattern])


def test_the_nearest_name_is_the_frameworks_too(bert: pg.Graph) -> None:
    with pytest.raises(
        UnknownNameError, match=r"did you mean 'm\.encoder\.layer\.0\.output\.dense'"
    ):
        named_layers(bert, ["m.encoder.layr.0.output.dense"])


def test_a_regular_expression_that_is_none(bert: pg.Graph) -> None:
    with pytest.raises(OptionError, match="no regular expression"):
        named_layers(bert, ["re:("])


def test_only_some_layers_can_be_meant() -> None:
    graph = residual_net()
    first = graph.layers[0].name
    assert named_layers(graph, ["*"], [first]) == [first]
    with pytest.raises(UnknownNameError):
        named_layers(graph, [graph.layers[1].name], [first])


def test_what_is_no_layer_is_shown_by_its_own_name(bert: pg.Graph) -> None:
    other = next(node.name for node in bert.nodes if node not in bert.layers)
    assert shown(bert, other) == other
    layer = bert.layers[0].name
    assert shown(bert, layer) == layer_names(bert)[layer] != layer


# -- where layers are named -------------------------------------------------------------------


def test_patterns_choose_what_is_kept() -> None:
    graph = pg.load(FIXTURES / "fashion_resnet.onnx")
    plan = pg.select(
        graph,
        budget=pg.Budget(ratio=0.5),
        keep=["stages.[01]"],
        ratio_for={"stages.2": 0.25, "/stages/stages.3/conv1/Conv": 0.75},
        round_to=1,
    )
    pruned = pg.apply(graph, plan)
    width = {
        name: (graph.node(name).channels.outputs, pruned.node(name).channels.outputs)
        for name in layer_names(graph)
    }
    by_name = {own: width[name] for name, own in layer_names(graph).items()}
    assert by_name["stages.0.conv1"] == by_name["stages.1.conv1"] == (16, 16)
    assert by_name["stages.2.conv1"] == (32, 24)
    assert by_name["stages.3.conv1"] == (32, 8)
    assert by_name["stages.5.conv1"] == (64, 32)


def test_one_layer_is_explained_at_a_time() -> None:
    coupling = pg.analyze(pg.load(FIXTURES / "fashion_resnet.onnx"))
    assert explain(coupling, "classifier").layer == "/classifier/Gemm"
    with pytest.raises(OptionError, match="give one layer"):
        explain(coupling, "stages.0")
