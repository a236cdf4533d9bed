"""Inputs of a proof: random inputs, inputs of other sizes, and data that are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prunegraph.errors import DataError, ModelError
from prunegraph.graph.external import write_graph
from prunegraph.graph.sizes import symbolic_axes
from prunegraph.proof.models import LEVELS, Models
from prunegraph.runtime.data import Batch, random_inputs
from prunegraph.runtime.session import run, session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = np.ndarray

#: What symbolic axes are stretched by if they have to be short.
SHORT = 1 / 8


class Inputs:
    """Batches that the masked original runs on, at the lowest level of optimization at which it does.

    Args:
        models: the files; their level is set.
        data: batches that are given.
        seed: of the random ones.
        notes: what was special is added here.
    """

    def __init__(self, models: Models, data: Sequence[Batch], seed: int, notes: list[str]):
        self.models, self.graph, self.feeds = models, models.graph, models.feeds
        self.data = [self.feeds.original(batch) for batch in data]
        self.seed, self.notes = seed, notes
        self.batches: list[Batch] = []

    def run(self) -> list[list[Array]]:
        """Outputs of the masked original on two random inputs, on one of other sizes, and on the user's.

        Sizes are batch 3, and batch 1 with other symbolic axes twice as long, where the model takes them. A model that
        takes no axes of the usual length (a table of few positions) gets short ones.
        """
        failure = None
        for self.models.level in LEVELS:
            self.notes.clear()
            try:
                return self._run_inputs(self.models.open(self.models.masked))
            except ModelError as error:
                failure = failure or error
        assert failure is not None
        raise self._blame(failure) from failure

    def _run_inputs(self, opened: InferenceSession) -> list[list[Array]]:
        data, seed = self.data, self.seed
        failure: ModelError | DataError | None = None
        for batch, stretch in ((3, 1), (1, 1), (3, SHORT), (1, SHORT)):
            try:
                self.batches = [self._random(seed + i, batch, stretch) for i in range(2)]
                results = [run(opened, each) for each in self.batches]
                break
            except (ModelError, DataError) as error:
                failure = failure or error
        else:
            assert failure is not None
            if not data:
                raise failure
            self.batches = list(data)
            self.notes.append(
                "compared on the given data alone, the original does not run on random inputs"
            )
            return [run(opened, each) for each in data]
        if any(symbolic_axes(self.graph).values()):
            results += self._run_other_sizes(opened, batch, stretch)
        self.batches += data
        return results + [run(opened, each) for each in data]

    def _random(self, seed: int, batch: int, stretch: float) -> Batch:
        """Random inputs that both graphs can be asked."""
        inputs = random_inputs(self.graph, seed=seed, batch=batch, stretch=stretch)
        return self.feeds.random(inputs, seed)

    def _blame(self, failure: ModelError) -> ModelError:
        """The error for a masked original that does not run: is it the original, or the mask?"""
        source, reason = (
            self.graph.source,
            str(failure).removeprefix(f"{self.graph.source} (masked): "),
        )
        write_graph(self.graph, self.models.original)
        try:
            opened = session(self.models.original, name=source)
        except ModelError as error:
            return ModelError(
                f"{error}; nothing can be proved for a model that does not load"
            )
        try:
            self._run_inputs(opened)
        except ModelError as error:
            inputs = (
                "neither on random inputs nor on the given data"
                if self.data
                else "on random inputs"
            )
            hint = "" if self.data else "; give inputs that it takes with --data"
            return ModelError(
                f"{source}: the original does not run {inputs}{hint}: {error}"
            )
        return ModelError(
            f"{source}: the masked original does not run, though the original does: please report it ({reason})"
        )

    def _run_other_sizes(
        self, opened: InferenceSession, batch: int, usual: float
    ) -> list[list[Array]]:
        """Outputs on one random input of other sizes, where the model takes one."""
        for stretch in (2 * usual, usual):
            other = self._random(self.seed, 1, stretch)
            if all(
                other[name].shape == value.shape for name, value in self.batches[0].items()
            ):
                continue
            try:
                result = run(opened, other)
            except ModelError:
                continue
            self.batches.append(other)
            return [result]
        self.notes.append(f"run at batch {batch} only, the original takes no other sizes")
        return []
