"""Keys and values in files against a cache of transformers that has them in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.cache_utils import DynamicCache

from crypto.errors import OutputError
from silo_agent.writing.stored_cache import store

LAYERS, RECORDS, HEADS = 3, 2, 4


def tokens(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Keys of size 6 and values of size 5: [records, heads, tokens, size]."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(RECORDS, HEADS, count, size, generator=generator) for size in (6, 5))
    return keys, values


def begun(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A cache of which every layer has seen two tokens."""
    make: Any = DynamicCache
    cache = make(config=LlamaConfig(num_hidden_layers=LAYERS, **changes))
    for layer in range(LAYERS):
        keys, values = tokens(2, layer)
        cache.update(keys.to(dtype), values.to(dtype), layer)
    return cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_stored_is_what_would_be_in_memory(dtype: torch.dtype, tmp_path: Path) -> None:
    plain, stored = begun(dtype), begun(dtype)
    store(stored, tmp_path)
    for step, count in enumerate((1, 3, 1)):
        for layer in range(LAYERS):
            more = [states.to(dtype) for states in tokens(count, 10 * step + layer)]
            assert all(map(torch.equal, stored.update(*more, layer), plain.update(*more, layer)))
            assert stored.get_seq_length(layer) == plain.get_seq_length(layer)
            assert stored.get_mask_sizes(2, layer) == plain.get_mask_sizes(2, layer)
            assert stored.layers[layer].keys.numel() == stored.layers[layer].values.numel() == 0, "none in memory"
    assert len([*tmp_path.iterdir()]) == 2 * LAYERS
    assert (
        sum(file.stat().st_size for file in tmp_path.iterdir())
        == LAYERS * RECORDS * HEADS * 7 * (6 + 5) * dtype.itemsize
    )


def test_what_a_model_does_to_them_stays_with_it(tmp_path: Path) -> None:
    cache = begun()
    store(cache, tmp_path)
    keys, _ = cache.update(*tokens(1, 7), 0)
    before = keys.clone()
    keys.zero_()
    again, _ = cache.update(*tokens(1, 8), 0)
    assert torch.equal(again[:, :, :3], before)


def test_a_window_and_what_is_no_cache_stay_as_they_are(tmp_path: Path) -> None:
    windows = begun(sliding_window=8, layer_types=["sliding_attention"] * LAYERS)
    for cache in (windows, None, object()):
        store(cache, tmp_path)
    assert windows.layers[0].keys.shape[2] == 2 and not [*tmp_path.iterdir()]


def test_no_room_is_one_line(tmp_path: Path) -> None:
    cache = begun()
    store(cache, tmp_path)
    (tmp_path / "0.keys").unlink()
    (tmp_path / "0.keys").mkdir()
    with pytest.raises(OutputError, match="no room for keys and values"):
        cache.update(*tokens(1, 7), 0)
