"""Losses of detectors: assignment against loops in numpy, what a perfect head loses, and that training lowers it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from fixtures import light_models
from prunegraph.cli import main
from prunegraph.errors import DataError, OptionError
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from prunegraph.training import Batches, GraphModule, TrainingConfig, fit
from prunegraph.training.detection import anchor_free, boxes
from prunegraph.training.losses import Loss
from prunegraph.training.tasks import LossContext, loss_of
from tests.builders import Builder, residual_net
from tests.paths import ROOT

Array = np.ndarray
T = torch.from_numpy


def loss(spelling: str) -> Loss:
    return loss_of([spelling], LossContext(residual_net()))


def drawn(count: int, most: int, size: int = 64, classes: int = 3, seed: int = 0) -> Array:
    """Labels with some rows of padding, boxes of 4 pixels and more."""
    rng = np.random.default_rng(seed)
    least = rng.uniform(0, size - 12, (count, most, 2))
    extent = rng.uniform(4, 12 + (size - 12 - least) * 0.9)
    named = rng.integers(-1, classes, (count, most, 1))
    return np.concatenate([named, least, least + extent], -1).astype(np.float32)


# -- boxes -------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 20), min_size=8, max_size=8))
def test_overlap_is_that_of_pixels(numbers: list[int]) -> None:
    """Whole boxes, counted pixel by pixel."""
    first, second = (
        np.array([min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1])
        for a, b, c, d in (numbers[:4], numbers[4:])
    )
    maps = []
    for box in (first, second):
        pixels = np.zeros((22, 22), bool)
        pixels[box[1] : box[3], box[0] : box[2]] = True
        maps.append(pixels)
    wanted = (maps[0] & maps[1]).sum() / (maps[0] | maps[1]).sum()
    mine, other = (T(box.astype(np.float32)) for box in (first, second))
    assert float(boxes.iou(mine, other)) == pytest.approx(wanted, abs=1e-5)
    assert float(boxes.complete_iou(mine, other)) <= wanted + 1e-5
    assert float(boxes.complete_iou(mine, mine)) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(boxes.corners(boxes.centred(mine)), mine)


def test_complete_overlap_by_hand() -> None:
    """Squares of 2 whose centres are 4 apart: no overlap, 16 / (36 + 4); a form twice as wide: the angles' term."""
    far = boxes.complete_iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor([4.0, 0, 6, 2]))
    assert float(far) == pytest.approx(-16 / 40, abs=1e-5)
    wide = boxes.complete_iou(torch.tensor([0.0, 0, 4, 2]), torch.tensor([1.0, 0, 3, 2]))
    ratio = (2 / np.pi * (np.arctan(2) - np.arctan(1))) ** 2
    assert float(wide) == pytest.approx(0.5 - ratio**2 / (0.5 + ratio), abs=1e-5)


# -- without anchors -----------------------------------------------------------------------------


