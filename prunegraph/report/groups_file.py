"""The groups file: what an upper-layer algorithm in any language reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prunegraph.coupling.analysis import Coupling
from prunegraph.graph.onnx_io import write_whole

FORMAT = "prunegraph/groups@1"


def content(found: Coupling) -> dict[str, Any]:
    """Groups and fixed layers as JSON."""
    return {
        "format": FORMAT,
        "model": {"name": Path(found.graph.source).name, "sha256": found.graph.sha256},
        "groups": [group.to_json() for group in found.groups],
        "fixed": [fixed.to_json() for fixed in found.fixed],
    }


def write(found: Coupling, path: str) -> None:
    """Write the groups file. Raises ModelError if the path cannot be written."""
    write_whole(Path(path), [(json.dumps(content(found), indent=1) + "\n").encode()])
