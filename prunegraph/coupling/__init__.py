"""Which channels live or die together: labels, the walk over the rules, groups."""
