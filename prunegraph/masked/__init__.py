"""The masked original: what a plan means, written by a path that shares nothing with the cut."""
