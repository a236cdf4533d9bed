"""Normalisations."""

from __future__ import annotations

from prunegraph.operators import OperatorInfo, describe
from prunegraph.ops.elementwise import broadcast
from prunegraph.ops.pattern import by_pattern
from prunegraph.ops.rule import Site, register


def _propagate_batch_norm(site: Site) -> None:
    by_pattern("n c ..., c, c, c, c -> n c ...")(site)
    if site.node.attributes.get("training_mode", 0):
        # Exporters write weight standardisation so: statistics of the data itself.
        site.pin(site.labels(0)[0], "samples are normalised together")
        if any(site.is_read(slot) for slot in range(1, len(site.node.outputs))):
            # ONNX Runtime updates them in place, run by run: no two runs could be compared.
            for each in site.labels(0)[2:]:
                site.pin(each, "running statistics are taken over it")
        site.reduces(0, range(2, len(site.labels(0))), "norm")
        for slot in range(1, len(site.node.outputs)):
            if site.node.outputs[slot]:
                site.set_output(site.labels(0)[1:2], slot)


def _propagate_group_norm(site: Site) -> None:
    """Scale and bias have one entry a channel since opset 21, one a group before."""
    parameter = "(g c)" if site.node.version >= 21 else "g"
    by_pattern(
        f"n (g c) *s, {parameter}, {parameter} -> n (g c) *s",
        attributes={"num_groups": "g"},
    )(site)
    site.reduces(0, [1], "groups")


def _propagate_instance_norm(site: Site) -> None:
    """Statistics are taken over what is left of the axes after the channels."""
    by_pattern("n c ..., c, c -> n c ...")(site)
    site.reduces(0, range(2, len(site.labels(0))), "norm")


def _propagate_layer_norm(site: Site) -> None:
    """Axes from `axis` on are normalised together; their statistics are taken over what is left."""
    labels = site.labels(0)
    axis = site.node.attributes.get("axis", -1) % len(labels)
    for slot in (1, 2):
        if site.has(slot):
            shape = site.shape(slot)
            for mine, other, size in zip(
                reversed(labels), reversed(site.labels(slot)), reversed(shape), strict=False
            ):
                if size != 1:
                    site.space.tie(mine, other)
    site.reduces(0, range(axis, len(labels)), "norm")
    site.set_output(labels)
    for slot in range(1, len(site.node.outputs)):
        if site.node.outputs[slot]:
            site.set_output(
                [
                    *labels[:axis],
                    *(site.pinned_axis(1, "statistics axis") for _ in labels[axis:]),
                ],
                slot,
            )


def _propagate_lp_norm(site: Site) -> None:
    labels = site.labels(0)
    site.reduces(0, [site.node.attributes.get("axis", -1) % len(labels)], "sum")
    site.set_output(labels)


def _propagate_mean_variance(site: Site) -> None:
    labels = site.labels(0)
    axes = [axis % len(labels) for axis in site.node.attributes.get("axes", (0, 2, 3))]
    if 0 in axes:
        site.pin(labels[0], "samples are normalised together")
    site.reduces(0, axes, "norm")
    site.set_output(labels)


def _propagate_softmax(site: Site) -> None:
    """Softmax couples all elements of its axis; before opset 13 of all axes from `axis` on."""
    labels = site.labels(0)
    axis = site.node.attributes.get("axis", -1 if site.node.version >= 13 else 1) % len(
        labels
    )
    last = axis + 1 if site.node.version >= 13 else len(labels)
    for each in labels[axis:last]:
        site.pin(each, f"normalised together by {site.node.op}")
    site.set_output(labels)


def _propagate_skip_norm(site: Site) -> None:
    """Sum of data, skip and bias, normalised over the last axis; the sum may be an output too."""
    slots = [slot for slot in range(len(site.node.inputs)) if site.has(slot)]
    slots.sort(key=site.is_weight)
    labels = broadcast(site, [(site.labels(slot), site.shape(slot)) for slot in slots])
    site.reduces(0, [len(labels) - 1], "norm")
    for slot, output in enumerate(site.node.outputs):
        if output:
            whole = site.out_shape(slot) == site.shape(0)
            site.set_output(
                labels if whole else [*labels[:-1], site.pinned_axis(1, "statistics axis")],
                slot,
            )


register(
    "BatchNormalization",
    propagate=_propagate_batch_norm,
    info=OperatorInfo(
        kind="batch normalization",
        roles=("", "scale", "bias", "mean", "variance"),
        passes=("integers",),
        shape="input",
    ),
)
register(
    "InstanceNormalization",
    propagate=_propagate_instance_norm,
    info=OperatorInfo(roles=("", "scale", "bias")),
)
register(
    "GroupNormalization",
    propagate=_propagate_group_norm,
    info=OperatorInfo(roles=("", "scale", "bias"), shape="function"),
)
register(
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    propagate=_propagate_layer_norm,
)
register(
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    propagate=_propagate_skip_norm,
    domain="com.microsoft",
)
register("LpNormalization", propagate=_propagate_lp_norm)
register("MeanVarianceNormalization", propagate=_propagate_mean_variance)
register(
    "LRN",
    propagate=by_pattern(
        "n *c -> n *c", stays="channels within reach of each other in LRN"
    ),
)
register("Softmax", "LogSoftmax", "Hardmax", propagate=_propagate_softmax, blocks="apart")

describe(OperatorInfo(roles=("", "scale", "bias"), shape="input"), "LayerNormalization")
describe(OperatorInfo(shape="function"), "MeanVarianceNormalization", "RMSNormalization")
describe(
    OperatorInfo(kind="softmax", shape="input", is_flat=True, is_bounded=True), "Softmax"
)
