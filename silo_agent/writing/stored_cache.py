"""Keys and values of the tokens so far in files: in memory are one block's, while it computes."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from crypto.errors import OutputError


def store(cache: Any, folder: Path) -> None:
    """Let a cache on the CPU keep in `folder` what grows with every token, what it has by now too.

    What looks back over a window stays in memory. A token more raises OutputError where the disk has no room.
    """
    for index, layer in enumerate(getattr(cache, "layers", ())):
        if type(layer) is DynamicLayer and layer.is_initialized:
            _store(layer, folder, index)


def _store(layer: Any, folder: Path, index: int) -> None:
    if not (layer.keys.numel() and layer.values.numel()):  # a file of nothing cannot be mapped
        return
    files = [_GrowingFile(folder / f"{index}.{kind}") for kind in ("keys", "values")]

    def update(*states: Any, **_: Any) -> tuple[Tensor, ...]:
        """Add keys and values of further tokens; return those of all: [..., tokens, size]."""
        return tuple(file.with_more(more) for file, more in zip(files, states, strict=False))

    update(layer.keys, layer.values)
    layer.lazy_initialization(layer.keys, layer.values)  # forgets them
    layer.update, layer.get_seq_length = update, lambda: files[0].tokens


class _GrowingFile:
    """Keys, or values: [tokens, ..., size] of one dtype, so that a further token lies at the end."""

    def __init__(self, path: Path) -> None:
        self._path, self.tokens = path, 0

    def with_more(self, states: Tensor) -> Tensor:
        """Write further tokens, [..., tokens, size]; return all, mapped. Raises OutputError."""
        more = states.movedim(-2, 0).contiguous()
        try:
            with self._path.open("ab") as file:
                file.write(more.view(torch.uint8).numpy().data)
        except OSError as error:
            raise OutputError(
                f"{self._path.parent}: no room for keys and values of the text that the model writes: {error.strerror}",
                hint="set TMPDIR to a folder on a larger disk",
            ) from error
        self.tokens += len(more)
        whole = torch.from_file(str(self._path), size=self.tokens * more[0].numel(), dtype=more.dtype)
        return whole.view(self.tokens, *more.shape[1:]).movedim(0, -2)
