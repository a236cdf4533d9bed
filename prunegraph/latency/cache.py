"""Measured figures, kept on disk for the next time: one file for each environment.

Layer times and the best multiple of widths depend on the processor, the runtime with its version,
the provider and the threads, and on nothing else of the machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunegraph.errors import MALFORMED, ModelError
from prunegraph.graph.onnx_io import write_whole
from prunegraph.runtime.engine import Runtime

FORMAT = "prunegraph/latency@2"

#: Names the folder of the cache; by default it is `prunegraph` in the user's cache folder.
VARIABLE = "PRUNEGRAPH_CACHE"


class Cache:
    """Figures of one environment.

    `layers` holds milliseconds by layer (operator, attributes, shapes), and those of a run with nothing to do;
    `rounding` holds, by model, latency per MAC by multiple.

    Args:
        environment: what the figures depend on.
        folder: where the file lies; None keeps figures in memory only.
    """

    def __init__(
        self, environment: Mapping[str, str] | None = None, folder: Path | None = None
    ):
        self.environment = dict(environment or {})
        name = hashlib.sha256(
            json.dumps(self.environment, sort_keys=True).encode()
        ).hexdigest()[:16]
        self.path = folder / f"latency-{name}.json" if folder is not None else None
        content = self._read()
        self.layers: dict[str, float] = content.get("layers", {})
        self.rounding: dict[str, dict[str, float]] = content.get("rounding", {})

    @classmethod
    def here(cls, runtime: Runtime) -> Cache:
        """The cache of this machine for a runtime with its device and threads."""
        return cls({"cpu": processor(), **runtime.environment()}, folder())

    def save(self) -> None:
        """Write the file, with what other processes put there in the meantime, where its folder can be written."""
        if self.path is None:
            return
        there = self._read()
        content = {
            "format": FORMAT,
            "environment": self.environment,
            "layers": {
                **there.get("layers", {}),
                **{key: ms for key, ms in self.layers.items() if ms},
            },
            "rounding": {**there.get("rounding", {}), **self.rounding},
        }
        with contextlib.suppress(OSError, ModelError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, [(json.dumps(content, indent=1) + "\n").encode()])

    def _read(self) -> dict[str, Any]:
        """The file's content; nothing where there is none, or it is damaged."""
        if self.path is None:
            return {}
        try:
            content = json.loads(self.path.read_text())
        except MALFORMED:
            return {}
        return (
            content if isinstance(content, dict) and content.get("format") == FORMAT else {}
        )


def folder() -> Path:
    """Where caches lie: `PRUNEGRAPH_CACHE`, else `prunegraph` in the user's cache folder."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "prunegraph"


def processor() -> str:
    """Model and instruction sets of the processor: what runtimes pick their kernels by."""
    lines: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            lines.setdefault(key.strip(), value.strip())
    flags = lines.get("flags") or lines.get("Features", "")
    name = lines.get("model name") or platform.processor() or platform.machine()
    return f"{name} {hashlib.sha256(flags.encode()).hexdigest()[:8]}" if flags else name
