"""Data movement: the operator is applied to the labels themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prunegraph.graph.evaluate import resolve_reshape, slice_index
from prunegraph.graph.varying import varies
from prunegraph.labels.labels import Labels, Uniform
from prunegraph.labels.reasons import Kind
from prunegraph.labels.space import REPEATED
from prunegraph.operators import OperatorInfo, describe
from prunegraph.ops.join import join_axis
from prunegraph.ops.rule import Edit, Site, register

# -- reshaping ------------------------------------------------------------------------


def atoms(source: Sequence[int], target: Sequence[int]) -> list[tuple[int, int, int]]:
    """The common refinement of two shapes: `(size, source axis, target axis)` row-major.

    Axes of size 1 have no part. Raises ValueError where there is no common refinement.
    """
    result: list[tuple[int, int, int]] = []
    remaining = [(size, axis) for axis, size in enumerate(source) if size != 1]
    right = [(size, axis) for axis, size in enumerate(target) if size != 1]
    while remaining and right:
        (s, i), (t, j) = remaining.pop(0), right.pop(0)
        size = min(s, t)
        if size == 0 or s % size or t % size:
            raise ValueError(f"it regroups axes of sizes {s} and {t} that do not divide")
        result.append((size, i, j))
        if s > size:
            remaining.insert(0, (s // size, i))
        if t > size:
            right.insert(0, (t // size, j))
    return result


def _propagate_reshape(site: Site) -> None:
    """Axes that merge or split are products of their common refinement."""
    source, target = site.shape(0), site.out_shape()
    if site.node.op == "Reshape" and site.constant(1) is None:
        raise ValueError("its target shape is computed at run time")
    labels = site.labels(0)
    refined = atoms(source, target)
    parts: list[Labels] = []
    for axis, each in enumerate(labels):
        sizes = [size for size, i, _ in refined if i == axis]
        if len(sizes) == 1:
            parts.append(each)
        elif isinstance(each, Uniform):
            parts += [each.resized(size) for size in sizes]
        elif sizes:
            split = [site.space.fresh(size) for size in sizes]
            site.space.product(each, split, site.node.name)
            parts += split
    given = []
    for axis, size in enumerate(target):
        factors = [
            part for part, (_, _, j) in zip(parts, refined, strict=True) if j == axis
        ]
        if not factors:
            given.append(site.pinned_axis(size, "axis of size 1"))
        elif len(factors) == 1:
            given.append(factors[0])
        elif isinstance(factors[0], Uniform) and all(
            isinstance(factor, Uniform) for factor in factors
        ):
            given.append(factors[0].resized(size))
        else:
            given.append(site.space.fresh(size))
            site.space.product(given[-1], factors, site.node.name)
    site.set_output(given)


def _fix_up_reshape(edit: Edit) -> None:
    """New sizes where the target names them; 0 and -1 stay where they still say the right thing."""
    node = edit.node
    source, output = node.inputs[0], node.outputs[0]
    if not (edit.is_cut(output) or edit.is_cut(source)):
        return
    target = edit.shape_info.constant(node.inputs[1])
    assert target is not None  # the spread refuses otherwise
    before = [
        edit.size(source, axis) for axis in range(len(edit.shape_info.shapes[source]))
    ]
    wanted = [
        edit.size(output, axis) for axis in range(len(edit.shape_info.shapes[output]))
    ]
    allowzero = bool(node.attributes.get("allowzero", 0))
    operand = [
        int(t) if t in (0, -1) else size for t, size in zip(target, wanted, strict=True)
    ]
    if resolve_reshape(before, operand, allowzero) != tuple(wanted):
        operand = [-1 if t == -1 else size for t, size in zip(target, wanted, strict=True)]
    edit.want(1, np.asarray(operand, np.int64))


def _propagate_transpose(site: Site) -> None:
    labels = site.labels(0)
    perm = site.node.attributes.get("perm") or range(len(labels))[::-1]
    site.set_output([labels[axis] for axis in perm])


# -- stretching -------------------------------------------------------------------------


def _propagate_expand(site: Site) -> None:
    """A stretched axis repeats one element: its labels are free, a cut shortens it."""
    if site.constant(1) is None:
        raise ValueError("its target shape is computed at run time")
    target = site.out_shape()
    labels = [None] * (len(target) - len(site.shape(0))) + list(site.labels(0))
    given = []
    for each, size in zip(labels, target, strict=True):
        given.append(
            each if each is not None and each.size == size else site.space.fresh(size)
        )
        if given[-1] is not each:
            site.tag(given[-1], REPEATED)
    site.set_output(given)


def _fix_up_expand(edit: Edit) -> None:
    output = edit.node.outputs[0]
    target = edit.shape_info.constant(edit.node.inputs[1])
    if target is None or not edit.is_cut(output):
        return
    offset = len(edit.shape_info.shapes[output]) - len(target)
    sizes = [
        1 if t == 1 else edit.size(output, offset + axis) for axis, t in enumerate(target)
    ]
    edit.want(1, np.asarray(sizes, np.int64))


def _propagate_constant_of_shape(site: Site) -> None:
    site.sizes_operand(0)
    site.set_output([site.space.fresh(size) for size in site.out_shape()])


def _propagate_tile(site: Site) -> None:
    repeats = site.constant(1)
    if repeats is None:
        raise ValueError("its repeats are computed at run time")
    given = []
    for each, repeat in zip(site.labels(0), repeats, strict=True):
        if repeat == 1:
            given.append(each)
        elif isinstance(each, Uniform):
            given.append(each.resized(each.size * int(repeat)))
        else:
            given.append(site.space.fresh(each.size * int(repeat)))
            site.space.product(
                given[-1],
                [site.pinned_axis(int(repeat), "repeated axis"), each],
                site.node.name,
            )
    site.set_output(given)


# -- picking ----------------------------------------------------------------------------


def _propagate_slice(site: Site) -> None:
    labels, shape = site.labels(0), site.shape(0)
    inputs = [
        site.constant(slot) if site.has(slot) else None
        for slot in range(len(site.node.inputs))
    ]
    if any(value is None and site.has(slot) for slot, value in enumerate(inputs) if slot):
        raise ValueError("its bounds are computed at run time")
    index = slice_index(site.node, inputs, len(labels))
    sliced = [axis for axis, each in enumerate(index) if each != slice(None)]
    if len(sliced) > 1:
        for axis in sliced:
            if abs(index[axis].step or 1) != 1:
                site.pin(labels[axis], "sliced with a step together with another axis")
    given = []
    for axis, (each, part) in enumerate(zip(labels, index, strict=True)):
        given.append(
            each.take(part) if range(shape[axis])[part] != range(shape[axis]) else each
        )
    site.set_output(given)


def _fix_up_slice(edit: Edit) -> None:
    node = edit.node
    source, output = node.inputs[0], node.outputs[0]
    shapes = edit.shape_info.shapes
    shape = shapes[source]
    inputs = [edit.shape_info.constant(v) if v else None for v in node.inputs]
    index = slice_index(node, inputs, len(shape))
    axes = _slice_axes(edit, len(shape), inputs)
    bounds = {}
    for axis in axes:
        if not (edit.is_cut(source, axis) and shapes[output][axis]):
            continue
        position = np.arange(shape[axis])[index[axis]][edit.kept(output, axis)]
        new = np.searchsorted(edit.kept(source, axis), position)
        steps = np.unique(np.diff(new)) if len(new) > 1 else np.asarray([1])
        if len(steps) != 1 or steps[0] == 0:
            edit.gather(source, axis, new)
            return
        step = int(steps[0])
        end = int(new[-1]) + (1 if step > 0 else -1)
        bounds[axis] = (int(new[0]), end if end >= 0 else -(2**31), step)
    if bounds:
        _write_bounds(edit, axes, inputs, bounds)


def _slice_axes(edit: Edit, rank: int, inputs: Sequence[np.ndarray | None]) -> list[int]:
    if edit.node.version < 10:
        axes = edit.node.attributes.get("axes", range(len(edit.node.attributes["starts"])))
    else:
        given = inputs[3] if len(inputs) > 3 else None
        axes = range(len(inputs[1])) if given is None else given  # type: ignore[arg-type]
    return [int(axis) % rank for axis in axes]


def _write_bounds(
    edit: Edit,
    axes: list[int],
    inputs: Sequence[Any],
    bounds: dict[int, tuple[int, int, int]],
) -> None:
    attributes = edit.node.attributes
    old = edit.node.version < 10
    steps = inputs[4] if len(inputs) > 4 else None
    values = [
        attributes["starts"] if old else inputs[1],
        attributes["ends"] if old else inputs[2],
        [1] * len(axes) if steps is None else steps,
    ]
    new = [
        np.asarray(
            [
                bounds[axis][which] if axis in bounds else int(v)
                for axis, v in zip(axes, column, strict=True)
            ]
        )
        for which, column in enumerate(values)
    ]
    if old:
        edit.set_attribute("starts", new[0].tolist())
        edit.set_attribute("ends", new[1].tolist())
        return
    edit.want(1, new[0])
    edit.want(2, new[1])
    if steps is not None and not np.array_equal(steps, new[2]):
        edit.want(4, new[2])


def _propagate_gather(site: Site) -> None:
    data = list(site.labels(0))
    axis = site.node.attributes.get("axis", 0) % len(data)
    index = site.constant(1)
    shape = site.shape(1)
    rank = len(shape)
    if site.is_weight(0):
        for other in range(len(data)):
            if other != axis:
                site.role(0, other, "out")
    if isinstance(data[axis], Uniform):
        picked = [data[axis].resized(size) for size in site.shape(1)]
    elif site.is_renumbered(1):
        picked = list(site.labels(1))
    elif (routed := site.routed_labels()) is not None:
        site.space.tie(data[axis], routed)
        picked = list(site.labels(1))
    elif index is None or not data[axis].size:
        site.pin(data[axis], "looked up at run time")
        picked = list(site.labels(1))
    elif varies(site.shape_info, site.node.inputs[1]).any():
        site.pin(data[axis], "looked up at positions that depend on run-time sizes")
        picked = [site.pinned_axis(size, "table of positions") for size in shape]
    elif rank == 0:
        site.pin(
            data[axis].take(np.asarray([int(index) % data[axis].size])),
            "picked by its position",
        )
        picked = []
    elif rank == 1 or sum(size != 1 for size in shape) == 1:
        taken = data[axis].take(index.astype(np.int64).reshape(-1) % data[axis].size)
        picked = [
            taken if size == taken.size else site.pinned_axis(size, "axis of size 1")
            for size in shape
        ]
    else:
        site.pin(data[axis], "picked by a table of positions")
        picked = [site.pinned_axis(size, "table of positions") for size in index.shape]
    site.set_output([*data[:axis], *picked, *data[axis + 1 :]])


def _fix_up_gather(edit: Edit) -> None:
    node = edit.node
    shape = edit.shape_info.shapes[node.inputs[0]]
    axis = node.attributes.get("axis", 0) % len(shape)
    index = edit.shape_info.constant(node.inputs[1])
    if index is None or not edit.is_cut(node.inputs[0], axis):
        return
    positions = index.astype(np.int64) % shape[axis]
    for inner in range(positions.ndim):
        positions = positions.take(edit.kept(node.outputs[0], axis + inner), inner)
    edit.want(
        1, np.searchsorted(edit.kept(node.inputs[0], axis), positions).astype(np.int64)
    )


# -- axes of size 1 -----------------------------------------------------------------------


def _fix_up_squeeze(edit: Edit) -> None:
    """Without axes all of size 1 go; one that a cut leaves with one channel has to stay."""
    node, source = edit.node, edit.node.inputs[0]
    shape = edit.shape_info.shapes[source]
    remaining = [
        axis for axis, size in enumerate(shape) if size > 1 and edit.size(source, axis) == 1
    ]
    if not remaining or node.input(1) or "axes" in node.attributes:
        return
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    if not ones:  # nothing goes, and an empty list means all
        edit.gather(source, remaining[0], np.zeros(1))
    elif node.version < 13:
        edit.set_attribute("axes", ones)
    else:
        edit.set_input(1, np.asarray(ones, np.int64))


# -- padding ----------------------------------------------------------------------------


def _pads(
    node_inputs: Sequence[np.ndarray | None], attributes: dict[str, object], rank: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """Padded axes, and the padding before and after each."""
    pads = attributes.get("pads")
    if pads is None:
        pads = node_inputs[1] if len(node_inputs) > 1 else None
    if pads is None:
        raise ValueError("its pads are computed at run time")
    given = node_inputs[3] if len(node_inputs) > 3 else None
    axes = [int(a) % rank for a in (range(rank) if given is None else given)]
    numbers = [int(p) for p in pads]  # type: ignore[attr-defined]
    return axes, list(zip(numbers[: len(axes)], numbers[len(axes) :], strict=True))


def _propagate_pad(site: Site) -> None:
    labels = list(site.labels(0))
    inputs = [
        site.constant(slot) if site.has(slot) else None
        for slot in range(len(site.node.inputs))
    ]
    axes, pads = _pads(inputs, site.node.attributes, len(labels))
    fills = site.node.attributes.get("mode", b"constant") == b"constant"
    for axis, (before, after) in zip(axes, pads, strict=True):
        if before == after == 0:
            continue
        if not fills or min(before, after) < 0 or isinstance(labels[axis], Uniform):
            site.pin(labels[axis], "padded axis")
            labels[axis] = site.pinned_axis(
                labels[axis].size + before + after, "padded axis"
            )
        else:
            parts: list[Labels] = [
                site.space.fresh(size) for size in (before, after) if size
            ]
            parts.insert(1 if before else 0, labels[axis])
            labels[axis] = join_axis(parts)
    site.set_output(labels)


def _fix_up_pad(edit: Edit) -> None:
    node = edit.node
    source, output = node.inputs[0], node.outputs[0]
    shape = edit.shape_info.shapes[source]
    inputs = [edit.shape_info.constant(v) if v else None for v in node.inputs]
    axes, pads = _pads(inputs, node.attributes, len(shape))
    if not any(edit.is_cut(output, axis) for axis in axes):
        return
    new = []
    for axis, (before, after) in zip(axes, pads, strict=True):
        kept = edit.kept(output, axis)
        first, last = before, before + shape[axis]
        new.append(
            (int(np.sum(kept < first)), int(np.sum(kept >= last)))
            if before >= 0 <= after
            else (before, after)
        )
    flat = [b for b, _ in new] + [a for _, a in new]
    if node.version < 11:
        edit.set_attribute("pads", flat)
    else:
        edit.want(1, np.asarray(flat, np.int64))


# -- blocks of space and depth ------------------------------------------------------------


def _propagate_depth_to_space(site: Site) -> None:
    depth = site.labels(0)[1]
    channels = site.space.fresh(depth.size // site.node.attributes["blocksize"] ** 2)
    _tie_blocks(site, depth, channels)
    _set_block_output(site, channels)


def _propagate_space_to_depth(site: Site) -> None:
    channels = site.labels(0)[1]
    depth = site.space.fresh(channels.size * site.node.attributes["blocksize"] ** 2)
    _tie_blocks(site, depth, channels)
    _set_block_output(site, depth)


def _tie_blocks(site: Site, depth: Labels, channels: Labels) -> None:
    """Depth is channels times the two axes of a block, in the order of `mode`."""
    blocks = [
        site.pinned_axis(site.node.attributes["blocksize"], "block of pixels")
        for _ in range(2)
    ]
    channels_first = site.node.attributes.get("mode", b"DCR") == b"CRD"
    site.space.product(
        depth,
        [channels, *blocks] if channels_first else [*blocks, channels],
        site.node.name,
    )


def _set_block_output(site: Site, created: Labels) -> None:
    n, _, height, width = site.labels(0)
    for axis in (height, width):
        site.pin(axis, "spatial axis", Kind.SPATIAL)
    site.set_output(
        [
            n,
            created,
            *(
                site.pinned_axis(size, "spatial axis", Kind.SPATIAL)
                for size in site.out_shape()[2:]
            ),
        ]
    )


def _propagate_col2im(site: Site) -> None:
    """Columns of an image: channels and the positions of a block share the second axis."""
    n, rows, columns = site.labels(0)
    channels = site.space.fresh(site.out_shape()[1])
    block = site.pinned_axis(rows.size // channels.size, "block of pixels")
    site.space.product(rows, [channels, block], site.node.name)
    site.pin(columns, "spatial axis", Kind.SPATIAL)
    site.set_output(
        [
            n,
            channels,
            *(
                site.pinned_axis(size, "spatial axis", Kind.SPATIAL)
                for size in site.out_shape()[2:]
            ),
        ]
    )


register(
    "Reshape",
    propagate=_propagate_reshape,
    fix_up=_fix_up_reshape,
    blocks="apart",
    info=OperatorInfo(
        kind="reshaping",
        moves="all",
        passes=("codes", "levels", "scales"),
        quantized="moves",
        numbers=(1,),
    ),
)
register("Flatten", "Unsqueeze", propagate=_propagate_reshape, blocks="apart")
register("Squeeze", propagate=_propagate_reshape, fix_up=_fix_up_squeeze, blocks="apart")
register(
    "Transpose",
    propagate=_propagate_transpose,
    blocks="apart",
    info=OperatorInfo(
        kind="transposition",
        moves="all",
        passes=("weights", "codes", "levels", "scales"),
        quantized="moves",
    ),
)
register(
    "Expand",
    propagate=_propagate_expand,
    fix_up=_fix_up_expand,
    blocks="apart",
    info=OperatorInfo(moves="joins", numbers=(1,)),
)
register(
    "ConstantOfShape",
    propagate=_propagate_constant_of_shape,
    info=OperatorInfo(numbers=(0,)),
)
register(
    "Tile", propagate=_propagate_tile, info=OperatorInfo(moves="joins", numbers=(1, 2))
)
register(
    "Slice",
    propagate=_propagate_slice,
    fix_up=_fix_up_slice,
    blocks="apart",
    info=OperatorInfo(
        moves="part", passes=("codes", "scales"), quantized="moves", numbers=(1, 2, 3, 4)
    ),
)
register(
    "Gather",
    propagate=_propagate_gather,
    fix_up=_fix_up_gather,
    blocks="apart",
    info=OperatorInfo(
        kind="gathering", moves="part", passes=("codes",), quantized="moves", indices="axis"
    ),
)
register(
    "Pad", propagate=_propagate_pad, fix_up=_fix_up_pad, info=OperatorInfo(numbers=(1, 3))
)
register("DepthToSpace", propagate=_propagate_depth_to_space)
register("SpaceToDepth", propagate=_propagate_space_to_depth)
register("Col2Im", propagate=_propagate_col2im, info=OperatorInfo(numbers=(1, 2)))

describe(OperatorInfo(kind="constant"), "Constant")
describe(
    OperatorInfo(
        kind="flattening", moves="all", passes=("codes", "levels"), quantized="moves"
    ),
    "Flatten",
)
describe(
    OperatorInfo(
        moves="all", passes=("codes", "levels", "scales"), quantized="moves", numbers=(1,)
    ),
    "Squeeze",
    "Unsqueeze",
)
