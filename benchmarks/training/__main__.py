"""Runs the benchmarks named on the command line: modules beside this one with a function `main`.

What follows the names are options, which each of them gets.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import sys

import benchmarks.training

NAMES = sorted(
    {module.name for module in pkgutil.iter_modules(benchmarks.training.__path__)}
    - {"__main__"}
)

if __name__ == "__main__":
    words = sys.argv[1:]
    names = list(itertools.takewhile(lambda word: word in NAMES, words))
    if words and not names:
        sys.exit(f"no benchmark {words[0]}; there are {', '.join(NAMES)}")
    for name in names or NAMES:
        sys.argv = [sys.argv[0], name, *words[len(names) :]]
        importlib.import_module(f"benchmarks.training.{name}").main()
