"""`python -m prunegraph`."""

from prunegraph.cli import main

main(prog_name="prunegraph")
