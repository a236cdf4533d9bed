"""Every operator with a rule inside random networks: producer, operator, consumer, pruned at random and proved.

The cases are in `tests/ops/cases*.py`. Few networks of each operator are drawn by default, always the
same; `-m often` draws many.
"""

from __future__ import annotations

import zlib

import pytest
from hypothesis import HealthCheck, given, seed, settings

import prunegraph.ops  # noqa: F401  (registers the rules)
from prunegraph.graph import control
from prunegraph.ops.rule import rules
from tests.ops import cases as operator_cases
from tests.ops import cases_attention as operator_cases_attention
from tests.ops import cases_indexing as operator_cases_indexing
from tests.ops import cases_layers as operator_cases_layers
from tests.ops import cases_movement as operator_cases_movement
from tests.ops.networks import MS, Network, networks, prove_network

FAMILIES = (
    operator_cases,
    operator_cases_movement,
    operator_cases_indexing,
    operator_cases_layers,
    operator_cases_attention,
)
CASES = {key: case for family in FAMILIES for key, case in family.CASES.items()}

#: Operators with a rule that no network can be run with, and why.
NOT_RUN = {
    (MS, "BiasAdd"): "ONNX Runtime has it on other devices than the CPU only",
    ("", "SwiGLU"): "ONNX Runtime 1.32 does not have it",
}

#: Operators with subgraphs, and the nodes around these: `tests/coupling/test_control.py` draws networks for them.
CONTROL = {("", op) for op in ("If", "Loop", "Scan")} | {
    (control.DOMAIN, op) for op in (control.ENTER, control.RETURN)
}

#: Operators that nothing passes through, whatever the network, and why.
ALWAYS_PINNED = {
    (MS, "GatherBlockQuantized"): "a row of its table is packed in blocks",
    ("", "LRN"): "a channel is scaled by those beside it, which a cut would change",
    **{
        ("", op): "it makes data of its own, as wide as it says; what is added to it stays"
        for op in operator_cases_indexing.SOURCES
    },
}

FEW = settings(max_examples=8, database=None, suppress_health_check=list(HealthCheck))
SOME = settings(FEW, max_examples=40)
MANY = settings(FEW, max_examples=100)

OPERATORS = pytest.mark.parametrize(
    "operator", sorted(CASES), ids=lambda key: ".".join(filter(None, key))
)


def check(operator: tuple[str, str], profile: settings) -> int:
    """Prove the drawn networks of an operator; in how many channels that pass through it were removed."""
    passed = 0

    @profile
    @given(networks(CASES[operator]))
    def prove(network: Network) -> None:
        nonlocal passed
        passed += prove_network(network, *operator)

    if profile.derandomize:
        prove = seed(zlib.crc32(".".join(operator).encode()))(prove)
    prove()
    return passed


@OPERATORS
def test_operator(operator: tuple[str, str]) -> None:
    if operator in ALWAYS_PINNED:
        assert check(operator, FEW) == 0
    else:
        assert check(operator, FEW) or check(operator, SOME)


@pytest.mark.often
@OPERATORS
def test_operator_often(operator: tuple[str, str]) -> None:
    """At least one network in fifty is pruned through the operator."""
    assert (check(operator, MANY) >= MANY.max_examples / 50) == (
        operator not in ALWAYS_PINNED
    )


def test_every_operator_with_a_rule_has_a_case() -> None:
    with_rule = {
        key for key, entries in rules().items() if any(rule.propagate for rule in entries)
    } - CONTROL
    assert with_rule == set(CASES) | set(NOT_RUN)
    assert not set(CASES) & set(NOT_RUN)
    assert set(ALWAYS_PINNED) <= set(CASES)
