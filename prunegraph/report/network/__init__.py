"""A network drawn as a graph: what is drawn, where it goes, the picture."""
