"""The proof notices what is wrong, and is not fooled by outputs that say nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import prunegraph as pg
from prunegraph.cli import main
from prunegraph.errors import ExactnessError, ModelError
from prunegraph.graph.onnx_io import from_model
from prunegraph.ops import rule as rules
from prunegraph.ops.pattern import by_pattern
from prunegraph.proof import verify
from prunegraph.proof.models import Models
from tests.builders import Builder, residual_net
from tests.oracle import prove, random_plan


def spoiled(graph: pg.Graph, change: Callable[[onnx.ModelProto], None]) -> pg.Graph:
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    change(model)
    return from_model(model)


def test_a_wrong_weight_fails_and_is_located() -> None:
    graph = residual_net()
    plan = random_plan(pg.analyze(graph))
    pruned = pg.apply(graph, plan)

    def change(model: onnx.ModelProto) -> None:
        name = next(n.input[1] for n in model.graph.node if n.name == "block1")
        for tensor in model.graph.initializer:
            if tensor.name == name:
                values = onnx.numpy_helper.to_array(tensor).copy()
                values[0] *= 1.5
                tensor.raw_data = values.tobytes()

    with pytest.raises(ExactnessError, match="first node that differs is 'block1'"):
        pg.verify(graph, plan, spoiled(pruned, change))


def test_the_original_is_not_its_own_pruning() -> None:
    graph = residual_net()
    plan = random_plan(pg.analyze(graph))
    with pytest.raises(ExactnessError):
        pg.verify(graph, plan, graph)


def test_outputs_that_do_not_react_are_not_a_proof() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 8, 8), 3, 8, name="a")
    y = b.conv(b.relu(x), 8, 8, name="b")
    score = b.op("ReduceMax", y, axes=[1, 2, 3], keepdims=0)
    graph = b.graph(b.op("Cast", b.op("Greater", score, b.const(1e6, np.float32)), to=1))
    plan = random_plan(pg.analyze(graph))
    pruned = pg.apply(graph, plan)
    proof = pg.verify(graph, plan, pruned)
    assert "1 of 1 outputs are empty, saturated or do not react" in str(proof)
    assert "b.out" in [d.name for d in proof.differences]

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].raw_data = bytes(
            len(model.graph.initializer[0].raw_data)
        )

    with pytest.raises(ExactnessError):
        pg.verify(graph, plan, spoiled(pruned, change))


def steep() -> pg.Graph:
    """Half of the places that a Sigmoid reads are 0, the others around a thousand million."""
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8, name="a"))
    half = np.zeros((1, 1, 8, 8), np.float32)
    half[..., :4] = 1e9
    read = b.op("Mul", b.conv(x, 8, 8, name="b", bias=False), b.const(half), name="read")
    return b.graph(b.op("Sigmoid", read, name="steep"))


def shifted(by: float) -> Callable[[onnx.ModelProto], None]:
    """Add a number to what the Sigmoid reads."""

    def change(model: onnx.ModelProto) -> None:
        nodes = model.graph.node
        index = next(i for i, node in enumerate(nodes) if node.name == "read")
        nodes[index].output[0] = "read.before"
        value = onnx.numpy_helper.from_array(np.float32(by), "by")
        model.graph.initializer.append(value)
        added = onnx.helper.make_node("Add", ["read.before", "by"], ["read.out"], "shift")
        nodes.insert(index + 1, added)

    return change


def test_what_turns_with_rounding_is_judged_by_what_its_activation_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rounding of thousands turns a Sigmoid from one end to the other: here a shift by less than the proof allows."""
    graph = steep()
    plan = random_plan(pg.analyze(graph))
    pruned = pg.apply(graph, plan)
    # In a default session the original does not turn, as it has not been shifted.
    monkeypatch.setattr(verify._Comparison, "_check_default", lambda self, expected: None)
    proof = pg.verify(graph, plan, spoiled(pruned, shifted(300.0)))
    assert "1 of 1 outputs turn with the rounding" in str(proof)
    assert {"read.out", "b.out"} <= {d.name for d in proof.differences}
    for more_than_rounding in (1e6, 1e5):
        with pytest.raises(ExactnessError):
            pg.verify(graph, plan, spoiled(pruned, shifted(more_than_rounding)))


