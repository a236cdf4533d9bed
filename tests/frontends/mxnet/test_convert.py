"""MXNet's files as ONNX: outputs and shapes are those that real MXNet stored."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import prunegraph as pg
from prunegraph.errors import ModelError
from prunegraph.frontends import mxnet
from prunegraph.frontends.mxnet import conversion
from prunegraph.frontends.mxnet.bind import read_params
from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators import recurrent
from prunegraph.frontends.mxnet.symbol import load, parse
from tests.frontends.mxnet import cases as cases

FOLDERS = cases.folders()
TOLERANCE = 1e-4


def _id(folder: Path) -> str:
    return f"{folder.parent.name}-{folder.name}"


@pytest.mark.parametrize("folder", FOLDERS, ids=_id)
def test_networks(folder: Path) -> None:
    converted = cases.read(folder)
    assert (
        cases.difference(
            cases.run(converted.model, cases.inputs(folder)), cases.outputs(folder)
        )
        <= TOLERANCE
    )
    wrong = wrong_shapes(folder, converted)
    # An initial state of unknown batch has one row, which broadcasts.
    assert all("begin_state" in name or "h0" in name or "h2h" in name for name in wrong), (
        wrong
    )


def wrong_shapes(folder: Path, converted: mxnet.Converted) -> dict[str, object]:
    result = converted.shapes
    return {
        name: (shape, result[name])
        for name, shape in cases.shapes(folder).items()
        if name in result and result[name] != shape
    }


@pytest.mark.parametrize("part", range(8))
def test_single_operators(part: int) -> None:
    tested = cases.operator_folders()
    assert len(tested) > 350
    for folder in tested[part::8]:
        converted = cases.read(folder)
        result = cases.run(converted.model, cases.inputs(folder))
        assert cases.difference(result, cases.outputs(folder)) <= TOLERANCE, folder.name
        assert not wrong_shapes(folder, converted), folder.name


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("convnet_f32", 1e-4), ("convnet_amp_fp16", 5e-3), ("convnet_cast_fp16", 5e-3)],
)
def test_half_precision(name: str, tolerance: float) -> None:
    """Of the two with float16 weights there is MXNet's float32 result only: MXNet does not run them on CPUs."""
    folder = cases.ROOT / "tiny_misc" / name
    wanted = next(folder.glob("output*.npy"))
    result = cases.run(cases.read(folder).model, cases.inputs(folder))
    assert cases.difference(result, [np.load(wanted)]) <= tolerance


def test_the_batch_is_open() -> None:
    """Two images in one batch give what each gives alone."""
    folder = cases.ROOT / "tiny" / "shufflenet_tiny"
    model = cases.read(folder).model
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    image = cases.inputs(folder)["data"]
    both = cases.run(model, {"data": np.concatenate([image, image[:, :, ::-1]])})[0]
    apart = [cases.run(model, {"data": part})[0] for part in (image, image[:, :, ::-1])]
    assert np.allclose(both, np.concatenate(apart), rtol=1e-4, atol=1e-5)


def test_a_batch_that_is_written_down_stays() -> None:
    folder = next(f for f in cases.operator_folders() if f.name == "u_zeros_like")
    dims = cases.read(folder).model.graph.output[0].type.tensor_type.shape.dim
    assert not any(dim.dim_param for dim in dims)


def test_names_are_kept() -> None:
    folder = cases.ROOT / "sym" / "lenet"
    model = cases.read(folder).model
    symbol = json.loads((folder / "model-symbol.json").read_text())
    operators = {node["name"] for node in symbol["nodes"] if node["op"] != "null"}
    variables = {node["name"] for node in symbol["nodes"] if node["op"] == "null"}
    assert operators <= {node.name for node in model.graph.node}
    stored = {
        t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT
    }
    assert stored <= variables and "conv1_weight" in stored | {"conv1_weight"}
    assert [put.name for put in model.graph.input] == ["data"]
    assert [out.name for out in model.graph.output] == [
        f"{symbol['nodes'][symbol['heads'][0][0]]['name']}_output"
    ]
    values = [name for node in model.graph.node for name in node.output]
    assert len(values) == len(set(values))


