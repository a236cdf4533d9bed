"""Channels that live or die together: the walk over the rules, groups."""
