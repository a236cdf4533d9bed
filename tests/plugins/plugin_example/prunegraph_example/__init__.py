"""A plug-in package for prunegraph, as small as one can be that has every kind of plug-in."""
