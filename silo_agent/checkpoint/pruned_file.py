"""A file of what pruning made of weights, by parameter name: their keep masks, or themselves (docs/formats.md, 3)."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from crypto.errors import InputError, ModelError
from silo_agent.checkpoint.mapped_tensors import mapped_tensor
from silo_agent.checkpoint.tensor_files import read_tensor_file


class PrunedFile(Mapping[str, Tensor]):
    """Maps a parameter's name to its keep mask (bool) or pruned weight, read when asked for.

    Raises InputError naming the file where it is not of this kind.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._stored = read_tensor_file(file).tensors
        except ModelError:
            raise InputError(f"{file}: holds no keep masks or weights", hint="`silo-agent prune` writes them") from None

    def check_keep_masks(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise InputError unless these parameters, and no others, have a keep mask of their shape (14.3.2)."""
        for name in sorted({*shapes, *self._stored}):
            stored, shape = self._stored.get(name), shapes.get(name)
            if stored is None or (stored.dtype, stored.shape) != ("BOOL", shape):
                raise InputError(
                    f"{self._file}: {name}: is not a keep mask of shape {shape}",
                    hint="a candidate is a keep mask for each prunable tensor and nothing else; `silo-agent prune` "
                    "writes them",
                )

    def __getitem__(self, name: str) -> Tensor:
        return mapped_tensor(self._stored[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)
