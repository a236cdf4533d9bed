"""Metrics by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from prunegraph.errors import DataError, PluginError, UnknownNameError
from prunegraph.measuring import metrics
from prunegraph.measuring.metrics import METRICS, USELESS, Seen, portable, resolve

Array = np.ndarray


def seen(expected: object, result: object, labels: object = None, name: str = "y") -> Seen:
    inputs = (
        {"x": np.zeros((1, 2))}
        if labels is None
        else {"x": np.zeros((1, 2)), "labels": np.asarray(labels)}
    )
    return Seen(
        inputs,
        {name: np.asarray(expected, np.float32)},
        {name: np.asarray(result, np.float32)},
    )


def test_error_is_relative_to_the_variation_over_all_batches() -> None:
    batches = [seen([[3.0, 4.0]], [[3.0, 5.0]]), seen([[0.0, 5.0]], [[1.0, 5.0]])]
    variation = 2 * 1.5**2 + 2 * 0.5**2
    assert metrics.error(batches) == pytest.approx((1 + 1) / variation)
    assert metrics.error(metrics.itself(batches)) == 0
    # An answer that does not depend on the input is off by 1; a constant added to all is not made light of.
    means = [seen([[3.0, 4.0]], [[1.5, 4.5]]), seen([[0.0, 5.0]], [[1.5, 4.5]])]
    assert metrics.error(means) == pytest.approx(1)
    shifted = [seen(each.expected["y"] + 100, each.actual["y"] + 100) for each in batches]
    assert metrics.error(shifted) == pytest.approx(metrics.error(batches), rel=1e-3)


def test_error_is_the_mean_over_outputs_whatever_their_scale() -> None:
    expected = {"a": np.asarray([2.0, 0.0]), "b": np.asarray([200, 0])}
    result = {"a": np.asarray([1.0, 0.0]), "b": np.asarray([200, 100])}
    assert metrics.error([Seen({}, expected, result)]) == pytest.approx(
        (1 / 2 + 1e4 / 2e4) / 2
    )


def test_error_is_always_defined() -> None:
    assert metrics.error([seen([0.0], [0.0])]) == 0
    assert metrics.error([seen([0.0], [2.0])]) == 4
    # One sample does not vary, nor do scalars: the whole energy.
    assert metrics.error([seen([[3.0, 4.0]], [[3.0, 5.0]])]) == pytest.approx(1 / 25)
    assert metrics.error([seen(3.0, 4.0), seen(4.0, 4.0)]) == pytest.approx(1 / 25)
    # Lists of another length: nothing of them is right.
    assert metrics.error([seen([3.0, 4.0], [3.0])]) == pytest.approx((25 + 9) / 0.5)
    both = [
        seen(np.zeros((2, 3)) + 1, np.zeros((2, 3)) + 1),
        seen(np.zeros((2, 4)) + 1, np.zeros((2, 5))),
    ]
    assert metrics.error(both) == pytest.approx(8 / 14)
    # What is infinite in the original (a mask) says nothing; in the candidate alone it does.
    assert metrics.error([seen([-np.inf, 2.0], [-np.inf, 1.0])]) == pytest.approx(1 / 2)
    assert (
        METRICS["error"].loss(metrics.error([seen([1.0, 2.0], [np.nan, 1.0])]), 0.0)
        == USELESS
    )
    with pytest.raises(DataError, match="needs an output that is a number"):
        metrics.error([Seen({}, {"y": np.asarray(["a"])}, {"y": np.asarray(["a"])})])


def test_agreement_and_top1_in_percent() -> None:
    expected = [[1.0, 2.0, 0.0], [3.0, 2.0, 0.0], [0.0, 1.0, 5.0], [0.0, 1.0, 5.0]]
    result = [[1.0, 3.0, 0.0], [1.0, 2.0, 0.0], [9.0, 1.0, 5.0], [0.0, 1.0, 2.0]]
    batches = [
        seen(expected[:3], result[:3], [1, 1, 2]),
        seen(expected[3:], result[3:], [2]),
    ]
    assert metrics.agreement(batches) == 50
    assert metrics.top1(batches) == 75
    assert metrics.top1(metrics.itself(batches)) == 75
    assert METRICS["top1"].loss(74.0, 75.0) == pytest.approx(1.0)
    assert METRICS["agreement"].loss(100.0, 100.0) == 0


def test_tokens_are_samples_too() -> None:
    expected, match = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    expected[..., 1] = match[..., 1] = 1
    match[0, 0, 2] = 2
    assert metrics.agreement([seen(expected, match)]) == pytest.approx(100 * 5 / 6)


def test_kl_of_logits_and_of_probabilities() -> None:
    p, q = np.asarray([[0.5, 0.5], [0.9, 0.1]]), np.asarray([[0.25, 0.75], [0.9, 0.1]])
    by_hand = (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)) / 2
    assert metrics.kl([seen(p, q)]) == pytest.approx(by_hand, rel=1e-5)
    assert metrics.kl([seen(np.log(p) + 3, np.log(q) - 2)]) == pytest.approx(
        by_hand, rel=1e-5
    )
    assert metrics.kl([seen([[0.0, 1.0]], [[1.0, 0.0]])]) > 10
    assert np.isfinite(metrics.kl([seen([[1e4, -1e4]], [[-1e4, 1e4]])]))


@pytest.mark.parametrize("name", ["agreement", "kl", "top1"])
def test_metrics_of_classes_say_what_they_need(name: str) -> None:
    with pytest.raises(
        DataError, match=rf"{name}.*\[samples, classes\].*'boxes' is float32 \[2, 3, 4, 5\]"
    ):
        METRICS[name].measure(
            [seen(np.zeros((2, 3, 4, 5)), np.zeros((2, 3, 4, 5)), [0, 0], "boxes")]
        )


def test_top1_needs_labels_that_fit() -> None:
    with pytest.raises(DataError, match="needs labels"):
        metrics.top1([seen(np.zeros((2, 3)), np.zeros((2, 3)))])
    with pytest.raises(
        DataError, match=r"labels have shape \[2, 1\], the top-1 classes \[2\]"
    ):
        metrics.top1([seen(np.zeros((2, 3)), np.zeros((2, 3)), [[0], [0]])])


def test_the_default_says_most() -> None:
    classes, boxes = (
        {"y": np.zeros((2, 10), np.float32)},
        {"y": np.zeros((2, 8, 4), np.float32)},
    )
    assert metrics.default(classes, labelled=True) == "top1"
    assert metrics.default(classes, labelled=False) == "agreement"
    assert metrics.default(boxes, labelled=True) == "error"


def test_a_metric_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\n"
        "def right(outputs, batches):\n"
        "    return sum((o['y'].argmax(1) == b['labels']).sum() for o, b in zip(outputs, batches))\n"
        "def wrong(outputs, batches):\n"
        "    return outputs[0]['z']\n"
    )
    batches = [seen([[0.0, 1.0]], [[1.0, 0.0]], [0]), seen([[0.0, 1.0]], [[0.0, 1.0]], [1])]
    metric = resolve(portable(f"{path}:right"))
    assert metric.rises
    assert metric.measure(batches) == 2
    with pytest.raises(PluginError, match="wrong: KeyError: 'z'"):
        resolve(portable(f"{path}:wrong")).measure(batches)
    with pytest.raises(PluginError, match="has no function 'missing'"):
        resolve(portable(f"{path}:missing"))
    with pytest.raises(PluginError, match=r"none\.py:f: No such file"):
        portable(f"{tmp_path}/none.py:f")
    path.write_text("def broken(:\n")
    with pytest.raises(PluginError, match="SyntaxError"):
        resolve(portable(f"{path}:broken"))


def test_a_function_as_metric() -> None:
    def count(outputs: Sequence[object], batches: Sequence[object]) -> float:
        return len(outputs) + len(batches)

    assert resolve(portable(count)).measure([seen([1.0], [1.0])]) == 2


def test_unknown_names() -> None:
    with pytest.raises(
        UnknownNameError,
        match=r"unknown metric 'top', did you mean 'top1'\? Known: agreement, cosine, error",
    ):
        portable("top")
