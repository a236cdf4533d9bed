"""Random convolutional graphs for property tests.

`draw_graph` grows a graph by random operators over a pool of feature maps; every operator of
interest for coupling is among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from hypothesis import strategies as st

from prunegraph.graph.model import Graph
from tests.builders import Builder


@dataclass
class Map:
    """A feature map: value, channels, height (= width)."""

    name: str
    c: int
    s: int


class Source(Protocol):
    """Where random choices come from."""

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""

    def choose(self, options: Sequence[Any]) -> Any:
        """One of them."""

    def flag(self) -> bool:
        """Yes or no."""

    def integers(self, low: int, high: int, most: int) -> list[int]:
        """One to `most` whole numbers."""


class Drawn:
    """Choices that hypothesis makes, and makes smaller for what fails."""

    def __init__(self, draw: st.DrawFn):
        self.draw = draw

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def choose(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(options))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def integers(self, low: int, high: int, most: int) -> list[int]:
        return self.draw(st.lists(st.integers(low, high), min_size=1, max_size=most))


class Grower:
    def __init__(self, source: Source, grouped: bool):
        self.draw_from(source)
        self.b = Builder(self.integer(0, 2**16), opset=self.choose([13, 17, 18, 21]))
        self.grouped = grouped
        self.maps = [self.conv(Map(self.b.input("n", 3, 8, 8), 3, 8))]

    def draw_from(self, source: Source) -> None:
        self.source = source
        self.integer, self.choose, self.flag = source.integer, source.choose, source.flag

    def pick(self) -> Map:
        return self.maps[self.integer(0, len(self.maps) - 1)]

    def width(self) -> int:
        return self.choose([4, 6, 8, 12])

    def conv(self, x: Map, cout: int | None = None, stride: int = 1) -> Map:
        cout = cout or self.width()
        y = self.b.conv(x.name, x.c, cout, self.choose([1, 3]), strides=[stride, stride])
        return Map(y, cout, -(-x.s // stride))

    # -- one method per thing that may grow ------------------------------------------------

    def grow_conv(self, x: Map) -> Map:
        return self.conv(x, stride=self.choose([1, 1, 2]) if x.s > 2 else 1)

    def grow_activation(self, x: Map) -> Map:
        op = self.choose(["Relu", "Sigmoid", "Softplus", "Tanh"])
        return Map(self.b.op(op, x.name), x.c, x.s)

    def grow_bn(self, x: Map) -> Map:
        return Map(self.b.bn(x.name, x.c), x.c, x.s)

    def grow_depthwise(self, x: Map) -> Map:
        multiplier = self.choose([1, 1, 2])
        return Map(
            self.b.conv(x.name, x.c, x.c * multiplier, 3, group=x.c), x.c * multiplier, x.s
        )

    def grow_grouped(self, x: Map) -> Map:
        if not self.grouped:
            return self.grow_depthwise(x)
        groups = self.choose([g for g in (2, 3, 4) if x.c % g == 0] or [1])
        cout = groups * self.choose([2, 3, 4])
        return Map(self.b.conv(x.name, x.c, cout, 3, group=groups), cout, x.s)

    def grow_residual(self, x: Map) -> Map:
        y = self.conv(x, x.c)
        return Map(self.b.op(self.choose(["Add", "Mul", "Sub"]), x.name, y.name), x.c, x.s)

    def grow_concat(self, x: Map) -> Map:
        y = self.conv(x)
        parts = [x, y, x] if self.flag() else [y, x]
        return Map(
            self.b.op("Concat", *(p.name for p in parts), axis=1),
            sum(p.c for p in parts),
            x.s,
        )

    def grow_split(self, x: Map) -> Map:
        if x.c == 1:
            return self.grow_pool(x)
        first = self.integer(1, x.c - 1)
        sizes = self.b.const([first, x.c - first], np.int64)
        self.b.op("Split", x.name, sizes, outputs=2, axis=1)
        a, b = (
            Map(name, size, x.s)
            for name, size in zip(
                self.b.nodes[-1].output, (first, x.c - first), strict=True
            )
        )
        if self.flag():
            a = self.conv(a)
        return Map(self.b.op("Concat", b.name, a.name, axis=1), a.c + b.c, x.s)

    def grow_slice(self, x: Map) -> Map:
        start = self.integer(0, x.c - 1)
        end = self.integer(start + 1, x.c)
        step = self.choose([1, 1, 2])
        bounds = [self.b.const([v], np.int64) for v in (start, end, 1, step)]
        return Map(self.b.op("Slice", x.name, *bounds), len(range(start, end, step)), x.s)

    def grow_gather(self, x: Map) -> Map:
        index = self.source.integers(-x.c, x.c - 1, 10)
        return Map(
            self.b.op("Gather", x.name, self.b.const(index, np.int64), axis=1),
            len(index),
            x.s,
        )

    def grow_shuffle(self, x: Map) -> Map:
        groups = self.choose([g for g in (2, 3) if x.c % g == 0] or [1])
        n = self.b.op(
            "Reshape", x.name, self.b.const([0, groups, x.c // groups, x.s, x.s], np.int64)
        )
        n = self.b.op("Transpose", n, perm=[0, 2, 1, 3, 4])
        return Map(
            self.b.op("Reshape", n, self.b.const([-1, x.c, x.s, x.s], np.int64)), x.c, x.s
        )

    def grow_split_axis(self, x: Map) -> Map:
        """Reshape into blocks, an operator on the blocks, reshape back."""
        groups = self.choose([g for g in (2, 3) if x.c % g == 0] or [1])
        n = self.b.op(
            "Reshape", x.name, self.b.const([0, groups, x.c // groups, x.s, x.s], np.int64)
        )
        n = self.b.op("Mul", n, self.b.weight(1, groups, x.c // groups, 1, 1, scale=1.0))
        return Map(
            self.b.op("Reshape", n, self.b.const([0, -1, x.s, x.s], np.int64)), x.c, x.s
        )

    def grow_pad(self, x: Map) -> Map:
        before, after = self.integer(0, 3), self.integer(0, 3)
        pads = self.b.const([0, before, 0, 0, 0, after, 0, 0], np.int64)
        return Map(self.b.op("Pad", x.name, pads), x.c + before + after, x.s)

    def grow_squeeze_excite(self, x: Map) -> Map:
        y = self.b.op("GlobalAveragePool", x.name)
        y = self.b.relu(self.b.conv(y, x.c, 4, 1))
        return Map(
            self.b.op("Mul", x.name, self.b.op("Sigmoid", self.b.conv(y, 4, x.c, 1))),
            x.c,
            x.s,
        )

    def grow_channel_mean(self, x: Map) -> Map:
        """Spatial attention: statistics over the channels gate all of them."""
        axes = [self.b.const([1], np.int64)] if self.b.opset >= 18 else []
        given = {} if axes else {"axes": [1]}
        return Map(
            self.b.op(
                "Mul", x.name, self.b.op("ReduceMean", x.name, *axes, keepdims=1, **given)
            ),
            x.c,
            x.s,
        )

    def grow_layer_norm(self, x: Map) -> Map:
        y = self.b.op("Transpose", x.name, perm=[0, 2, 3, 1])
        if self.b.opset >= 17:
            y = self.b.op(
                "LayerNormalization",
                y,
                self.b.weight(x.c, scale=1.0),
                self.b.weight(x.c),
                axis=-1,
            )
        y = self.b.op("MatMul", y, self.b.weight(x.c, x.c))
        return Map(self.b.op("Transpose", y, perm=[0, 3, 1, 2]), x.c, x.s)

    def grow_instance_norm(self, x: Map) -> Map:
        return Map(
            self.b.op(
                "InstanceNormalization",
                x.name,
                self.b.weight(x.c, scale=1.0),
                self.b.weight(x.c),
            ),
            x.c,
            x.s,
        )

    def grow_group_norm(self, x: Map) -> Map:
        groups = self.choose([g for g in (2, 3) if x.c % g == 0] or [1])
        if self.b.opset < 18:
            return self.grow_instance_norm(x)
        size = x.c if self.b.opset >= 21 else groups
        scale, bias = self.b.weight(size, scale=1.0), self.b.weight(size)
        return Map(
            self.b.op("GroupNormalization", x.name, scale, bias, num_groups=groups),
            x.c,
            x.s,
        )

    def grow_depth_to_space(self, x: Map) -> Map:
        if x.c % 4 or x.s > 8:
            return self.grow_pool(x)
        mode = self.choose(["DCR", "CRD"])
        return Map(
            self.b.op("DepthToSpace", x.name, blocksize=2, mode=mode), x.c // 4, x.s * 2
        )

    def grow_space_to_depth(self, x: Map) -> Map:
        if x.s % 2 or x.c > 12:
            return self.grow_pool(x)
        return Map(self.b.op("SpaceToDepth", x.name, blocksize=2), x.c * 4, x.s // 2)

    def grow_pool(self, x: Map) -> Map:
        y = self.b.op("MaxPool", x.name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        return Map(y, x.c, x.s)

    def grow_transposed(self, x: Map) -> Map:
        cout = self.width()
        y = self.b.op(
            "ConvTranspose",
            x.name,
            self.b.weight(x.c, cout, 3, 3),
            self.b.weight(cout),
            pads=[1, 1, 1, 1],
        )
        return Map(y, cout, x.s)

    def finish(self) -> Graph:
        last = self.maps[-1]
        flat = self.b.op("Flatten", last.name) if self.flag() else None
        if flat is not None:
            return self.b.graph(self.b.linear(flat, last.c * last.s * last.s, 5))
        return self.b.graph(self.b.head(last.name, last.c))


GROWERS = sorted(name for name in dir(Grower) if name.startswith("grow_"))


@st.composite
def draw_graph(draw: st.DrawFn, grouped: bool = True, most: int = 7) -> Graph:
    """A graph of one to `most` random pieces behind a convolution."""
    grower = Grower(Drawn(draw), grouped)
    for _ in range(draw(st.integers(1, most))):
        name = draw(st.sampled_from(GROWERS))
        created = getattr(grower, name)(grower.pick())
        if created.c > 96:
            created = grower.conv(created)
        grower.maps.append(created)
    return grower.finish()