def test_another_activation_is_no_rounding() -> None:
    graph = steep()
    plan = random_plan(pg.analyze(graph))

    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.name == "steep")
        node.op_type = "HardSigmoid"
        node.attribute.append(onnx.helper.make_attribute("beta", 0.25))

    with pytest.raises(ExactnessError):
        pg.verify(graph, plan, spoiled(pg.apply(graph, plan), change))


def test_a_model_that_takes_batch_one_only() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 8, 8), 3, 8, name="a")
    y = b.op("Reshape", b.op("GlobalAveragePool", b.relu(x)), b.const([1, 8], np.int64))
    graph = b.graph(b.linear(y, 8, 3))
    _, proof = prove(graph)
    assert "batch 1" in str(proof)


def test_user_data_is_compared_too() -> None:
    graph = residual_net()
    plan = random_plan(pg.analyze(graph))
    pruned = pg.apply(graph, plan)
    proof = pg.verify(graph, plan, pruned, data=[{"x": np.ones((3, 3, 8, 8), np.float32)}])
    assert proof.runs == 4


# -- sabotage: a broken engine must not pass ----------------------------------------------


def two_graphs() -> list[pg.Graph]:
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 12, name="a"))
    y = b.op("Concat", x, b.conv(x, 12, 4, group=4, name="grouped"), axis=1)
    split = b.const([6, 10], np.int64)
    b.op("Split", y, split, outputs=2, axis=1)
    parts = list(b.nodes[-1].output)
    z = b.op("Concat", b.relu(parts[1]), parts[0], axis=1)
    z = b.op(
        "Reshape",
        b.op("Reshape", z, b.const([0, 16, 64], np.int64)),
        b.const([0, 16, 8, 8], np.int64),
    )
    return [residual_net(), b.graph(b.head(b.conv(z, 16, 8), 8))]


def fails(graphs: list[pg.Graph]) -> bool:
    """Whether pruning some of the graphs does not get through."""
    for graph in graphs:
        try:
            prove(pg.load(graph.model))
        except (ExactnessError, ModelError, AssertionError, IndexError, ValueError):
            return True
    return False


def test_sound_rules_pass() -> None:
    assert not fails(two_graphs())


LOST_TIES = {
    "Conv": "n (g i) *s, (g o) j *k, (g p)? -> n (g o) *s'",
    "BatchNormalization": "n c ..., d, d, e, e -> n c ...",
}


