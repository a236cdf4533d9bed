"""The program: `prunegraph`, or `python -m prunegraph`.

What it is made of takes a moment to import. A user who stops it then gets the line and the exit code of one who stops
it later.
"""

from __future__ import annotations

import sys

from prunegraph.errors import INTERRUPTED, INTERRUPTION, is_interrupt


def main() -> None:
    """Run the command line with the words that the program was given."""
    try:
        from prunegraph.cli import main as command_line

        command_line(prog_name="prunegraph")
    except (KeyboardInterrupt, ImportError) as error:
        if not is_interrupt(error):
            raise
        sys.stderr.write(f"{INTERRUPTION}\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
