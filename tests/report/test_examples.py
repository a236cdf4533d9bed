"""Images in a report with what both models make of them."""

from __future__ import annotations

import base64
import dataclasses
import io

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

import prunegraph as pg
from prunegraph.graph.onnx_io import from_model
from prunegraph.measuring import detection
from prunegraph.report import html
from prunegraph.report.examples import IMAGES, examples
from prunegraph.report.png import png
from prunegraph.report.views import BOXES, OPACITY, PALETTE, SIDE
from prunegraph.runtime.data import LABELS, Data
from prunegraph.runtime.session import run, session
from tests.builders import Builder, residual_net
from tests.report.page import Page, prune
from tests.report.test_report import assert_loads_nothing


def opened(address: str) -> np.ndarray:
    """A picture as a program of others reads it."""
    image = pytest.importorskip("PIL.Image", reason="pip install pillow")
    content = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return np.asarray(image.open(io.BytesIO(content)))


@settings(max_examples=25)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([1, 3, 4]))
def test_pictures(height: int, width: int, channels: int) -> None:
    rng = np.random.default_rng(height * 401 + width)
    image = rng.integers(0, 256, (height, width, channels)).astype(np.uint8)
    step = -(-max(height, width) // SIDE) if max(height, width) > SIDE else 1
    expected = image[::step, ::step]
    shown = opened(png(image, SIDE))
    assert max(shown.shape[:2]) <= SIDE
    assert np.array_equal(shown.reshape(expected.shape), expected)


def test_classes_of_both_models() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((9, 3, 8, 8)).astype(np.float32)
    result = prune(residual_net())
    shown = examples(result, Data.of({"x": x}))
    assert len(shown) == IMAGES
    outputs = [run(session(g), {"x": x})[0] for g in (result.original, result.model)]
    for i, each in enumerate(shown):
        for scores, answer in zip(outputs, (each.before, each.after), strict=True):
            powers = np.exp(scores[i].astype(float) - scores[i].max())
            shares = powers / powers.sum()
            assert [index for index, _ in answer] == np.argsort(-shares)[:3].tolist()
            assert [part for _, part in answer] == pytest.approx(sorted(shares)[::-1][:3])
        assert each.agreement == (outputs[0][i].argmax() == outputs[1][i].argmax())
        picture = opened(each.image).astype(float)
        scaled = (x[i] - x[i].min()) / (x[i].max() - x[i].min()) * 255
        assert np.abs(picture - scaled.transpose(1, 2, 0)).max() <= 0.5 + 1e-3
    page = Page(html.render(result, samples=Data.of({"x": x})))
    assert len(page.attributes("img")) == IMAGES
    assert_loads_nothing(page)
    assert f"{shown[0].before[0][0]}: {shown[0].before[0][1]:.1%}" in page.text(
        inside="examples"
    )


def test_maps_of_classes() -> None:
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 16, 16), 3, 8, name="stem"))
    result = prune(b.graph(b.conv(x, 8, 4, k=1, name="head")))
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    shown = examples(result, Data.of({"x": images}))
    assert len(shown) == 2
    outputs = [run(session(g), {"x": images})[0] for g in (result.original, result.model)]
    for i, each in enumerate(shown):
        assert each.views is not None and not each.before and not each.is_mask
        for scores, view in zip(outputs, each.views, strict=True):
            covered = opened(view.map)
            assert np.array_equal(covered[..., :3], PALETTE[scores[i].argmax(0)])
            assert (covered[..., 3] == OPACITY).all()
        same = outputs[0][i].argmax(0) == outputs[1][i].argmax(0)
        assert each.agreement == pytest.approx(same.mean())
    page = Page(html.render(result, samples=Data.of({"x": images})))
    assert [use["href"] for use in page.attributes("use")] == [
        f"#input-{i}" for i in (1, 1, 2, 2)
    ]
    assert len(page.attributes("image")) == 2 + 4, "a picture is in the page once"
    assert "the class of every place" in page.text(inside="examples")
    assert_loads_nothing(page)


