"""Operators that look along an axis: that axis stays, the others pass."""

from __future__ import annotations

from collections.abc import Sequence

from prunegraph.labels.labels import Labels
from prunegraph.operators import OperatorInfo, describe
from prunegraph.ops.rule import Propagate, Site, register


def _propagate_top_k(site: Site) -> None:
    labels = site.labels(0)
    axis = site.node.attributes.get("axis", -1) % len(labels)
    reason = "order along the axis matters to TopK"
    if site.is_routing():
        site.reduces(0, [axis], "max")
    else:
        site.pin(labels[axis], reason)
    for slot, output in enumerate(site.node.outputs):
        if output:
            size = site.out_shape(slot)[axis]
            site.set_output(
                [
                    site.pinned_axis(size, reason) if i == axis else each
                    for i, each in enumerate(labels)
                ],
                slot,
            )


def _accumulates(kind: str) -> Propagate:
    """Sums or products so far: what is neutral may go from anywhere."""

    def propagate(site: Site) -> None:
        labels, axis = site.labels(0), site.constant(1)
        if axis is None:
            raise ValueError("its axis is computed at run time")
        site.reduces(0, [int(axis.reshape(-1)[0]) % len(labels)], kind)
        site.set_output(labels)

    return propagate


def _propagate_trilu(site: Site) -> None:
    labels = site.labels(0)
    for each in labels[-2:]:
        site.pin(each, "position decides in Trilu")
    site.set_output(labels)


def _match(site: Site, axis: int, operands: Sequence[tuple[Labels, ...]]) -> None:
    """Operands share their axes but the looked-up one; where sizes differ positions matter."""
    for index, axes in enumerate(zip(*operands, strict=True)):
        if index == axis:
            continue
        for other in axes[1:]:
            if other.size == axes[0].size:
                site.space.tie(axes[0], other)
            else:
                for each in axes:
                    site.pin(each, f"{site.node.op} uses a part of it by position")


def _propagate_gather_elements(site: Site) -> None:
    data, index = site.labels(0), site.labels(1)
    axis = site.node.attributes.get("axis", 0) % len(data)
    site.pin(data[axis], "looked up by position")
    _match(site, axis, [data, index])
    site.set_output(
        [
            index[i] if i == axis or a.size != index[i].size else a
            for i, a in enumerate(data)
        ]
    )


def _propagate_scatter_elements(site: Site) -> None:
    data, index, updates = (site.labels(slot) for slot in range(3))
    axis = site.node.attributes.get("axis", 0) % len(data)
    for each in (data[axis], index[axis]):
        site.pin(each, "written by position")
    for mine, other in zip(index, updates, strict=True):
        site.space.tie(mine, other)
    _match(site, axis, [data, index])
    site.set_output(data)


def _propagate_gather_nd(site: Site) -> None:
    data, index = site.labels(0), site.labels(1)
    batch = int(site.node.attributes.get("batch_dims", 0))
    depth = site.shape(1)[-1]
    routed = site.routed_labels()
    for each in (*data[: batch + depth], *index[:batch], index[-1]):
        if routed is None or each is not data[0]:
            site.pin(each, "looked up by position")
    if routed is not None:
        site.space.tie(data[0], routed)
    site.set_output([*index[:-1], *data[batch + depth :]])


def _propagate_scatter_nd(site: Site) -> None:
    data, index, updates = (site.labels(slot) for slot in range(3))
    depth = site.shape(1)[-1]
    for each in (*data[:depth], *index):
        site.pin(each, "written by position")
    for mine, other in zip((*index[:-1], *data[depth:]), updates, strict=True):
        site.space.tie(mine, other)
    site.set_output(data)


def _propagate_one_hot(site: Site) -> None:
    labels = site.labels(0)
    axis = site.node.attributes.get("axis", -1) % (len(labels) + 1)
    created = site.pinned_axis(site.out_shape()[axis], "classes of OneHot")
    site.set_output([*labels[:axis], created, *labels[axis:]])


def _propagate_source(site: Site) -> None:
    """The result does not come from data: nothing to follow."""
    site.set_output(
        [site.pinned_axis(size, f"made by {site.node.op}") for size in site.out_shape()]
    )


register(
    "TopK",
    propagate=_propagate_top_k,
    info=OperatorInfo(kind="selection of the largest", numbers=(1,), decides=True),
)
register("CumSum", propagate=_accumulates("sum"))
register("CumProd", propagate=_accumulates("product"))
register("GatherElements", propagate=_propagate_gather_elements)
register("ScatterElements", "Scatter", propagate=_propagate_scatter_elements)
for _domain in ("", "com.microsoft"):
    register("GatherND", propagate=_propagate_gather_nd, domain=_domain)
    register("Trilu", propagate=_propagate_trilu, domain=_domain)
register(
    "ScatterND",
    propagate=_propagate_scatter_nd,
    info=OperatorInfo(moves="joins", indices="leading"),
)
register("OneHot", propagate=_propagate_one_hot)
register(
    "Range",
    "EyeLike",
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "BlackmanWindow",
    "HannWindow",
    "HammingWindow",
    "MelWeightMatrix",
    propagate=_propagate_source,
)

describe(
    OperatorInfo(is_random=True),
    "Bernoulli",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
describe(OperatorInfo(numbers=(1,)), "CumProd", "CumSum", "OneHot", "Trilu")
describe(OperatorInfo(indices="axis"), "GatherElements", "Scatter")
describe(OperatorInfo(indices="leading"), "GatherND")
describe(OperatorInfo(numbers=(0, 1, 2)), "Range")
describe(OperatorInfo(moves="joins", indices="axis"), "ScatterElements")
