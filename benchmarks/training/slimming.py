"""What sparse training is for: top-1 after pruning and before any fine-tuning.

    python -m benchmarks.training slimming

Network slimming (scales shrink in training, then `bn_scale`) beside `l2` of the network as it is: the same budgets, the
same repair, and for each the better of two allocations. The networks are those of `joint`; weights are kept beside its
own, and a run that was killed goes on. A process with one thread for each network.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import torch
from rich.console import Console
from rich.table import Table

import prunegraph as pg
from benchmarks.tasks import fashion_accuracy, fashion_calibration
from benchmarks.training.joint import CASES, FOLDER, MACS, PARAMS, Case, original, setting
from prunegraph.graph.model import Graph
from prunegraph.ops.cost import cost
from prunegraph.training import cross_entropy, train

#: Strong and long enough that more channels are gone than are to be removed.
EPOCHS, STRENGTH = 6, 0.1

#: What is left of MACs and of parameters; the last is the budget of `joint`.
BUDGETS = ((0.5, 1.0), (0.3, 1.0), (MACS, PARAMS))

ALLOCATIONS = ("uniform", "global")

REPAIRS = ("none", "bn", "least-squares")


def pruned(graph: Graph, budget: tuple[float, float], **choice: object) -> float:
    """Top-1 in percent of a graph that is pruned to a share of its MACs, then of its parameters."""
    before, pruned = cost(graph), graph
    for kind, share in zip(("macs", "params"), budget, strict=True):
        bound = int(share * getattr(before, kind))
        if getattr(cost(pruned), kind) > bound:
            pruned = pg.prune(
                pruned,
                budget=pg.Budget(**{kind: bound}),
                round_to=1,
                min_channels=4,
                verify=False,
                data=fashion_calibration(512, 0),
                **choice,
            ).model  # type: ignore[arg-type]
    return 100 * fashion_accuracy(pruned)


def sparse(graph: Graph, case: Case, seed: int) -> Graph:
    """The network trained with labels while its scales shrink."""
    chosen = setting(graph, case, seed)
    recipe = replace(chosen.recipe, epochs=EPOCHS)
    checkpoint = FOLDER / f"slimming-{case.name}-{seed}.pt"
    return train(
        graph,
        replace(
            chosen, recipe=recipe, loss=cross_entropy(), checkpoint=checkpoint, budget=None
        ),
        f"sparse:strength={STRENGTH}",
    ).model


def rows(case: Case, seed: int) -> list[list[str]]:
    """The rows of a network."""
    torch.set_num_threads(1)
    graph = pg.load(original(case.name))
    thin = sparse(graph, case, seed)
    whole = [f"{100 * fashion_accuracy(each):.2f}" for each in (thin, graph)]
    created = [[case.name, "all", "all", "", whole[0], "", whole[1], "", ""]]
    for budget in BUDGETS:
        for repair in REPAIRS:
            ours, others = (
                [
                    pruned(
                        each,
                        budget,
                        algorithm=algorithm,
                        allocation=allocation,
                        repair=repair,
                    )
                    for allocation in ALLOCATIONS
                ]
                for each, algorithm in ((thin, "bn_scale"), (graph, "l2"))
            )
            values = [f"{value:.2f}" for value in (*ours, *others)]
            shares = [f"{share:.0%}" if share < 1 else "" for share in budget]
            created.append(
                ["", *shares, repair, *values, f"{max(ours) - max(others):+.2f}"]
            )
    return created


def main() -> None:
    table = Table(
        title=f"top-1 in percent after pruning, before fine-tuning; {EPOCHS} sparse epochs, seed 0"
    )
    for name in (
        "network",
        "MACs",
        "params",
        "repair",
        "sparse, uniform",
        "sparse, global",
        "l2, uniform",
        "l2, global",
        "difference",
    ):
        table.add_column(name, justify="left" if name in ("network", "repair") else "right")
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for output in pool.map(rows, CASES, [0] * len(CASES)):
            for row in output:
                table.add_row(*row)
    Console(width=120).print(table)
