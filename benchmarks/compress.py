"""Pruning, decomposition, and both under one budget.

    python -m benchmarks.compress lenet       LeNet-5 by the rule of source 004, also trained on (extra [torch])
    python -m benchmarks.compress detectors   detectors of torchvision with random weights: size and latency
    python -m benchmarks.compress equal       Fashion-MNIST network: three ways at the same MACs
    python -m benchmarks.compress tasks       models that packages ship, 30 % fewer MACs, three ways
    python -m benchmarks.compress bounds      every classification graph of torchvision: error bounds against errors

Names behind `detectors`, `tasks` and `bounds` choose some of their models.

Data as for `benchmarks.accuracy`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

import prunegraph as pg
from benchmarks.tasks import ROOT, TASKS, fashion, fashion_accuracy, fashion_calibration
from fixtures import light_models
from prunegraph.coupling.sample import full_cost
from prunegraph.graph.model import Graph, Node
from prunegraph.measuring.latency import Stopwatch
from prunegraph.rewriting.decompose import DecomposeResult, chain
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime.data import random_inputs, read_data
from prunegraph.runtime.session import run, run_values, session

Array = np.ndarray

ZOO = ROOT / "fixtures" / "zoo"

#: Graphs of torchvision that do not classify.
OTHERS = ("fasterrcnn", "ssdlite", "deeplab", "fcn")

#: Pairs of sessions a latency is measured in.
PAIRS = 3

DETECTORS = (
    "torchvision__fasterrcnn_resnet50_fpn",
    "torchvision__ssdlite320_mobilenet_v3_large",
)

#: Ways to compress them; where layers are small and depthwise, as in MobileNetV3, low rank saves no time.
WAYS: tuple[dict[str, object], ...] = (
    {"method": "source-004", "cluster": "paper", "params": 0.45},
    {"method": "hybrid", "params": 0.45},
    {"method": "prune", "macs": 0.33},
)

METHODS = ("prune", "decompose", "hybrid")


def zoo(name: str) -> Graph:
    return pg.load(light_models.load(ZOO / f"{name}.light.xz"))


def lenet(epochs: int = 5) -> None:
    """Accuracy, size and latency of LeNet-5 by source 004, before and after fine-tuning."""
    graph = pg.load(ROOT / "fixtures" / "lenet5.onnx")
    data = fashion_calibration(256, 0)
    timer = Stopwatch(graph, {"image": fashion("t10k")[0][:1]})
    print(
        f"{'LeNet-5, source 004':<34}{'top-1':>9}{'params':>10}{'MACs':>12}{'latency':>9}"
    )
    print(_lenet_row("original", graph, timer), flush=True)
    for cluster in ("robust", "paper"):
        for rank in ("evbmf", "evbmf:0"):
            result = pg.compress(graph, method="source-004", cluster=cluster, rank=rank)
            print(_lenet_row(f"{cluster}, {rank}", result.model, timer), flush=True)
            fitted = pg.compress(
                graph, method="source-004", cluster=cluster, rank=rank, data=data
            )
            print(
                _lenet_row("  with 256 unlabelled images", fitted.model, timer), flush=True
            )
            print(
                _lenet_row(
                    f"  tuned, {epochs} epochs", _tuned(result.model, epochs), timer
                ),
                flush=True,
            )


def _lenet_row(name: str, graph: Graph, timer: Stopwatch) -> str:
    spent = full_cost(graph)
    kept = timer.against(graph, PAIRS).kept
    return f"{name:<34}{fashion_accuracy(graph):>9.2%}{spent.params:>10,}{spent.macs:>12,}{kept:>9.2f}"


def _tuned(graph: Graph, epochs: int) -> Graph:
    """A graph trained on, at a tenth of the first training's learning rate."""
    import torch

    from prunegraph.training import Batches, GraphModule, TrainingConfig, fit

    torch.set_num_threads(1)
    images, labels = fashion("train")
    module = GraphModule(graph)
    fit(
        module,
        Batches({"image": images, "labels": labels.astype(np.int64)}, 128),
        TrainingConfig(epochs=epochs, lr=0.005),
    )
    return module.write_back(graph)


