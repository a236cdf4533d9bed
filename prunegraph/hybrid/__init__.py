"""Pruning and decomposition under one budget: `prunegraph.hybrid.compress`."""
