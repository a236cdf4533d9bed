"""What is done to a model before channels are chosen: a smaller vocabulary, then other bases; each exact and proved."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from prunegraph.coupling.sample import full_cost
from prunegraph.decoders.vocabulary import read_ids, shrink
from prunegraph.errors import ExactnessError, OptionError
from prunegraph.execution import proof_batches
from prunegraph.graph.model import Graph
from prunegraph.pipeline import PruneResult, error_metrics
from prunegraph.rewriting.vocabulary import Vocabulary
from prunegraph.rotation.run import (
    Rotated,
    find_rotation,
    is_small_enough,
    obstacle,
    rotated,
)
from prunegraph.runtime.data import Data
from prunegraph.runtime.statistics import ErrorMetrics
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.plan import KeptTokens
from prunegraph.selection.rotation import Rotation


@dataclass(frozen=True)
class Preparation:
    """A model made ready for the choice of channels.

    Args:
        graph: what channels are chosen in.
        vocabulary: how the vocabulary was made smaller, if it was.
        rotated: which channels got another basis, if any did.
        metrics: what errors of the graph's layers do at the outputs, where that is known.
    """

    graph: Graph
    vocabulary: Vocabulary | None = None
    rotated: Rotated | None = None
    metrics: ErrorMetrics | None = field(default=None, repr=False)

    def complete(self, result: PruneResult) -> PruneResult:
        """The result of pruning `graph`, which says what that was made from; costs are of the given model."""
        plan, before = result.plan, result.before
        if self.vocabulary is not None:
            kept = KeptTokens(self.vocabulary.kept, self.vocabulary.old_ids)
            plan, before = (
                replace(plan, vocabulary=kept),
                full_cost(self.vocabulary.original),
            )
        if self.rotated is not None:
            plan = replace(plan, rotation=self.rotated.rotation)
            if self.vocabulary is None:
                before = full_cost(self.rotated.original)
        return replace(
            result,
            plan=plan,
            before=before,
            vocabulary=self.vocabulary,
            rotated=self.rotated,
        )


@dataclass(frozen=True)
class Preparer:
    """How a model is made ready.

    Args:
        samples: unlabelled inputs, for proofs and to find bases on.
        verify: whether each step is proved.
        seed: of the proofs' random inputs.
        scratch: folder for weights that are too large to be held; None is the system's.
        progress: called with the name of each step.
    """

    samples: Data | None
    verify: bool
    seed: int
    scratch: Path | None
    progress: Callable[[str], None]

    def with_vocabulary(self, model: Graph, keep: KeptTokens | None) -> Preparation:
        """A model in which only some tokens are left; None leaves it as it is.

        Raises:
            ExactnessError: the proof failed.
            ModelError: the model has no vocabulary that could be made smaller.
        """
        if keep is None:
            return Preparation(model)
        self.progress("vocabulary")
        tokens, _ = shrink(
            model,
            keep.kept,
            old_ids=keep.old_ids,
            verify=self.verify,
            data=proof_batches(model, self.samples) if self.verify else [],
            seed=self.seed,
            scratch=self.scratch,
        )
        return Preparation(tokens.model, tokens)

    def in_bases(self, ready: Preparation, rotation: Rotation | None) -> Preparation:
        """A model in given bases. Raises ExactnessError if the proof fails."""
        if rotation is None:
            return ready
        data = proof_batches(ready.graph, self.samples) if self.verify else []
        turned = rotated(
            ready.graph, rotation, verify=self.verify, data=data, seed=self.seed
        )
        return replace(ready, graph=turned.model, rotated=turned)

    def seeks_bases(
        self, graph: Graph, when: str, choice: SelectionOptions, has_gradients: bool
    ) -> bool:
        """Whether `in_best_bases` looks for other bases of a graph's channels, which takes a while.

        Raises:
            OptionError: it should always be rotated, and cannot be.
        """
        reason = obstacle(graph, has_gradients=has_gradients)
        if when == "always":
            if reason:
                raise OptionError(f"{graph.source} cannot be rotated: {reason}")
            return True
        scored = choice.resolved(self.samples is not None).algorithm == "obs"
        wanted = self.samples is not None and scored and is_small_enough(graph)
        return when == "auto" and wanted and not reason

    def in_best_bases(
        self, ready: Preparation, when: str, choice: SelectionOptions, has_gradients: bool
    ) -> Preparation:
        """A model in the bases in which the last channels carry least; as it is where it has no channels for that.

        Args:
            ready: what came of the steps before.
            when: "never", "always", or "auto": with data and scores of "obs", unless its weights are too large, and
                without streams that would have to have scales folded first.
            choice: how channels will be chosen.
            has_gradients: whether gradients of the weights as they are will be used.

        Raises:
            OptionError: it should always be rotated, and cannot be.
            ExactnessError: it should always be rotated, and the proof failed.
        """
        graph, is_asked = ready.graph, when == "always"
        metrics = partial(
            error_metrics, samples=self.samples, choice=choice, progress=self.progress
        )
        if not self.seeks_bases(graph, when, choice, has_gradients):
            return replace(ready, metrics=metrics(graph))
        rotation, known = find_rotation(
            graph, self.samples, self.progress, metrics, scales=is_asked
        )
        if not rotation.turns:
            return replace(ready, metrics=known)
        try:
            return replace(self.in_bases(ready, rotation), metrics=known)
        except ExactnessError:
            if is_asked:
                raise
            self.progress("the proof of the rotation failed, going on without")
            return replace(ready, metrics=metrics(graph))


def kept_tokens(
    vocabulary: str | os.PathLike[str] | Sequence[int] | None,
    old_ids: bool,
    has_gradients: bool,
) -> KeptTokens | None:
    """The tokens that stay, as they are asked for: ids, or a file of them. Raises DataError or OptionError."""
    if vocabulary is None:
        if old_ids:
            raise OptionError("old ids are those of a smaller vocabulary: give one")
        return None
    if has_gradients:
        raise OptionError(
            "gradients are those of the whole vocabulary: make it smaller first, and prune the result"
        )
    ids = (
        read_ids(vocabulary)
        if isinstance(vocabulary, str | os.PathLike)
        else [int(each) for each in vocabulary]
    )
    return KeptTokens(tuple(ids), old_ids)
