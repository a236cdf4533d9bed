"""What is added has a name of its own, and what is redirected is redirected for every reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import prunegraph as pg
from prunegraph.coupling.analysis import analyze
from prunegraph.graph.model import Graph
from prunegraph.graph.names import Names
from prunegraph.graph.onnx_io import from_model
from prunegraph.rewriting.fold import fold
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.runtime.session import run, session
from tests.builders import Builder, residual_net
from tests.coupling.control_graphs import Inner, condition
from tests.coupling.control_networks import branching, finished, recurrent
from tests.oracle import prove
from tests.renaming import all_names, draw
from tests.training.binary.networks import plain_net

Array = np.ndarray


def in_runtime(model: onnx.ModelProto, x: Array) -> list[Array]:
    return run(session(from_model(model), fast=False), {"x": x})


def default_session(model: onnx.ModelProto, x: Array) -> list[Array]:
    """Outputs with all of ONNX Runtime's optimizations."""
    return run(session(from_model(model), fast=True), {"x": x})


def images(seed: int = 0, batch: int = 8, size: int = 8) -> Array:
    return (
        np.random.default_rng(seed)
        .standard_normal((batch, 3, size, size))
        .astype(np.float32)
    )


def half(graph: Graph, **options: object) -> Graph:
    return pg.prune(graph, budget=pg.Budget(ratio=0.5), round_to=1, **options).model


def sqnr(wanted: Array, result: Array) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((wanted - result) ** 2).sum()))


# -- two tensors that look alike --------------------------------------------------------------


def convolutions(biases: list[str], widths: list[int]) -> onnx.ModelProto:
    """Convolutions with ReLU in a row; equal names are one bias."""
    rng = np.random.default_rng(0)
    nodes, tensors, value, before = [], {}, "x", 3
    for index, (bias, width) in enumerate(zip(biases, widths, strict=True)):
        tensors[f"w{index}"] = rng.standard_normal((width, before, 1, 1)) * 0.3
        tensors.setdefault(bias, rng.standard_normal(width) * 0.3)
        nodes.append(
            helper.make_node(
                "Conv", [value, f"w{index}", bias], [f"a{index}"], name=f"conv{index}"
            )
        )
        nodes.append(helper.make_node("Relu", [f"a{index}"], [f"r{index}"]))
        value, before = f"r{index}", width
    tensors["last"] = rng.standard_normal((5, before, 1, 1))
    nodes.append(helper.make_node("Conv", [value, "last"], ["y"], name="last"))
    weights = [
        numpy_helper.from_array(array.astype(np.float32), name)
        for name, array in tensors.items()
    ]
    kinds = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", c, 8, 8])
        for n, c in (("x", 3), ("y", 5))
    ]
    graph = helper.make_graph(nodes, "g", kinds[:1], kinds[1:], weights)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


