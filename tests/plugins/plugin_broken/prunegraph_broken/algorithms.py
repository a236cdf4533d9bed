"""Algorithms that break their contract."""

import numpy as np

import prunegraph as pg


def plain(group, context):
    """Not decorated."""
    return np.zeros(group.channels)


@pg.criterion("broken_other")
def renamed(group, context):
    """Decorated with another name than its entry point's."""
    return np.zeros(group.channels)


@pg.criterion("broken_nan")
def nan(group, context):
    """Not a number."""
    return np.full(group.channels, np.nan)


@pg.selector("broken_group")
def group(coupling, context, budget):
    """A group that is not there."""
    return {"g99": [0]}
