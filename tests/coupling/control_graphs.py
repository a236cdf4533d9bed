"""Subgraphs of If, Loop and Scan for tests: built by hand, and grown at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from tests.builders import Builder
from tests.random_graphs import GROWERS, Grower, Map, Source

FLOAT, INT64, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL


class Inner(Builder):
    """Builds a subgraph; names do not collide with those of the main graph or other subgraphs."""

    def __init__(self, outer: Builder, number: int = 1):
        super().__init__(number, outer.opset)
        self.count = 1000 * number

    def body(
        self, *created: str, kinds: Sequence[int] = (), name: str = "body"
    ) -> onnx.GraphProto:
        kinds = [*kinds, *[FLOAT] * (len(created) - len(kinds))]
        infos = [
            helper.make_tensor_value_info(o, kind, None)
            for o, kind in zip(created, kinds, strict=True)
        ]
        return helper.make_graph(self.nodes, name, self.inputs, infos, self.tensors)


def condition(b: Builder, x: str) -> str:
    """A condition that is decided when the model runs."""
    mean = b.op("ReduceMean", x, keepdims=0)
    return b.op("Greater", mean, b.const(0, np.float32))


def loop(
    b: Builder,
    body: onnx.GraphProto,
    iterations: str,
    *initial: str,
    created: int = 1,
    name: str = "loop",
) -> str:
    return b.op(
        "Loop",
        iterations,
        b.const(True, np.bool_),
        *initial,
        body=body,
        outputs=created,
        name=name,
    )


def head_inputs(i: Inner, *carried: Sequence[int | str]) -> list[str]:
    """Inputs of a Loop's subgraph: number of the iteration, condition, carried values."""
    n = i.count
    i.input(name=f"turn{n}", kind=INT64)
    i.input(name=f"go{n}", kind=BOOL)
    return [i.input(*shape, name=f"carried{n}_{k}") for k, shape in enumerate(carried)]


class BodyGrower(Grower):
    """Grows a subgraph by the pieces of `random_graphs`; weights lie in the subgraph, in a node, or outside."""

    def __init__(self, outer: Grower, number: int, maps: list[Map]):
        self.draw_from(outer.source)
        self.grouped, self.outer = outer.grouped, outer
        self.b = Inner(outer.b, number)
        self.homes = np.random.default_rng(self.integer(0, 99))
        self.b.const = self.const  # type: ignore[method-assign]
        self.maps = maps

    def const(self, value: object, dtype: object = None) -> str:
        # ONNX Runtime runs a Scan only if it can tell the shapes in its subgraph: sizes are inside.
        home = self.homes.integers(3) if dtype is not np.int64 else 2
        if home == 0:
            return self.outer.b.const(value, dtype)
        name = Builder.const(self.b, value, dtype)
        if home == 1:
            tensor = self.b.tensors.pop()
            self.b.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def grown(self, c: int, s: int) -> Map:
        """A few random pieces, a hidden layer that must become smaller, and c channels of s x s."""
        for _ in range(self.integer(0, 3)):
            self.maps.append(getattr(self, self.choose(GROWERS))(self.pick()))
        x = self.maps[-1]
        hidden = self.b.conv(x.name, x.c, 6, name=f"hidden{self.b.count}")
        y = self.b.op("Tanh", self.b.conv(self.b.relu(hidden), 6, c))
        if x.s == s:
            return Map(y, c, s)
        like = next(m for m in self.maps if m.s == s)
        mean = self.b.op("GlobalAveragePool", y)
        return Map(self.b.op("Add", mean, self.b.conv(like.name, like.c, c, 1)), c, s)


class ControlGrower(Grower):
    """Grows a graph with an If, a Loop or a Scan in it; `hidden` counts the layers in subgraphs."""

    def __init__(self, source: Source):
        super().__init__(source, True)
        self.number = 0

    def inner(self, *maps: Map) -> BodyGrower:
        self.number += 1
        return BodyGrower(self, self.number, [*maps])

    def control_if(self, x: Map) -> Map:
        c = self.width()
        branches = []
        for _ in range(2):
            i = self.inner(x)
            branches.append(i.b.body(i.grown(c, x.s).name))
        kind = self.choose(["run time", "run time", "true", "false"])
        which = (
            condition(self.b, x.name)
            if kind == "run time"
            else self.b.const(kind == "true", np.bool_)
        )
        return Map(
            self.b.op("If", which, then_branch=branches[0], else_branch=branches[1]), c, x.s
        )

    def control_loop(self, x: Map) -> Map:
        i = self.inner()
        (state,) = head_inputs(i.b, ("n", x.c, x.s, x.s))
        i.maps = [Map(state, x.c, x.s), x] if self.flag() else [x, Map(state, x.c, x.s)]
        new = i.grown(x.c, x.s)
        new = i.b.op("Add", new.name, state) if self.flag() else new.name
        go = i.b.op("Identity", f"go{1000 * self.number}")
        stacked = self.flag()
        outs = [go, new, *([i.conv(Map(new, x.c, x.s), 5).name] if stacked else [])]
        body = i.b.body(*outs, kinds=[BOOL])
        iterations = self.b.const(self.integer(0 if not stacked else 1, 3), np.int64)
        if self.flag():  # decided at run time: a sum over zeros and the number
            zero = self.b.op(
                "Cast",
                self.b.op("ReduceMax", self.b.op("Sub", x.name, x.name), keepdims=0),
                to=INT64,
            )
            iterations = self.b.op("Add", iterations, zero)
        y = loop(
            self.b, body, iterations, x.name, created=1 + stacked, name=f"loop{self.number}"
        )
        if not stacked:
            return Map(y, x.c, x.s)
        y2 = self.b.op(
            "Gather", y.replace("out0", "out1"), self.b.const(-1, np.int64), axis=0
        )
        return Map(self.b.op("Concat", y, y2, axis=1), x.c + 5, x.s)

    def control_scan(self, x: Map) -> Map:
        i = self.inner()
        state, part = (
            i.b.input("n", x.c, x.s, x.s, name=f"{name}{self.number}")
            for name in ("state", "part")
        )
        i.maps = [Map(state, x.c, x.s), x, Map(part, x.c, x.s)]
        new = i.grown(x.c, x.s)
        body = i.b.body(
            new.name, i.conv(Map(i.b.op("Add", new.name, part), x.c, x.s), 5).name
        )
        axis = self.choose([0, 1, 2])
        axes = self.b.const([axis], np.int64)
        parts = [
            self.b.op("Unsqueeze", self.b.op(op, x.name), axes) for op in ("Relu", "Tanh")
        ]
        name = f"scan{self.number}"
        self.b.op(
            "Scan",
            x.name,
            self.b.op("Concat", *parts, axis=axis),
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[axis],
            scan_output_axes=[axis],
            outputs=2,
            name=name,
        )
        last = self.b.op("Gather", f"{name}.out1", self.b.const(1, np.int64), axis=axis)
        return Map(self.b.op("Concat", f"{name}.out0", last, axis=1), x.c + 5, x.s)
