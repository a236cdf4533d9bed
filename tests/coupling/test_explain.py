"""Why a layer cannot be pruned."""

from __future__ import annotations

import pytest

import prunegraph as pg
from prunegraph.coupling.explain import ADVICE, explain
from prunegraph.errors import UnknownNameError
from prunegraph.labels.reasons import Kind
from tests.builders import Builder, residual_net
from tests.commands import MODEL, cli


def test_the_way_to_the_cause() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 8, 8), 3, 8, name="a")
    x = b.op("LRN", b.op("Relu", x, name="act"), size=3, name="lrn")
    why = explain(pg.analyze(b.graph(b.head(x, 8))), "a")
    assert why.reason is not None
    assert why.reason.because == "lrn"
    assert why.path == ("a", "act", "lrn")
    assert (why.channels, why.of) == (8, 8)


def test_outputs_and_free_layers() -> None:
    coupling = pg.analyze(residual_net())
    why = explain(coupling, "head")
    assert why.path == ("head", "head.out")
    assert "interface" in why.advice
    assert "g0" in explain(coupling, "stem").advice
    with pytest.raises(UnknownNameError, match="did you mean 'stem'"):
        explain(coupling, "stemm")


def test_every_fixed_layer_of_a_detector_has_a_reason() -> None:
    from benchmarks.zoo import ZOO
    from fixtures.light_models import load

    coupling = pg.analyze(
        pg.load(load(ZOO / "torchvision__fasterrcnn_resnet50_fpn.light.xz"))
    )
    assert coupling.fixed
    for fixed in coupling.fixed:
        why = explain(coupling, fixed.layer)
        assert why.reason is not None
        assert why.path[0] == fixed.layer
        assert why.advice


def test_on_the_command_line() -> None:
    done = cli("inspect", MODEL, "--why", "/classifier/Gemm")
    assert done.returncode == 0
    assert "way: /classifier/Gemm -> logits" in done.stderr
    done = cli("inspect", MODEL, "--why", "nothing")
    assert done.returncode == 2
    assert "unknown layer 'nothing'" in done.stderr


def test_there_is_advice_for_every_kind_of_reason() -> None:
    assert set(ADVICE) == set(Kind)
