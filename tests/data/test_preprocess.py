"""Preprocessing against numpy and Pillow by hand; in words and back; presets; Hugging Face's files; guesses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from PIL import Image

from prunegraph.data.geometry import CenterCrop, Letterbox, Resize, ShorterSide
from prunegraph.data.image_input import (
    ImageInput,
    guessed,
    image_input,
    preprocessing,
    preset,
)
from prunegraph.data.preprocess import Preprocessing, parse
from prunegraph.errors import OptionError, UnknownNameError
from tests.data.scenes import network
from tests.data.test_geometry import STEPS

F32 = np.dtype(np.float32)
TARGET = ImageInput("photo", "nchw", 3, (224, 224), F32)


def photo(width: int = 300, height: int = 260, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))


def values(chain: Preprocessing, image: Image.Image, dtype: np.dtype = F32) -> np.ndarray:
    return chain.values(chain.pixels(image)[None], dtype)[0]


# -- against references by hand ---------------------------------------------------------------


def test_imagenet_is_what_torchvision_does() -> None:
    """`Resize(256)`, `CenterCrop(224)`, `ToTensor()`, `Normalize(...)` on a Pillow image, written out."""
    image = photo(300, 260)
    resized = image.resize((int(256 * 300 / 260), 256), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), round((256 - 224) / 2)
    array = np.asarray(resized.crop((left, top, left + 224, top + 224))).transpose(2, 0, 1)
    mean = np.array([0.485, 0.456, 0.406])[:, None, None]
    std = np.array([0.229, 0.224, 0.225])[:, None, None]
    expected = (array / 255 - mean) / std
    np.testing.assert_allclose(
        values(preset("imagenet", TARGET), image), expected, atol=1e-5
    )


def test_clip_is_what_its_processor_does() -> None:
    image = photo(300, 261)
    resized = image.resize((int(224 * 300 / 261), 224), Image.Resampling.BICUBIC)
    left = (resized.width - 224) // 2
    array = np.asarray(resized.crop((left, 0, left + 224, 224))) / 255
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    expected = ((array - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(values(preset("clip", TARGET), image), expected, atol=1e-5)


def test_yolo_is_a_letterbox() -> None:
    image = photo(300, 260)
    chain = preset("yolo", replace(TARGET, size=(96, 128)))
    inner = image.resize((round(300 * 96 / 260), 96), Image.Resampling.BILINEAR)
    expected = np.full((96, 128, 3), 114, np.uint8)
    left = round((128 - inner.width) / 2 - 0.1)
    expected[:, left : left + inner.width] = np.asarray(inner)
    np.testing.assert_allclose(
        values(chain, image), expected.transpose(2, 0, 1) / 255, atol=1e-7
    )


def test_none_gives_pixels() -> None:
    image = photo(30, 20)
    array = values(preset("none", replace(TARGET, layout="nhwc", size=None)), image)
    np.testing.assert_array_equal(array, np.asarray(image))


@given(
    st.sampled_from(["rgb", "bgr", "gray"]),
    st.sampled_from(["nchw", "nhwc"]),
    st.floats(0.001, 10),
    st.floats(-3, 3),
    st.floats(0.1, 3),
    st.integers(0, 5),
)
def test_values_by_the_formula(
    color: str, layout: str, scale: float, mean: float, std: float, seed: int
) -> None:
    image = photo(9, 7, seed)
    text = f"color={color},layout={layout},scale={scale!r},mean={mean!r},std={std!r}"
    chain = parse(text, Preprocessing())
    array = np.asarray(image, np.float64)
    if color == "gray":
        # ITU-R 601-2, as Pillow rounds it
        array = np.asarray(image.convert("L"), np.float64)[:, :, None]
    if color == "bgr":
        array = array[:, :, [2, 1, 0]]
    expected = (array * scale - mean) / std
    if layout == "nchw":
        expected = expected.transpose(2, 0, 1)
    given_image = image.convert("L") if color == "gray" else image
    np.testing.assert_allclose(values(chain, given_image), expected, rtol=1e-4, atol=1e-3)


def test_types_of_inputs() -> None:
    image = photo(8, 8)
    pixels = values(Preprocessing(), image, np.dtype(np.uint8))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(image).transpose(2, 0, 1))
    half = values(Preprocessing(scale=1 / 255), image, np.dtype(np.float16))
    assert half.dtype == np.float16
    with pytest.raises(OptionError, match=r"whole numbers \(uint8\): leave out scale"):
        values(Preprocessing(scale=1 / 255), image, np.dtype(np.uint8))


# -- in words ---------------------------------------------------------------------------------

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)
POSITIVE = st.floats(1e-6, 1e6) | st.integers(2, 500).map(lambda n: 1 / n)
CHAINS = st.builds(
    Preprocessing,
    st.lists(STEPS, max_size=3).map(tuple),
    st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
    st.sampled_from(["rgb", "bgr"]),
    POSITIVE,
    st.tuples(NUMBERS) | st.tuples(NUMBERS, NUMBERS, NUMBERS),
    st.tuples(POSITIVE) | st.tuples(POSITIVE, POSITIVE, POSITIVE),
    st.sampled_from(["nchw", "nhwc"]),
)


@given(CHAINS)
def test_a_chain_is_read_as_it_is_written(chain: Preprocessing) -> None:
    assert parse(str(chain), Preprocessing()) == chain


def test_the_chain_of_the_documentation() -> None:
    text = (
        "resize=256,crop=224,scale=1/255,mean=0.485,0.456,0.406,"
        "std=0.229,0.224,0.225,layout=nchw,color=bgr"
    )
    assert preprocessing(text, TARGET) == replace(preset("imagenet", TARGET), color="bgr")


def test_a_preset_with_more_behind_it() -> None:
    chain = preprocessing("yolo,letterbox=320x256,fill=0,color=bgr", TARGET)
    assert chain.steps == (Letterbox((320, 256), 0),)
    assert chain.scale == 1 / 255 and chain.color == "bgr"
    assert (
        preprocessing("imagenet,color=bgr", TARGET).steps
        == preset("imagenet", TARGET).steps
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagnet", "'imagnet' is not NAME=VALUE, nor a preset"),
        ("resize=224,size=3", "unknown step of preprocessing 'size'"),
        ("resize=0", "is not resize=SIDE or resize=HEIGHTxWIDTH"),
        ("resize=12x", "is not resize=SIDE"),
        ("crop=-3", "is not crop=SIDE"),
        ("scale=1/0", "is not scale=NUMBER"),
        ("scale=1,2", "is not one number"),
        ("mean=0.5,0.5", "mean has 2 numbers, and there are 3 channels"),
        ("std=0", "std not 0"),
        ("std=nan", "finite"),
        ("color=cmyk", "is not one of rgb, bgr, gray"),
        ("layout=chw", "is not one of nchw, nhwc"),
        ("interpolation=best", "is not one of nearest, bilinear"),
        ("fill=0,letterbox=3", "fill=... stands behind letterbox"),
        ("letterbox=3,fill=256", "is not a whole number from 0 to 255"),
        ("color=gray", "color=gray gives 1 channels; input 'photo'"),
    ],
)
def test_chains_that_are_refused(text: str, message: str) -> None:
    with pytest.raises((OptionError, UnknownNameError), match=message):
        preprocessing(text, TARGET)


# -- Hugging Face's files -----------------------------------------------------------------------

NORMAL = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_normalize": True}


@pytest.mark.parametrize(
    ("content", "steps", "interpolation"),
    [
        # ViT: one number is both sides
        (
            {"image_processor_type": "ViTImageProcessor", "size": 224, "do_resize": True},
            (Resize((224, 224)),),
            "bilinear",
        ),
        ({"size": {"height": 160, "width": 120}}, (Resize((160, 120)),), "bilinear"),
        # CLIP
        (
            {
                "feature_extractor_type": "CLIPFeatureExtractor",
                "size": 224,
                "do_center_crop": True,
                "crop_size": 224,
                "resample": 3,
            },
            (ShorterSide(224), CenterCrop((224, 224), True)),
            "bicubic",
        ),
        (
            {
                "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 200},
                "do_center_crop": True,
            },
            (ShorterSide(256), CenterCrop((224, 200), True)),
            "bilinear",
        ),
        # DETR
        (
            {"size": {"shortest_edge": 800, "longest_edge": 1333}, "do_resize": True},
            (ShorterSide(800, 1333),),
            "bilinear",
        ),
        # ConvNeXT below and above 384
        (
            {
                "image_processor_type": "ConvNextImageProcessor",
                "size": {"shortest_edge": 224},
                "crop_pct": 0.875,
                "resample": 3,
            },
            (ShorterSide(256), CenterCrop((224, 224), True)),
            "bicubic",
        ),
        (
            {
                "image_processor_type": "ConvNextImageProcessor",
                "size": {"shortest_edge": 384},
                "crop_pct": 0.875,
            },
            (Resize((384, 384)),),
            "bilinear",
        ),
        ({"do_resize": False, "size": 3}, (), "bilinear"),
    ],
)
def test_files_of_processors(
    tmp_path: Path, content: dict[str, object], steps: object, interpolation: str
) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**NORMAL, **content}))
    chain = preprocessing(str(path), TARGET)
    assert chain.steps == steps and chain.interpolation == interpolation
    assert (chain.scale, chain.mean, chain.std) == (1 / 255, (0.5,) * 3, (0.5,) * 3)


def test_what_a_file_leaves_out_is_not_done(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    content = {**NORMAL, "size": 32, "do_normalize": False, "do_rescale": False}
    path.write_text(json.dumps({**content, "do_flip_channel_order": True}))
    chain = preprocessing(str(path), TARGET)
    assert chain == replace(preset("none", TARGET), steps=(Resize((32, 32)),), color="bgr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file"),
        ("[1]", "says nothing of images"),
        ('{"a": 1}', "says nothing of images"),
        ('{"size": "big"}', "a value is not what"),
        ('{"size": {"side": 3}}', "a value is not what"),
        ('{"size": 3, "resample": 9}', "a value is not what"),
        ('{"size": 3, "image_mean": [1, 2], "image_std": [1, 1]}', "mean has 2 numbers"),
        ('{"size": 3, "do_thumbnail": true}', "'do_thumbnail' is nothing that"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(OptionError, match=message):
        preprocessing(str(path), TARGET)
    with pytest.raises(OptionError, match="No such file"):
        preprocessing(str(tmp_path / "other.json"), TARGET)


# -- guesses ------------------------------------------------------------------------------------


def test_inputs_of_models() -> None:
    def found(*shape: int | str, kind: int = TensorProto.FLOAT) -> ImageInput | None:
        return image_input(network(*shape, kind=kind))

    assert found("N", 3, 224, 160) == ImageInput("photo", "nchw", 3, (224, 160), F32)
    assert found(2, 1, "h", "w") == ImageInput("photo", "nchw", 1, None, F32, 2)
    assert found("N", 3, 8, 8, kind=TensorProto.UINT8) == ImageInput(
        "photo", "nchw", 3, (8, 8), np.dtype(np.uint8)
    )
    assert found("N", 4, 8, 8) is None


def test_guesses() -> None:
    def chain(
        *shape: int | str, kind: int = TensorProto.FLOAT, **notes: str
    ) -> Preprocessing:
        graph = network(*shape, kind=kind, notes=notes)
        target = image_input(graph)
        assert target is not None
        guess = guessed(graph, target)
        assert str(guess.chain) in str(guess)
        return guess.chain

    ours = {"author": "Ultralytics", "task": "detect", "imgsz": "[96, 128]"}
    assert chain("N", 3, 224, 224) == preset("imagenet", TARGET)
    assert chain("N", 3, "h", "w").steps == (ShorterSide(256), CenterCrop((224, 224)))
    assert chain("N", 3, "h", "w", **ours).steps == (Letterbox((96, 128)),)
    assert chain("N", 3, 64, 64, **ours).steps == (Letterbox((64, 64)),)
    assert chain("N", 3, "h", "w", author="Ultralytics").steps == (Letterbox((640, 640)),)
    assert chain("N", 3, "h", "w", **{**ours, "task": "classify"}).steps == (
        ShorterSide(128),
        CenterCrop((96, 128)),
    )
    assert chain("N", 1, 28, 28) == Preprocessing(
        (Resize((28, 28)),), color="gray", scale=1 / 255
    )
    assert chain("N", 3, 28, 28, kind=TensorProto.UINT8) == Preprocessing(
        (Resize((28, 28)),)
    )


@pytest.mark.parametrize("large", [1 << 40, 0], ids=["weights held", "weights on disk"])
def test_a_file_beside_the_model_says_it(
    large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prunegraph as pg

    monkeypatch.setattr("prunegraph.graph.spilling.LARGE", large)
    pg.save(network("N", 3, 32, 32), tmp_path / "net.onnx")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**NORMAL, "size": 32}))
    graph = pg.load(tmp_path / "net.onnx")
    target = image_input(graph)
    assert target is not None
    guess = guessed(graph, target)
    assert guess.chain.steps == (Resize((32, 32)),) and "lies beside" in str(guess)
