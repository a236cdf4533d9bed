"""A front end that returns nothing."""

import prunegraph as pg


@pg.frontend(".broken")
def read(source):
    """Reads nothing."""
