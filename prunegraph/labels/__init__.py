"""Labels on axes: fresh, tied, pinned, product; their resolution into channels."""