def masked(model: onnx.ModelProto, plan: pg.Plan) -> onnx.ModelProto:
    """The model with zeros for what the plan's weights lose of their inputs, by numpy alone.

    A channel that no weight reads is removed; this needs no word on who reads a shared bias.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        for cut in plan.cuts:
            if cut.weight == tensor.name and cut.axis == 1:
                values[:, list(cut.removed)] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy


@pytest.mark.parametrize(
    "biases",
    [
        ["b", "b", "b/2"],
        ["b", "b", "b", "b/2", "b/3"],
        ["b/2", "b", "b"],
        ["b/2", "b", "b", "b/2"],
    ],
)
def test_a_copy_of_a_shared_bias_takes_no_name_that_is_there(biases: list[str]) -> None:
    model = convolutions(biases, [16] * len(biases))
    result = pg.prune(from_model(model), budget=pg.Budget(ratio=0.5), round_to=1)
    wanted, match = (
        in_runtime(masked(model, result.plan), images())[0],
        in_runtime(result.model.model, images())[0],
    )
    np.testing.assert_allclose(match, wanted, atol=1e-4 * np.abs(wanted).max())


def test_pruned_again_with_layers_that_stayed_whole() -> None:
    graph = from_model(convolutions(["b", "b", "b"], [16] * 3))
    once = pg.prune(graph, budget=pg.Budget(ratio=0.5), round_to=1, keep=["conv0", "conv1"])
    twice = pg.prune(once.model, budget=pg.Budget(ratio=0.5), round_to=1)
    wanted = in_runtime(masked(once.model.model, twice.plan), images())[0]
    np.testing.assert_allclose(
        in_runtime(twice.model.model, images())[0], wanted, atol=1e-4 * np.abs(wanted).max()
    )


def heads() -> Graph:
    """A Reshape into two heads whose sizes are computed when the model runs."""
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, "h", "w"), 3, 16, 1))
    shape = b.op("Shape", x)
    rows, height = (
        b.op("Gather", shape, b.const([axis], np.int64), axis=0) for axis in (0, 2)
    )
    known = [b.const([size], np.int64) for size in (2, 16)]
    target = b.op("Concat", rows, *known, height, b.const([-1], np.int64), axis=0)
    y = b.op("Reshape", b.conv(x, 16, 32, 1), target)
    y = b.op("MatMul", b.op("ReduceMean", y, axes=[3, 4], keepdims=0), b.weight(16, 5))
    return b.graph(y)


def test_shape_arithmetic_is_set_right_again_and_again() -> None:
    graph = heads()
    for _ in range(3):
        result = pg.prune(graph, budget=pg.Budget(ratio=0.25), round_to=1)
        assert result.proof is not None and result.after.params < result.before.params
        graph = result.model


# -- any name that a rewrite might want -------------------------------------------------------


def shared() -> Graph:
    """One bias for all, values that are split and gathered, a channel shuffle, dynamic sizes."""
    b = Builder()
    x = b.input("n", 3, 8, 8)
    bias = b.weight(12)
    layers = [(3, 12), (12, 12), (12, 12)]
    for cin, cout in layers:
        x = b.relu(b.op("Conv", x, b.weight(cout, cin, 1, 1), bias))
    x = b.op("Reshape", x, b.const([0, 3, 4, 8, 8], np.int64))
    x = b.op("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = b.relu(
        b.bn(
            b.conv(
                b.op("Reshape", x, b.const([0, 12, 8, 8], np.int64)), 12, 12, bias=False
            ),
            12,
        )
    )
    b.op("Split", x, b.const([4, 8], np.int64), outputs=2, axis=1)
    first, second = b.nodes[-1].output
    x = b.op("Concat", second, b.conv(first, 4, 6), axis=1)
    return b.graph(b.head(b.relu(b.conv(x, 14, 10)), 10))


def subgraphs() -> Graph:
    """An If inside an If; both read values around them."""
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8, name="a"))
    which = condition(b, x)
    i, j, k, other = (Inner(b, number) for number in (1, 2, 3, 4))
    y = i.relu(i.conv(x, 8, 6, name="in1"))
    deep = j.body(j.conv(y, 6, 8, name="in2"))
    deeper = k.body(k.op("Add", k.conv(y, 6, 8, name="in3"), x))
    z = i.op("If", which, then_branch=deep, else_branch=deeper, name="inner")
    y = b.op(
        "If",
        which,
        then_branch=i.body(z),
        else_branch=other.body(other.op("Neg", x)),
        name="outer",
    )
    return b.graph(b.head(b.relu(b.conv(y, 8, 6, name="last")), 6))


def gated(graph: Graph) -> Graph:
    pytest.importorskip("torch", reason="the extra [torch] is not installed")
    from prunegraph.training.gates import GatedModule

    return GatedModule(graph).eval().folded()


def binary(graph: Graph, runtime: str = "integers") -> Graph:
    pytest.importorskip("torch", reason="the extra [torch] is not installed")
    from prunegraph.training.binary import lower, to_binary

    return lower(to_binary(graph, min_inputs=1)[0], runtime=runtime)  # type: ignore[arg-type]


def untied(graph: Graph) -> Graph:
    pytest.importorskip("torch", reason="the extra [torch] is not installed")
    from prunegraph.training.unshare import untied

    return untied(graph)


Data = dict[str, Array]

COMMANDS: dict[str, Callable[[Graph, Data], Graph]] = {
    "prune": lambda graph, data: half(graph),
    "refit": lambda graph, data: half(graph, data=data),
    "absorb": lambda graph, data: half(graph, data=data, repair="absorb:form=map"),
    "decompose": lambda graph, data: (
        pg.decompose(graph, rank="ratio:0.5", round_to=1, data=data).model
    ),
    "fold": lambda graph, data: fold(graph),
    "quantize": lambda graph, data: pg.quantize(graph, data).model,
    "weights": lambda graph, data: (
        pg.quantize(graph, weights="int8", activations="none").model
    ),
    "untie": lambda graph, data: untied(graph),
    "gates": lambda graph, data: gated(graph),
    "binary": lambda graph, data: binary(graph),
    "binary, packed": lambda graph, data: binary(graph, "packed"),
    "binary as floats": lambda graph, data: binary(graph, "float"),
}

NETS: dict[str, Callable[[], Graph]] = {
    "residual": residual_net,
    "plain": plain_net,
    "shared": shared,
    "heads": heads,
    "if": lambda: finished(branching()),
    "nested": subgraphs,
    "constant if": lambda: finished(branching(True)),
    "loop": lambda: finished(recurrent(scanned=True)),
}

#: What a command cannot do with a network.
NOT = {
    **{
        ("gates", name): pg.errors.DataError
        for name in ("heads", "if", "nested", "constant if", "loop")
    },
    ("absorb", "heads"): pg.errors.OptionError,
    **{
        (each, name): pg.errors.ModelError
        for each in ("binary", "binary, packed", "binary as floats")
        for name in ("nested", "loop")
    },
}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("command", COMMANDS)
def test_names_do_not_change_a_result(command: str, net: str) -> None:
    """Names that a command gives are there already, for something else: its result is the same function."""
    graph = NETS[net]()
    size = 6 if net in ("if", "constant if", "loop") else 8
    batch = 8
    x, data = images(2, batch, size), {"x": images(1, batch, size)}
    if (command, net) in NOT:
        with pytest.raises(NOT[command, net]):
            COMMANDS[command](graph, data)
        return
    result = COMMANDS[command](graph, data)
    wanted = in_runtime(result.model, x)
    added = sorted(all_names(result.model) - all_names(graph.model))
    for seed in range(3):
        model = draw(graph.model, added, np.random.default_rng(seed))
        for a, b in zip(
            wanted,
            in_runtime(COMMANDS[command](from_model(model), data).model, x),
            strict=True,
        ):
            np.testing.assert_allclose(b, a, atol=1e-5 * np.abs(a).max())


# -- weights and inputs that are outputs ------------------------------------------------------


#: Commands that change what is trained: see the test below.
TRAINED = ("untie", "gates", "binary", "binary, packed", "binary as floats")


def with_outputs(graph: Graph, names: Mapping[str, tuple[int, ...]]) -> Graph:
    """The graph with further outputs: weights or inputs that it has."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for name, shape in names.items():
        model.graph.output.append(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        )
    return from_model(model)


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in TRAINED])
def test_a_weight_or_input_that_is_an_output_keeps_its_value(
    command: str, vectors: bool
) -> None:
    plain = residual_net()
    names = {
        name: w.shape
        for name, w in plain.weights.items()
        if not vectors or len(w.shape) == 1
    }
    result = COMMANDS[command](
        with_outputs(plain, {**names, "x": ("n", 3, 8, 8)}), {"x": images(1, 16)}
    )
    assert result.outputs[1:] == (*names, "x")
    x = images(2)
    matches = in_runtime(result.model, x)
    for name, value in zip(names, matches[1:-1], strict=True):
        np.testing.assert_array_equal(value, plain.weights[name].read())
    np.testing.assert_array_equal(matches[-1], x)
    # The layers are as good as without further outputs.
    wanted = in_runtime(plain.model, x)[0]
    alone = in_runtime(COMMANDS[command](plain, {"x": images(1, 16)}).model, x)[0]
    assert np.abs(matches[0] - wanted).max() <= 2 * np.abs(alone - wanted).max() + 1e-5