def test_load_finds_the_parameters(tmp_path: Path) -> None:
    folder = cases.ROOT / "tiny" / "alexnet_tiny"
    shutil.copy(folder / "model-symbol.json", tmp_path / "net-symbol.json")
    with pytest.raises(ModelError, match="params-file"):
        mxnet.load(str(tmp_path / "net-symbol.json"))
    shutil.copy(folder / "model-0000.params", tmp_path / "net.params")
    shape = {"data": cases.inputs(folder)["data"].shape}
    first = mxnet.load(str(tmp_path / "net-symbol.json"), input_shapes=shape)
    (tmp_path / "net-0003.params").write_bytes((folder / "model-0000.params").read_bytes())
    (tmp_path / "net-0012.params").write_bytes(b"no parameters")
    with pytest.raises(ModelError, match="net-0012"):
        mxnet.load(str(tmp_path / "net-symbol.json"), input_shapes=shape)
    second = mxnet.load(
        str(tmp_path / "net-symbol.json"),
        params_file=str(tmp_path / "net-0003.params"),
        input_shapes=shape,
    )
    assert first.SerializeToString() == second.SerializeToString()
    with pytest.raises(ModelError, match="no such file"):
        mxnet.load(str(tmp_path / "net-symbol.json"), params_file="gone.params")


def test_pg_load_reads_it() -> None:
    graph = pg.load(str(cases.ROOT / "sym" / "mlp" / "model-symbol.json"))
    assert pg.analyze(graph).groups


def test_without_shapes() -> None:
    """A convolutional network needs none; an operator that does says which input and how."""
    model = mxnet.load(
        str(cases.ROOT / "tiny" / "resnet_v1_basic_tiny" / "model-symbol.json")
    )
    folder = cases.ROOT / "tiny" / "resnet_v1_basic_tiny"
    assert (
        cases.difference(cases.run(model, cases.inputs(folder)), cases.outputs(folder))
        <= TOLERANCE
    )
    with pytest.raises(ModelError, match=r"input 'data' .*--input-shape data="):
        mxnet.load(str(cases.ROOT / "tiny" / "encoder_tiny" / "model-symbol.json"))
    with pytest.raises(
        ModelError, match=r"node 'fc1' .*needs the size of axis 1 .*--input-shape data="
    ):
        mxnet.load(str(cases.ROOT / "sym" / "lenet" / "model-symbol.json"))
    with pytest.raises(ModelError, match="no input 'image'; its inputs are data"):
        mxnet.load(str(folder / "model-symbol.json"), input_shapes={"image": (1, 3, 8, 8)})


def test_parameters_with_structural_names() -> None:
    folder = cases.ROOT / "np" / "v1.9.1"
    with pytest.raises(ModelError, match=r"export\(\)"):
        mxnet.load(
            str(folder / "model-symbol.json"), params_file=str(folder / "net.params")
        )


# -- errors -------------------------------------------------------------------------------


def one(op: str, *inputs: str, **attributes: str) -> dict[str, object]:
    """A symbol of one operator."""
    nodes = [{"op": "null", "name": name, "inputs": []} for name in inputs]
    node = {
        "op": op,
        "name": "it",
        "attrs": attributes,
        "inputs": [[k, 0, 0] for k in range(len(inputs))],
    }
    return {
        "nodes": [*nodes, node],
        "arg_nodes": list(range(len(inputs))),
        "heads": [[len(inputs), 0, 0]],
    }


def converted(op: str, **attributes: str) -> onnx.ModelProto:
    return mxnet.convert(
        parse(one(op, "data", **attributes)), {}, {"data": (2, 6, 5, 5)}
    ).model


