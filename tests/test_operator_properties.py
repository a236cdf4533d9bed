"""Every operator with a rule inside random networks: producer, operator, consumer, pruned at random and proved."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests import operator_cases, operator_cases_attention, operator_cases_layers, operator_cases_movement
from tests.operator_nets import Network, networks, prove_network

FAMILIES = (operator_cases, operator_cases_movement, operator_cases_layers, operator_cases_attention)
CASES = {key: case for family in FAMILIES for key, case in family.CASES.items()}

FEW = settings(
    max_examples=7,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
MANY = settings(FEW, max_examples=100)


def check(domain: str, op: str, profile: settings) -> int:
    """Prove the drawn networks of an operator; in how many channels that pass through it were removed."""
    passed = 0

    @profile
    @given(networks(CASES[domain, op]))
    def prove(network: Network) -> None:
        nonlocal passed
        passed += prove_network(network, domain, op)

    prove()
    return passed


@pytest.mark.parametrize(("domain", "op"), sorted(CASES), ids=lambda part: part or "onnx")
def test_operator(domain: str, op: str) -> None:
    assert check(domain, op, FEW) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("domain", "op"), sorted(CASES), ids=lambda part: part or "onnx")
def test_operator_often(domain: str, op: str) -> None:
    assert check(domain, op, MANY) > 0
