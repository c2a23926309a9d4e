"""Where the model runs."""

import torch

from crypto.errors import ConfigError


def named_device(name: str) -> torch.device:
    """`cpu`, `cuda`, `cuda:1`, ...; ConfigError where torch does not know it or this machine does not have it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):  # torch raises all three
        raise ConfigError(f"device: {name!r} is not available here", hint="cpu always is") from None
    return device
