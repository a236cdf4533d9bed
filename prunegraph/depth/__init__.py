"""Depth: which residual branches go, and how many of them beside channels."""
