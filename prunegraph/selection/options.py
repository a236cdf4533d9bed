"""What to choose and by which means: the options of a selection, defined once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypedDict

from prunegraph.errors import BudgetError, UnknownNameError
from prunegraph.options import base_name
from prunegraph.selection.budget import KINDS, Budget
from prunegraph.selection.widths import PRESETS, multiple

#: Whether residual branches go: none, as many as are best beside channels, or nothing else.
DEPTHS = ("never", "auto", "only")

#: Whether layers are written as several of low rank: none, or as many as are best beside channels.
RANKS = ("never", "auto")

#: Whether errors of layers are weighed by gradients: never, or where PyTorch is there and can run the graph.
CURVATURES = ("never", "auto")


class LimitKeywords(TypedDict, total=False):
    """The options of a selection but the budget, as keywords; see `SelectionOptions`."""

    algorithm: str | None
    allocation: str | None
    round_to: int | str
    min_channels: int
    keep: Sequence[str]
    ratio_for: Mapping[str, float]
    same_width: bool
    depth: str
    ranks: str
    curvature: str
    seed: int
    provider: str | None
    threads: int
    runtime: str


class SelectionKeywords(LimitKeywords):
    """The options of a selection, as keywords; see `SelectionOptions`."""

    budget: Budget


@dataclass(frozen=True)
class SelectionOptions:
    """Options of `select`, `prune`, `search`, `sensitivity` and of the command line.

    Args:
        budget: what the result must meet.
        algorithm: a registered criterion or selector, with options as in "l2:members=producer"; None is the
            best measured one: "obs" where there are data, else "l2".
        allocation: how the budget is shared among groups, a registered allocation, with options as in
            "global:max"; None is the best measured one: for "obs" under a bound on what is counted the one of
            several that does the least damage at the outputs, and so under one on latency, else "uniform".
        round_to: kept channels are a multiple of this, where a group is wide enough; "auto" is
            the multiple that measures best on this model (see `prunegraph.latency.rounding`), the name of a runtime
            what that likes ("tensorrt", "openvino", "ncnn", "qnn", "coreml", "litert"; see
            `prunegraph.selection.widths`).
        min_channels: at least this many channels stay in every group.
        keep: layers whose output channels all stay, by name or pattern (see `prunegraph.graph.layer_names`).
        ratio_for: layer or pattern -> share of its output channels to remove, whatever the budget.
        same_width: whether all layers stay alike: groups of one structure keep the same number of channels, each its
            own.
        depth: whether residual branches go as a whole: "never", "auto" beside channels, or "only"
            (see `prunegraph.depth`; needs data, and a bound).
        ranks: whether layers may be written as several of low rank, where that does less damage at the outputs than
            channels that go: "never", or "auto": where damage is measured (see `prunegraph.ranks`).
        curvature: whether scores of "obs" and rotations weigh errors of a layer by what they do at the outputs, from
            gradients: "never", or "auto": where there are data, PyTorch is installed and can run the graph (see
            `prunegraph.training.curvature`). Without, errors count relative to what the layer makes.
        seed: for criteria that draw random numbers.
        provider: the runtime's device that latency is measured on, such as an execution provider of ONNX Runtime; None
            is the CPU.
        threads: how many threads it is measured with; 0 leaves it to the runtime.
        runtime: where models are timed, and the result is opened besides: "onnxruntime" or "openvino" (see
            `prunegraph.runtime.runtimes`).

    Raises:
        BudgetError: `round_to` or `threads` is out of range.
        UnknownNameError: no such `depth`, `ranks` or `curvature`.
    """

    #: A bound is part of the budget.
    INSTEAD: ClassVar[Mapping[str, tuple[str, str]]] = {
        kind: ("budget", f"budget=pg.Budget({kind}=...)") for kind in ("ratio", *KINDS)
    }

    budget: Budget
    algorithm: str | None = None
    allocation: str | None = None
    round_to: int | str = 8
    min_channels: int = 1
    keep: Sequence[str] = ()
    ratio_for: Mapping[str, float] = field(default_factory=dict)
    same_width: bool = False
    depth: str = "never"
    ranks: str = "auto"
    curvature: str = "auto"
    seed: int = 0
    provider: str | None = None
    threads: int = 1
    runtime: str = "onnxruntime"

    def __post_init__(self) -> None:
        if not isinstance(self.budget, Budget):
            raise BudgetError(
                f"budget must be a Budget, as in pg.Budget(macs=0.5); got {self.budget!r}"
            )
        object.__setattr__(self, "round_to", multiple(self.round_to))
        if self.round_to != "auto" and (
            not isinstance(self.round_to, int) or self.round_to < 1
        ):
            raise BudgetError(
                f"round_to must be a whole number of at least 1, 'auto' or one of {', '.join(PRESETS)}, "
                f"got {self.round_to!r}"
            )
        if self.depth not in DEPTHS:
            raise UnknownNameError("depth", str(self.depth), DEPTHS)
        if self.ranks not in RANKS:
            raise UnknownNameError("ranks", str(self.ranks), RANKS)
        if self.curvature not in CURVATURES:
            raise UnknownNameError("curvature", str(self.curvature), CURVATURES)
        if self.threads < 0:
            raise BudgetError(f"threads must be at least 0, got {self.threads}")

    @property
    def is_measured(self) -> bool:
        """Tell whether models have to be timed before channels can be chosen."""
        return self.budget.latency is not None or self.round_to == "auto"

    @property
    def rounding(self) -> int:
        """`round_to` as a number. Raises BudgetError where it has not been measured yet."""
        if isinstance(self.round_to, str):
            raise BudgetError(
                "round_to 'auto' is measured by prunegraph.latency, before selection"
            )
        return self.round_to

    def resolved(self, has_data: bool) -> SelectionOptions:
        """This choice with the defaults that depend on whether there are data filled in."""
        algorithm = self.algorithm or ("obs" if has_data else "l2")
        # `obs` scores compare among groups of one structure; a ratio is one of every group.
        measured = (
            "isomorphic"
            if base_name(algorithm) == "obs" and self.budget.ratio is None
            else "uniform"
        )
        return replace(self, algorithm=algorithm, allocation=self.allocation or measured)

    def provenance(self) -> dict[str, Any]:
        """The choice as plain JSON, for a plan."""
        options = {**vars(self), "keep": list(self.keep), "ratio_for": dict(self.ratio_for)}
        if not self.same_width:
            del options["same_width"]
        if self.depth == "never":
            del options["depth"]
        if self.runtime == type(self).runtime:
            del options["runtime"]
        # What came of these is in the plan itself.
        del options["ranks"], options["curvature"]
        return {
            **options,
            "budget": self.budget.given(),
        }
