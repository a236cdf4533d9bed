"""Layers of low rank beside channels that go, under one budget."""
