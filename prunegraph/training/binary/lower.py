"""Binary graph -> graph of ONNX's own operators (set 18), weights packed eight to a byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from prunegraph.errors import OptionError
from prunegraph.graph.model import Graph
from prunegraph.training.binary.integers import IntegerLowering
from prunegraph.training.binary.lowering import Lowering

Form = Literal["arithmetic", "thresholds"]

#: How a network computes: layers in integers, or in floating point with weights of a bit or of a float in the file.
Runtime = Literal["integers", "packed", "float"]


def lower(
    graph: Graph,
    *,
    runtime: Runtime | None = None,
    form: Form = "arithmetic",
    int8: Sequence[str] = (),
) -> Graph:
    """The graph without operators of its own.

    Args:
        graph: a binary graph, trained or updated.
        runtime: "integers": binary layers multiply 8-bit integers, where their inputs are quantized, which is fast;
            "packed": they multiply floats. Both store a binary weight in a bit; "float" stores it in a float, for
            comparison. None is "integers", or "packed" with thresholds.
        form: where layers multiply floats, "arithmetic" computes levels from normalised values; "thresholds"
            compares a layer's output with numbers that hold normalisation, scales and steps. There, what binary
            layers compute with are whole numbers, which every runtime adds up to the same sum.
        int8: names of layers whose weights are stored in 8 bits, with a scale for each filter.

    Raises:
        OptionError: an argument has a value it cannot have, or thresholds are asked for in integers.
    """
    if runtime_of(runtime, form) == "integers":
        return IntegerLowering(graph, int8=frozenset(int8)).run()
    return Lowering(
        graph,
        pack=runtime != "float",
        compare=form == "thresholds",
        int8=frozenset(int8),
    ).run()


def runtime_of(runtime: Runtime | None, form: Form) -> Runtime:
    """The runtime that is meant where none is named.

    Raises:
        OptionError: as `lower`.
    """
    if form not in ("arithmetic", "thresholds"):
        raise OptionError(f"form is arithmetic or thresholds, not {form!r}")
    runtime = runtime or ("integers" if form == "arithmetic" else "packed")
    if runtime not in ("integers", "packed", "float"):
        raise OptionError(f"runtime is integers, packed or float, not {runtime!r}")
    if runtime == "integers" and form == "thresholds":
        raise OptionError(
            "thresholds are for runtime packed or float: integers have their own"
        )
    return runtime
