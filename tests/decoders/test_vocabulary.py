"""Smaller vocabularies: what is left of the tokens is what the original says of them, however ids are read."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from fixtures.light_models import load
from prunegraph import api
from prunegraph.decoders import vocabulary
from prunegraph.decoders.vocabulary import read_ids, shrink
from prunegraph.errors import (
    BudgetError,
    DataError,
    ExactnessError,
    ModelError,
    OptionError,
    PlanError,
)
from prunegraph.graph.model import Graph
from prunegraph.rewriting.vocabulary import Vocabulary, shrink_vocabulary
from prunegraph.runtime.session import run, session
from tests.builders import Builder
from tests.commands import check_refused, cli, files
from tests.ops.networks import MS
from tests.paths import ROOT

TOKENS, STREAM = 20, 6

#: How ids are read besides as rows of the table.
READERS = ("nothing", "equal", "maximum", "start", "clip")


def language_model(
    reader: str = "nothing", head: str = "tied", kind: int = onnx.TensorProto.INT64
) -> Graph:
    """Tokens in, scores of tokens out; something else about the ids may count, too."""
    b = Builder(opset=18)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    ids = b.input("batch", "length", name="ids", kind=kind)
    table = b.weight(TOKENS, STREAM)
    looked_up = ids
    if reader == "start":  # shifted right, behind the token that decoding begins with
        first = b.op(
            "Mul",
            b.op("Slice", ids, b.const([0]), b.const([1]), b.const([1])),
            b.const(0, dtype),
        )
        rest = b.op("Slice", ids, b.const([0]), b.const([-1]), b.const([1]))
        looked_up = b.op("Concat", b.op("Add", first, b.const(3, dtype)), rest, axis=1)
    elif reader == "clip":
        looked_up = b.op("Max", ids, b.const(4, dtype))
    x = b.op("Gather", table, looked_up)
    if reader == "equal":  # padding is a token
        mask = b.op("Cast", b.op("Equal", ids, b.const(5, dtype)), to=1)
        x = b.op("Add", x, b.op("Unsqueeze", mask, b.const([2])))
    elif reader == "maximum":
        last = b.op("ReduceMax", ids, b.const([1]), keepdims=1)
        x = b.op("Mul", x, b.op("Unsqueeze", b.op("Cast", last, to=1), b.const([2])))
    x = b.op("Relu", b.op("MatMul", x, b.weight(STREAM, STREAM)))
    if head == "tied":
        scores = b.op("MatMul", x, b.op("Transpose", table, perm=[1, 0]))
    else:
        scores = b.op("MatMul", x, b.weight(STREAM, TOKENS))
        scores = b.op("Add", scores, b.weight(TOKENS))
    if head == "capped":
        scores = b.op(
            "Mul",
            b.op("Tanh", b.op("Div", scores, b.const(3, np.float32))),
            b.const(3, np.float32),
        )
    return pg.load(b.model(scores))


@settings(max_examples=40, deadline=None)
@given(
    keep=st.sets(st.integers(0, TOKENS - 1), min_size=1).map(lambda ids: ids | {3, 4, 5}),
    reader=st.sampled_from(READERS),
    head=st.sampled_from(["tied", "own", "capped"]),
    kind=st.sampled_from([onnx.TensorProto.INT64, onnx.TensorProto.INT32]),
    old_ids=st.booleans(),
    seed=st.integers(0, 99),
)
def test_kept_tokens_have_the_scores_of_the_original(
    keep, reader, head, kind, old_ids, seed
):
    """Held against the original's own outputs, and proved."""
    graph = language_model(reader, head, kind)
    result, proof = shrink(graph, sorted(keep), old_ids=old_ids, seed=seed)
    assert (proof is None) == (len(keep) == TOKENS)
    kept = np.asarray(result.kept)
    new = np.random.default_rng(seed).integers(0, len(kept), (3, 4))
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    [before] = run(session(graph), {"ids": kept[new].astype(dtype)})
    [after] = run(
        session(result.model), {"ids": (kept[new] if old_ids else new).astype(dtype)}
    )
    np.testing.assert_allclose(
        after, before[..., kept], rtol=0, atol=1e-5 * abs(before).max()
    )
    table = result.model.weights[result.table]
    assert table.shape == (len(kept), STREAM)


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "fixtures/zoo_transformers").iterdir()),
    ids=lambda p: p.name[4:-9],
)
@pytest.mark.parametrize("old_ids", [False, True])
def test_exported_models(path, old_ids):
    graph = pg.load(load(path))
    keep = np.unique([0, *np.random.default_rng(0).permutation(99)[:40]])
    result, proof = shrink(graph, keep, old_ids=old_ids)
    assert result.size == 99 and proof is not None and proof.relative <= 1e-4
    assert result.model.weights[result.table].shape[0] == len(keep)
    has_scores = any(kind in path.name for kind in ("bert", "clip"))
    assert len(result.outputs) == (0 if has_scores else 1)