def detectors() -> None:
    """Stored size and latency of detectors; weights are random, so nothing is said of accuracy."""
    print("random weights: size and latency count, accuracy is not measured")
    for name in sys.argv[2:] or DETECTORS:
        graph = _calm(zoo(name))
        timer, inputs = Stopwatch(graph), random_inputs(graph, batch=1)
        for options in WAYS:
            start = time.perf_counter()
            try:
                result = pg.compress(graph, **options)
            except pg.errors.BudgetError as error:
                print(f"{name}, {options['method']}: {error}", flush=True)
                continue
            spent = time.perf_counter() - start
            sizes = [_stored(each) for each in (graph, result.model)]
            latency = timer.against(result.model, PAIRS)
            print(
                f"{name}, {options['method']}: {sizes[0] / 1e6:.2f} -> {sizes[1] / 1e6:.2f} MB "
                f"({sizes[1] / sizes[0] - 1:+.1%}), {latency.first:.0f} -> {latency.second:.0f} ms, "
                f"{latency.ratio:.2f} times as fast; made in {spent:.0f} s"
            )
            print(f"  proof of the cut: {result.proof}")
            print(
                f"  proposals: {_proposals(graph, inputs)} -> {_proposals(result.model, inputs)}"
            )
            print(f"  outputs of the same form: {_same_form(graph, result.model, inputs)}")
            for each in result.layers:
                print(
                    f"  {each.name}: {each.action}; outputs {each.outputs[0]} -> {each.outputs[1]} {each.method} "
                    f"{each.ranks or ''} parameters {each.params[0]} -> {each.params[1]}; {each.reason}"
                )
            sys.stdout.flush()


def _calm(graph: Graph) -> Graph:
    """A detector whose proposals stay near their anchors, as trained ones do.

    Random weights let a proposal network move its boxes so far that hardly any is left, or not, as chance has it:
    the rest of the network would then have different work in the original and in the compressed model.
    """
    revision = Revision(graph)
    for node in graph.layers:
        if "bbox_pred" in node.name and "rpn" in node.name:
            weight = node.inputs[1]
            (output,) = run_values(
                graph, random_inputs(graph, batch=1), [node.outputs[0]]
            ).values()
            revision.set(weight, revision.value(weight) * 0.1 / float(output.std()))
    return revision.apply() if revision.weights else graph


def _proposals(graph: Graph, inputs: dict[str, Array]) -> int:
    """Boxes that the second stage looks at: rows of the first matrix product; 0 where there is no second stage."""
    first = next(
        (
            node
            for node in graph.layers
            if node.op in ("Gemm", "MatMul") and node.subgraph is None
        ),
        None,
    )
    return (
        len(run_values(graph, inputs, [first.outputs[0]])[first.outputs[0]]) if first else 0
    )


