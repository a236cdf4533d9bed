"""Half of every group of every architecture: what is left, how exact it is, how long it takes.

    python -m benchmarks.zoo [--ratio 0.5] [--attention heads|head_dim] [NAME ...]

One row a model, then a summary of each kind.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import prunegraph as pg
from fixtures.light_models import load
from prunegraph.errors import PrunegraphError
from prunegraph.ops.cost import cost

ZOO = Path(__file__).parent.parent / "fixtures" / "zoo"

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


def names() -> list[str]:
    """Every graph of the zoo."""
    return sorted(path.name.removesuffix(".light.xz") for path in ZOO.glob("*.light.xz"))


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
    args = parser.parse_args()
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
