"""Pooling and resizing: channels pass, spatial axes stay."""

from __future__ import annotations

import math

import numpy as np

from prunegraph.operators import OperatorInfo, describe
from prunegraph.ops.pattern import by_pattern
from prunegraph.ops.rule import Edit, Site, register


def _propagate_max_pool(site: Site) -> None:
    if site.is_read(1):
        raise ValueError("it returns indices into the whole tensor")
    by_pattern("n c *s -> n c *s', n c *s'")(site)


def _scales(site: Site) -> dict[int, float]:
    """Scales by axis, as far as the node names them; NaN where they follow from sizes of other axes too."""
    attributes, rank = site.node.attributes, len(site.shape(0))
    scales = attributes.get("scales")
    if site.has(3) and attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        scales = [math.nan] * rank
    slot = 2 if site.node.op == "Resize" and site.node.version >= 11 else 1
    if scales is None and site.has(slot):
        scales = site.constant(slot)
    axes = [int(axis) % rank for axis in attributes.get("axes", range(rank))]
    return dict(zip(axes, () if scales is None else scales, strict=False))


def _propagate_resize(site: Site) -> None:
    """Axes that are not scaled pass; the others stay."""
    labels = site.labels(0)
    if site.node.attributes.get("coordinate_transformation_mode") == b"tf_crop_and_resize":
        raise ValueError("it crops by a region of interest")
    scales = _scales(site)
    given = []
    for axis, (before, after) in enumerate(
        zip(site.shape(0), site.out_shape(), strict=True)
    ):
        if before == after and scales.get(axis, 1) == 1:
            given.append(labels[axis])
        else:
            site.pin(labels[axis], "resized axis")
            given.append(site.pinned_axis(after, "resized axis"))
    site.set_output(given)


def _fix_up_resize(edit: Edit) -> None:
    """`sizes` names the new size of every axis (or of `axes`); a cut axis has another one now."""
    sizes = edit.shape_info.constant(edit.node.input(3))
    if sizes is None:
        return
    output = edit.node.outputs[0]
    axes = edit.node.attributes.get("axes", range(len(sizes)))
    if any(edit.is_cut(output, axis) for axis in axes):
        edit.want(3, np.asarray([edit.size(output, axis) for axis in axes], np.int64))


register(
    "MaxPool",
    propagate=_propagate_max_pool,
    info=OperatorInfo(
        kind="maximum pooling",
        has_window=True,
        passes=("codes", "levels", "normals", "samples", "channels", "scales"),
        quantized="moves",
    ),
)
register(
    "AveragePool",
    "LpPool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GlobalLpPool",
    propagate=by_pattern("n c *s -> n c *s'"),
)
register("Resize", "Upsample", propagate=_propagate_resize, fix_up=_fix_up_resize)

describe(
    OperatorInfo(
        has_window=True,
        passes=("samples", "channels"),
        quantized="computes",
        mixes="places",
    ),
    "AveragePool",
)
describe(
    OperatorInfo(passes=("samples", "channels"), quantized="computes", mixes="places"),
    "GlobalAveragePool",
)
describe(OperatorInfo(passes=("samples", "channels")), "GlobalMaxPool")
describe(OperatorInfo(has_window=True), "LpPool")
describe(
    OperatorInfo(
        kind="resizing",
        passes=("samples", "channels"),
        quantized="moves",
        numbers=(1, 2, 3),
        mixes="places",
    ),
    "Resize",
)
describe(
    OperatorInfo(
        kind="resizing", passes=("samples", "channels"), numbers=(1,), mixes="places"
    ),
    "Upsample",
)