def in_blocks(shared: bool, bits: int = 4) -> Graph:
    """A model whose table and head are quantized in blocks, as ONNX Runtime's builder of such models writes them."""
    hidden, block, tokens = 32, 16, 24
    b = Builder(opset=21, ir_version=10)
    ids = b.input("batch", "length", name="ids", kind=onnx.TensorProto.INT64)
    size = [hidden // block, block * bits // 8]
    codes = b.const(b.rng.integers(0, 256, (tokens, *size)), np.uint8)
    scales = b.const(b.rng.uniform(0.01, 0.1, (tokens, hidden // block)), np.float32)
    table = b.op("Reshape", codes, b.const([tokens, -1]), name="table")
    if not shared:
        table = b.const(b.rng.integers(0, 256, (tokens, hidden * bits // 8)), np.uint8)
    given = {"bits": bits, "block_size": block}
    x = b.op(
        "GatherBlockQuantized",
        table,
        ids,
        scales,
        domain="com.microsoft",
        quantize_axis=1,
        gather_axis=0,
        **given,
    )
    x = b.op("Relu", b.op("MatMul", x, b.weight(hidden, hidden)))
    y = b.op("MatMulNBits", x, codes, scales, domain=MS, K=hidden, N=tokens, **given)
    return pg.load(b.model(y, domains=[(MS, 1)]))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("old_ids", [True, False])
def test_tables_that_are_quantized_in_blocks(shared, bits, old_ids):
    graph, kept = in_blocks(shared, bits), np.asarray([0, 2, 3, 11, 23])
    result, proof = shrink(graph, kept, old_ids=old_ids)
    assert proof is not None and result.outputs
    new = np.random.default_rng(0).integers(0, len(kept), (3, 4))
    [before] = run(session(graph), {"ids": kept[new]})
    [after] = run(session(result.model), {"ids": kept[new] if old_ids else new})
    np.testing.assert_allclose(
        after, before[..., kept], rtol=0, atol=1e-4 * abs(before).max()
    )
    assert all(
        24 not in weight.shape[:1]
        for weight in result.model.weights.values()
        if weight.dtype == np.uint8
    )


def test_an_old_id_that_is_gone_is_read_as_the_lowest_kept():
    model = shrink_vocabulary(language_model(), [4, 7], old_ids=True).model
    gone, lowest = (
        run(session(model), {"ids": np.asarray([[7, each]])}) for each in (9, 4)
    )
    np.testing.assert_array_equal(gone[0], lowest[0])


def test_a_token_that_the_model_itself_asks_for():
    """Decoding begins with token 3, whatever the inputs hold."""
    with pytest.raises(ModelError, match="asks for token 3, which is not kept"):
        shrink(language_model("start"), [0, 1, 2])


def turned(graph: Graph, keep: object, **options: object) -> Vocabulary:
    """A rewrite that is wrong: it writes the scores in another order."""
    result = shrink_vocabulary(graph, keep, **options)
    [head] = [n for n, w in result.model.weights.items() if w.shape == (STREAM, 3)]
    values = np.ascontiguousarray(result.model.weights[head].read()[:, ::-1])
    model = onnx.ModelProto.FromString(result.model.model.SerializeToString())
    for tensor in model.graph.initializer:
        if tensor.name == head:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, head))
    model = Graph(model, source="turned", intake=result.model.intake)
    return replace(result, model=model)


def test_a_wrong_head_fails_the_proof(monkeypatch):
    """The proof compares with the original: another order of the scores is noticed."""
    monkeypatch.setattr(vocabulary, "shrink_vocabulary", turned)
    with pytest.raises(ExactnessError):
        shrink(language_model(head="own"), [1, 7, 9])


def test_verifying_a_plan_proves_its_vocabulary(monkeypatch):
    """What is left of the vocabulary is held against the original, not against the same rewrite once more."""
    graph = language_model(head="own")
    for module in (vocabulary, api):
        if hasattr(module, "shrink_vocabulary"):
            monkeypatch.setattr(module, "shrink_vocabulary", turned)
    result = pg.prune(graph, vocabulary=[1, 7, 9], budget=pg.Budget(ratio=0), verify=False)
    with pytest.raises(ExactnessError):
        pg.verify(graph, result.plan, result.model)


def test_what_is_no_vocabulary():
    b = Builder()
    other = pg.load(b.model(b.linear(b.input("n", 4), 4, 4)))
    with pytest.raises(ModelError, match="no vocabulary"):
        shrink_vocabulary(other, [0])
    graph = language_model()
    with pytest.raises(ModelError, match=r"id 20 is out of range.*0 to 19"):
        shrink_vocabulary(graph, [0, 20])
    with pytest.raises(ModelError, match="at least one"):
        shrink_vocabulary(graph, [])


def test_scores_that_something_else_reads_as_a_whole():
    b = Builder(opset=18)
    table = b.weight(TOKENS, STREAM)
    x = b.op("Gather", table, b.input("batch", "length", name="ids", kind=7))
    scores = b.op("MatMul", x, b.op("Transpose", table, perm=[1, 0]))
    graph = pg.load(b.model(b.op("Cast", b.op("ArgMax", scores, axis=-1), to=1)))
    with pytest.raises(
        ModelError, match=r"vocabulary along 'c1' cannot be pruned: .*argmax"
    ):
        shrink_vocabulary(graph, [0, 1])


def test_files_of_ids(tmp_path):
    path = tmp_path / "keep.txt"
    path.write_text("# special\n0\n\n the\t7\n#\t9\n  12\n")
    assert read_ids(path) == [0, 7, 9, 12]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as editors on Windows save text
    assert read_ids(path) == [0, 7, 9, 12]
    for text, message in (
        ("1\nx\n", "line 2 holds no id: 'x'"),
        ("-1\n", "line 1 holds no id"),
        ("4\n5\n4\n", "id 4 stands in lines 1 and 3"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_ids(path)
    with pytest.raises(DataError, match="not a list of ids"):
        read_ids(tmp_path / "none.txt")


KEEP = [0, 2, 3, 5, 8, 13]


def test_prune_with_a_vocabulary_and_data_of_old_ids(tmp_path):
    """One run: fewer tokens, then fewer channels, refitted on data that hold old ids."""
    graph, path = language_model(), tmp_path / "pruned.onnx"
    data = {"ids": np.random.default_rng(0).choice(KEEP, (64, 5))}
    plan_path = tmp_path / "plan.json"
    result = pg.prune(
        graph,
        path,
        vocabulary=KEEP,
        data=data,
        budget=pg.Budget(ratio=0.5),
        round_to=1,
        save_plan=plan_path,
    )
    assert files(tmp_path) == {"pruned.onnx", "pruned.vocabulary.json", "plan.json"}
    content = json.loads((tmp_path / "pruned.vocabulary.json").read_text())
    assert content["kept"] == KEEP and content["inputs"] == ["ids"]
    assert result.before.params > pg.analyze(result.original).graph.weights["c1"].size
    new = pg.load(path)
    run(session(new), {"ids": np.asarray([[0, 1, 5]])})
    # The plan alone repeats it, and it can be proved from the files.
    plan = pg.Plan.load(plan_path)
    pg.verify(graph, plan, pg.apply(graph, plan), data=[data])
    again = pg.prune(graph, vocabulary=KEEP, budget=pg.Budget(ratio=0), round_to=1)
    assert again.plan.vocabulary is not None and not again.plan.remove
    with pytest.raises(ExactnessError):
        pg.verify(graph, plan, again.model)
    with pytest.raises(DataError, match="holds id 1, which the smaller vocabulary"):
        pg.prune(
            graph,
            vocabulary=KEEP,
            data={"ids": np.ones((8, 5), np.int64)},
            budget=pg.Budget(ratio=0.5),
        )
    content = plan.to_json()
    content["vocabulary"]["old_ids"] = "yes"
    with pytest.raises(PlanError, match="true or false"):
        pg.Plan.from_json(content)


def test_options_that_do_not_go_together():
    with pytest.raises(OptionError, match="old ids"):
        pg.prune(language_model(), old_ids=True, budget=pg.Budget(ratio=0.5))


def test_the_command(tmp_path):
    pg.save(language_model("equal"), tmp_path / "model.onnx")
    (tmp_path / "keep.txt").write_text("\n".join(map(str, KEEP)))
    done = cli(
        *[
            "prune",
            "model.onnx",
            "-o",
            "small.onnx",
            "--vocabulary",
            "keep.txt",
            "--old-ids",
            "--save-plan",
            "p.json",
        ],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "6 of 20 tokens stay" in " ".join(done.stderr.split())
    assert "small.vocabulary.json" in files(tmp_path)
    done = cli(*["verify", "model.onnx", "p.json", "small.onnx"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = cli(*["apply", "model.onnx", "p.json", "-o", "again.onnx"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()
    (tmp_path / "keep.txt").write_text("99")
    check_refused(
        tmp_path,
        "prune model.onnx -o x.onnx --vocabulary keep.txt",
        "id 99 is out of range",
    )


def test_a_budget_is_needed_without_a_vocabulary(tmp_path):
    with pytest.raises(BudgetError):
        pg.Budget()
