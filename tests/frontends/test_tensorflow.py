"""TensorFlow and Keras as sources: what is ours without them, and the whole way where they are installed (slow)."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import prunegraph as pg
from prunegraph import frontends, plugins
from prunegraph.errors import MissingExtraError, ModelError, PluginError
from prunegraph.frontends.base import takes
from prunegraph.runtime.session import run, session
from tests.builders import residual_net
from tests.oracle import prove
from tests.paths import ROOT

needs_tensorflow = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("tensorflow", "tf2onnx")),
    reason="the extra [tensorflow] is not installed",
)

#: A converter that copies a file, in the place of tf2onnx: what it is called with is kept beside that.
CONVERTER = """
import os, pathlib, shutil, sys
folder = pathlib.Path(os.environ["CONVERTER_FOLDER"])
(folder / "called").write_text(" ".join(sys.argv[1:]))
if (folder / "reason").exists():
    sys.exit("a first line\\n" + (folder / "reason").read_text())
if (folder / "model.onnx").exists():
    shutil.copy(folder / "model.onnx", sys.argv[sys.argv.index("--output") + 1])
"""

ERFC = """
<ir_version: 8, opset_import: ["" : 17]>
erfc (float[N] x, float one) => (float[N] y, float[N] z)
<bool yes = {1}>
{
    y = Erfc(x)
    z = If(yes)<then_branch = then () => (float[N] a) { a = Erfc(x) },
                else_branch = other () => (float[N] b) { b = Neg(x) }>
}
"""


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a converter in the place of tf2onnx."""
    for package in ("tf2onnx", "tensorflow"):
        (tmp_path / "packages" / package).mkdir(parents=True)
        (tmp_path / "packages" / package / "__init__.py").touch()
    (tmp_path / "packages/tf2onnx/convert.py").write_text(CONVERTER)
    paths = [str(tmp_path / "packages"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("CONVERTER_FOLDER", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    return tmp_path


def test_files_go_through_the_converter(converter: Path) -> None:
    net = residual_net()
    pg.save(net, converter / "model.onnx")
    (converter / "saved").mkdir()
    (converter / "saved/saved_model.pb").touch()
    (converter / "net.tflite").touch()
    for source, words in (
        ("saved", f"--saved-model {converter / 'saved'} "),
        ("saved/saved_model.pb", f"--saved-model {converter / 'saved'} "),
        ("net.tflite", f"--tflite {converter / 'net.tflite'} "),
    ):
        graph = pg.load(converter / source)
        assert graph.sha256 == net.sha256
        assert (converter / "called").read_text().startswith(words)
    assert not takes(str(converter / "saved"), "inputs")


def test_what_the_converter_says_is_the_reason(converter: Path) -> None:
    (converter / "net.tflite").touch()
    (converter / "reason").write_text("ValueError: no such flatbuffer")
    with pytest.raises(
        ModelError, match=r"net\.tflite: cannot be converted: ValueError: no such flatb"
    ):
        pg.load(converter / "net.tflite")
    (converter / "reason").unlink()
    with pytest.raises(ModelError, match="cannot be converted: exit code 0"):
        pg.load(converter / "net.tflite")


def test_operators_that_were_not_converted_are_named(converter: Path) -> None:
    (converter / "net.tflite").touch()
    text = ERFC.replace("Erfc", "Igamma").replace("Neg", "Zeta")
    onnx.save(onnx.parser.parse_model(text), converter / "model.onnx")
    with pytest.raises(ModelError, match="does not convert TensorFlow's Igamma, Zeta"):
        pg.load(converter / "net.tflite")


def test_erfc_is_written_with_operators_of_onnx(converter: Path) -> None:
    """In subgraphs too, under names that nothing else has."""
    (converter / "net.tflite").touch()
    onnx.save(onnx.parser.parse_model(ERFC), converter / "model.onnx")
    graph = pg.load(converter / "net.tflite")
    x = np.linspace(-3, 3, 13, dtype=np.float32)
    wanted = [math.erfc(value) for value in x]
    for result in run(session(graph), {"x": x, "one": np.array(5, np.float32)}):
        np.testing.assert_allclose(result, wanted, atol=3e-7)


def test_without_the_extra_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("net.keras", "net.h5", "net.tflite", "saved_model.pb"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(
            MissingExtraError, match=r"pip install 'prunegraph\[tensorflow\]'"
        ):
            pg.load(tmp_path / name)


def test_files_of_programs_are_code(tmp_path: Path) -> None:
    """A recipe that names one needs trust."""
    for name in ("net.keras", "net.h5", "net.tflite", "saved_model.pb", "."):
        (tmp_path / name).touch()
        assert frontends.runs_code(str(tmp_path / name))
        with plugins.no_code("no"), pytest.raises(PluginError, match="no: "):
            pg.load(tmp_path / name)
    assert not frontends.runs_code(str(tmp_path.parent))


def image_net(keras: Any) -> tuple[Any, Any]:
    """Convolutions with BatchNormalization, a depthwise one, a sum."""
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(12, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(12, 1)(layers.DepthwiseConv2D(3, padding="same")(x))
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    net = keras.Model(inputs, layers.Dense(5)(x), name="image_net")
    return net, np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


def text_net(keras: Any) -> tuple[Any, Any]:
    """A transformer's layer with GELU over an embedding."""
    layers = keras.layers
    inputs = keras.Input((8,), dtype="int32", name="tokens")
    x = layers.Embedding(50, 16)(inputs)
    h = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(4, 4)(h, h)])
    h = layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x))
    x = layers.GlobalAveragePooling1D()(layers.Add()([x, layers.Dense(16)(h)]))
    net = keras.Model(inputs, layers.Dense(5)(x))
    return net, np.random.default_rng(0).integers(0, 50, (2, 8)).astype(np.int32)


def recurrent_net(keras: Any) -> tuple[Any, Any]:
    """An LSTM, and a GRU, which becomes a loop."""
    layers = keras.layers
    inputs = keras.Input((6, 4))
    x = layers.GRU(8)(layers.LSTM(12, return_sequences=True)(inputs))
    net = keras.Model(inputs, layers.Dense(3)(x))
    return net, np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)


