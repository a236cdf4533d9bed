"""Models as a command names them, read with what its reading options say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prunegraph.cli.options import reading

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph


def load_model(model: str) -> Graph:
    """The model of a command, with what its reading options say."""
    return _load(model, reading())


def load_beside(model: str) -> Graph:
    """Another model of a command; of the reading options it takes what its front end knows, but no parameter file."""
    from prunegraph.frontends import takes

    options = {
        name: value
        for name, value in reading().items()
        if name != "params_file" and takes(model, name)
    }
    return _load(model, options)


def _load(model: str, options: Mapping[str, Any]) -> Graph:
    from prunegraph import api
    from prunegraph.frontends.arrays import read_arrays

    given = dict(options)
    if "inputs" in given:
        given["inputs"] = read_arrays(given["inputs"])
    return api.load(model, **given)
