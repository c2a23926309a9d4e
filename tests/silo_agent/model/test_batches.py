"""Batches: the devices that take turns, and how much of the text each batch is on a GPU."""

import pytest
import torch

from silo_agent.model import batches


def test_cuda_is_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert batches.devices_of(torch.device("cuda")) == [torch.device("cuda:0"), torch.device("cuda:1")]
    for name in ("cuda:1", "cpu"):
        assert batches.devices_of(torch.device(name)) == [torch.device(name)]


@pytest.mark.parametrize(("free", "tokens"), [(64 << 20, 512), (1 << 30, 8192), (80 << 30, 16384)])
def test_batches_on_gpus_fit_a_quarter_of_the_fullest(monkeypatch: pytest.MonkeyPatch, free: int, tokens: int) -> None:
    memory = {"cuda:0": 90 << 30, "cuda:1": free}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (memory[str(device)], 90 << 30))
    gpus = [torch.device("cuda:0"), torch.device("cuda:1")]
    # 64 vectors of 128 float32 numbers are 32 KiB a token
    assert batches.tokens_per_batch(gpus, 128, torch.float32) == tokens
