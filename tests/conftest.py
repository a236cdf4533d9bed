"""Processes that tests start import this checkout, wherever they run; random tests draw the same every time."""

from __future__ import annotations

import os

from hypothesis import settings

from tests.paths import ROOT

os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
)

# A failure then belongs to the commit it appears with; `--hypothesis-profile random` looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None, derandomize=False)
settings.load_profile("repeatable")
