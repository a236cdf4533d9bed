"""The node graph: what every front end produces and every later stage reads."""
