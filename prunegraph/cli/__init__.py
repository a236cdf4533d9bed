"""The command line. Options are read here; the work is in `prunegraph.api`.

Tables and progress go to stderr, machine output to stdout. Exit codes: 0 done, 1 a result
failed its check, 2 bad input or usage, 130 stopped by Ctrl-C.
"""

from prunegraph.cli.app import main

__all__ = ["main"]
