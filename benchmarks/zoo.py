"""Half of every group of every architecture: what is left, how exact it is, how long it takes.

    python -m benchmarks.zoo [--ratio 0.5] [--attention heads|head_dim] [NAME ...]
    python -m benchmarks.zoo --together [NAME ...]

One row a model, then a summary of each kind. With `--together` every model, those of `zoo_transformers` too, loses
40 % of its MACs in other bases, heads and groups each choosing their own channels, with branches that may go: what is
left, how exact it is, whether bases were found, branches gone, seconds. Half a minute a model and more.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import prunegraph as pg
from fixtures.light_models import load
from prunegraph.errors import PrunegraphError
from prunegraph.ops.cost import cost
from prunegraph.runtime.data import random_inputs

FIXTURES = Path(__file__).parent.parent / "fixtures"
ZOO, TRANSFORMERS = FIXTURES / "zoo", FIXTURES / "zoo_transformers"

#: Graphs that are neither convolutional networks nor mixers, by a part of their name.
OTHERS = (
    "bat_resnext",
    "cait_",
    "coat_",
    "coatnet",
    "davit",
    "deit_",
    "edgenext",
    "efficientformer",
    "efficientvit",
    "eva02",
    "levit",
    "mobilevit",
    "pvt_v2",
    "sequencer",
    "swin_",
    "test_vit",
    "tiny_vit",
    "vit_tiny",
    "xcit",
    "vit_b_16",
    "rtdetr",
    "fasterrcnn",
    "ssdlite",
)


@dataclass(frozen=True)
class Row:
    """Figures of one model; seconds for analyze, cut and verify."""

    name: str
    groups: int
    params: float
    macs: float
    difference: float
    analyze: float
    cut: float
    verify: float


def names(folders: Sequence[Path] = (ZOO,)) -> list[str]:
    """Every graph of some folders."""
    paths = (path for folder in folders for path in folder.glob("*.light.xz"))
    return sorted(path.name.removesuffix(".light.xz") for path in paths)


def is_convolutional(name: str) -> bool:
    """Whether a graph is convolutional (or a mixer): no attention, no recurrence, no control flow."""
    return not any(part in name for part in OTHERS)


def entry(name: str, ratio: float, attention: str | None = None) -> Row:
    """Prune one model by l2 and prove it."""
    graph = pg.load(load(ZOO / f"{name}.light.xz"))
    start = time.perf_counter()
    coupling = pg.analyze(graph, attention=attention)
    analyzed = time.perf_counter()
    plan = pg.select(graph, coupling, budget=pg.Budget(ratio=ratio), round_to=1)
    selected = time.perf_counter()
    pruned = pg.apply(graph, plan)
    done = time.perf_counter()
    proof = pg.verify(graph, plan, pruned)
    end = time.perf_counter()
    before, after = cost(graph), cost(pruned)
    return Row(
        name,
        len(coupling.groups),
        after.params / before.params,
        after.macs / before.macs,
        proof.relative,
        analyzed - start,
        done - selected,
        end - done,
    )


def together(name: str) -> str:
    """A line for a model pruned in other bases, with channels of blocks' own and branches, all proved in one run."""
    folder = ZOO if (ZOO / f"{name}.light.xz").exists() else TRANSFORMERS
    graph = pg.load(load(folder / f"{name}.light.xz"))
    start = time.perf_counter()
    result = pg.prune(
        graph,
        budget=pg.Budget(macs=0.6),
        data=random_inputs(graph),
        algorithm="l2",
        allocation="uniform",
        rotate="always",
        blocks="own",
        depth="auto",
        repair="none",
        round_to=1,
    )
    assert result.proof is not None  # prune proves unless it is told not to
    return (
        f"{name:44} {result.after.macs / result.before.macs:6.3f} {result.proof.relative:11.1e} "
        f"{'yes' if result.plan.rotation else 'no':>6} {len(result.plan.branches):9} {time.perf_counter() - start:8.0f}"
    )


def print_together(chosen: list[str]) -> None:
    """The lines of `--together`, and how many were proved."""
    print(f"{'model':44} {'MACs':>6}  difference  bases  branches  seconds")
    proved = 0
    for name in chosen:
        try:
            print(together(name), flush=True)
            proved += 1
        except PrunegraphError as error:
            print(f"{name:44} {error}", flush=True)
    print(f"{proved} of {len(chosen)} proved")


def summary(rows: list[Row], tried: int) -> str:
    """One line over all models."""

    def middle(field: str) -> float:
        return statistics.median(getattr(row, field) for row in rows)

    return (
        f"{len(rows)} of {tried} proved; median kept: params {middle('params'):.3f}, MACs {middle('macs'):.3f}; "
        f"largest difference {max(row.difference for row in rows):.1e}; "
        f"median seconds: analyze {middle('analyze'):.3f}, cut {middle('cut'):.3f}, verify {middle('verify'):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--attention", choices=("heads", "head_dim"))
    parser.add_argument("--together", action="store_true")
    args = parser.parse_args()
    if args.together:
        print_together(args.names or names((ZOO, TRANSFORMERS)))
        return
    chosen = args.names or names()
    print(f"{'model':44} groups params   MACs  difference  analyze    cut  verify")
    rows, failed = [], []
    for name in chosen:
        try:
            row = entry(name, args.ratio, args.attention)
        except PrunegraphError as error:
            failed.append(name)
            print(f"{name:44} {error}")
            continue
        rows.append(row)
        print(
            f"{row.name:44} {row.groups:6} {row.params:6.3f} {row.macs:6.3f} {row.difference:11.1e} "
            f"{row.analyze:8.3f} {row.cut:6.3f} {row.verify:7.2f}",
            flush=True,
        )
    kinds = {
        "convolutional networks and mixers": True,
        "transformers, hybrids, recurrence, detectors": False,
    }
    for kind, convolutional in kinds.items():
        mine = [row for row in rows if is_convolutional(row.name) == convolutional]
        if mine:
            print(
                f"{kind}: {summary(mine, sum(is_convolutional(n) == convolutional for n in chosen))}"
            )
    if failed:
        print(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
