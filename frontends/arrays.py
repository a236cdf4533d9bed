"""Example inputs from a file."""

from __future__ import annotations

import zipfile

import numpy as np

from prunegraph.errors import ModelError


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file by name. Raises ModelError."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: not an .npz file of arrays: {error}") from error
