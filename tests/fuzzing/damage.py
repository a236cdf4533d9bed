"""Mutated files: whatever the bytes, only the documented errors.

    python -m tests.fuzzing.damage MINUTES [SEED]

Real small models are damaged at random (bytes flipped, cut, doubled, numbers changed) and
go through load, analyze, select and apply. Anything but a result or a PrunegraphError stops
the run, with the file kept. Every second file is of another format (`formats.py` beside this file).
`test_models.py` and `test_formats.py` are the short form.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

import prunegraph as pg
from prunegraph.errors import PrunegraphError
from tests.builders import Builder, residual_net

if TYPE_CHECKING:
    from tests.fuzzing.formats import Format


@functools.cache
def seeds() -> list[bytes]:
    """Models to damage: small, with many kinds of operators and attributes."""
    b = Builder()
    x = b.conv(b.input("n", 3, 8, 8), 3, 8, name="a")
    b.op("Split", x, b.const([3, 5], np.int64), outputs=2, axis=1)
    x = b.op("Concat", *reversed(b.nodes[-1].output), axis=1)
    x = b.op("Slice", x, *(b.const([v], np.int64) for v in (1, 7, 1)))
    shape = b.op("Concat", b.op("Shape", x, end=2), b.const([-1], np.int64), axis=0)
    x = b.op("Transpose", b.op("Reshape", x, shape), perm=[0, 2, 1])
    x = b.op("LayerNormalization", x, b.weight(6, scale=1), b.weight(6))
    x = b.op(
        "Gather", b.op("MatMul", x, b.weight(6, 9)), b.const([2, 0, -1], np.int64), axis=2
    )
    moving = b.model(
        b.op("ReduceMean", b.op("Pad", x, b.const([0, 0, 1, 0, 0, 1], np.int64)), axes=[1])
    )
    b = Builder(opset=14)
    x = b.op(
        "LSTM",
        b.input(5, "n", 7),
        b.weight(1, 16, 7),
        b.weight(1, 16, 4),
        hidden_size=4,
        outputs=1,
    )
    recurrent = b.model(
        b.op("Einsum", b.op("Squeeze", x), b.weight(4, 3), equation="tnh,hk->tnk")
    )
    models = [residual_net().model, moving, recurrent, control_flow()]
    return [model.SerializeToString() for model in models]


def control_flow() -> onnx.ModelProto:
    """A Loop with an If in it, and a Scan."""
    b, turn, yes, no, step = (Builder(opset=17) for _ in range(5))
    for number, inner in enumerate((turn, yes, no, step), 1):
        inner.count = 100 * number
    x = b.linear(b.input("n", 7), 7, 6, name="a")
    for name, kind in (("number", 7), ("go", 9)):
        turn.input(name=name, kind=kind)
    state = turn.input("n", 6, name="state")
    one, two = yes.linear(yes.relu(yes.linear(state, 6, 5)), 5, 6), no.op("Tanh", x)
    positive = turn.op(
        "Greater", turn.op("ReduceMax", state, keepdims=0), turn.const(0, np.float32)
    )
    y = turn.op("If", positive, then_branch=body(yes, one), else_branch=body(no, two))
    x = b.op(
        "Loop", b.const(2, np.int64), "", x, body=body(turn, turn.op("Identity", "go"), y)
    )
    h, s = step.input("n", 6, name="h"), step.input("n", 6, name="s")
    new = step.op("Tanh", step.op("Add", step.linear(h, 6, 6), s))
    parts = b.op("Unsqueeze", x, b.const([0], np.int64))
    b.op(
        "Scan",
        x,
        parts,
        body=body(step, new, step.linear(new, 6, 3)),
        num_scan_inputs=1,
        outputs=2,
    )
    return b.model(
        b.op("Add", b.nodes[-1].output[1], b.linear(b.nodes[-1].output[0], 6, 3))
    )


def body(b: Builder, *outputs: str) -> onnx.GraphProto:
    infos = [
        onnx.helper.make_tensor_value_info(o, 9 if "identity" in o else 1, None)
        for o in outputs
    ]
    return onnx.helper.make_graph(b.nodes, "body", b.inputs, infos, b.tensors)


def damage(rng: np.random.Generator) -> bytes:
    """One damaged file."""
    data = bytearray(seeds()[rng.integers(len(seeds()))])
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(len(data)))
        kind = rng.integers(5)
        if kind == 0:
            data[at] = int(rng.integers(256))
        elif kind == 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 40))]
        elif kind == 3:
            data[at:at] = data[at : at + int(rng.integers(1, 40))]
        else:
            data = bytearray(numbers_changed(bytes(data), rng))
        if not data:
            return b""
    return bytes(data)


def numbers_changed(data: bytes, rng: np.random.Generator) -> bytes:
    """The model with one attribute number, dimension or name replaced, if it still is one."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:
        return data
    wild = [0, -1, 1, 2, 7, 2**31, -(2**62), 10**9]
    value = wild[rng.integers(len(wild))]
    attributes = [a for node in model.graph.node for a in node.attribute]
    if attributes and rng.random() < 0.4:
        attribute = attributes[rng.integers(len(attributes))]
        if attribute.ints:
            attribute.ints[rng.integers(len(attribute.ints))] = value
        else:
            attribute.i = value
    elif model.graph.initializer and rng.random() < 0.5:
        tensor = model.graph.initializer[rng.integers(len(model.graph.initializer))]
        if tensor.dims:
            tensor.dims[rng.integers(len(tensor.dims))] = value
    elif model.graph.node:
        node = model.graph.node[rng.integers(len(model.graph.node))]
        node.op_type = ["Conv", "Add", "Reshape", "Gemm", "If", "Nothing", "Concat"][
            rng.integers(7)
        ]
    return model.SerializeToString()


