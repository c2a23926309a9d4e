"""Where the model runs."""

import torch

from crypto.errors import ConfigError


def named_device(name: str) -> torch.device:
    """`cpu`, `cuda`, `cuda:1`, ...; ConfigError where torch does not know it or this machine does not have it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type != "meta":  # which computes nothing
            return device
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):  # torch raises all four
        pass
    raise ConfigError(f"device: {name!r} is not available here", hint="cpu always is")
