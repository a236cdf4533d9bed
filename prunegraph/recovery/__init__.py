"""Accuracy back without training and without labels."""
