"""The writing edge: a finished file is opened as its user opens it, and appears only if it runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from prunegraph.errors import DataError, ModelError
from prunegraph.graph import onnx_io
from prunegraph.graph.linear import is_finite
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Batch, Data, random_inputs
from prunegraph.runtime.engine import Runtime
from prunegraph.runtime.onnx_runtime import OnnxRuntime
from prunegraph.runtime.session import run, session

#: Domains whose operators ONNX Runtime brings with it.
DOMAINS = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft"}
)

#: Outputs of two runtimes that are further apart than this share of the largest value are not the same model's. Codes
#: of a model in integers may flip.
FAR = 0.1

logger = logging.getLogger("prunegraph")


def write(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    like: Graph | None = None,
    data: Sequence[Mapping[str, np.ndarray]] = (),
    verify: bool = True,
    runtime: Runtime | None = None,
) -> None:
    """Write a model that a default session of ONNX Runtime loads and runs; else write nothing.

    The file runs beside its destination, at batch 1 and at its own sizes, before it is renamed into place.
    Where the model it was made from does not run there either (an operator that ONNX Runtime lacks, random numbers
    that are no indices), nothing is shown: the file is written, and a warning says so.

    Args:
        graph: the model.
        path: where it goes.
        like: the model it was made from.
        data: inputs to run on, besides random ones.
        verify: whether to open it. A graph that is just what a file held is never opened.
        runtime: where it is opened and run besides. Outputs that are far from ONNX Runtime's there are a warning.

    Raises:
        ModelError: the file does not load, or does not run on what the model it was made from runs on; it does not
            load or run in the other runtime; or the destination cannot be written.
    """
    other = None if isinstance(runtime, OnnxRuntime) else runtime
    opening = _Opening(graph, str(path), like, [dict(batch) for batch in data], other)
    onnx_io.save(graph, Path(path), opening.check if verify and not graph.is_file else None)


def first_sample(
    data: Data | None, graph: Graph, reader: Graph | None = None
) -> list[Batch]:
    """The first sample of the data, if there are any, as one batch.

    Args:
        data: that of a graph.
        graph: the graph.
        reader: a graph made from it, which may take other inputs; by default the graph itself.

    Raises:
        DataError: the data do not fit the graph.
    """
    if data is None:
        return []
    return list(islice(data.fit(graph).batches(reader or graph, 1), 1))


class _Elsewhere:
    """The file in another runtime. Raises ModelError where that does not load or run it."""

    def __init__(self, runtime: Runtime, path: Path, name: str):
        self._runtime, self._name = runtime, name
        try:
            self._opened = runtime.open(path, name)
        except ModelError as error:
            raise self._failed(error) from error

    def compare(self, inputs: Batch, expected: Sequence[np.ndarray]) -> None:
        """Run the file, and warn where its outputs are far from ONNX Runtime's."""
        try:
            outputs = self._opened.run(inputs)
        except ModelError as error:
            raise self._failed(error) from error
        for index, (own, other) in enumerate(zip(expected, outputs, strict=True)):
            if (far := _distance(own, other)) > FAR:
                logger.warning(
                    "%s: %s computes something else than ONNX Runtime: output %d differs by %.2g of its largest value",
                    self._name,
                    self._runtime.title,
                    index,
                    far,
                )

    def _failed(self, error: ModelError) -> ModelError:
        return ModelError(f"{error}; nothing was written: without --runtime it would be")


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference of two arrays as a share of the largest value; 0 where they hold no numbers."""
    if first.shape != second.shape:
        return float("inf")
    if first.dtype.kind not in "fiu" or not first.size:
        return 0.0
    a, b = first.astype(np.float64), second.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = float(np.where(same, 0.0, np.abs(a - b)).max())
    largest = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    return difference / largest if largest else difference


class _Opening:
    """One finished file, opened."""

    def __init__(
        self,
        graph: Graph,
        name: str,
        like: Graph | None,
        data: list[Batch],
        runtime: Runtime | None,
    ):
        self.graph, self.name, self.like, self.data = graph, name, like, data
        self.runtime = runtime

    def check(self, path: Path) -> None:
        """Raise ModelError unless the file runs, or nothing can be said."""
        self._check_weights()
        try:
            opened = session(path, name=self.name)
        except ModelError as error:
            if self._is_loadable():
                raise ModelError(
                    f"{error}; nothing was written: please report it"
                ) from error
            logger.warning(
                "%s: written unopened, ONNX Runtime does not load the original either",
                self.name,
            )
            return
        other = None if self.runtime is None else _Elsewhere(self.runtime, path, self.name)
        ran, failure = False, "random inputs cannot be made for it"
        for inputs in self._inputs():
            try:
                expected = run(opened, inputs)
            except ModelError as error:
                self._judge(inputs, error)
                failure = str(error)
                continue
            ran = True
            if other is not None:
                other.compare(inputs, expected)
        if not ran:
            logger.warning("%s: written, but not seen to run: %s", self.name, failure)

    def _check_weights(self) -> None:
        """Raise ModelError for weights that are no numbers where all of the model's were that they come from."""
        lost = [name for name in self.graph.weights if not is_finite(self.graph, name)]
        if (
            lost
            and self.like is not None
            and all(is_finite(self.like, name) for name in self.like.weights)
        ):
            raise ModelError(
                f"{self.name}: weight {lost[0]!r} would be infinite or not a number, which no weight of "
                f"{self.like.source} is; nothing was written: look at the data for values that are none, or too large"
            )

    def _judge(self, inputs: Batch, error: ModelError) -> None:
        """Raise ModelError if the model that the file was made from does run on these inputs."""
        if self.like is not None and self._runs(self.like, inputs):
            sizes = ", ".join(
                f"{name} {list(array.shape)}" for name, array in inputs.items()
            )
            raise ModelError(
                f"{self.name}: {error} (inputs {sizes}), though the model it was made from runs; nothing was written: "
                "please report it"
            ) from error

    def _inputs(self) -> Iterator[Batch]:
        """Random inputs at batch 1 and at the model's own sizes, and the given ones."""
        try:
            one, own = (random_inputs(self.graph, batch=batch) for batch in (1, 2))
        except DataError:
            yield from self.data
            return
        yield one
        if any(one[name].shape != own[name].shape for name in one):
            yield own
        yield from self.data

    def _is_loadable(self) -> bool:
        """Whether ONNX Runtime loads the model that the file was made from, or knows all of the file's operators."""
        if self.like is None:
            return not self._has_foreign_operators()
        try:
            session(self.like, name=self.like.source)
        except ModelError:
            return False
        return True

    def _has_foreign_operators(self) -> bool:
        return any(node.domain not in {*DOMAINS, "prunegraph"} for node in self.graph.nodes)

    @staticmethod
    def _runs(graph: Graph, inputs: Batch) -> bool:
        try:
            run(
                session(graph, name=graph.source),
                {name: inputs[name] for name in graph.inputs},
            )
        except (ModelError, KeyError):
            return False
        return True
