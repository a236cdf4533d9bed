"""Runs the benchmarks named on the command line: modules beside this one with a function `main`."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import benchmarks.training

NAMES = sorted(
    {module.name for module in pkgutil.iter_modules(benchmarks.training.__path__)}
    - {"__main__"}
)

if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in NAMES]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    for name in sys.argv[1:] or NAMES:
        importlib.import_module(f"benchmarks.training.{name}").main()
