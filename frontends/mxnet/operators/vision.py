"""Regions, anchors and boxes of detectors."""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator


@operator("ROIPooling")
def roi_pooling(call: SymbolCall) -> Value:
    return call.builder.emit(
        "MaxRoiPool",
        *call.inputs[:2],
        pooled_shape=call.integers("pooled_size", length=2),
        spatial_scale=call.real("spatial_scale"),
    )


@operator("_contrib_ROIAlign")
def roi_align(call: SymbolCall) -> Value:
    build, rois = call.builder, call.inputs[1]
    call.refuse(
        "position_sensitive", "False", "position-sensitive regions are not supported"
    )
    height, width = call.integers("pooled_size", length=2)
    batch = build.cast(
        build.emit("Gather", rois, build.constant(np.array(0)), axis=1), np.int64
    )
    return build.emit(
        "RoiAlign",
        call.x,
        build.emit("Slice", rois, [1], [5], [1]),
        batch,
        mode="avg",
        output_height=height,
        output_width=width,
        spatial_scale=call.real("spatial_scale"),
        sampling_ratio=max(call.integer("sample_ratio", -1), 0),
        coordinate_transformation_mode="half_pixel"
        if call.flag("aligned")
        else "output_half_pixel",
    )


@operator("_contrib_MultiBoxPrior")
def multibox_prior(call: SymbolCall) -> Value:
    """Anchors [1, H * W * n, 4]: the sizes at the first ratio, then the other ratios at the first size."""
    height, width = call.x.size(2), call.x.size(3)
    sizes, ratios = call.reals("sizes", (1.0,)), call.reals("ratios", (1.0,))
    steps, offsets = call.reals("steps", (-1.0, -1.0)), call.reals("offsets", (0.5, 0.5))
    if min(*sizes, *ratios) <= 0:
        call.fail("sizes and ratios must be positive")
    step_y = 1 / height if steps[0] <= 0 else steps[0]
    step_x = 1 / width if steps[1] <= 0 else steps[1]
    pairs = [(size, ratios[0]) for size in sizes] + [
        (sizes[0], ratio) for ratio in ratios[1:]
    ]
    half = np.array(
        [[s * height / width * np.sqrt(r) / 2, s / np.sqrt(r) / 2] for s, r in pairs]
    )
    rows, columns = np.meshgrid(
        (np.arange(height) + offsets[0]) * step_y,
        (np.arange(width) + offsets[1]) * step_x,
        indexing="ij",
    )
    centre = np.stack([columns, rows], -1)[:, :, None]
    boxes = np.concatenate([centre - half, centre + half], -1).reshape(1, -1, 4)
    boxes = boxes.clip(0, 1) if call.flag("clip") else boxes
    return call.builder.constant(boxes.astype(np.float32), call.node.name)


@operator("_contrib_box_decode")
def box_decode(call: SymbolCall) -> Value:
    """Boxes as corners from offsets [B, N, 4] and anchors [1, N, 4]."""
    build = call.builder
    d = build.emit_many("Split", call.x, count=4, axis=2)
    a = build.emit_many("Split", call.inputs[1], count=4, axis=2)
    stds = [call.real(f"std{k}", 1.0) for k in range(4)]
    limit = call.real("clip", -1.0)
    centres, extents = [], []
    for k in range(2):
        if call.word("format", "center", ("center", "corner")) == "corner":
            extent = build.emit("Sub", a[k + 2], a[k])
            centre = build.emit(
                "Add", a[k], build.emit("Mul", extent, build.number(0.5, extent))
            )
        else:
            centre, extent = a[k], a[k + 2]
        shift = build.emit(
            "Mul", build.emit("Mul", d[k], build.number(stds[k], d[k])), extent
        )
        grown = build.emit("Mul", d[k + 2], build.number(stds[k + 2], d[k]))
        grown = build.emit("Min", grown, build.number(limit, grown)) if limit > 0 else grown
        size = build.emit("Mul", build.emit("Exp", grown), extent)
        centres.append(build.emit("Add", shift, centre))
        extents.append(build.emit("Mul", size, build.number(0.5, size)))
    low = [build.emit("Sub", c, e) for c, e in zip(centres, extents, strict=True)]
    high = [build.emit("Add", c, e) for c, e in zip(centres, extents, strict=True)]
    return build.emit("Concat", *low, *high, axis=2)


@operator(
    "_contrib_Proposal",
    "_contrib_MultiProposal",
    "_contrib_box_iou",
    "_contrib_bipartite_matching",
)
def suppression(call: SymbolCall) -> NoReturn:
    call.fail(
        "the selection of boxes is not converted; export the network up to its inputs "
        "(mxnet: symbol.get_internals()[...]) and select boxes outside"
    )
