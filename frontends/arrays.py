"""Example inputs from a file."""

from __future__ import annotations

import numpy as np

from prunegraph.errors import ModelError
from prunegraph.graph import npz


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file by name. Raises ModelError."""
    try:
        return npz.read(path)
    except npz.DAMAGED as error:
        raise ModelError(f"{path}: not an .npz file of arrays: {error}") from error
