"""The list of operators in docs/mxnet.md: `python -m benchmarks.mxnet_operators` prints it."""

from __future__ import annotations

import sys
from collections import defaultdict

from prunegraph.frontends.mxnet.operators import OPERATORS

#: Registered only to say that they are not converted.
REFUSED = "suppression"


def listing() -> str:
    """Operators by family, which is the module they are in."""
    families: dict[str, list[str]] = defaultdict(list)
    for entry in OPERATORS.entries():
        if entry.thing.__name__ != REFUSED:
            families[entry.thing.__module__].append(entry.name)
    rows = ["| family | operators |", "|---|---|"]
    for module in sorted(families):
        title = (sys.modules[module].__doc__ or "").split("\n")[0].rstrip(".").split(":")[0]
        rows.append(
            f"| {title} | {', '.join(f'`{name}`' for name in sorted(families[module], key=str.lower))} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    print(listing())
