"""Random graphs through chains of commands; every file is held against what was said of it.

    python -m tests.chains.chains [--count N] [--seed FIRST] [--verbose]

A chain is two to four of: prune, quantize, decompose, train one step, and the simplifiers onnxslim and onnxsim. Every
written file is opened as its user would, in ONNX Runtime's default session, and compared with a reference that is made
here, from the file before and the report alone:

    prune       weights of the file before, with zeros where layers read what the plan removes (the package's own proof
                where a removed channel meets others in a sum or normalisation, which zeros cannot express)
    decompose   the file before with the products of the written factors as its weights; errors as reported
    quantize    signal to noise of the outputs on the data, as reported, within 1 dB
    train       the error on the data, as reported
    simplify    the file before; what a simplifier breaks by itself is set aside
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

import prunegraph as pg
from prunegraph.errors import ExactnessError, PrunegraphError
from tests.chains.graphs import random_model
from tests.renaming import subgraphs

Array = np.ndarray

SAMPLES = 16

#: Largest difference, of the largest value; for graphs in integers, where a code more or less counts, in dB.
RELATIVE, CODES = 1e-4, 30.0

#: How far a reported SQNR may be off, in dB; above the second number it is rounding that is measured.
NEAR, EQUAL = 1.0, 60.0

#: Operators in which removed channels meet others: zeros cannot stand for what is not there.
MEETS = frozenset(
    {
        "Einsum",
        "GroupNormalization",
        "LayerNormalization",
        "LogSoftmax",
        "ReduceMax",
        "ReduceMean",
        "ReduceSum",
        "Softmax",
    }
)

COMMANDS = ("prune", "prune", "quantize", "decompose", "train", "onnxslim", "onnxsim")


class WrongError(Exception):
    """A file is not what was said of it."""


@dataclass
class Chain:
    """A chain as it went: the commands, and what became of each."""

    seed: int
    steps: list[str] = field(default_factory=list)
    failure: str = ""


def images(seed: int = 0, size: int = 8) -> Array:
    return (
        np.random.default_rng(seed)
        .standard_normal((SAMPLES, 3, size, size))
        .astype(np.float32)
    )


def run(model: onnx.ModelProto | Path, x: Array) -> list[Array]:
    """The outputs in ONNX Runtime's default session."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    result: list[Array] = ort.InferenceSession(source, options).run(None, {"x": x})
    return result


def in_integers(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "DequantizeLinear" for node in model.graph.node)


def check_equal(
    what: str, wanted: Sequence[Array], result: Sequence[Array], codes: bool = False
) -> None:
    """Raise WrongError where outputs differ."""
    if len(wanted) != len(result):
        raise WrongError(f"{what}: {len(result)} outputs instead of {len(wanted)}")
    for index, (a, b) in enumerate(zip(wanted, result, strict=True)):
        if a.shape != b.shape or not np.isfinite(b).all():
            raise WrongError(
                f"{what}: output {index} has shape {b.shape} (or no numbers), wanted {a.shape}"
            )
        relative = (
            float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) if a.size else 0.0
        )
        if relative > RELATIVE and not (codes and noise(a, b) > CODES):
            raise WrongError(
                f"{what}: output {index} differs by {relative:.2g} of its largest value"
            )


def noise(wanted: Array, result: Array) -> float:
    """Signal to noise in dB."""
    wrong = float(np.square(np.subtract(wanted, result, dtype=np.float64)).sum())
    return (
        10 * np.log10(float(np.square(wanted, dtype=np.float64).sum()) / wrong)
        if wrong
        else np.inf
    )


# -- references -------------------------------------------------------------------------------