@pytest.mark.parametrize("op", LOST_TIES)
def test_dropping_one_tie_of_a_pattern_fails(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = rules._RULES["", op][0]
    attributes = {"group": "g"} if op == "Conv" else {}
    careless = replace(
        entry,
        propagate=by_pattern(LOST_TIES[op], layer=op == "Conv", attributes=attributes),
    )
    monkeypatch.setitem(rules._RULES, ("", op), [careless])
    assert fails(two_graphs())


@pytest.mark.parametrize("op", ["Split", "Reshape"])
def test_skipping_one_repair_fails(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = rules._RULES["", op]
    monkeypatch.setitem(
        rules._RULES, ("", op), [replace(entry, fix_up=None) for entry in entries]
    )
    assert fails(two_graphs())


def test_a_wrong_rule_costs_its_groups_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that calls channels equal to their mirror image: the groups it touches stay whole, the rest is proved."""

    def mirrored(site: rules.Site) -> None:
        n, c, *space = site.labels(0)
        site.set_output([n, c.take(slice(None, None, -1)), *space])

    monkeypatch.setitem(rules._RULES, ("", "Elu"), [rules.Rule(mirrored)])
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8, name="good"))
    x = b.op("Elu", b.conv(x, 8, 8, name="touched"))
    x = b.relu(b.conv(x, 8, 8, name="fine"))
    result = pg.prune(b.graph(b.head(x, 8)), budget=pg.Budget(ratio=0.5), round_to=1)
    groups = {group.id: group.layers for group in result.coupling.groups}
    assert [groups[g] for g in result.left_out] == [("touched",)]
    assert result.proof is not None
    widths = [
        result.model.node(name).channels.outputs for name in ("good", "touched", "fine")
    ]
    assert widths == [4, 8, 4]


def test_dropping_the_tie_of_a_rule_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add no longer ties its operands: the residual branch may be cut apart."""

    def careless(site: rules.Site) -> None:
        site.labels(1)
        site.set_output(site.labels(0))

    monkeypatch.setitem(rules._RULES, ("", "Add"), [rules.Rule(careless)])
    assert fails([residual_net()])


# -- whose fault it is ---------------------------------------------------------------------


def embedding_net() -> pg.Graph:
    """A table of two rows, read 6 rows on: only 6 and 7 (and 4 and 5, from the end) are right."""
    b = Builder()
    b.input("n", name="x", kind=onnx.TensorProto.INT64)
    x = b.op("Gather", b.weight(2, 6), b.op("Sub", "x", b.const(6, np.int64)))
    return b.graph(
        b.op("MatMul", b.relu(b.op("MatMul", x, b.weight(6, 8))), b.weight(8, 3))
    )


def test_an_original_that_does_not_run_on_random_inputs_is_named_as_that() -> None:
    graph = embedding_net()
    plan = random_plan(pg.analyze(graph))
    pruned = pg.apply(graph, plan)
    with pytest.raises(
        ModelError, match=r"^model: the original does not run on random inputs; .*--data"
    ):
        pg.verify(graph, plan, pruned)
    with pytest.raises(ModelError, match="the original does not run") as caught:
        pg.prune(graph, budget=pg.Budget(ratio=0.5), round_to=1)
    assert "report" not in str(caught.value)


@pytest.mark.parametrize("positions", [8, 16, 50, 64])
def test_an_original_with_a_table_of_few_positions_runs_on_short_inputs(
    positions: int,
) -> None:
    b = Builder()
    length = b.op("Gather", b.op("Shape", b.input("n", "length", 6)), b.const(1, np.int64))
    places = b.op("Range", b.const(0, np.int64), length, b.const(1, np.int64))
    x = b.op("Add", "x", b.op("Gather", b.weight(positions, 6), places))
    graph = b.graph(
        b.op("MatMul", b.relu(b.op("MatMul", x, b.weight(6, 8))), b.weight(8, 3))
    )
    plan = random_plan(pg.analyze(graph))
    pruned = pg.apply(graph, plan)
    assert pg.verify(graph, plan, pruned).runs == 3
    with pytest.raises(ExactnessError):
        pg.verify(graph, plan, spoiled(pruned, negated))


def test_given_data_are_enough_where_random_inputs_are_not() -> None:
    graph = embedding_net()
    plan = random_plan(pg.analyze(graph))
    data = [{"x": np.asarray([6, 7, 7])}]
    proof = pg.verify(graph, plan, pg.apply(graph, plan), data=data)
    assert proof.runs == 1 and "the given data alone" in str(proof)
    with pytest.raises(ExactnessError):
        pg.verify(graph, plan, spoiled(pg.apply(graph, plan), negated), data=data)


def negated(model: onnx.ModelProto) -> None:
    values = onnx.numpy_helper.to_array(model.graph.initializer[-1])
    model.graph.initializer[-1].raw_data = (-values).tobytes()


def test_an_original_that_the_runtime_does_not_load_is_named_as_that() -> None:
    b = Builder()
    model = b.graph(b.conv(b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8)), 8, 4)).model
    model.graph.node.append(
        onnx.helper.make_node("Mine", ["x"], ["own"], domain="com.example")
    )
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("own", onnx.TensorProto.FLOAT, None)
    )
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    graph = pg.load(model)
    plan = random_plan(pg.analyze(graph))
    with pytest.raises(
        ModelError, match=r"model: ONNX Runtime cannot load it.*nothing can be proved"
    ):
        pg.verify(graph, plan, pg.apply(graph, plan))