def _stored(graph: Graph) -> int:
    """Bytes of the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        pg.save(graph, path)
        return path.stat().st_size


def _same_form(first: Graph, second: Graph, inputs: dict[str, Array]) -> bool:
    """Whether outputs have the same names, types and axes; how many boxes there are depends on the weights."""
    created = [run(session(each), inputs) for each in (first, second)]
    same = first.outputs == second.outputs
    for name, a, b in zip(first.outputs, *created, strict=True):
        print(f"  output {name}: {a.dtype} {list(a.shape)} -> {b.dtype} {list(b.shape)}")
        same = (
            same and a.dtype == b.dtype and a.ndim == b.ndim and a.shape[1:] == b.shape[1:]
        )
    return same


def equal() -> None:
    """Top-1 of the Fashion-MNIST network at the same MACs: pruned, decomposed, both."""
    graph = TASKS[0].load()
    print(
        f"fashion: {fashion_accuracy(graph):.2%} top-1 of 10,000 images; 256 unlabelled images, round-to 1"
    )
    data = read_data(str(ROOT / "fixtures" / "fashion_calibration.npz"))
    for share in (0.5, 0.3):
        for method in METHODS:
            start = time.perf_counter()
            result = pg.compress(
                graph, method=method, macs=share, round_to=1, data=data, verify=False
            )
            print(
                _row(
                    "fashion", share, method, fashion_accuracy(result.model), result, start
                ),
                flush=True,
            )


def tasks() -> None:
    """Quality of shipped models with 30 % fewer MACs."""
    for wanted in sys.argv[2:] or ("detector", "recognizer", "efficientnet-lite0"):
        task = next(each for each in TASKS if each.name == wanted)
        data = task.calibration(64, 0)
        graph = task.load()
        print(f"{wanted}: {task.measure} {task.quality(graph):.1%}", flush=True)
        for method in METHODS:
            start = time.perf_counter()
            result = pg.compress(
                graph, method=method, macs=0.7, round_to=1, data=data, verify=False
            )
            print(
                _row(wanted, 0.7, method, task.quality(result.model), result, start),
                flush=True,
            )


def _row(
    label: str,
    share: float,
    method: str,
    quality: float,
    result: pg.CompressResult,
    start: float,
) -> str:
    counts = Counter(layer.action for layer in result.layers)
    listed = ", ".join(f"{count} {action}" for action, count in counts.items())
    tried = " ".join(
        f"{mix.pruned:.2f}:{mix.error:.4f}" for mix in result.mixes if mix.error is not None
    )
    spent = time.perf_counter() - start
    macs, params = (
        result.after.macs / result.before.macs,
        result.after.params / result.before.params,
    )
    return (
        f"{label:<18} {share:.0%} {method:<10} {quality:>7.2%}  MACs {macs:.1%}, params {params:.1%}, {spent:.0f} s; "
        f"layers: {listed}; {tried}"
    )


def bounds() -> None:
    """How far below their bounds the errors of decomposed layers stay."""
    names = [
        path.name.removesuffix(".light.xz")
        for path in sorted(ZOO.glob("torchvision__*.light.xz"))
    ]
    for name in sys.argv[2:] or [
        name for name in names if not any(other in name for other in OTHERS)
    ]:
        graph = zoo(name)
        start = time.perf_counter()
        decomposed = pg.decompose(graph, rank="energy:0.9")
        spent = time.perf_counter() - start
        ratios = [ratio for _, ratio in measured_by_bound(graph, decomposed)]
        print(
            f"{name:<45} {len(decomposed.layers):>4} layers, "
            f"params {decomposed.after.params / decomposed.before.params:>6.1%}, "
            f"error by bound at most {max(ratios, default=0.0):.3f}, {spent:>4.0f} s",
            flush=True,
        )


def measured_by_bound(
    graph: Graph, decomposed: DecomposeResult, seed: int = 0
) -> Iterator[tuple[str, float]]:
    """For every decomposed layer, the largest change of an output by what the reported error allows there.

    By Cauchy and Schwarz the outputs of a position change by at most `error * |W|` times the norm of the patch that
    is read there. Layers see what the original gives them on random inputs; what rounding to the type of the
    weights adds counts as a change.
    """
    inputs = random_inputs(graph, batch=1, seed=seed)
    wanted = {row.name: graph.node(row.name) for row in decomposed.layers}
    read = [
        value
        for value in dict.fromkeys(node.inputs[0] for node in wanted.values())
        if value not in inputs
    ]
    values = {**inputs, **(run_values(graph, inputs, read) if read else {})}
    for row in decomposed.layers:
        node = wanted[row.name]
        x = values[node.inputs[0]]
        weight = graph.weights[node.inputs[1]].read().astype(np.float64)
        created = [
            _alone(each, nodes, node, x)
            for each, nodes in (
                (graph, [node]),
                (decomposed.model, chain(decomposed.model, node)),
            )
        ]
        axis = 1 if node.op == "Conv" else -1
        change = np.sqrt(np.square(created[0].astype(np.float64) - created[1]).sum(axis))
        allowed = (
            row.error
            * np.linalg.norm(weight)
            * abs(node.attributes.get("alpha", 1.0))
            * _patches(node, weight, x)
        )
        # Rounding: of sums over the whole patch, in the type of the weights.
        slack = (
            1e-4
            * np.abs(created[0]).max()
            * np.sqrt(weight.shape[0] if axis == 1 else created[0].shape[-1])
        )
        yield row.name, float((change / (allowed + slack)).max(initial=0.0))


def _alone(graph: Graph, nodes: list[Node], layer: Node, x: Array) -> Array:
    """What some nodes of a graph make of the input of a layer."""
    names = {value for node in nodes for value in node.inputs if value in graph.weights}
    return _ran(
        graph,
        [node.proto for node in nodes],
        [graph.weights[name].tensor for name in sorted(names)],
        (layer.inputs[0], x),
        layer.outputs[0],
    )


def _patches(layer: Node, weight: Array, x: Array) -> Array:
    """Norm of the patch that is read at each position of a layer's output."""
    squares = np.square(x.astype(np.float32))
    if layer.op != "Conv":
        return np.sqrt(squares.sum(-1, dtype=np.float64))
    ones = numpy_helper.from_array(np.ones((1, *weight.shape[1:]), np.float32), "ones")
    proto = onnx.NodeProto()
    proto.CopyFrom(layer.proto)
    del proto.input[:]
    proto.input.extend(["x", "ones"])
    proto.output[:] = ["y"]
    sums = _ran(None, [proto], [ones], ("x", squares), "y")
    return np.sqrt(np.maximum(sums[:, 0].astype(np.float64), 0))


def _ran(
    graph: Graph | None,
    protos: list[onnx.NodeProto],
    tensors: list[onnx.TensorProto],
    given: tuple[str, Array],
    out: str,
) -> Array:
    name, x = given
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    created = helper.make_graph(
        protos,
        "piece",
        [helper.make_tensor_value_info(name, kind, x.shape)],
        [helper.make_tensor_value_info(out, kind, None)],
        tensors,
    )
    opsets = (
        graph.model.opset_import if graph is not None else [helper.make_opsetid("", 17)]
    )
    model = helper.make_model(created, opset_imports=list(opsets), ir_version=8)
    (match,) = run(session(pg.load(model)), {name: x})
    return match


COMMANDS: dict[str, Callable[[], None]] = {
    "lenet": lenet,
    "detectors": detectors,
    "equal": equal,
    "tasks": tasks,
    "bounds": bounds,
}

if __name__ == "__main__":
    for name in sys.argv[1:2] or COMMANDS:
        COMMANDS[name]()
