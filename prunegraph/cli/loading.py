"""Models and data as a command names them, read with what its options say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, overload

import click

from prunegraph.cli.files import check_weights
from prunegraph.cli.options import preprocess_said
from prunegraph.cli.reading import reading

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph
    from prunegraph.runtime.data import Data


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
    graph = api.load(model, **given)
    check_weights(graph)
    return graph


@overload
def load_data(
    text: str,
    graph: Graph,
    progress: Callable[[str], None] | None = None,
    *,
    part: str = "train",
) -> Data: ...


@overload
def load_data(
    text: str | None,
    graph: Graph,
    progress: Callable[[str], None] | None = None,
    *,
    part: str = "train",
) -> Data | None: ...


def load_data(
    text: str | None,
    graph: Graph,
    progress: Callable[[str], None] | None = None,
    *,
    part: str = "train",
) -> Data | None:
    """Data for a model, as `--preprocess` says; notes of what was guessed go to stderr. None where none is given.

    Of a data set with several parts it is `part`, unless the text says another.
    """
    from prunegraph.data.opening import open_data

    if text is None:
        return None
    return open_data(
        text,
        graph,
        preprocess=preprocess_said(),
        note=note_line,
        progress=progress,
        part=part,
    )


def note_line(text: str) -> None:
    """Write a note to stderr, in one line."""
    click.echo(f"note: {' '.join(text.split())}", err=True)
