"""MXNet's model zoo: converted, compared with MXNet, pruned, written back.

    MXNET benchmarks/mxnet_real.py zoo FOLDER         writes the architectures and what MXNet computes
    python -m benchmarks.mxnet_zoo convert FOLDER SMALL   converts, prunes, writes pruned files to SMALL
    MXNET benchmarks/mxnet_real.py run SMALL/*        runs those in MXNet
    python -m benchmarks.mxnet_zoo table FOLDER SMALL     prints the table

MXNET is the Python of an environment with MXNet 1.9.1 (see mxnet_real.py).
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np

import prunegraph as pg
from prunegraph.frontends import mxnet
from tests.frontends.mxnet.cases import difference, run


def convert(folder: Path, pruned: Path) -> dict[str, float]:
    """Convert, prune half of every group, and write the pruned network as MXNet's files."""
    image = {"data": np.load(folder / "input.npy")}
    shapes = {"data": image["data"].shape}
    symbol = str(folder / "model-symbol.json")
    start = time.perf_counter()
    model = mxnet.load(symbol, input_shapes=shapes)
    seconds = time.perf_counter() - start
    matches = difference(run(model, image), [np.load(folder / "output0.npy")])
    result = pg.prune(pg.load(model), algorithm="l2", budget=pg.Budget(ratio=0.5))
    assert result.proof is not None
    pruned.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "input.npy", pruned)
    mxnet.apply(
        symbol,
        result.plan,
        result.model,
        str(pruned / "model-symbol.json"),
        str(pruned / "model-0000.params"),
        input_shapes=shapes,
    )
    np.save(pruned / "wanted.npy", run(result.model.model, image)[0])
    return {
        "nodes": len(model.graph.node),
        "params": result.before.params,
        "seconds": seconds,
        "difference": matches,
        "share": result.after.params / result.before.params,
        "proof": result.proof.relative,
    }


def table(pruned: Path) -> None:
    print(
        "| model | ONNX nodes | parameters | conversion | difference | pruned to | proof | pruned, in MXNet |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for path in sorted(pruned.iterdir()):
        row = json.loads((path / "row.json").read_text())
        back = difference([np.load(path / "output0.npy")], [np.load(path / "wanted.npy")])
        print(
            f"| {path.name} | {row['nodes']} | {row['params'] / 1e6:.2f} M | {row['seconds']:.1f} s | "
            f"{row['difference']:.0e} | {row['share']:.0%} | {row['proof']:.0e} | {back:.0e} |"
        )


def main(command: str, zoo: str, pruned: str) -> None:
    if command == "table":
        table(Path(pruned))
        return
    for folder in sorted(Path(zoo).iterdir()):
        row = convert(folder, Path(pruned) / folder.name)
        (Path(pruned) / folder.name / "row.json").write_text(json.dumps(row))
        print(folder.name, row, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
