"""Where the model may run."""

import pytest
import torch

from crypto.errors import ConfigError
from silo_agent.model.device import named_device


def test_the_cpu_is_always_there() -> None:
    assert named_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["quantum", "", "CPU", "cuda:", "cuda:99", "cuda:-1", "xla", "hpu", "meta"])
def test_what_torch_or_this_machine_lacks(name: str) -> None:
    with pytest.raises(ConfigError, match="device: ") as refused:
        named_device(name)
    assert repr(name) in refused.value.message
    assert "\n" not in str(refused.value)
