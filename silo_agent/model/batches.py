"""Sequences in batches, and room for what the model makes of them: on the GPUs, in memory or in a file."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Final

import torch
from torch import Tensor

from crypto.errors import OutputError

TOKENS_PER_BATCH: Final = 2048
"""The size of a batch on the CPU, where larger ones only leave its caches."""

TOKENS_PER_GPU_BATCH: Final = 16384
"""The largest batch on a GPU: matrix products gain nothing beyond. A quarter of its free memory is the other bound."""

VECTORS_PER_TOKEN: Final = 64
"""Hidden states' worth of memory that a block takes for each token while it runs: 20 to 40 in the usual families."""

IN_MEMORY: Final = 8 << 30
"""Bytes of hidden states kept in the computer's memory. More goes to a file."""


def devices_of(device: torch.device) -> list[torch.device]:
    """Return the devices that take turns: all GPUs for `cuda`, else the one."""
    if device == torch.device("cuda"):
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [device]


def tokens_per_batch(devices: Sequence[torch.device], width: int, dtype: torch.dtype) -> int:
    """Return how many tokens of hidden states [width] a batch should have on the fullest of `devices`."""
    if devices[0].type != "cuda":
        return TOKENS_PER_BATCH
    free = min(torch.cuda.mem_get_info(device)[0] for device in devices)
    return min(TOKENS_PER_GPU_BATCH, free // 4 // (VECTORS_PER_TOKEN * width * dtype.itemsize))


def batches(sequences: Tensor | Sequence[Tensor], tokens: int) -> Iterator[Tensor]:
    """Batch sequences of equal length, in order, about `tokens` to a batch: int64 [batch, L]."""
    by_length: dict[int, list[Tensor]] = {}
    for sequence in sequences:
        by_length.setdefault(len(sequence), []).append(sequence)
    for length, equal in by_length.items():
        size = max(1, tokens // length)
        for start in range(0, len(equal), size):
            yield torch.stack(equal[start : start + size])


def room(shapes: Sequence[torch.Size], dtype: torch.dtype, devices: Sequence[torch.device]) -> Iterator[Tensor]:
    """Yield room for each batch's hidden states, of the shapes given: [batch, L, width] in most models.

    It is on the GPUs, in turn, while all takes at most a quarter of their free memory, else in memory up to
    `IN_MEMORY`, else in a file that is gone when its last tensor is. Raises OutputError where the disk has no room.
    """
    sizes = [shape.numel() for shape in shapes]
    size = sum(sizes) * dtype.itemsize
    gpus = [device for device in devices if device.type == "cuda"]
    if gpus and size <= sum(torch.cuda.mem_get_info(device)[0] for device in gpus) // 4:
        for shape, device in zip(shapes, cycle(gpus)):
            yield torch.empty(shape, dtype=dtype, device=device)
    elif size <= IN_MEMORY:
        for shape in shapes:
            yield torch.empty(shape, dtype=dtype)
    else:
        folder = tempfile.gettempdir()
        if shutil.disk_usage(folder).free < size:
            raise OutputError(
                f"{folder}: no room for {size >> 30} GiB of hidden states",
                hint="set TMPDIR to a folder on a larger disk, or give fewer --samples",
            )
        with tempfile.NamedTemporaryFile(prefix="hidden-states-") as file:  # the map outlives the name
            whole = torch.from_file(file.name, shared=True, size=sum(sizes), dtype=dtype)
        for shape, part in zip(shapes, whole.split_with_sizes(sizes), strict=True):
            yield part.view(shape)