def test_an_original_that_is_random_is_named_as_that() -> None:
    b = Builder()
    x = b.op("ReduceMean", b.conv(b.input("n", 3, 8, 8), 3, 8), axes=[1], keepdims=1)
    graph = b.graph(b.op("Mul", x, b.op("RandomNormalLike", x, name="noise")))
    plan = random_plan(pg.analyze(graph))
    with pytest.raises(
        ModelError,
        match=r"gives other results each time it runs \(node 'noise', RandomNormalLike\)",
    ):
        pg.verify(graph, plan, pg.apply(graph, plan))


def test_a_pruned_graph_that_alone_does_not_run_is_wrong() -> None:
    graph = residual_net()
    plan = random_plan(pg.analyze(graph))

    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), tensor.name)
        )

    with pytest.raises(ExactnessError, match="does not run where the masked original does"):
        pg.verify(graph, plan, spoiled(pg.apply(graph, plan), change))


def test_a_cut_that_does_not_fit_costs_its_groups_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Split without its repair: shapes do not fit, and what has nothing to do with it is pruned all the same."""
    entries = rules._RULES["", "Split"]
    monkeypatch.setitem(
        rules._RULES, ("", "Split"), [replace(entry, fix_up=None) for entry in entries]
    )
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8, name="good"))
    b.op(
        "Split",
        b.conv(x, 8, 8, name="touched"),
        b.const([4, 4], np.int64),
        outputs=2,
        axis=1,
    )
    one, two = b.nodes[-1].output
    y = b.relu(b.op("Concat", two, b.conv(one, 4, 4, name="more"), axis=1))
    result = pg.prune(b.graph(b.head(y, 8)), budget=pg.Budget(ratio=0.5), round_to=1)
    assert result.left_out and "A rule is wrong" in result.blame
    assert result.model.node("good").channels.outputs == 4


# -- sessions ------------------------------------------------------------------------------


def test_the_result_does_not_depend_on_which_graph_an_optimizer_rewrites() -> None:
    """Integers in, a float bias: ONNX Runtime rounds it where it recognises the layer, in one graph or in both."""
    b = Builder()
    x = b.input("n", 3, 8, 8)
    for cin, cout in ((3, 8), (8, 8), (8, 4)):
        x = quantized_conv(b, x, cin, cout)
    graph = b.graph(x)
    for seed in range(3):
        result = pg.prune(
            graph, budget=pg.Budget(ratio=0.5), round_to=1, algorithm="random", seed=seed
        )
        assert not result.left_out and result.proof is not None
        assert result.proof.relative < 1e-4


def quantized_conv(b: Builder, x: str, cin: int, cout: int) -> str:
    scale, zero = b.const(0.05, np.float32), b.const(128, np.uint8)
    x = b.op("DequantizeLinear", b.op("QuantizeLinear", x, scale, zero), scale, zero)
    weight = b.const(b.rng.integers(-127, 128, (cout, cin, 3, 3)), np.int8)
    scales, zeros = (
        b.const(b.rng.uniform(0.002, 0.01, cout), np.float32),
        b.const(np.zeros(cout), np.int8),
    )
    weight = b.op("DequantizeLinear", weight, scales, zeros, axis=0)
    return b.relu(b.op("Conv", x, weight, b.weight(cout), pads=[1, 1, 1, 1]))


def test_a_graph_that_only_optimizations_break_is_not_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = residual_net()
    plan = random_plan(pg.analyze(graph))
    pruned = pg.apply(graph, plan)
    opened = Models.open

    def broken(self: Models, path: Path, level: str | None = None) -> object:
        """A default session of the pruned graph that runs another graph."""
        if level == "default" and "pruned" in path.stem:
            path.with_name("other.onnx").write_bytes(
                spoiled(pruned, negated).model.SerializeToString()
            )
            path = path.with_name("other.onnx")
        return opened(self, path, level)

    monkeypatch.setattr(Models, "open", broken)
    with pytest.raises(
        ExactnessError, match="an optimization of ONNX Runtime changes"
    ) as caught:
        pg.verify(graph, plan, pruned)
    assert "optimizations break" in caught.value.blame


def test_a_weight_that_no_output_shows_is_compared_all_the_same() -> None:
    """Behind a Relu that is zero everywhere, a wrong weight changes nothing; it is wrong all the same."""
    b = Builder()
    x = b.op(
        "Conv",
        b.input("n", 3, 4, 4),
        b.weight(8, 3, 1, 1),
        b.const(np.full(8, -1e6), np.float32),
    )
    graph = b.graph(b.conv(b.relu(x), 8, 4))
    plan = random_plan(pg.analyze(graph))

    def change(model: onnx.ModelProto) -> None:
        name = model.graph.node[0].input[1]
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.raw_data = (onnx.numpy_helper.to_array(tensor) * 1.01).tobytes()

    with pytest.raises(ExactnessError):
        pg.verify(graph, plan, spoiled(pg.apply(graph, plan), change))


def test_the_command_takes_data(tmp_path: Path) -> None:
    graph = embedding_net()
    pg.save(graph, tmp_path / "m.onnx", verify=False)
    graph = pg.load(tmp_path / "m.onnx")
    plan = random_plan(pg.analyze(graph))
    plan.save(tmp_path / "plan.json")
    pg.save(pg.apply(graph, plan), tmp_path / "y.onnx", verify=False)
    np.savez(tmp_path / "d.npz", x=np.asarray([6, 7, 7]))
    files = [str(tmp_path / name) for name in ("m.onnx", "plan.json", "y.onnx")]
    refused = CliRunner().invoke(main, ["verify", *files])
    assert refused.exit_code == 2 and "--data" in refused.stderr
    done = CliRunner().invoke(main, ["verify", *files, "--data", str(tmp_path / "d.npz")])
    assert done.exit_code == 0, done.stderr


def test_equal_scores_may_be_decided_otherwise_by_a_default_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every score is there twice; rounding in one of the sessions lets the other copy win."""
    b = Builder()
    x = b.conv(b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8)), 8, 1)
    scores = b.op("Reshape", x, b.const([0, 64], np.int64))
    scores = b.op(
        "Concat", scores, b.op("Mul", scores, b.const(np.ones((1, 1)), np.float32)), axis=1
    )
    factor = b.nodes[-2].input[1]
    b.op("TopK", scores, b.const([1], np.int64), outputs=2, axis=1)
    graph = b.graph(b.op("Cast", b.nodes[-1].output[1], to=onnx.TensorProto.FLOAT))
    plan = random_plan(pg.analyze(graph))
    opened = Models.open

    def rounded(self: Models, path: Path, level: str | None = None) -> object:
        if level == "default" and "pruned" in path.stem:
            model = onnx.load(path)
            (tensor,) = (t for t in model.graph.initializer if t.name == factor)
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.full((1, 1), 1 + 1e-6, np.float32), factor)
            )
            path = path.with_name("rounded.onnx")
            onnx.save(model, path)
        return opened(self, path, level)

    monkeypatch.setattr(Models, "open", rounded)
    assert "decide alike" in str(pg.verify(graph, plan, pg.apply(graph, plan)))


