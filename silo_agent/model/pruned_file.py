"""A file of what pruning made of weights, by parameter name: their keep masks, or themselves (docs/formats.md, 3).

Read a tensor at a time.
"""

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crypto.errors import InputError

READ_BYTES: Final = 1 << 20


class PrunedFile(Mapping[str, Tensor]):
    """By parameter name a keep mask (bool) or a pruned weight. Raises InputError naming the file where it is none."""

    def __init__(self, file: Path) -> None:
        self._path = file
        self._file = _open(file)
        self._names = frozenset(self._file.keys())

    def check(self, tensors: Iterable[tuple[str, tuple[int, ...], torch.dtype]]) -> None:
        """Raises InputError unless each of these parameters has a keep mask of its shape, or a weight of its dtype."""
        for name, shape, dtype in tensors:
            found = tuple(self._file.get_slice(name).get_shape()) if name in self._names else None
            if found != shape or self[name].dtype not in (torch.bool, dtype):
                raise InputError(
                    f"{self._path}: {name}: neither a keep mask nor a {dtype} weight of shape {shape}",
                    hint="made for another model?",
                )

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError):
        raise InputError(f"{file}: holds no keep masks or weights", hint="`silo-agent prune` writes them") from None


def file_digest(file: Path) -> bytes:
    """SHA-256 of a file's bytes."""
    hashed = sha256()
    with file.open("rb") as opened:
        while data := opened.read(READ_BYTES):
            hashed.update(data)
    return hashed.digest()