def attempt(data: bytes, path: Path) -> str:
    """Take a file through the engine; which stage it reached."""
    path.write_bytes(data)
    stage = "load"
    try:
        graph = pg.load(path)
        stage = "analyze"
        coupling = pg.analyze(graph)
        stage = "select"
        plan = pg.select(graph, coupling, budget=pg.Budget(ratio=0.5), round_to=1)
        stage = "apply"
        pg.apply(graph, plan)
        return "done"
    except PrunegraphError:
        return stage


def _others(folder: Path) -> Iterator[tuple[Format, Path, bytes]]:
    """Every other format, with a file of it and what the file holds."""
    from tests.fuzzing.formats import FORMATS

    for number, each in enumerate(FORMATS.values()):
        place = folder / str(number)
        place.mkdir()
        file = each.write(place)
        yield each, file, file.read_bytes()


def attempt_other(each: Format, file: Path, whole: bytes, rng: np.random.Generator) -> str:
    """Damage and read a file of another format; "read" or "refused". What else is raised leaves a copy behind."""
    from tests.fuzzing import formats as fuzz_formats

    damaged = fuzz_formats.damage(whole, rng)
    file.write_bytes(damaged)
    try:
        each.read(file)
    except PrunegraphError:
        return "refused"
    except BaseException:
        Path(f"/tmp/prunegraph_fuzz_{file.name}").write_bytes(damaged)
        raise
    return "read"


def main() -> None:
    minutes, seed = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    rng = np.random.default_rng(seed)
    path = Path(f"/tmp/prunegraph_fuzz_{seed}.onnx")
    reached: dict[str, int] = {}
    end = time.monotonic() + minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        others = list(_others(Path(folder)))
        while time.monotonic() < end:
            stage = attempt(damage(rng), path)
            reached[stage] = reached.get(stage, 0) + 1
            other, file, whole = others[rng.integers(len(others))]
            stage = f"{other.name} {attempt_other(other, file, whole, rng)}"
            reached[stage] = reached.get(stage, 0) + 1
    path.unlink()
    sys.stdout.write(f"{sum(reached.values())} files, last stage reached: {reached}\n")


if __name__ == "__main__":
    main()