def test_training_leaves_a_weight_that_is_an_output() -> None:
    torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")
    from prunegraph.training import GraphModule

    plain = residual_net()
    name = plain.main_weight(plain.node("block1")) or ""
    graph = with_outputs(plain, {name: plain.weights[name].shape})
    module = GraphModule(graph)
    layer = module.graph.node("block1")
    with torch.no_grad():
        module.weight(layer.inputs[1]).mul_(2)
    shown = module.eval()(x=torch.from_numpy(images()))[1].detach().numpy()
    np.testing.assert_array_equal(shown, plain.weights[name].read())
    result = module.write_back()
    matches = in_runtime(result.model, images())
    np.testing.assert_array_equal(matches[1], plain.weights[name].read())
    doubled = Rewriter(plain)
    doubled.set_weight(name, plain.weights[name].read() * 2)
    np.testing.assert_array_equal(
        matches[0], in_runtime(doubled.finish().model, images())[0]
    )


@pytest.mark.parametrize("held", ["initializer", "node"])
def test_weights_in_subgraphs_are_written_back(held: str) -> None:
    """Nested ones too; branches call theirs the same."""
    b = Builder()
    x = b.input("n", 3, 8, 8)
    i, j, k, other = (Inner(b, number) for number in (1, 2, 3, 4))

    def scaled(inner: Inner, value: str, factor: float) -> str:
        tensor = numpy_helper.from_array(np.float32(factor), "same")
        if held == "initializer":
            inner.tensors.append(tensor)
        else:
            inner.nodes.append(helper.make_node("Constant", [], ["same"], value=tensor))
        return inner.op("Mul", value, "same")

    deep = {"then_branch": i.body(scaled(i, x, 2)), "else_branch": j.body(scaled(j, x, 3))}
    y = k.op("If", condition(b, x), **deep)
    graph = b.graph(
        b.op(
            "If",
            condition(b, x),
            then_branch=k.body(y),
            else_branch=other.body(scaled(other, x, 5)),
        )
    )
    names = [name for name, weight in graph.weights.items() if "same" in name]
    assert len(names) == 3
    rewriter = Rewriter(graph)
    for name in names:
        rewriter.set_weight(name, 2 * graph.weights[name].read())
    result = rewriter.finish(swept=False)
    for sign in (1, -1):
        given = np.abs(images()) * sign
        np.testing.assert_array_equal(
            in_runtime(result.model, given)[0], 2 * in_runtime(graph.model, given)[0]
        )


