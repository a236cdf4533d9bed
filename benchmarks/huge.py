"""A 3 GB model, pruned to half of its hidden widths: time against copying its files, and peak memory.

    python -m benchmarks.huge [GIGABYTES]

The weights lie in an external file, as every exporter writes a model of that size.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

WIDTH = 4096


def build(folder: Path, gigabytes: float) -> Path:
    """A chain of MatMul and Relu with `gigabytes` of weights."""
    layers = max(2, round(gigabytes * 1e9 / (WIDTH * WIDTH * 4)))
    rng = np.random.default_rng(0)
    block = (rng.standard_normal((256, WIDTH)) / 64).astype(np.float32)
    nodes, tensors, value = [], [], "x"
    with open(folder / "huge.bin", "wb") as file:
        for index in range(layers):
            tensor = onnx.TensorProto(name=f"w{index}", data_type=1, dims=[WIDTH, WIDTH])
            tensor.data_location = onnx.TensorProto.EXTERNAL
            length = WIDTH * WIDTH * 4
            for key, text in (
                ("location", "huge.bin"),
                ("offset", file.tell()),
                ("length", length),
            ):
                tensor.external_data.add(key=key, value=str(text))
            for _ in range(WIDTH // 256):
                block = np.roll(block, 1, axis=1)
                file.write(block.tobytes())
            tensors.append(tensor)
            nodes.append(
                helper.make_node(
                    "MatMul", [value, f"w{index}"], [f"m{index}"], name=f"layer{index}"
                )
            )
            nodes.append(helper.make_node("Relu", [f"m{index}"], [f"r{index}"]))
            value = f"r{index}"
    x = helper.make_tensor_value_info("x", 1, ["n", WIDTH])
    y = helper.make_tensor_value_info(value, 1, ["n", WIDTH])
    graph = helper.make_graph(nodes, "huge", [x], [y], tensors)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        folder / "huge.onnx",
    )
    return folder / "huge.onnx"


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        path = build(folder, gigabytes)
        start = time.perf_counter()
        shutil.copyfile(folder / "huge.bin", folder / "copy.bin")
        copied = time.perf_counter() - start
        (folder / "copy.bin").unlink()
        command = [
            sys.executable,
            "-m",
            "prunegraph",
            "prune",
            str(path),
            "-o",
            str(folder / "small.onnx"),
        ]
        start = time.perf_counter()
        subprocess.run(
            [*command, "--ratio", "0.5", "--no-verify"],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        pruned = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        size = (folder / "small.onnx.data").stat().st_size / 1e9
        print(
            f"{(folder / 'huge.bin').stat().st_size / 1e9:.2f} GB -> {size:.2f} GB in {pruned:.1f} s, copying the "
            f"original {copied:.1f} s (ratio {pruned / copied:.2f}), peak {peak:.0f} MB"
        )


if __name__ == "__main__":
    main()
