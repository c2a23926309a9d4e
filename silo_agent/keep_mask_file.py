"""A keep-mask file: bool tensors named as the model's parameters (docs/formats.md), read a tensor at a time."""

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crypto.errors import InputError

READ_BYTES: Final = 1 << 20


class KeepMaskFile(Mapping[str, Tensor]):
    """Keep masks by parameter name. Raises InputError naming the file where it is none."""

    def __init__(self, file: Path) -> None:
        self._path = file
        self._file = _open(file)
        self._names = frozenset(self._file.keys())

    def check(self, shapes: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        """Raises InputError unless every one of these parameters has a keep mask of its shape."""
        for name, shape in shapes:
            found = tuple(self._file.get_slice(name).get_shape()) if name in self._names else None
            if found != shape or self[name].dtype is not torch.bool:
                raise InputError(
                    f"{self._path}: {name}: no bool tensor of shape {shape}", hint="made for another model?"
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
        raise InputError(f"{file}: is not a keep-mask file", hint="`silo-agent prune` writes them") from None


def file_digest(file: Path) -> bytes:
    """SHA-256 of a file's bytes."""
    hashed = sha256()
    with file.open("rb") as opened:
        while data := opened.read(READ_BYTES):
            hashed.update(data)
    return hashed.digest()