@pytest.mark.parametrize("name", ["query", "key"])
def test_scores_too_small_to_see_are_no_excuse_for_a_wrong_weight(name: str) -> None:
    """Small weights make a softmax all but uniform: the outputs hardly show which channels of queries and keys stay."""
    b = Builder()
    x = b.input("n", 6, 8)
    q, k, v = (
        b.op("MatMul", x, b.weight(8, 8, scale=scale)) for scale in (0.0005, 0.0005, 1.0)
    )
    weights = dict(zip(("query", "key"), (node.input[1] for node in b.nodes), strict=False))
    scores = b.op(
        "Softmax", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 2, 1])), axis=-1
    )
    graph = b.graph(b.op("MatMul", b.op("MatMul", scores, v), b.weight(8, 3)))
    plan = random_plan(pg.analyze(graph))
    assert any(cut.weight == weights[name] for cut in plan.cuts)

    def change(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == weights[name])
        tensor.raw_data = np.roll(onnx.numpy_helper.to_array(tensor), 1, 1).tobytes()

    with pytest.raises(ExactnessError, match="wrong weight"):
        pg.verify(graph, plan, spoiled(pg.apply(graph, plan), change))


def test_a_file_with_other_names_is_compared_by_its_outputs(tmp_path: Path) -> None:
    graph = residual_net()
    plan = random_plan(pg.analyze(graph))
    pruned = pg.apply(graph, plan)
    pg.save(pruned, tmp_path / "compact.onnx", compact=True)
    assert pg.verify(graph, plan, pg.load(tmp_path / "compact.onnx")).relative < 1e-4