@pytest.mark.parametrize(("gain", "shown"), [(0.0, 2), (3.0, 0)])
def test_masks(gain: float, shown: int) -> None:
    """A map of one channel is shown if its values are shares, and only what is in is covered."""
    rng = np.random.default_rng(1)
    values, others = (rng.random((1, 1, 16, 16)).astype(np.float32) + gain for _ in "ab")
    result = answering([values], [others])
    images = np.random.default_rng(0).random((2, 3, 32, 32)).astype(np.float32)
    seen = examples(result, Data.of({"x": images}))
    assert len(seen) == shown
    for each in seen:
        assert each.is_mask and each.views is not None
        for view, says in zip(each.views, (values, others), strict=True):
            assert np.array_equal(opened(view.map)[..., 3] > 0, says[0, 0] >= 0.5)
        a, b = values >= 0.5, others >= 0.5
        assert each.agreement == pytest.approx((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 8, 32, 32), (1, 8, 16, 16)],  # heads of a detector
        [(1, 3, 64, 64)],  # larger than the image
        [(1, 4, 8, 2)],  # a row of letters
        [(1, 50, 2, 2)],  # features
    ],
)
def test_other_maps_show_nothing(shapes: list[tuple[int, ...]]) -> None:
    outputs = [np.random.default_rng(0).random(s).astype(np.float32) for s in shapes]
    images = np.zeros((1, 3, 32, 32), np.float32)
    assert examples(answering(outputs, outputs), Data.of({"x": images})) == []


# -- boxes ---------------------------------------------------------------------------------


def answering(before: list[np.ndarray], after: list[np.ndarray]) -> pg.PruneResult:
    """A result whose original and new model give these arrays [1, ...] for every image."""
    result = prune(residual_net())
    return dataclasses.replace(result, original=constant(before), model=constant(after))