@pytest.mark.parametrize(
    ("op", "attributes", "message"),
    [
        (
            "FancyOp",
            {"depth": "3"},
            r"'FancyOp', node 'it' \(depth=3\): this operator is not known",
        ),
        ("Activation", {"act_type": "mish"}, "act_type='mish'"),
        ("Pooling", {}, "'kernel' is missing"),
        ("Pooling", {"kernel": "(2, x)"}, "kernel"),
        ("Pooling", {"kernel": "(2, 2)", "stride": "(1,)"}, "'stride' must have 2 numbers"),
        (
            "Pooling",
            {"kernel": "(2, 2)", "stride": "(5, 5)", "pooling_convention": "full"},
            "wholly in the padding",
        ),
        (
            "Pooling",
            {"kernel": "(2, 2)", "pooling_convention": "same"},
            "pooling_convention='same'",
        ),
        ("Reshape", {"shape": "(-3, -3, -3)"}, "names axis 4"),
        ("Reshape", {"shape": "(0, -4, 4, -1, -2)"}, "6 cannot be split by 4"),
        ("Reshape", {"shape": "(7, -1)"}, "do not fit"),
        ("transpose", {"axes": "(0, 0, 1, 2)"}, "no order"),
        ("SliceChannel", {"num_outputs": "4"}, "6 cannot be split in 4"),
        ("_contrib_Proposal", {}, "selection of boxes"),
        ("Reshape", {"shape": "(-4, -1, 2, 0, -1)"}, "left open"),
        ("_foreach", {}, "not known"),
        ("softmax", {"axis": "4"}, "no axis"),
        ("mean", {"axis": "(1, 7)"}, "no axes"),
        ("LRN", {}, "'nsize' is missing"),
        ("Convolution", {"kernel": "(1, 1)", "layout": "NHWC"}, "channels last"),
    ],
)
def test_errors_name_operator_node_and_attributes(
    op: str, attributes: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        converted(op, **attributes)
    assert f"MXNet operator '{op}', node 'it'" in str(caught.value)


def test_random_dropout_is_told() -> None:
    with pytest.warns(UserWarning, match="random"):
        converted("Dropout", mode="always")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted("Dropout")


VALUES = [
    "(0, 0)",
    "-1",
    "0",
    "None",
    "()",
    "1e9",
    "nan",
    "abc",
    "(3,",
    "True",
    "(1, 2, 3, 4, 5)",
    "-5",
    "100000",
    "1.5",
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(3))
def test_damaged_symbols_give_a_model_or_a_clear_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    folders = [*cases.folders(), *cases.operator_folders()]
    refused = 0
    for folder in (folders[index] for index in rng.permutation(len(folders))[:40]):
        symbol = load(folder / "model-symbol.json")
        params = read_params(folder / "model-0000.params", symbol)
        shapes = {name: put.shape for name, put in cases.inputs(folder).items()}
        for _ in range(3):
            content = json.loads((folder / "model-symbol.json").read_text())
            for _ in range(rng.integers(1, 3)):
                damage(content["nodes"], rng)
            try:
                mxnet.convert(parse(content), params, shapes)
            except ModelError:
                refused += 1
    assert refused > 20


def damage(nodes: list[dict[str, Any]], rng: np.random.Generator) -> None:
    """Change a value, drop an attribute or an input, or read another node."""
    operators = [node for node in nodes if node["op"] != "null"]
    node = operators[rng.integers(len(operators))]
    attributes, inputs = (
        node.setdefault("attrs", node.get("attr", node.get("param", {}))),
        node["inputs"],
    )
    kind = rng.integers(4)
    if kind < 2 and attributes:
        name = list(attributes)[rng.integers(len(attributes))]
        attributes[name] = VALUES[rng.integers(len(VALUES))]
        if kind:
            del attributes[name]
    elif kind == 2 and inputs:
        inputs.pop(rng.integers(len(inputs)))
    elif inputs:
        inputs[rng.integers(len(inputs))] = [
            int(rng.integers(-1, len(nodes))),
            int(rng.integers(2)),
            0,
        ]


# -- sabotage: the comparison with MXNet would notice -----------------------------------------


@pytest.mark.parametrize(
    ("folder", "mode", "order"),
    [
        ("gluon_lstm_tiny", "lstm", ("LSTM", (0, 1, 2, 3))),
        ("gluon_gru_tiny", "gru", ("GRU", (0, 1, 2))),
    ],
)
def test_a_wrong_gate_order_is_noticed(
    folder: str,
    mode: str,
    order: tuple[str, tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(recurrent.MODES, mode, order)
    path = cases.ROOT / "tiny" / folder
    assert (
        cases.difference(
            cases.run(cases.read(path).model, cases.inputs(path)), cases.outputs(path)
        )
        > 0.01
    )


def test_a_gamma_that_is_not_fixed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunegraph.frontends.mxnet.operators import layers

    monkeypatch.setattr(layers, "_ones", lambda call, gamma: gamma)
    path = cases.ROOT / "tiny" / "resnet_v2_basic_tiny"
    assert (
        cases.difference(
            cases.run(cases.read(path).model, cases.inputs(path)), cases.outputs(path)
        )
        > 0.01
    )


def test_a_baked_batch_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two passes of one network are compared value by value."""

    def value(data: np.ndarray) -> Value:
        return Value("k", data.shape, data.dtype, data)

    assert conversion._same_value(value(np.array([1, 2])), value(np.array([1, 2])))
    assert not conversion._same_value(value(np.array([1, 2])), value(np.array([1, 3])))
    assert not conversion._same_value(value(np.array([1, 2])), None)
