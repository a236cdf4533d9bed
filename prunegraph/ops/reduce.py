"""Reductions. Sums may lose elements that are zero; means are taken over what is left."""

from __future__ import annotations

from prunegraph.ops.rule import Site, Spread, register


def reduced_axes(site: Site, rank: int) -> list[int] | None:
    """The axes a reduction works on, or None where they are not known."""
    axes = site.node.attributes.get("axes")
    if axes is None and site.has(1):
        axes = site.constant(1)
        if axes is None:
            return None
    if axes is None or len(axes) == 0:
        return [] if site.node.attributes.get("noop_with_empty_axes", 0) else list(range(rank))
    return [int(axis) % rank for axis in axes]


def _reduction(kind: str | None) -> Spread:
    """`kind` says what a lost element means: nothing ("sum"), another average ("mean"), or None: it must stay."""

    def spread(site: Site) -> None:
        labels = site.labels(0)
        axes = reduced_axes(site, len(labels))
        if axes is None:
            raise ValueError("its axes are computed at run time")
        if kind is None:
            for axis in axes:
                site.pin(labels[axis], f"reduced by {site.node.op}")
        elif axes:
            site.reduces(0, axes, kind)
        given = []
        for axis, each in enumerate(labels):
            if axis not in axes:
                given.append(each)
            elif site.node.attributes.get("keepdims", 1):
                given.append(site.stay(1, "reduced axis"))
        site.give(given)

    return spread


def _spread_arg(site: Site) -> None:
    """The result is an index: every element must keep its place."""
    labels = site.labels(0)
    axis = site.node.attributes.get("axis", 0) % len(labels)
    site.pin(labels[axis], f"positions are the result of {site.node.op}")
    keep = site.node.attributes.get("keepdims", 1)
    site.give([site.stay(1, "reduced axis") if i == axis else e for i, e in enumerate(labels) if i != axis or keep])


register("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", spread=_reduction("sum"))
register("ReduceMean", spread=_reduction("mean"))
register("ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp", spread=_reduction(None))
register("ArgMax", "ArgMin", spread=_spread_arg)
