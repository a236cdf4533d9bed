"""Devices by name."""

from __future__ import annotations

import torch

from prunegraph.errors import OptionError


def find_device(name: str | torch.device) -> torch.device:
    """The device of a name such as "cpu" or "cuda:1". Raises OptionError where there is none that computes."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).add_(1)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0][:120]
        raise OptionError(f"device {str(name)!r} is not there: {reason}") from error
    return device