def assigned(
    mine: Array, chances: Array, row: Array, centres: Array, most: int
) -> dict[int, tuple[int, float]]:
    """Box and score of each place that answers, in loops."""
    overlap = np.zeros((len(row), len(mine)))
    able = np.zeros((len(row), len(mine)), bool)
    for b, (_, *box) in enumerate(row):
        for p, (x, y) in enumerate(centres):
            able[b, p] = box[0] < x < box[2] and box[1] < y < box[3]
            got = boxes.complete_iou(T(mine[p]), torch.tensor(box))
            overlap[b, p] = max(float(got), 0)
    align = chances[:, row[:, 0].astype(int)].T ** 0.5 * overlap**6
    takers: dict[int, list[int]] = {}
    for b in range(len(row)):
        places = [p for p in np.argsort(-align[b]) if able[b, p]]
        for p in places[:most]:
            takers.setdefault(int(p), []).append(b)
    owner = {p: max(bs, key=lambda b, p=p: overlap[b, p]) for p, bs in takers.items()}  # type: ignore[misc]
    result = {}
    for p, b in owner.items():
        own = [q for q in owner if owner[q] == b]
        strongest = max(align[b, q] for q in own)
        furthest = max(overlap[b, q] for q in own)
        result[p] = (b, align[b, p] * furthest / (strongest + 1e-9))
    return result


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 6))
def test_places_that_answer(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    centres = anchor_free.grid((32, 32), (4,)).numpy()
    count = len(centres)
    size = rng.uniform(4, 20, (count, 2))
    mine = np.concatenate([centres - size / 2, centres + size / 2], 1).astype(np.float32)
    mine += rng.uniform(-3, 3, mine.shape).astype(np.float32)
    chances = rng.uniform(0.01, 0.9, (count, 3)).astype(np.float32)
    row = drawn(1, 4, 32, seed=seed)[0]
    row = row[row[:, 0] >= 0]
    wanted = assigned(mine, chances, row, centres, most)
    answers, which, score = anchor_free.assigned(
        T(mine), T(chances), T(row), T(centres), most
    )
    # Places without any overlap are drawn by nearness: they are asked for nothing.
    asked = {
        int(p): (int(b), float(s))
        for p, b, s in zip(answers, which, score, strict=True)
        if s > 1e-6
    }
    assert asked.keys() == {p for p, (_, s) in wanted.items() if s > 1e-6}
    for p, (b, s) in asked.items():
        assert b == wanted[p][0] and s == pytest.approx(wanted[p][1], rel=1e-3, abs=1e-6)


def test_a_box_between_all_centres_has_an_answer() -> None:
    centres = anchor_free.grid((32, 32), (16,))
    row = torch.tensor([[0.0, 15, 15, 17, 17]])
    start = torch.cat([centres - 8, centres + 8], 1)
    answers, _, _ = anchor_free.assigned(start, torch.full((4, 1), 0.5), row, centres, 10)
    assert len(answers) == 1


def test_places_are_numbered_map_by_map() -> None:
    centres = anchor_free.grid((16, 24), (8, 16))
    assert centres[:7].tolist() == [
        [4, 4],
        [12, 4],
        [20, 4],
        [4, 12],
        [12, 12],
        [20, 12],
        [8, 8],
    ]
    assert len(centres) == 6 + 2


def test_a_head_that_is_right_loses_little() -> None:
    """Every place gives the box that its centre lies in, with certainty; wrong boxes or classes cost more."""
    labels = np.array(
        [[[1, 0, 0, 30, 30], [0, 34, 34, 60, 60], [-1, 0, 0, 0, 0]]], np.float32
    )
    centres = anchor_free.grid((64, 64), (8, 16, 32)).numpy()
    right = np.zeros((1, 6, len(centres)), np.float32)
    for p, (x, y) in enumerate(centres):
        for named, *box in labels[0, :2]:
            if box[0] < x < box[2] and box[1] < y < box[3]:
                right[0, :4, p] = boxes.centred(torch.tensor(box)).numpy()
                right[0, 4 + int(named), p] = 1
    batch = {"x": torch.zeros(1, 3, 64, 64), "labels": T(labels)}
    lost = float(loss("yolo:most=1000")([T(right)], batch))
    assert lost < 1e-2
    unsure, moved = right.copy(), right.copy()
    unsure[:, 4:] *= 0.5
    moved[:, :4] += 9
    for worse in (T(unsure), T(moved)):
        assert float(loss("yolo:most=1000")([worse], batch)) > lost + 0.1


def test_images_without_boxes_are_background() -> None:
    batch = {"x": torch.zeros(2, 3, 64, 64), "labels": -torch.ones(2, 3, 5)}
    output = torch.full((2, 7, 84), 0.5, requires_grad=True)
    value = loss("yolo")([output], batch)
    assert float(value.detach()) == pytest.approx(0.5 * 2 * 84 * 3 * np.log(2), rel=1e-4)
    value.backward()
    assert output.grad is not None and bool(torch.isfinite(output.grad).all())


# -- with anchors, with priors ---------------------------------------------------------------------


def test_maps_with_anchors_that_are_right_lose_little() -> None:
    labels = np.array([[[2, 3, 5, 15, 13], [0, 20, 30, 60, 62]]], np.float32)
    maps = []
    for k, stride in ((0, 8), (1, 32)):
        y = np.zeros((1, 2, 8, 64 // stride, 64 // stride), np.float32)
        y[:, :, 4:] = -12
        named, *box = labels[0, k]
        centre, size = np.split(boxes.centred(torch.tensor(box)).numpy(), 2)
        anchor = np.array([(12, 10), (36, 30)][k])  # the second of its map
        cell = (centre / stride).astype(int)
        rest = centre / stride - cell
        y[0, 1, :2, cell[1], cell[0]] = np.log(rest / (1 - rest))
        y[0, 1, 2:4, cell[1], cell[0]] = np.log(size / anchor)
        y[0, 1, 4, cell[1], cell[0]] = y[0, 1, 5 + int(named), cell[1], cell[0]] = 12
        maps.append(T(y.reshape(1, 16, 64 // stride, 64 // stride)))
    batch = {"x": torch.zeros(1, 3, 64, 64), "labels": T(labels)}
    task = loss("yolo_anchors:anchors=4x4+12x10/200x200+36x30")
    lost = float(task(maps[::-1], batch))  # in any order
    assert lost < 0.02
    for k in range(2):
        for channel, shift in ((10, 1.0), (12, -20.0), (14, 20.0)):
            wrong = [y.clone() for y in maps]
            wrong[k][:, channel] += shift
            assert float(task(wrong, batch)) > lost + 0.05


def test_samples_of_a_batch_lose_what_each_loses_alone() -> None:
    """Anchors: a batch's loss times its boxes is the sum over samples; one of them has none, boxes share cells."""
    rng = np.random.default_rng(0)
    labels = drawn(6, 5, seed=3)
    labels[2, :, 0] = -1
    labels[4, 1] = labels[4, 0]
    maps = [
        torch.from_numpy(rng.normal(0, 1, (6, 16, side, side)).astype(np.float32))
        for side in (8, 2)
    ]
    x = torch.zeros(6, 3, 64, 64)
    task = loss("yolo_anchors:anchors=4x4+12x10/30x20+36x30")
    count = (labels[..., 0] >= 0).sum(1)
    together = float(task(maps, {"x": x, "labels": T(labels)})) * count.sum()
    alone = sum(
        float(
            task([y[i : i + 1] for y in maps], {"x": x[:1], "labels": T(labels[i : i + 1])})
        )
        * max(count[i], 1)
        for i in range(6)
    )
    assert count.min() == 0 and count.max() > 2
    assert together == pytest.approx(alone, rel=1e-5)


def test_priors_that_are_right_lose_little(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    priors = np.concatenate([rng.uniform(8, 56, (50, 2)), rng.uniform(8, 30, (50, 2))], 1)
    np.save(tmp_path / "priors.npy", priors)
    labels = drawn(3, 4, seed=2)
    batch = {"x": torch.zeros(3, 3, 64, 64), "labels": T(labels)}
    offsets, scores = np.zeros((3, 50, 4), np.float32), np.zeros((3, 50, 4), np.float32)
    for i, row in enumerate(labels):
        row = row[row[:, 0] >= 0]
        overlap = boxes.iou(boxes.corners(T(priors))[:, None], T(row[:, 1:])).numpy()
        which = overlap.argmax(1)
        answers = overlap.max(1) >= 0.5
        for b in range(len(row)):
            which[overlap[:, b].argmax()], answers[overlap[:, b].argmax()] = b, True
        mine = boxes.centred(T(row[which, 1:])).numpy()
        offsets[i, :, :2] = (mine[:, :2] - priors[:, :2]) / priors[:, 2:] / 0.1
        offsets[i, :, 2:] = np.log(mine[:, 2:] / priors[:, 2:]) / 0.2
        offsets[i][~answers] = 77  # nobody asks
        named = np.where(answers, row[which, 0].astype(int) + 1, 0)
        scores[i, np.arange(50), named] = 15
    task = loss(f"ssd:priors={tmp_path / 'priors.npy'}")
    lost = float(task([T(offsets), T(scores)], batch))
    assert lost < 1e-4
    assert float(task([T(offsets), T(scores * 0)], batch)) > 1
    assert float(task([T(offsets + 1), T(scores)], batch)) > 1


# -- networks ----------------------------------------------------------------------------------------


def detector(classes: int = 3) -> Graph:
    """A head of the form that ultralytics exports, over one map of stride 8."""
    b = Builder()
    x = b.input("n", 3, 64, 64)
    for i, (cin, cout) in enumerate(((3, 8), (8, 16), (16, 16))):
        x = b.relu(
            b.bn(
                b.conv(x, cin, cout, strides=[2, 2], pads=[1, 1, 1, 1], name=f"c{i}"), cout
            )
        )
    y = b.op(
        "Reshape", b.conv(x, 16, 4 + classes, 1, name="head"), b.const([0, 4 + classes, 64])
    )
    box = b.op("Split", y, b.const([4, classes]), outputs=2, axis=1)
    named = box.replace("out0", "out1")
    centres = anchor_free.grid((64, 64), (8,)).numpy().T[None].astype(np.float32)
    place = b.op("Split", box, b.const([2, 2]), outputs=2, axis=1)
    size = place.replace("out0", "out1")
    place = b.op("Add", place, b.const(centres, np.float32))
    size = b.op("Mul", b.op("Exp", size), b.const(16, np.float32))
    return b.graph(b.op("Concat", place, size, b.op("Sigmoid", named), axis=1))


def scenes(count: int, size: int = 64, seed: int = 0) -> dict[str, Array]:
    """Grey images with a bright rectangle in one of three colours for each box."""
    labels = drawn(count, 2, size, seed=seed)
    x = np.random.default_rng(seed).normal(0, 0.1, (count, 3, size, size))
    for image, row in zip(x, labels, strict=True):
        for named, *box in row[row[:, 0] >= 0]:
            left, top, right, bottom = np.round(box).astype(int)
            image[int(named), top:bottom, left:right] += 2
    return {"x": x.astype(np.float32), "labels": labels}


def test_a_detector_learns() -> None:
    module = GraphModule(detector())
    run = fit(
        module,
        Batches(scenes(64), 16),
        TrainingConfig(epochs=12, lr=0.01, clip=10.0),
        loss=loss("yolo:strides=8"),
    )
    losses = [record["loss"] for record in run.history]
    assert losses[-1] < 0.6 * losses[0]


OWN = """
from prunegraph.training.detection.anchor_free import grid

def nearer(outputs, batch):
    # Every place's box moves to the first box of its image.
    box = batch["labels"][:, 0, 1:]
    centre = (box[:, :2] + box[:, 2:]) / 2
    return ((outputs[0][:, :2] - centre[:, :, None]) / 320).square().mean()
"""


@pytest.mark.slow
def test_an_ultralytics_graph_takes_twenty_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = light_models.load(ROOT / "fixtures" / "zoo" / "ultralytics__yolo11n.light.xz")
    pg.save(from_model(model), "yolo.onnx")
    np.savez(
        "scenes.npz", **{"input" if n == "x" else n: v for n, v in scenes(4, 320).items()}
    )
    Path("own.py").write_text(OWN)
    words = ["train", "yolo.onnx", "-o", "out.onnx", "--data", "scenes.npz", "--batch", "2"]
    words += ["--epochs", "10", "--force", "--lr", "0.001"]
    for name in ("yolo", "own.py:nearer"):
        done = CliRunner().invoke(main, [*words, "--loss", name])
        assert done.exit_code == 0, done.output
        losses = [
            float(line.split("loss")[1].split()[0])
            for line in done.output.splitlines()
            if line.startswith("plain:")
        ]
        assert len(losses) == 10 and losses[-1] < losses[0]


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    batch = {"x": torch.zeros(1, 3, 64, 64), "labels": T(drawn(1, 2))}
    np.save(tmp_path / "p.npy", np.ones((3, 4)))
    np.save(tmp_path / "bad.npy", np.zeros((3, 4)))
    for name, error, text in (
        ("yolo:strides=a", OptionError, "whole numbers"),
        ("yolo:most=0", OptionError, "at least 1"),
        ("yolo_anchors:anchors=3", OptionError, "WxH"),
        ("yolo_anchors:anchors=3x-1", OptionError, "WxH"),
        ("ssd", OptionError, "priors=FILE"),
        (f"ssd:priors={tmp_path}/none.npy", DataError, "not a file"),
        (f"ssd:priors={tmp_path}/bad.npy", DataError, "centre, width and height"),
    ):
        with pytest.raises(error, match=text):
            loss(name)
    output = torch.zeros(1, 7, 84)
    shifted = batch["labels"].clone()
    shifted[0, 0] = torch.tensor([7.0, 1, 1, 9, 9])
    turned = batch["labels"].clone()
    turned[0, 0] = torch.tensor([0.0, 9, 1, 1, 9])
    for name, values, inputs, text in (
        ("yolo", output, {"x": batch["x"]}, "needs `labels`"),
        ("yolo", output, {**batch, "labels": torch.zeros(1)}, r"\[samples, boxes, 5\]"),
        ("yolo", output, {**batch, "labels": shifted}, "class 7"),
        ("yolo", output, {**batch, "labels": turned}, "ends before it starts"),
        ("yolo", output[..., 1:], batch, "84 places"),
        ("yolo", output, {**batch, "x": torch.zeros(1, 3)}, "input of images"),
        ("yolo_anchors", output, batch, "needs 3 maps"),
        (f"ssd:priors={tmp_path}/p.npy", output, batch, "needs offsets"),
    ):
        with pytest.raises(DataError, match=text):
            loss(name)([values], inputs)
