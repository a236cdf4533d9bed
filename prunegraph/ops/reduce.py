"""Reductions. Sums may lose elements that are zero; other statistics are taken over what is left."""

from __future__ import annotations

from prunegraph.graph.model import FLOAT_TYPES
from prunegraph.operators import OperatorInfo, describe
from prunegraph.ops.rule import Propagate, Site, register


def reduced_axes(site: Site, rank: int) -> list[int] | None:
    """The axes a reduction works on, or None where they are not known."""
    axes = site.node.attributes.get("axes")
    if axes is None and site.has(1):
        axes = site.constant(1)
        if axes is None:
            return None
    if axes is None or len(axes) == 0:
        return (
            [] if site.node.attributes.get("noop_with_empty_axes", 0) else list(range(rank))
        )
    return [int(axis) % rank for axis in axes]


def _reduction(kind: str) -> Propagate:
    """`kind` is that of `Site.reduces`."""

    def propagate(site: Site) -> None:
        labels = site.labels(0)
        axes = reduced_axes(site, len(labels))
        if axes is None:
            raise ValueError("its axes are computed at run time")
        if (
            kind == "mean"
            and site.shape_info.types.get(site.node.inputs[0]) not in FLOAT_TYPES
        ):
            for axis in axes:
                site.pin(labels[axis], "a mean of whole numbers is rounded")
        elif axes:
            site.reduces(0, axes, kind)
        given = []
        for axis, each in enumerate(labels):
            if axis not in axes:
                given.append(each)
            elif site.node.attributes.get("keepdims", 1):
                given.append(site.pinned_axis(1, "reduced axis"))
        site.set_output(given)

    return propagate


def _propagate_arg(site: Site) -> None:
    """The result is an index: every element must keep its place."""
    labels = site.labels(0)
    axis = site.node.attributes.get("axis", 0) % len(labels)
    site.pin(labels[axis], f"positions are the result of {site.node.op}")
    keep = site.node.attributes.get("keepdims", 1)
    site.set_output(
        [
            site.pinned_axis(1, "reduced axis") if i == axis else e
            for i, e in enumerate(labels)
            if i != axis or keep
        ]
    )


register(
    "ReduceSum",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSum",
    propagate=_reduction("sum"),
    blocks="apart",
)
register("ReduceMean", propagate=_reduction("mean"), blocks="apart")
register("ReduceMax", "ReduceLogSumExp", propagate=_reduction("max"), blocks="apart")
register("ReduceMin", propagate=_reduction("min"), blocks="apart")
register("ReduceProd", propagate=_reduction("product"), blocks="apart")
register("ArgMax", "ArgMin", propagate=_propagate_arg, info=OperatorInfo(decides=True))

describe(
    OperatorInfo(numbers=(1,)),
    "ReduceL1",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMin",
    "ReduceProd",
)
describe(OperatorInfo(numbers=(1,), mixes="squares"), "ReduceL2", "ReduceSumSquare")
describe(OperatorInfo(numbers=(1,), mixes="reduction"), "ReduceSum")
describe(OperatorInfo(passes=("channels",), numbers=(1,)), "ReduceMax")
describe(OperatorInfo(passes=("channels",), numbers=(1,), mixes="reduction"), "ReduceMean")