def constants_net(keras: Any) -> tuple[Any, Any]:
    """A layer that holds constants which are no variables."""
    layers = keras.layers
    inputs = keras.Input((4,))
    x = layers.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 4, 9, 16])(inputs)
    net = keras.Model(inputs, layers.Dense(3)(layers.Dense(8, activation="relu")(x)))
    return net, np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)


def check(graph: pg.Graph, net: Any, values: Any) -> None:
    """The graph computes what Keras computes, for any batch, and is pruned with a proof."""
    [name] = graph.inputs
    values = np.concatenate([values, values[:1]])
    wanted = net.predict(values, verbose=0)
    [found] = run(session(graph), {name: values})
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert pg.analyze(graph).groups
    prove(graph)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@needs_tensorflow
@pytest.mark.parametrize("make", [image_net, text_net, recurrent_net, constants_net])
def test_keras_models(make: Callable[[Any], tuple[Any, Any]]) -> None:
    import keras

    keras.utils.set_random_seed(0)
    net, values = make(keras)
    check(pg.load(net), net, values)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@needs_tensorflow
def test_files_of_keras_and_tensorflow(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    net, values = image_net(keras)
    net.save(tmp_path / "net.keras")
    net.save(tmp_path / "net.h5")
    net.export(str(tmp_path / "saved"), verbose=False)
    converted = tf.lite.TFLiteConverter.from_keras_model(net).convert()
    (tmp_path / "net.tflite").write_bytes(converted)
    for name in ("net.keras", "net.h5", "saved", "net.tflite"):
        check(pg.load(tmp_path / name), net, values)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@needs_tensorflow
def test_a_model_that_declares_no_inputs() -> None:
    import keras

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first = keras.layers.Dense(12, activation="relu")
            self.second = keras.layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.second(self.first(x))

    net, values = Net(), np.ones((2, 6), np.float32)
    with pytest.raises(ModelError, match="the Keras model 'net': cannot be converted"):
        pg.load(net)
    net(values)
    check(pg.load(net, values), net, values)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "package"), [("torch", "torch"), ("jax", "jax2onnx")])
def test_other_backends_of_keras(backend: str, package: str) -> None:
    """Keras takes one backend for the life of a process."""
    for name, extra in (("keras", "tensorflow"), (package, backend)):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the extra [{extra}] is not installed")
    code = (
        "import keras, prunegraph as pg, tests.frontends.test_tensorflow as these\n"
        f"assert keras.backend.backend() == {backend!r}\n"
        "net, values = these.image_net(keras)\n"
        "these.check(pg.load(net), net, values)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@needs_tensorflow
def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("net.keras", "net.h5", "net.tflite"):
        (tmp_path / name).write_bytes(b"not a model")
        with pytest.raises(ModelError, match=rf"{name}: cannot be converted"):
            pg.load(tmp_path / name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@needs_tensorflow
@pytest.mark.parametrize("name", ["net.keras", "net.h5"])
def test_code_in_a_file_is_not_run(name: str, tmp_path: Path) -> None:
    import keras

    layers = keras.layers
    net = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x), layers.Dense(3)])
    net.save(tmp_path / name)
    with pytest.raises(ModelError, match="arbitrary code"):
        pg.load(tmp_path / name)