def constant(values: list[np.ndarray]) -> pg.Graph:
    """A model of images `x` [n, 3, h, w] that gives the same for each."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Sub", ["mean", "mean"], ["none"]),
    ]
    outputs, tensors = [], []
    for i, value in enumerate(values):
        axes = np.arange(1, value.ndim)
        tensors += [
            numpy_helper.from_array(value, f"value{i}"),
            numpy_helper.from_array(axes, f"axes{i}"),
        ]
        nodes += [
            helper.make_node("Unsqueeze", ["none", f"axes{i}"], [f"none{i}"]),
            helper.make_node("Add", [f"none{i}", f"value{i}"], [f"y{i}"]),
        ]
        shape = ["n", *value.shape[1:]]
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, shape))
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
    graph = helper.make_graph(nodes, "constant", [images], outputs, tensors)
    opsets = [helper.make_opsetid("", 17)]
    return from_model(helper.make_model(graph, opset_imports=opsets, ir_version=8))


#: Corners of boxes far from each other in an image of 64 x 96, by number.
PLACES = np.array(
    [[x, y, x + 14, y + 10] for y in range(2, 50, 15) for x in range(3, 80, 18)], np.float64
)
CLASSES = 4


@dataclasses.dataclass(frozen=True)
class Objects:
    """Objects in an image: place, class and score of each, the best first."""

    places: tuple[int, ...]
    named: tuple[int, ...]
    scores: tuple[float, ...]

    def outputs(self, form: str) -> list[np.ndarray]:
        """The objects as a network of that form says them, float32 [1, ...]."""
        corners = PLACES[list(self.places)].reshape(-1, 4)
        chances = np.zeros((len(self.places), CLASSES))
        chances[range(len(self.places)), list(self.named)] = self.scores
        centred = np.concatenate(
            [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1
        )
        # Places with nothing in them, as every network of these forms has.
        empty = np.tile([[30.0, 30, 8, 8]], (40, 1))
        if form == "finished":
            rows = np.column_stack([corners, self.scores, self.named])
            values = [np.concatenate([rows, np.zeros((3, 6))])]
        elif form == "corners and scores":
            values = [
                np.concatenate([corners, empty + np.array([0, 0, 30, 30])]),
                np.concatenate([chances, np.zeros((40, CLASSES))]),
            ]
        elif form == "places last":
            rows = np.column_stack([centred, chances])
            values = [
                np.concatenate([rows, np.pad(empty, ((0, 0), (0, CLASSES)))]).T.copy()
            ]
        else:
            rows = np.column_stack([centred, np.ones(len(corners)), chances])
            values = [np.concatenate([rows, np.pad(empty, ((0, 0), (0, 1 + CLASSES)))])]
        return [each[None].astype(np.float32) for each in values]


@st.composite
def objects(draw: st.DrawFn) -> Objects:
    places = draw(
        st.lists(st.integers(0, len(PLACES) - 1), unique=True, min_size=1, max_size=8)
    )
    named = [draw(st.integers(0, CLASSES - 1)) for _ in places]
    scores = [draw(st.integers(26, 99)) / 100 for _ in places]
    return Objects(tuple(places), tuple(named), tuple(sorted(scores, reverse=True)))


FORMS = ("finished", "corners and scores", "places last", "places first")


@settings(max_examples=40, deadline=None)
@given(objects(), objects(), st.sampled_from(FORMS))
def test_boxes_of_both_models(first: Objects, second: Objects, form: str) -> None:
    images = np.random.default_rng(0).random((2, 3, 64, 96)).astype(np.float32)
    result = answering(first.outputs(form), second.outputs(form))
    shown = examples(result, Data.of({"x": images}))
    assert len(shown) == 2
    for each in shown:
        assert each.size == (64, 96) and each.views is not None
        for view, seen in zip(each.views, (first, second), strict=True):
            drawn = {
                (
                    round(b.x),
                    round(b.y),
                    round(b.x + b.width),
                    round(b.y + b.height),
                    b.named,
                )
                for b in view.boxes
            }
            assert drawn == {
                (*PLACES[p].astype(int), n)
                for p, n in zip(seen.places, seen.named, strict=True)
            }
            assert [b.score for b in view.boxes] == pytest.approx(list(seen.scores))
        same = {*zip(first.places, first.named, strict=True)} & {
            *zip(second.places, second.named, strict=True)
        }
        most = max(len(first.places), len(second.places))
        assert each.agreement == pytest.approx(len(same) / most)


def test_the_page_draws_boxes(
    result: pg.PruneResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Objects((0, 7, 12), (3, 1, 0), (0.9, 0.6, 0.3))
    second = Objects((0, 7), (3, 2), (0.8, 0.7))
    both = answering(first.outputs("places last"), second.outputs("places last"))
    images = np.random.default_rng(0).random((1, 3, 64, 96)).astype(np.float32)
    shown = examples(both, Data.of({"x": images}))
    monkeypatch.setattr(html, "examples", lambda *given: shown)
    page = Page(html.render(result))
    labels = [s["aria-label"] for s in page.attributes("svg") if s["class"] == "view"]
    assert labels == [
        "Original: class 3 (90%), class 1 (60%), class 0 (30%)",
        "New model: class 3 (80%), class 2 (70%)",
    ]
    drawn = [a for a in page.attributes("rect") if a.get("class") == "halo"]
    assert [float(a["x"]) for a in drawn] == [PLACES[p][0] for p in (0, 7, 12, 0, 7)]
    text = page.text(inside="examples")
    assert "Original with 3 boxes, new model with 2: 33.3% agree in class and place" in text
    assert_loads_nothing(page)


def test_a_detector_that_finds_nothing_shows_nothing() -> None:
    nothing = [np.zeros((1, 0, 6), np.float32)]
    images = {"x": np.zeros((1, 3, 64, 96), np.float32)}
    assert examples(answering(nothing, nothing), Data.of(images)) == []
    labelled = Data.of({**images, LABELS: np.zeros((1, 1, 5), np.float32)})
    [each] = examples(answering(nothing, nothing), labelled)
    assert each.views is not None and each.agreement == 1
    assert [view.said({}) for view in each.views] == ["no box", "no box"]


@pytest.mark.parametrize("first", [True, False])
def test_outputs_that_are_no_tensors_are_left_out(first: bool) -> None:
    """A sequence of tensors of unlike shapes beside classes; where it comes first, nothing is known."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    parts = helper.make_value_info("parts", helper.make_sequence_type_proto(kind))
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["scores"], axes=[2, 3], keepdims=0),
        helper.make_node("SequenceConstruct", ["x", "scores"], ["parts"]),
    ]
    outputs = [parts, scores] if first else [scores, parts]
    graph = helper.make_graph(nodes, "sequence", [x], outputs)
    opsets = [helper.make_opsetid("", 17)]
    model = from_model(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    result = dataclasses.replace(prune(residual_net()), original=model, model=model)
    images = Data.of({"x": np.random.default_rng(0).random((2, 3, 8, 8), np.float32)})
    assert len(examples(result, images)) == (0 if first else 2)


def test_few_of_many_boxes_are_drawn() -> None:
    rows = np.zeros((1, 60, 6), np.float32)
    rows[0, :, :4] = [[i, i, i + 5, i + 5] for i in range(60)]
    rows[0, :, 4] = np.linspace(0.2, 0.9, 60)
    images = np.zeros((1, 3, 80, 80), np.float32)
    [each] = examples(answering([rows], [rows]), Data.of({"x": images}))
    assert each.views is not None and each.agreement == 1
    scores = [box.score for box in each.views[0].boxes]
    assert scores == pytest.approx(np.linspace(0.2, 0.9, 60)[::-1][:BOXES].tolist())


@pytest.mark.parametrize("case", ["hidden states", "fractions", "outside", "unsure", "nan"])
def test_what_is_no_box_shows_nothing(case: str) -> None:
    rng = np.random.default_rng(0)
    boxes = Objects((1, 2), (0, 1), (0.9, 0.8)).outputs("corners and scores")
    if case == "hidden states":
        boxes = [rng.standard_normal((1, 17, 32)).astype(np.float32)]
    elif case == "fractions":
        boxes[0] /= 96
    elif case == "outside":
        boxes[0] += 500
    elif case == "unsure":
        boxes[1] *= 0.2
    else:
        boxes[0][0, 5] = np.nan
    data = {"x": np.zeros((1, 3, 64, 96), np.float32)}
    assert examples(answering(boxes, boxes), Data.of(data)) == []
    # Labels that are boxes say what the outputs are.
    data[LABELS] = np.zeros((1, 1, 5), np.float32)
    named = examples(answering(boxes, boxes), Data.of(data))
    assert len(named) == 1 and named[0].views is not None


def test_a_metric_says_how_boxes_are_read() -> None:
    """Maps with anchors show boxes where the metric has the anchors, and nothing otherwise."""
    values = np.full((1, 1 * (5 + 2), 8, 8), -9.0, np.float32)
    values[0, :, 3, 4] = [0, 0, 0, 0, 9, 9, -9]
    images = Data.of({"x": np.zeros((1, 3, 64, 64), np.float32)})
    result = answering([values], [values])
    [each] = examples(result, images, "map50:anchors=20x12")
    assert each.views is not None
    [box] = each.views[0].boxes
    assert (box.x, box.y, box.width, box.height) == pytest.approx((26, 22, 20, 12))
    assert box.named == 0
    labelled = Data.of(
        {"x": np.zeros((1, 3, 64, 64), np.float32), LABELS: np.zeros((1, 1, 5), np.float32)}
    )
    assert examples(result, labelled) == []


@given(objects(), objects())
def test_matches_are_one_to_one(first: Objects, second: Objects) -> None:
    boxes = [
        (PLACES[list(o.places)], np.array(o.scores), np.array(o.named))
        for o in (first, second)
    ]
    twice = tuple(np.concatenate([part, part]) for part in boxes[0])
    assert detection.matches(boxes[0], boxes[0]) == len(first.places)
    assert detection.matches(twice, boxes[0]) == len(first.places)
    assert detection.matches(boxes[0], boxes[1]) == detection.matches(boxes[1], boxes[0])


def test_what_is_no_image_shows_nothing() -> None:
    b = Builder()
    y = b.linear(b.relu(b.linear(b.input("n", 6), 6, 8, name="first")), 8, 3, name="second")
    result = prune(b.graph(y))
    rows = {"x": np.ones((4, 6), np.float32)}
    assert examples(result, Data.of(rows)) == [] and examples(result, None) == []
    assert "examples" not in {a.get("id") for _, a in Page(html.render(result)).elements}
