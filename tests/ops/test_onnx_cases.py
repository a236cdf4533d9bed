"""ONNX's own single-operator cases: each loads, analyses, and comes back as it was."""

from __future__ import annotations

import functools
import warnings

import onnx
import pytest

from prunegraph.api import analyze
from prunegraph.graph.onnx_io import from_model
from prunegraph.graph.wire import pieces


@functools.cache
def cases() -> dict[str, onnx.ModelProto]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            case.name: case.model
            for case in collect_testcases(None)
            if case.model is not None
        }


def test_there_are_many() -> None:
    assert len(cases()) > 1800


@pytest.mark.parametrize("part", range(8))
def test_cases(part: int) -> None:
    for name, model in list(cases().items())[part::8]:
        data = model.SerializeToString(deterministic=True)
        graph = from_model(model)
        coupling = analyze(graph)
        if not model.functions:
            assert b"".join(pieces(graph.model)) == data, name
        # One operator between inputs and outputs: nothing may go.
        assert all(group.members for group in coupling.groups), name