# -- subgraphs that read what is replaced --------------------------------------------------------


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
@pytest.mark.parametrize("deep", [False, True])
def test_subgraphs_read_the_activation_that_a_quantized_layer_absorbs(
    activation: str, deep: bool
) -> None:
    b = Builder()
    bounds = (
        [b.const(value, np.float32) for value in (0.0, 6.0)] if activation == "Clip" else []
    )
    act = b.op(activation, b.conv(b.input("n", 3, 8, 8), 3, 16), *bounds)
    i, j = Inner(b, 1), Inner(b, 2)
    yes, no = i.op("GlobalMaxPool", act), j.op("GlobalAveragePool", act)
    which = condition(b, "x")
    branches = {"then_branch": i.body(yes), "else_branch": j.body(no)}
    if deep:
        outer, other = Inner(b, 3), Inner(b, 4)
        inside = outer.op("If", which, **branches)
        branches = {
            "then_branch": outer.body(inside),
            "else_branch": other.body(other.op("GlobalAveragePool", act)),
        }
    pooled = b.conv(b.op("If", which, **branches), 16, 12, 1)
    y = b.op("Add", b.conv(act, 16, 12, 1), pooled)
    graph = b.graph(b.conv(y, 12, 4, 1))
    x = images(1, 16)
    result = pg.quantize(graph, {"x": x}).model
    assert not any(node.op == activation for node in result.nodes)
    assert sqnr(in_runtime(graph.model, x)[0], in_runtime(result.model, x)[0]) > 25


@pytest.mark.parametrize(
    "moved", ["Reshape", "Transpose", "Slice", "MaxPool", "Squeeze", "Unsqueeze"]
)
def test_quantized_values_that_are_moved_into_a_subgraph(moved: str) -> None:
    """ONNX Runtime ends the process where it moves a DequantizeLinear behind what a subgraph reads."""
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 16))
    inputs = {
        "Reshape": [[0, -1, 4]],
        "Slice": [[0], [8], [1]],
        "Squeeze": [[]],
        "Unsqueeze": [[1]],
    }.get(moved, [])
    given = {"Transpose": {"perm": [0, 2, 1, 3]}, "MaxPool": {"kernel_shape": [2, 2]}}.get(
        moved, {}
    )
    y = b.op(moved, x, *(b.const(value, np.int64) for value in inputs), **given)
    i, j = Inner(b, 1), Inner(b, 2)
    z = b.op(
        "If",
        condition(b, "x"),
        then_branch=i.body(i.op("Neg", y)),
        else_branch=j.body(j.op("Abs", y)),
    )
    graph = b.graph(
        b.linear(b.op("ReduceMean", b.op("Flatten", z), axes=[1], keepdims=1), 1, 5)
    )
    result = pg.quantize(graph, {"x": images(1, 16)}).model
    assert (
        sqnr(
            in_runtime(graph.model, images(1, 16))[0],
            default_session(result.model, images(1, 16))[0],
        )
        > 15
    )


