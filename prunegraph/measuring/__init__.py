"""Measure models: latency, cost side by side, metrics, noise, many candidates at once."""
