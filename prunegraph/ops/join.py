"""Joining and splitting: labels are joined and split like the data."""

from __future__ import annotations

import numpy as np

from prunegraph.graph.inference import element, elements, split_sizes
from prunegraph.labels.labels import Labels, Uniform, concatenate
from prunegraph.operators import OperatorInfo, describe
from prunegraph.ops.rule import Edit, Site, register


def join_axis(parts: list[Labels]) -> Labels:
    """Labels one after the other; pinned stays pinned as a whole where all of it is."""
    first = parts[0]
    if isinstance(first, Uniform) and all(isinstance(part, Uniform) for part in parts):
        return first.resized(sum(part.size for part in parts))
    return concatenate(parts)


def _propagate_concat(site: Site) -> None:
    operands = [site.labels(slot) for slot in range(len(site.node.inputs))]
    axis = site.node.attributes["axis"] % len(operands[0])
    given = []
    for index, axes in enumerate(zip(*operands, strict=True)):
        if index == axis:
            given.append(join_axis(list(axes)))
        else:
            for other in axes[1:]:
                site.space.tie(axes[0], other)
            given.append(axes[0])
    site.set_output(given)


def _propagate_split(site: Site) -> None:
    labels = site.labels(0)
    axis = site.node.attributes.get("axis", 0) % len(labels)
    start = 0
    for slot, output in enumerate(site.node.outputs):
        if not output:
            raise ValueError("it leaves out an output")
        size = site.out_shape(slot)[axis]
        part = labels[axis].take(slice(start, start + size))
        site.set_output([*labels[:axis], part, *labels[axis + 1 :]], slot)
        start += size


def _fix_up_split(edit: Edit) -> None:
    node = edit.node
    axis = node.attributes.get("axis", 0) % len(edit.shape_info.shapes[node.inputs[0]])
    if not edit.is_cut(node.inputs[0], axis):
        return
    sizes = np.asarray([edit.size(output, axis) for output in node.outputs], np.int64)
    if node.version < 13:
        edit.set_attribute("split", sizes.tolist())
        return
    edit.set_attribute("num_outputs", None)
    edit.set_input(1, sizes)


def _propagate_split_to_sequence(site: Site) -> None:
    labels = site.labels(0)
    axis = site.node.attributes.get("axis", 0) % len(labels)
    sizes = split_sizes(site.node, site.shape_info)
    if sizes is None:
        raise ValueError("its sizes are computed at run time")
    start, parts = 0, []
    for size in sizes:
        parts.append(
            [
                *labels[:axis],
                labels[axis].take(slice(start, start + size)),
                *labels[axis + 1 :],
            ]
        )
        start += size
    site.give_sequence(parts)


def _fix_up_split_to_sequence(edit: Edit) -> None:
    node = edit.node
    source = node.inputs[0]
    axis = node.attributes.get("axis", 0) % len(edit.shape_info.shapes[source])
    if edit.is_cut(source, axis):
        sizes = split_sizes(node, edit.shape_info) or []
        parts = [
            edit.size(element(node.outputs[0], index), axis) for index in range(len(sizes))
        ]
        edit.set_input(1, np.asarray(parts, np.int64))


def _propagate_sequence_at(site: Site) -> None:
    index = site.constant(1)
    if index is None:
        raise ValueError("its position is computed at run time")
    site.labels(0)
    source = site.node.inputs[0]
    site.set_output(site.labels_of(elements(source, site.shape_info.shapes)[int(index)]))


register(
    "Concat",
    propagate=_propagate_concat,
    blocks="apart",
    info=OperatorInfo(kind="concatenation", moves="joins", passes=("codes",)),
)
register(
    "Split",
    propagate=_propagate_split,
    fix_up=_fix_up_split,
    blocks="apart",
    info=OperatorInfo(
        kind="splitting", moves="part", passes=("codes",), quantized="moves", numbers=(1,)
    ),
)
register(
    "SplitToSequence",
    propagate=_propagate_split_to_sequence,
    fix_up=_fix_up_split_to_sequence,
)
register("SequenceAt", propagate=_propagate_sequence_at)

describe(OperatorInfo(numbers=(1,)), "SequenceAt", "SplitToSequence")
