"""A graph as a PyTorch module, gradients for criteria, and a small training loop (extra `[torch]`)."""

from __future__ import annotations

from prunegraph.errors import MissingExtraError

try:
    import torch  # noqa: F401
except ImportError as error:
    raise MissingExtraError("prunegraph.training", "torch", "torch") from error
