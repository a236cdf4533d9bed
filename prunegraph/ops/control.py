"""If, Loop and Scan: the axes of what goes into a subgraph and comes out of it.

Both branches of an If return one axis. A value that a Loop or Scan carries is one axis at the
start, in the subgraph, and at the end. The axis that a Scan or Loop runs along, or stacks its
iterations on, stays. See `graph.control` for the nodes around a subgraph.
"""

from __future__ import annotations

from prunegraph.graph.control import DOMAIN, ENTER, LOOP_HEAD, RETURN, Scanned, obstacle
from prunegraph.graph.flow import carried
from prunegraph.labels.reasons import Kind
from prunegraph.operators import OperatorInfo
from prunegraph.ops.rule import Site, register


def _enter(site: Site) -> None:
    """Hand initial values, and slices of scanned ones, into the subgraph."""
    subgraph = site.node.subgraphs[0]
    operator = subgraph.owner.op_type
    head = {"If": 1, "Loop": LOOP_HEAD, "Scan": 0}[operator]
    for slot in range(head):
        _pin_slot(site, slot, f"decides what {operator} runs")
    scan = Scanned.of(subgraph.owner) if operator == "Scan" else None
    for slot in range(head, len(site.node.outputs)):
        formal = site.node.outputs[slot]
        if formal not in site.shape_info.shapes:
            what, kind = (
                ("changes its shape from iteration to iteration", Kind.CHANGES_SHAPE)
                if formal in site.shape_info.varying
                else ("has an unknown shape", Kind.UNKNOWN_SHAPE)
            )
            _pin_slot(site, slot, f"{formal!r} in {subgraph.name} {what}", kind)
            continue
        labels = list(site.labels(slot))
        if scan is not None and slot >= scan.states:
            site.pin(
                labels.pop(scan.input_axes[slot - scan.states]),
                f"the axis that {operator} runs along",
                Kind.RUNS_ALONG,
            )
        site.set_output(labels, slot)


def _return(site: Site) -> None:
    assert site.node.subgraph is not None
    for slot, value in enumerate(site.node.inputs):
        if value in site.shape_info.shapes:
            site.set_output(site.labels(slot), slot)
        else:
            _pin_slot(
                site,
                slot,
                f"{value!r} returned by {site.node.subgraph.name} has an unknown shape",
                Kind.UNKNOWN_SHAPE,
            )


def _leave_if(site: Site) -> None:
    node, shape_info = site.node, site.shape_info
    _look_inside(site)
    live = [
        number
        for number, subgraph in enumerate(node.subgraphs)
        if subgraph not in shape_info.dead
    ]
    count = len(node.outputs)
    for index, output in enumerate(node.outputs):
        slots = [number * count + index for number in live]
        if output and output not in shape_info.shapes:
            for slot in slots:
                _pin_slot(
                    site,
                    slot,
                    f"the branches return {output!r} in different shapes",
                    Kind.BRANCHES_DIFFER,
                )
        elif output:
            labels = site.labels(slots[0])
            for slot in slots[1:]:
                for one, other in zip(labels, site.labels(slot), strict=True):
                    site.space.tie(one, other)
            site.set_output(labels, index)


def _leave_loop(site: Site) -> None:
    _look_inside(site)
    pairs = _tie_carried(site)
    _pin_slot(site, 0, "decides what Loop runs")
    for index in range(len(pairs), len(site.node.outputs)):
        _stack(site, index + 1, index, 0)


def _leave_scan(site: Site) -> None:
    _look_inside(site)
    pairs = _tie_carried(site)
    axes = Scanned.of(site.node.proto).output_axes
    for index in range(len(pairs), len(site.node.outputs)):
        _stack(site, index, index, axes[index - len(pairs)])


def _look_inside(site: Site) -> None:
    if not site.node.subgraphs:
        raise ValueError(obstacle(site.node.proto, site.node.version))


def _tie_carried(site: Site) -> list[tuple[str, str]]:
    """A carried value is the same axes when an iteration begins and when it ends."""
    enter = site.shape_info.graph.nodes[site.node.enter]
    pairs = carried(site.node, enter)
    first = len(site.node.inputs) - len(
        site.node.outputs
    )  # a Loop's condition comes before
    for index, (formal, _) in enumerate(pairs):
        if formal not in site.shape_info.shapes:
            _pin_slot(
                site,
                first + index,
                f"{formal!r} in {site.node.subgraphs[0].name} has an unknown shape",
                Kind.UNKNOWN_SHAPE,
            )
            continue
        labels = site.labels_of(formal)
        for before, after in zip(labels, site.labels(first + index), strict=True):
            site.space.tie(before, after)
        if site.node.outputs[index]:
            site.set_output(labels, index)
    return pairs


def _stack(site: Site, slot: int, index: int, axis: int) -> None:
    """Say what every iteration returns, stacked along a new axis."""
    output = site.node.outputs[index]
    if output and output not in site.shape_info.shapes:
        _pin_slot(
            site,
            slot,
            f"what {site.node.subgraphs[0].name} returns for {output!r} has an unknown shape",
            Kind.UNKNOWN_SHAPE,
        )
    elif output:
        labels = list(site.labels(slot))
        rank = len(labels) + 1
        labels.insert(
            axis % rank,
            site.pinned_axis(
                site.out_shape(index)[axis], f"the iterations of {site.node.op}"
            ),
        )
        site.set_output(labels, index)


def _pin_slot(site: Site, slot: int, text: str, kind: Kind = Kind.OPERATOR) -> None:
    """Pin all of an input."""
    if site.has(slot):
        for labels in site.labels(slot):
            site.pin(labels, text, kind)


register(ENTER, propagate=_enter, domain=DOMAIN, partial=True)
register(RETURN, propagate=_return, domain=DOMAIN, partial=True)
register("If", propagate=_leave_if, partial=True, info=OperatorInfo(numbers=(0,)))
register("Loop", propagate=_leave_loop, partial=True, info=OperatorInfo(numbers=(0, 1)))
register("Scan", propagate=_leave_scan, partial=True)
