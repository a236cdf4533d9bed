"""Input data: random inputs for proofs, and the user's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from prunegraph.errors import DataError
from prunegraph.graph.facts import facts, symbolic_axes
from prunegraph.graph.model import Graph

#: Whole numbers of random inputs stay below this: small enough to be an index into most tables.
RANDOM_LIMIT = 8

Batch = dict[str, np.ndarray]


def random_inputs(graph: Graph, *, seed: int = 0, batch: int = 2, stretch: int = 1) -> Batch:
    """Random inputs: normal numbers, small whole numbers, or booleans by the input's type.

    A symbolic first axis gets `batch` samples, other symbolic axes `stretch` times the size of the analysis.

    Raises:
        DataError: an input is neither a number nor a boolean.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for entry in graph.model.graph.input:
        if entry.name not in graph.inputs:
            continue
        tensor = entry.type.tensor_type
        shape = list(facts(graph).sizes[entry.name])
        for axis in symbolic_axes(graph)[entry.name]:
            shape[axis] = batch if axis == 0 else shape[axis] * stretch
        found[entry.name] = _random(rng, tensor.elem_type, shape, entry.name)
    return found


def _random(rng: np.random.Generator, kind: int, shape: list[int], name: str) -> np.ndarray:
    if kind == onnx.TensorProto.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    except KeyError:
        raise DataError(f"input {name!r} has no tensor type that random numbers can fill; give --data") from None
    if dtype.kind in "iu":
        return rng.integers(0, RANDOM_LIMIT, shape).astype(dtype)
    if dtype.kind in "OSU":
        raise DataError(f"input {name!r} holds text; random inputs cannot be made, give --data")
    return rng.standard_normal(shape).astype(dtype)


class Data:
    """A data set: arrays by input name, samples along axis 0, and perhaps `labels`."""

    def __init__(self, arrays: Mapping[str, np.ndarray], source: str):
        self.source = source
        self.labels = arrays.get("labels")
        self.arrays = {name: array for name, array in arrays.items() if name != "labels"}
        lengths = {len(array) for array in arrays.values()}
        if len(lengths) != 1 or not self.arrays:
            raise DataError(f"{source}: needs arrays of one length along axis 0, found lengths {sorted(lengths)}")
        self.samples = lengths.pop()

    def fit(self, graph: Graph) -> Data:
        """This data, checked against a model's inputs. Raises DataError."""
        missing = [name for name in graph.inputs if name not in self.arrays]
        if missing:
            raise DataError(
                f"{self.source}: no array for model input {missing[0]!r}; it has {', '.join(sorted(self.arrays))}"
            )
        for entry in graph.model.graph.input:
            if entry.name in self.arrays and entry.name in graph.inputs:
                self._check(entry)
        return self

    def _check(self, entry: onnx.ValueInfoProto) -> None:
        tensor = entry.type.tensor_type
        array = self.arrays[entry.name]
        wanted = [d.dim_value for d in tensor.shape.dim]
        pairs = zip(wanted[1:], array.shape[1:], strict=False)
        if array.ndim != len(wanted) or any(w > 0 and w != s for w, s in pairs):
            raise DataError(f"{self.source}: input {entry.name!r} wants shape {wanted}, found {list(array.shape)}")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if array.dtype != dtype:
            raise DataError(f"{self.source}: input {entry.name!r} wants {dtype}, found {array.dtype}")

    def batches(self, graph: Graph, size: int = 64) -> Iterator[Batch]:
        """Inputs in batches; a model with a fixed batch size gets that, the rest is left out."""
        fixed = [
            e.type.tensor_type.shape.dim[0].dim_value
            for e in graph.model.graph.input
            if e.name in graph.inputs and e.type.tensor_type.shape.dim
        ]
        step = max(fixed, default=0) or size
        stop = self.samples if max(fixed, default=0) <= 0 else self.samples - step + 1
        for start in range(0, stop, step):
            yield {name: self.arrays[name][start : start + step] for name in graph.inputs}


def read_data(text: str) -> Data:
    """Data from an `.npz` file, or from `file.py:function` that yields dicts of arrays.

    Raises:
        DataError: the source cannot be read.
    """
    if ".py:" in text:
        return _from_function(text)
    path = Path(text)
    if not path.is_file():
        raise DataError(f"{text}: no such data file")
    try:
        with np.load(path, allow_pickle=False) as file:
            return Data({name: file[name] for name in file.files}, text)
    except (ValueError, OSError, AttributeError) as error:
        raise DataError(f"{text}: not an .npz file of arrays ({error})") from error


def _from_function(text: str) -> Data:
    path, _, name = text.rpartition(":")
    spec = importlib.util.spec_from_file_location("prunegraph_data", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise DataError(f"{path}: no such Python file")
    module: Any = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        batches = list(getattr(module, name)())
        return Data({key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}, text)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{text}: {type(error).__name__}: {error}") from error