def readers(model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Weights that layers contract with, and the axis of their inputs."""
    carried = {}
    for _, graph in subgraphs(model.graph):
        for node in graph.node:
            if node.op_type in ("DequantizeLinear", "Identity"):
                carried[node.output[0]] = node.input[0]
    tensors = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    for _, graph in subgraphs(model.graph):
        for node in graph.node:
            name = node.input[1] if len(node.input) > 1 else ""
            name = carried.get(name, name)
            if name in tensors:
                transposed = any(a.name == "transB" and a.i for a in node.attribute)
                axis = {
                    "Conv": 1,
                    "ConvTranspose": 0,
                    "Gemm": int(transposed),
                    "MatMul": tensors[name] - 2,
                }
                if node.op_type in axis:
                    yield name, axis[node.op_type]


def masked(model: onnx.ModelProto, plan: pg.Plan) -> onnx.ModelProto | None:
    """The model with zeros for what the plan's layers lose of their inputs; None where zeros are not enough."""
    nodes = [node for _, graph in subgraphs(model.graph) for node in graph.node]
    axes = set(readers(model))
    weights = {tensor.name for tensor in model.graph.initializer}
    both = {
        node.op_type
        for node in nodes
        if node.op_type in MEETS and list(node.input[:1]) != ["x"]
    }
    if (
        both
        or any(cut.weight not in weights for cut in plan.cuts)
        or len(list(subgraphs(model.graph))) > 1
    ):
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        for cut in plan.cuts:
            if cut.weight == tensor.name and (cut.weight, cut.axis) in axes:
                np.moveaxis(values, cut.axis, 0)[list(cut.removed)] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy


def parts(model: onnx.ModelProto, first: str, last: str) -> list[onnx.NodeProto]:
    """The nodes between two values, in order; each reads the one before it."""
    created = {node.output[0]: node for node in model.graph.node}
    result: list[onnx.NodeProto] = []
    while last != first:
        result.insert(0, created[last])
        last = result[0].input[0]
    return result


def composed(first: Array, second: Array) -> Array:
    """The kernel [outputs, inputs, rows, columns] of two convolutions in a row."""
    rows, columns = (
        a + b - 1 for a, b in zip(first.shape[2:], second.shape[2:], strict=True)
    )
    kernel = np.zeros((second.shape[0], first.shape[1], rows, columns))
    for r in range(second.shape[2]):
        for c in range(second.shape[3]):
            kernel[:, :, r : r + first.shape[2], c : c + first.shape[3]] += np.einsum(
                "or,rihw->oihw", second[:, :, r, c], first
            )
    return kernel


def recomposed(
    before: pg.Graph, written: onnx.ModelProto, rows: Sequence[object]
) -> onnx.ModelProto:
    """The model before, each decomposed layer with the product of its factors. Raises WrongError."""
    copy = onnx.ModelProto()
    copy.CopyFrom(before.model)
    values = {
        t.name: numpy_helper.to_array(t).astype(np.float64)
        for t in written.graph.initializer
    }
    for held in written.graph.node:
        if held.op_type == "Constant":
            values[held.output[0]] = numpy_helper.to_array(held.attribute[0].t).astype(
                np.float64
            )
    for number, row in enumerate(rows):
        node = before.node(row.name)  # type: ignore[attr-defined]
        place, proto = next(
            (i, p) for i, p in enumerate(copy.graph.node) if p.output[0] == node.outputs[0]
        )
        chain = parts(written, node.inputs[0], node.outputs[0])
        product: Array | None = None
        factor = 1.0
        for part in chain:
            weight = values[part.input[1]]
            numbers = {a.name: a for a in part.attribute}
            if part.op_type == "Conv":
                product = weight if product is None else composed(product, weight)
                continue
            weight = weight.T if "transB" in numbers and numbers["transB"].i else weight
            factor *= numbers["alpha"].f if "alpha" in numbers else 1.0
            product = weight if product is None else product @ weight
        assert product is not None
        old = before.weights[node.inputs[1]].read().astype(np.float64)
        plain = old.T if node.op == "Gemm" and node.attributes.get("transB") else old
        error = float(np.linalg.norm(product - plain) / np.linalg.norm(plain))
        if abs(error - row.error) > 1e-3:  # type: ignore[attr-defined]
            raise WrongError(
                f"decompose: the weight of {node.name} is off by {error:.4f}, not {row.error:.4f}"
            )  # type: ignore[attr-defined]
        tail = chain[-1]
        name = f"recomposed {number}"
        if proto.op_type == "Conv":
            tensors = [(name, product)] + [
                (f"{name} bias", values[v]) for v in tail.input[2:] if v
            ]
            proto.input[1:] = [each for each, _ in tensors]
            new = [proto]
        else:
            tensors = [(name, factor * product)]
            created = [helper.make_node("MatMul", [proto.input[0], name], [f"{name} made"])]
            beta = next((a.f for a in tail.attribute if a.name == "beta"), 1.0)
            bias = (
                beta * values[tail.input[2]]
                if len(tail.input) > 2 and tail.input[2]
                else np.zeros(())
            )
            tensors.append((f"{name} bias", bias))
            new = [
                *created,
                helper.make_node(
                    "Add", [f"{name} made", f"{name} bias"], [proto.output[0]]
                ),
            ]
        copies = [onnx.NodeProto.FromString(each.SerializeToString()) for each in new]
        del copy.graph.node[place]
        for offset, each in enumerate(copies):
            copy.graph.node.insert(place + offset, each)
        copy.graph.initializer.extend(
            numpy_helper.from_array(v.astype(np.float32), n) for n, v in tensors
        )
    return copy


def error(wanted: Sequence[Array], result: Sequence[Array]) -> float:
    """Relative squared error: the difference's energy over that of the variation, the mean over outputs."""
    ratios = []
    for a, b in zip(wanted, result, strict=True):
        x = a.astype(np.float64)
        # An output without samples along its first axis, or that never varies, counts with all its energy.
        varies = np.square(x - x.mean(axis=0)).sum() if len(x) == SAMPLES else 0.0
        energy = np.square(x).sum()
        scale = varies if varies > 1e-9 * energy else energy
        ratios.append(np.square(x - b).sum() / (scale or 1.0))
    return float(np.mean(ratios))


# -- commands ---------------------------------------------------------------------------------


def prune(before: Path, after: Path, rng: np.random.Generator) -> str:
    graph, x = pg.load(before), images(1)
    result = pg.prune(
        before,
        after,
        budget=pg.Budget(ratio=float(rng.choice([0.25, 0.5]))),
        round_to=1,
        algorithm=str(rng.choice(["l2", "random"])),
        seed=int(rng.integers(100)),
    )
    codes = in_integers(graph.model)
    reference = masked(graph.model, result.plan)
    if reference is None:
        written = pg.load(after)
        pg.verify(graph, result.plan, written, data=[{"x": x}])
        return "prune (package's proof)"
    check_equal("prune", run(reference, x), run(after, x), codes)
    return "prune"


def quantize(before: Path, after: Path, rng: np.random.Generator) -> str:
    graph, x = pg.load(before), images(2)
    result = pg.quantize(graph, {"x": x})
    pg.save(result.model, after)
    wanted, match = run(before, x), run(after, x)
    for name, a, b in zip(graph.outputs, wanted, match, strict=True):
        messages = result.outputs.get(name)
        measured = noise(a, b)
        if messages is None:  # nothing was quantized on the way to it
            check_equal(f"quantize {name!r}", [a], [b])
            continue
        if not (min(messages, measured) > EQUAL or abs(messages - measured) <= NEAR):
            raise WrongError(
                f"quantize: output {name!r} has {measured:.1f} dB, not {messages:.1f}"
            )
    return "quantize"


def decompose(before: Path, after: Path, rng: np.random.Generator) -> str:
    graph, x = pg.load(before), images(3)
    data = {"x": x} if rng.integers(2) else None
    method = str(rng.choice(["tucker2", "svd", "auto"]))
    result = pg.decompose(graph, method=method, rank="ratio:0.5", round_to=1, data=data)
    pg.save(result.model, after)
    reference = recomposed(graph, onnx.load(after), result.layers)
    check_equal("decompose", run(reference, x), run(after, x), in_integers(graph.model))
    return f"decompose ({len(result.layers)} layers)"


def train(before: Path, after: Path, rng: np.random.Generator) -> str:
    from prunegraph.runtime.data import Data
    from prunegraph.training import TrainingConfig, TrainingOptions, cross_entropy
    from prunegraph.training import train as _train
    from prunegraph.training.outcome import OutcomeJudge

    graph, x = pg.load(before), images(4)
    data = Data.of({"x": x, "labels": rng.integers(0, 5, SAMPLES)})
    setting = TrainingOptions(
        data, SAMPLES, cross_entropy(), TrainingConfig(epochs=1, lr=1e-3)
    )
    done = _train(graph, setting)
    pg.save(done.model, after)
    # What the command prints: the file's outputs beside those it started from, in ONNX Runtime.
    reported = OutcomeJudge(graph, Data.of({"x": x}))(done.model).difference
    measured = error(run(before, x), run(after, x))
    if abs(reported - measured) > 1e-4 * max(reported, measured) + 1e-9:
        raise WrongError(f"train: the error is {measured:.3g}, not {reported:.3g}")
    return "train"


def simplify(which: str) -> Callable[[Path, Path, np.random.Generator], str]:
    def command(before: Path, after: Path, rng: np.random.Generator) -> str:
        model, x = onnx.load(before), images(5)
        try:
            slim = simplified(which, model)
            check_equal(which, run(model, x), run(slim, x), in_integers(model))
        except Exception as failure:
            # Not ours; the chain goes on with what it had.
            onnx.save(model, after)
            return f"{which} (set aside: {type(failure).__name__})"
        onnx.save(slim, after)
        return which

    return command


def simplified(which: str, model: onnx.ModelProto) -> onnx.ModelProto:
    """What onnxslim or onnxsim makes of a copy of the model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if which == "onnxslim":
        import onnxslim

        result: onnx.ModelProto = onnxslim.slim(copy)
        return result
    import onnxsim

    result, _ = onnxsim.simplify(copy)
    for old, new in zip(model.graph.input, result.graph.input, strict=True):
        new.CopyFrom(old)  # it forgets the sizes of inputs of some models with control flow
    return result


RUN: dict[str, Callable[[Path, Path, np.random.Generator], str]] = {
    "prune": prune,
    "quantize": quantize,
    "decompose": decompose,
    "train": train,
    "onnxslim": simplify("onnxslim"),
    "onnxsim": simplify("onnxsim"),
}


def run_chain(
    seed: int, commands: Sequence[str] = (), model: onnx.ModelProto | None = None
) -> Chain:
    """One chain; by default of a random model and of random commands."""
    rng = np.random.default_rng([seed, 1])
    chain = Chain(seed)
    names = list(commands) or [
        str(name) for name in rng.choice(COMMANDS, int(rng.integers(2, 5)))
    ]
    with tempfile.TemporaryDirectory() as folder:
        now = Path(folder) / "0.onnx"
        onnx.save(model if model is not None else random_model(seed), now)
        for number, name in enumerate(names, 1):
            after = Path(folder) / f"{number}.onnx"
            try:
                chain.steps.append(RUN[name](now, after, rng))
                run(after, images(6))
            except (ExactnessError, WrongError) as failure:
                chain.failure = f"{name}: {type(failure).__name__}: {failure}"
                break
            except PrunegraphError as refusal:
                if "cannot run" in str(refusal):  # all models here run
                    chain.failure = f"{name}: {refusal}"
                    break
                chain.steps.append(f"{name} refused: {refusal}")
                continue
            except Exception:
                chain.failure = f"{name}: {traceback.format_exc(limit=-3)}"
                break
            now = after
    return chain


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Random graphs through chains of commands."
    )
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    outcomes: Counter[str] = Counter()
    failed = 0
    for seed in range(given.seed, given.seed + given.count):
        chain = run_chain(seed)
        outcomes.update(
            step.partition(":")[0].partition(" (set")[0] for step in chain.steps
        )
        if given.verbose or chain.failure:
            sys.stdout.write(
                f"{seed}: {' -> '.join(chain.steps)} {chain.failure and 'FAILED ' + chain.failure}\n"
            )
            sys.stdout.flush()
        failed += bool(chain.failure)
    for outcome, count in sorted(outcomes.items()):
        sys.stdout.write(f"{count:6} {outcome}\n")
    sys.stdout.write(f"{failed} of {given.count} chains failed\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
