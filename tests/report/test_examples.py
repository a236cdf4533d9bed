"""Images in a report with what both models make of them."""

from __future__ import annotations

import base64
import io

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from prunegraph.report import html
from prunegraph.report.examples import IMAGES, PALETTE, SIDE, examples, png
from prunegraph.runtime.data import Data
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
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([1, 3]))
def test_pictures(height: int, width: int, channels: int) -> None:
    rng = np.random.default_rng(height * 401 + width)
    image = rng.integers(0, 256, (height, width, channels)).astype(np.uint8)
    step = -(-max(height, width) // SIDE) if max(height, width) > SIDE else 1
    expected = image[::step, ::step]
    shown = opened(png(image))
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
        assert each.maps is not None and not each.before
        for scores, address in zip(outputs, each.maps, strict=True):
            assert np.array_equal(opened(address), PALETTE[scores[i].argmax(0)])
        same = outputs[0][i].argmax(0) == outputs[1][i].argmax(0)
        assert each.agreement == pytest.approx(same.mean())


def test_what_is_no_image_shows_nothing() -> None:
    b = Builder()
    y = b.linear(b.relu(b.linear(b.input("n", 6), 6, 8, name="first")), 8, 3, name="second")
    result = prune(b.graph(y))
    rows = {"x": np.ones((4, 6), np.float32)}
    assert examples(result, Data.of(rows)) == [] and examples(result, None) == []
    assert "examples" not in {a.get("id") for _, a in Page(html.render(result)).elements}
