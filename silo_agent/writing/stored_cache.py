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
    layers = getattr(cache, "layers", [])
    for index, layer in enumerate(layers):
        if type(layer) is not DynamicLayer or layer.keys is None or layer.values is None:
            continue
        if layer.keys.numel() and layer.values.numel():  # a file of nothing cannot be mapped
            layers[index] = _StoredLayer(layer.keys, layer.values, folder / str(index))


class _StoredLayer(DynamicLayer):
    """A layer whose `keys` and `values` are in two files; as attributes they are empty."""

    def __init__(self, keys: Tensor, values: Tensor, path: Path) -> None:
        DynamicLayer.__init__(self)
        self._files = [_GrowingFile(path.with_suffix(f".{kind}")) for kind in ("keys", "values")]
        self.lazy_initialization(keys, values)
        self.update(keys, values)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **_options: Any) -> tuple[Tensor, Tensor]:
        """Add keys and values of further tokens, [..., tokens, size]; return those of all."""
        keys, values = self._files
        return keys.with_more(key_states), values.with_more(value_states)

    def get_seq_length(self) -> int:
        """Return of how many tokens there are keys."""
        return self._files[0].tokens


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
