"""What runtimes for language models require besides a graph."""
