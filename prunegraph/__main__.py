"""`python -m prunegraph`."""

from prunegraph.cli import main

main()