# -- rounding ------------------------------------------------------------------------------


def rounding(b: Builder) -> tuple[pg.Graph, str, str]:
    """Two layers with integers between them; the names of the factor before the rounding, and of its step."""
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8))
    x = b.op("Mul", x, b.const(np.float32(1), np.float32))
    factor = b.nodes[-1].input[1]
    step, zero = b.const(0.03, np.float32), b.const(0, np.uint8)
    x = b.op("QuantizeLinear", x, step, zero)
    x = b.op("DequantizeLinear", x, b.const(0.03, np.float32), zero)
    return b.graph(b.conv(x, 8, 4)), factor, step


def with_scalar(
    monkeypatch: pytest.MonkeyPatch, which: str, name: str, value: float
) -> None:
    """Let a model of the proof have another value in a weight of one element."""
    opened = Models.open

    def changed(self: Models, path: Path, level: str | None = None) -> object:
        if which in path.stem:
            model = onnx.load(path)
            (tensor,) = (t for t in model.graph.initializer if t.name == name)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(value), name))
            path = path.with_name(f"changed_{path.name}")
            onnx.save(model, path)
        return opened(self, path, level)

    monkeypatch.setattr(Models, "open", changed)


def test_a_value_between_two_codes_may_fall_on_either_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, factor, _ = rounding(Builder())
    plan = random_plan(pg.analyze(graph))
    assert plan.remove
    with_scalar(monkeypatch, "pruned", factor, 1 + 5e-5)
    proof = pg.verify(graph, plan, pg.apply(graph, plan))
    assert proof.relative < 1e-4 and "round alike" in str(proof)


def test_codes_that_flip_are_no_excuse_for_what_is_rounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, factor, _ = rounding(Builder())
    plan = random_plan(pg.analyze(graph))
    with_scalar(monkeypatch, "pruned", factor, 1.001)
    with pytest.raises(ExactnessError, match="differs from the masked original"):
        pg.verify(graph, plan, pg.apply(graph, plan))


def test_codes_that_flip_are_no_excuse_for_another_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing behind the rounding shows its step where both graphs are given the same codes."""
    graph, _, step = rounding(Builder())
    plan = random_plan(pg.analyze(graph))
    with_scalar(monkeypatch, "pruned", step, 0.04)
    with pytest.raises(ExactnessError, match="differs from the masked original"):
        pg.verify(graph, plan, pg.apply(graph, plan))