def test_a_subgraph_that_hides_a_value_keeps_its_own() -> None:
    """The branch has a value of its own called as the activation around it."""
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 16))
    i, j = Inner(b, 1), Inner(b, 2)
    model = b.graph(
        b.head(
            b.conv(
                b.op(
                    "If",
                    condition(b, "x"),
                    then_branch=i.body(i.op("Neg", x)),
                    else_branch=j.body(j.op("Abs", x)),
                ),
                16,
                8,
            ),
            8,
        )
    ).model
    rewriter = Rewriter(from_model(model))
    rewriter.insert_after(
        rewriter.graph.nodes[rewriter.graph.producer[x]],
        helper.make_node("Abs", [x], ["fresh"]),
    )
    rewriter.redirect(x, "fresh")
    result = rewriter.finish().model
    branches = [
        a.g
        for node in result.graph.node
        for a in node.attribute
        if a.type == onnx.AttributeProto.GRAPH
    ]
    assert [list(g.node[0].input) for g in branches] == [["fresh"]] * 2
    # The same where the then-branch makes a value of that name: what it reads is its own.
    hiding = onnx.GraphProto()
    hiding.CopyFrom(branches[0])
    hiding.node[0].input[0] = "x"
    hiding.node[0].output[0] = x
    hiding.node.append(helper.make_node("Neg", [x], [hiding.output[0].name]))
    for node in model.graph.node:
        if node.op_type == "If":
            node.attribute[0].g.CopyFrom(hiding)
    rewriter = Rewriter(Graph(model))
    rewriter.redirect(x, "fresh")
    rewriter.insert_after(
        rewriter.graph.nodes[rewriter.graph.producer[x]],
        helper.make_node("Abs", [x], ["fresh"]),
    )
    result = rewriter.finish().model
    branches = [
        a.g
        for node in result.graph.node
        for a in node.attribute
        if a.type == onnx.AttributeProto.GRAPH
    ]
    assert [list(g.node[-1].input) for g in branches] == [[x], ["fresh"]]


# -- the rewriter -----------------------------------------------------------------------------


def test_names_are_fresh_against_all_that_a_file_names() -> None:
    b = branching()
    graph = finished(b)
    graph.model.graph.value_info.append(
        helper.make_tensor_value_info("declared", onnx.TensorProto.FLOAT, None)
    )
    names = Names(graph)
    taken = {
        *all_names(graph.model),
        "declared",
        *graph.producer,
        *(node.name for node in graph.nodes),
    }
    assert not taken & {names.new(name) for name in taken}
    assert len({names.new("a/b") for _ in range(5)}) == 5


def test_a_value_that_is_taken_over_keeps_its_readers_and_outputs() -> None:
    graph = residual_net()
    rewriter = Rewriter(graph)
    node = graph.node("head")
    plain = rewriter.take_over(graph.outputs[0], "plain")
    rewriter.insert_after(node, helper.make_node("Neg", [plain], [graph.outputs[0]]))
    result = rewriter.finish()
    assert result.outputs == graph.outputs
    np.testing.assert_array_equal(
        in_runtime(result.model, images())[0], -in_runtime(graph.model, images())[0]
    )


@pytest.mark.parametrize(
    "command", ["prune", "refit", "absorb", "decompose", "fold", "untie"]
)
def test_added_weights_are_declared_in_old_files(command: str) -> None:
    """Before IR version 4 an initializer has to be an input too."""
    b = Builder(opset=8, ir_version=3)
    x = b.relu(b.bn(b.conv(b.input(1, 3, 8, 8), 3, 8, bias=False, name="a"), 8))
    shared = b.weight(8)
    for name in ("b", "c"):
        x = b.relu(b.op("Conv", x, b.weight(8, 8, 1, 1), shared, name=name))
    model = b.model(b.head(x, 8))
    output = model.graph.output[0]
    output.CopyFrom(
        helper.make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, [1, 5])
    )
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        for t in model.graph.initializer
    )
    result = COMMANDS[command](from_model(model), {"x": images(1, 1)}).model
    assert {t.name for t in result.graph.initializer} <= {
        entry.name for entry in result.graph.input
    }
    onnx.checker.check_model(result)


def test_analysis_of_a_result_is_that_of_the_file() -> None:
    """Pruning twice in a row, each time half of every group."""
    graph = shared()
    for _ in range(2):
        graph, _ = prove(graph)
    assert analyze(graph).groups
