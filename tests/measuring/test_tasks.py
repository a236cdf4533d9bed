"""Metrics of tasks against counts by hand, in loops, or in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import prunegraph as pg
from prunegraph.cli import main
from prunegraph.errors import DataError
from prunegraph.measuring.metrics import METRICS, Seen, default
from prunegraph.runtime.data import read_data
from prunegraph.runtime.session import run, session
from tests.builders import residual_net

Array = np.ndarray
RNG = np.random.default_rng(0)


def measured(
    name: str,
    actual: Array,
    labels: Array | None = None,
    *,
    parts: int = 1,
    **inputs: Array,
) -> float:
    """A metric over some batches of one output; what it compares with is the output of another network."""
    expected = inputs.pop("expected", actual)
    given = {**inputs, **({} if labels is None else {"labels": labels})}
    batches = [
        Seen(
            {n: v[i::parts] for n, v in given.items()},
            {"y": expected[i::parts]},
            {"y": actual[i::parts]},
        )
        for i in range(parts)
    ]
    return METRICS[name].measure(batches)


def test_cosine_of_each_sample() -> None:
    a, b = RNG.standard_normal((2, 6, 3, 4))
    wanted = np.mean(
        [
            (x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())
            for x, y in zip(a, b, strict=True)
        ]
    )
    for parts in (1, 3):
        assert measured("cosine", a, expected=b, parts=parts) == pytest.approx(wanted)
    assert measured("cosine", 3 * a, expected=a) == pytest.approx(1)
    assert measured("cosine", 0 * a, expected=a) == 0


def test_f1_by_counting() -> None:
    """Classes 0 to 2 of 4; class 3 is nowhere and does not count."""
    said = np.array([0, 0, 1, 1, 2, 0])
    named = np.array([0, 1, 1, 2, 2, -100])
    scores = np.eye(4)[said]
    # right / said / wanted: 1/2/1, 1/2/2, 1/1/2
    wanted = 100 * np.mean([2 / 3, 2 / 4, 2 / 3])
    for parts in (1, 2):
        assert measured("f1", scores, named, parts=parts) == pytest.approx(wanted)


def test_f1_of_several_classes_at_once() -> None:
    logits = np.array([[2.0, -1, 3], [-2, 1, -1]])
    labels = np.array([[1, 1, 1], [0, 1, 0]])
    wanted = 100 * np.mean([1, 2 / 3, 1])
    assert measured("f1", logits, labels) == pytest.approx(wanted)
    assert measured("f1", 1 / (1 + np.exp(-logits)), labels) == pytest.approx(wanted)


def test_overlap_of_regions_in_loops() -> None:
    scores = RNG.standard_normal((4, 3, 5, 6))
    labels = RNG.integers(0, 3, (4, 5, 6))
    labels[0, 0] = 255
    said = scores.argmax(1)
    each = []
    for c in range(3):
        both = either = 0
        for mine, theirs in zip(said.ravel(), labels.ravel(), strict=True):
            if theirs != 255:
                both += mine == c == theirs
                either += mine == c or theirs == c
        each.append(both / either)
    for output in (scores, scores.transpose(0, 2, 3, 1)):
        for parts in (1, 2):
            assert measured("miou", output, labels, parts=parts) == pytest.approx(
                100 * np.mean(each)
            )


def test_perplexity_of_labels_and_of_what_comes_next() -> None:
    logits = RNG.standard_normal((3, 5, 7))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = RNG.integers(0, 7, (3, 5))
    labels[0, 0] = -100
    logs = [
        -np.log(p[i, j, labels[i, j]])
        for i in range(3)
        for j in range(5)
        if (i, j) != (0, 0)
    ]
    for output in (logits, p):
        assert measured("perplexity", output, labels) == pytest.approx(
            np.exp(np.mean(logs))
        )
    tokens = RNG.integers(2, 7, (3, 5))
    logs = [-np.log(p[i, j, tokens[i, j + 1]]) for i in range(3) for j in range(4)]
    mask = np.ones((3, 5), np.int64)
    for parts in (1, 3):
        got = measured(
            "perplexity", logits, parts=parts, input_ids=tokens, attention_mask=mask
        )
        assert got == pytest.approx(np.exp(np.mean(logs)))
    # Scores that say nothing: as many as there are classes.
    assert measured("perplexity", np.zeros((3, 5, 7)), labels) == pytest.approx(7)


def test_words_without_repetitions_and_blanks() -> None:
    """0 separates: 3 3 0 3 1 1 is the word 3 3 1."""
    rows = np.array(
        [[3, 3, 0, 3, 1, 1], [2, 0, 0, 2, 2, 0], [0, 0, 0, 0, 0, 0], [1, 2, 3, 1, 0, 2]]
    )
    scores = np.eye(4)[rows]
    labels = np.array([[3, 3, 1, -1], [2, 1, 0, 0], [0, 0, 0, 0], [1, 2, 3, 1]])
    assert (
        measured("word_accuracy", scores, labels) == 50
    )  # the last is longer than its label
    other = scores.copy()
    other[1, 3] = np.eye(4)[1]
    assert measured("word_accuracy", other, expected=scores) == 75
    assert METRICS["word_accuracy"].needs_original(False)
    assert not METRICS["word_accuracy"].needs_original(True)


def test_what_does_not_fit_is_one_line() -> None:
    scores, labels = RNG.standard_normal((4, 5)), RNG.integers(0, 5, 4)
    for name, output, given, text in (
        ("f1", scores, None, "needs labels"),
        ("f1", scores, labels[:, None, None], "labels have shape"),
        ("miou", scores, labels, "needs scores"),
        ("miou", scores[:, :, None, None], labels, "labels have shape"),
        ("miou", scores[:, :, None, None], labels[:, None, None] + 9, "labels run to"),
        ("perplexity", scores, labels[:, None], "one label for each row"),
        ("perplexity", scores, None, "one input of tokens"),
        ("perplexity", scores, labels + 9, "labels run to"),
        ("word_accuracy", scores, labels[:, None], r"\[samples, positions, classes\]"),
        ("word_accuracy", scores[:, None], labels, r"\[samples, length\]"),
        ("cosine", labels, None, "floating point"),
        ("map", scores, labels, "does not know|needs 'labels'"),
    ):
        with pytest.raises(DataError, match=text):
            measured(name, output, given)


# -- boxes -------------------------------------------------------------------------------------------


def boxes_of(labels: Array, scores: Array) -> Array:
    """An output [n, 4 + classes, places] that gives the boxes of labels, with scores [n, boxes]."""
    size = labels[..., 3:] - labels[..., 1:3]
    centre = labels[..., 1:3] + size / 2
    named = np.eye(3)[np.maximum(labels[..., 0], 0).astype(int)] * scores[..., None]
    result = np.concatenate([centre, size, named], -1).swapaxes(1, 2)
    # More places than numbers of each.
    return np.concatenate([result, np.zeros((len(labels), 7, 8))], 2)


def drawn(seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    least = rng.uniform(0, 40, (5, 4, 2))
    named = rng.integers(-1, 3, (5, 4, 1))
    named[:, 0] = rng.integers(0, 3, (5, 1))
    return np.concatenate(
        [named, least, least + rng.uniform(6, 20, least.shape)], -1
    ).astype(np.float32)


pytest.importorskip("pycocotools", reason="the extra [detection] is not installed")


def test_boxes_that_are_right_are_all_of_it() -> None:
    labels = drawn()
    scores = np.where(labels[..., 0] >= 0, 0.9, 0.0)
    last = boxes_of(labels, scores)
    for name in ("map", "map50"):
        assert measured(name, last, labels) == pytest.approx(100)
        assert measured(name, last * np.r_[np.ones(4), np.zeros(3)][:, None], labels) == 0
    # The other forms: places first with an object's score, corners, without overlaps.
    first = np.concatenate(
        [last.swapaxes(1, 2)[..., :4], np.ones((5, 12, 1)), last.swapaxes(1, 2)[..., 4:]],
        -1,
    )
    assert measured("map", first, labels) == pytest.approx(100)
    corners = np.concatenate([labels[..., 1:], scores[..., None], labels[..., :1]], -1)
    assert measured("map", corners, labels, parts=2) == pytest.approx(100)
    named = np.eye(3)[np.maximum(labels[..., 0], 0).astype(int)] * scores[..., None]
    for outputs in (
        {"b": labels[..., 1:], "s": named},
        {"s": named, "b": labels[..., 1:]},
    ):
        got = METRICS["map"].measure([Seen({"labels": labels}, {}, outputs)])
        assert got == pytest.approx(100)


def test_precision_by_hand() -> None:
    """Two boxes; said are one of them, then nothing, then the other: 101 recalls, half at 1 and half at 2/3."""
    labels = np.array([[[0, 10, 10, 30, 30], [0, 40, 40, 60, 60]]], np.float32)
    said = np.array(
        [[[10, 10, 30, 30, 0.9, 0], [70, 70, 80, 80, 0.8, 0], [40, 40, 60, 60, 0.7, 0]]]
    )
    wanted = 100 * (51 * 1 + 50 * 2 / 3) / 101
    assert measured("map50", said, labels) == pytest.approx(wanted)
    # Moved by a quarter it overlaps by 0.6: right up to 0.6, which is three of ten overlaps.
    said[0, 1:, 4] = 0
    said[0, 0, [0, 2]] += 5
    assert measured("map50", said, labels) == pytest.approx(100 * 51 / 101)
    assert measured("map", said, labels) == pytest.approx(100 * 51 / 101 * 0.3, rel=1e-3)


def test_overlaps_of_one_class_are_suppressed() -> None:
    labels = np.array([[[0, 10, 10, 30, 30], [1, 10, 10, 30, 30]]], np.float32)
    twice = np.concatenate([labels, labels, labels], 1)
    scores = np.array([[0.9, 0.9, 0.8, 0.8, 0.7, 0.7]])
    assert measured("map50", boxes_of(twice, scores), labels) == pytest.approx(100)


def test_boxes_choose_their_metric() -> None:
    labels = drawn()
    outputs = {"y": boxes_of(labels, np.ones(labels.shape[:2]))}
    assert default(outputs, True, labels) == "map50"
    assert default({"y": np.zeros((4, 5), np.float32)}, True, np.zeros(4)) == "top1"
    assert default({"y": np.zeros((4, 5), np.float32)}, False) == "agreement"


def test_compare_and_train_measure_them_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One figure, by numpy: F1 of a network on labels that it gets half right."""
    pytest.importorskip("torch", reason="the extra [torch] is not installed")
    monkeypatch.chdir(tmp_path)
    pg.save(residual_net(), "net.onnx")
    x = np.random.default_rng(1).standard_normal((20, 3, 8, 8)).astype(np.float32)
    (scores,) = run(session(residual_net()), {"x": x})
    labels = scores.argmax(1)
    labels[::2] = (labels[::2] + 1) % 5
    np.savez("data.npz", x=x, labels=labels)
    wanted = measured("f1", scores, labels)
    result = pg.compare(
        pg.load("net.onnx"),
        pg.load("net.onnx"),
        data=read_data("data.npz"),
        runs=1,
        metric="f1",
    )
    assert result.measured == ("f1", pytest.approx(wanted), pytest.approx(wanted), "%")
    words = "train net.onnx -o out.onnx --data data.npz --eval data.npz --batch 20 --epochs 1 --force"
    done = CliRunner().invoke(main, [*words.split(), "--metric", "f1", "--lr", "1e-9"])
    assert done.exit_code == 0, done.output
    assert f"f1 {wanted:.4g} -> " in done.output
    Path("own.py").write_text("def share(outputs, batches):\n    return 7.0\n")
    done = CliRunner().invoke(main, [*words.split(), "--metric", "own.py:share"])
    assert done.exit_code == 0 and "own.py:share 7 -> 7" in done.output
    done = CliRunner().invoke(main, ["compare", "net.onnx", "net.onnx", "--metric", "f1"])
    assert done.exit_code and "give --data" in done.output
