"""Processes that tests start import this checkout, wherever they run; random tests draw the same every time."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from tests.paths import ROOT

os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
)

#: No test depends on how busy the machine is.
UNTIMED = [HealthCheck.too_slow]

# A failure then belongs to the commit it appears with; `--hypothesis-profile random` looks for new ones.
settings.register_profile(
    "repeatable", deadline=None, derandomize=True, suppress_health_check=UNTIMED
)
settings.register_profile(
    "random", deadline=None, derandomize=False, suppress_health_check=UNTIMED
)
settings.load_profile("repeatable")
