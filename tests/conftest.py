"""Processes that tests start import this checkout, wherever they run and whatever else is installed."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
