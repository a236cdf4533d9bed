"""ONNX's own cases of single operators, run as PyTorch modules.

`training_cases_left_out.txt` lists the cases of supported operators that do not run, with reasons; a case on the list
that runs all the same is a failure too.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from prunegraph.errors import PrunegraphError
from prunegraph.graph.onnx_io import from_model
from prunegraph.training.module import GraphModule
from prunegraph.training.operators.table import OPERATORS, to_numpy

LEFT_OUT = Path(__file__).parent / "training_cases_left_out.txt"
CONTROL = {"If", "Loop", "Scan"}


@functools.cache
def cases() -> dict[str, object]:
    """Cases of one node whose operator is in the table, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = collect_testcases(None)
    return {
        case.name: case
        for case in result
        if case.model is not None and supported(case.model)
    }


def supported(model: onnx.ModelProto) -> bool:
    nodes = model.graph.node
    return (
        len(nodes) == 1
        and not model.functions
        and (
            (nodes[0].domain, nodes[0].op_type) in OPERATORS or nodes[0].op_type in CONTROL
        )
    )


@functools.cache
def left_out() -> dict[str, str]:
    """Reasons by name: a line that is not indented is a reason, those below it name cases."""
    match, reason = {}, ""
    for line in LEFT_OUT.read_text().splitlines():
        if line.startswith(" "):
            match.update(dict.fromkeys(line.split(), reason))
        else:
            reason = line
    return match


def value(given: object) -> object:
    """An input as the module takes it."""
    if isinstance(given, onnx.TensorProto):
        return numpy_helper.to_array(given)
    return [np.asarray(v) for v in given] if isinstance(given, list) else np.asarray(given)


def close(result: object, wanted: object, case: object) -> bool:
    """Whether values agree within the tolerances of the case."""
    if isinstance(wanted, list):
        return len(result) == len(wanted) and all(
            close(f, w, case) for f, w in zip(result, wanted, strict=True)
        )
    array, wanted = to_numpy(result), np.asarray(wanted)
    # Torch has no types of four bits: their values are held in eight.
    held = {"int4": "int8", "uint4": "uint8", "int2": "int8", "uint2": "uint8"}.get(
        wanted.dtype.name, wanted.dtype.name
    )
    return (
        array.shape == wanted.shape
        and array.dtype.name == held
        and np.allclose(
            array.astype(np.float64),
            wanted.astype(np.float64),
            rtol=case.rtol,
            atol=case.atol,
            equal_nan=True,
        )
    )


def problem(case: object) -> str | None:
    """What is wrong with a case, or None."""
    try:
        module = GraphModule(from_model(case.model)).eval()
        for inputs, outputs in case.data_sets:
            given = dict(
                zip(
                    [i.name for i in case.model.graph.input],
                    map(sequence, inputs),
                    strict=False,
                )
            )
            with torch.no_grad():
                created = module({name: given[name] for name in module.graph.inputs})
            for match, wanted in zip(created, outputs, strict=True):
                if not close(match, value(wanted), case):
                    return "differs"
    except PrunegraphError as error:
        return f"{type(error).__name__}: {error}"
    return None


def sequence(given: object) -> object:
    result = value(given)
    return (
        [torch.from_numpy(np.array(v)) for v in result]
        if isinstance(result, list)
        else result
    )


def test_there_are_many_and_few_are_left_out() -> None:
    assert len(cases()) > 900
    assert set(left_out()) <= set(cases())


@pytest.mark.parametrize("part", range(8))
def test_cases(part: int) -> None:
    wrong = dict(failures(list(cases())[part::8]))
    assert not wrong, "\n".join(f"{name}: {what}" for name, what in wrong.items())


def failures(names: list[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        what = problem(cases()[name])
        if what is not None and name not in left_out():
            yield name, what
        if what is None and name in left_out():
            yield name, f"runs, and is on the list: {left_out()[name]}"
