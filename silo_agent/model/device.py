"""The device that the model runs on."""

import torch

from crypto.errors import ConfigError


def named_device(name: str) -> torch.device:
    """Return the device `cpu`, `cuda`, `cuda:1`, ... Raises ConfigError where torch or this machine has none."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type != "meta":  # which computes nothing
            return device
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):  # torch raises all four
        pass
    raise ConfigError(f"device: {name!r} is not available here", hint="cpu always is")
