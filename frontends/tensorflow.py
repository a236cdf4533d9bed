"""TensorFlow and Keras, by their public converters: tf2onnx, or what Keras exports with on its other backends.

TensorFlow, Keras and tf2onnx are an extra and imported when they are needed. tf2onnx runs in a process of its own, so
that TensorFlow is not loaded beside the engine for the sake of a file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.errors import ModelError
from prunegraph.frontends import jax
from prunegraph.frontends.base import frontend
from prunegraph.frontends.converters import MESSAGE, converting, need
from prunegraph.frontends.fold import fold
from prunegraph.graph.names import Names
from prunegraph.graph.order import nested

if TYPE_CHECKING:
    import keras

#: What tf2onnx and PyTorch's older exporter write with every operator they know.
OPSET = 17

#: Keras' other backends: the package that exports a model there, the extra that brings it, and the operator set.
BACKENDS = {"jax": ("jax2onnx", "jax", jax.OPSET), "torch": ("torch", "torch", OPSET)}

#: The file in a folder of TensorFlow's by which it is one.
SAVED_MODEL = "saved_model.pb"

#: TensorFlow's complementary error function.
ERFC = "Erfc"


@frontend("keras.src.models.model.Model")
def load(source: keras.Model, *, inputs: Any = None) -> onnx.ModelProto:
    """An ONNX model of a Keras model in inference mode; axes that its inputs leave open stay open.

    Args:
        source: the model; left as it is.
        inputs: example inputs of a model whose inputs are not declared (a subclass of `keras.Model`): an array, or a
            sequence of them. The first axis is the batch and stays free.

    Raises:
        ModelError: it cannot be converted.
        MissingExtraError: the converter for its backend is not installed.
    """
    return _model(source, inputs)


@frontend(".keras", runs_code=True)
@frontend(".h5", runs_code=True)
def load_file(source: str) -> onnx.ModelProto:
    """An ONNX model of a file that `keras.Model.save` wrote. Raises ModelError, MissingExtraError."""
    need("a Keras model", "tensorflow", "keras")
    # TensorFlow tells of its processor when it is first loaded, unless it was told not to.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with converting(source):
        import keras

        model = keras.models.load_model(source, compile=False)
    return _model(model)


@frontend(SAVED_MODEL, runs_code=True)
def load_saved_model(source: str) -> onnx.ModelProto:
    """A SavedModel's first signature, by the file in its folder, as ONNX. Raises ModelError, MissingExtraError."""
    return _converted(source, "--saved-model", str(Path(source).parent))


@frontend(".tflite", runs_code=True)
def load_tflite(source: str) -> onnx.ModelProto:
    """An ONNX model of a TensorFlow Lite file. Raises ModelError, MissingExtraError."""
    return _converted(source, "--tflite", source)


def _model(source: keras.Model, inputs: Any = None) -> onnx.ModelProto:
    """An ONNX model of a Keras model, by what converts models of its backend. Raises ModelError, MissingExtraError."""
    from keras import backend

    label, name = f"the Keras model {source.name!r}", backend.backend()
    if name == "tensorflow":
        return _by_saved_model(source, label, inputs)
    if name not in BACKENDS:
        raise ModelError(f"{label}: nothing converts models of the backend {name!r}")
    package, extra, opset = BACKENDS[name]
    need("a Keras model", extra, package)
    with converting(label), tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        source.export(
            path,
            format="onnx",
            input_signature=_signature(source, inputs),
            opset_version=opset,
            verbose=False,
        )
        return fold(onnx.load(path), {}, {})[0]


def _by_saved_model(model: keras.Model, label: str, inputs: Any) -> onnx.ModelProto:
    """By a SavedModel: Keras' direct export forgets constants that layers hold, and names outputs anew."""
    need("a Keras model", "tensorflow", "tensorflow", "tf2onnx")
    with tempfile.TemporaryDirectory() as folder:
        with converting(label):
            model.export(folder, input_signature=_signature(model, inputs), verbose=False)
        return _converted(label, "--saved-model", folder)


def _signature(model: keras.Model, inputs: Any) -> list[Any] | None:
    """What a model takes, as Keras' export wants it; None leaves it to what the model was called with before."""
    import keras

    if inputs is not None:
        several = inputs if isinstance(inputs, list | tuple) else [inputs]
        arrays = [np.asarray(each) for each in several]
        return [
            keras.InputSpec(shape=(None, *array.shape[1:]), dtype=array.dtype.name)
            for array in arrays
        ]
    try:
        declared = model.input
    except AttributeError:
        return None
    spec = lambda each: keras.InputSpec(  # noqa: E731
        shape=each.shape, dtype=each.dtype, name=each.name
    )
    return [keras.tree.map_structure(spec, declared)]


def _converted(label: str, *options: str) -> onnx.ModelProto:
    """What tf2onnx's command writes, with operators of ONNX alone. Raises ModelError, MissingExtraError."""
    need("a TensorFlow model", "tensorflow", "tensorflow", "tf2onnx")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        words = [*options, "--output", str(path), "--opset", str(OPSET)]
        done = subprocess.run(
            [sys.executable, "-m", "tf2onnx.convert", *words],
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        if done.returncode or not path.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise ModelError(f"{label}: cannot be converted: {lines[-1][:MESSAGE]}")
        model = onnx.load(path)
    _replace_erfc(model)
    _check_operators(model, label)
    return model


def _replace_erfc(model: onnx.ModelProto) -> None:
    """Write 1 - erf(x) for erfc(x), by which Keras computes GELU: ONNX has no such operator, and tf2onnx leaves it."""
    holders = [graph for graph in nested(model.graph) if ERFC in _operators(graph)]
    if not holders:
        return
    names = Names(model.graph)
    one = names.new("one")
    model.graph.initializer.append(numpy_helper.from_array(np.ones((), np.float32), one))
    # The inner ones first: nodes are copied into a graph when they are put there.
    for graph in reversed(holders):
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if node.op_type != ERFC:
                nodes.append(node)
                continue
            erf = names.new(f"{node.output[0]}_erf")
            nodes.append(helper.make_node("Erf", node.input, [erf], name=erf))
            nodes.append(helper.make_node("Sub", [one, erf], node.output, name=node.name))
        del graph.node[:]
        graph.node.extend(nodes)


def _check_operators(model: onnx.ModelProto, label: str) -> None:
    """Raise ModelError where tf2onnx left operators that ONNX does not have; it writes the file all the same."""
    unknown = {
        name
        for graph in nested(model.graph)
        for name in _operators(graph)
        if not onnx.defs.has(name)
    }
    if unknown:
        raise ModelError(
            f"{label}: tf2onnx does not convert TensorFlow's {', '.join(sorted(unknown))}"
        )


def _operators(graph: onnx.GraphProto) -> set[str]:
    """Names of the operators of ONNX's own domain in a graph, those inside its nodes left out."""
    return {node.op_type for node in graph.node if node.domain in ("", "ai.onnx")}
