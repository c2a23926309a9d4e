"""What a run's opened sums made of the model's tensors, on disk: at most one tensor is in memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crypto.plan import Plan
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.model.mapped_tensors import STORED_NAMES
from silo_agent.model.pruned_file import READ_BYTES, file_digest
from silo_agent.model.tensor_files import write_tensor_file
from silo_agent.pruning.expansion import ExpandedTensor


class PrunedTensors:
    """Collects tensors in `folder` as votes and weights rounds finish; `write` makes of them the file that silos may
    evaluate.
    """

    def __init__(self, plan: Plan, weights: DenseWeights, folder: Path) -> None:
        self._plan, self._weights, self._folder = plan, weights, folder
        self._dtypes: dict[str, torch.dtype] = {}
        self.keep_counts: dict[str, list[int]] = {}
        """By tensor, how many weights were kept by 0, 1, ... all of the round's survivors."""

    @property
    def file(self) -> Path:
        """The file that `write` makes: by parameter the expanded keep mask, or the weight where kept ones are new."""
        return self._folder / "pruned.safetensors"

    @property
    def digest(self) -> bytes:
        """SHA-256 of `file`."""
        return file_digest(self.file)

    def add(self, tensors: Iterable[ExpandedTensor], survivors: int) -> None:
        """Take one round's tensors, which `survivors` silos voted on."""
        for tensor in tensors:
            self._dtypes[tensor.name] = tensor.changed.dtype
            self._scratch(tensor.name, "pruned").write_bytes(tensor.changed.view(torch.uint8).numpy().data)
            self._scratch(tensor.name, "counts").write_bytes(tensor.keep_counts.numpy().data)
            histogram = np.bincount(tensor.keep_counts.numpy().reshape(-1), minlength=survivors + 1)
            self.keep_counts[tensor.name] = histogram.tolist()

    def write(self) -> None:
        """Write `file`. Raises OutputError."""
        self._write(self.file, "pruned", {name: STORED_NAMES[dtype] for name, dtype in self._dtypes.items()})

    def write_counts(self, file: Path) -> None:
        """Write the keep counts to `file`, as uint8 tensors named as the model's parameters. Raises OutputError."""
        self._write(file, "counts", dict.fromkeys(self._dtypes, "U8"))

    def pruned(self, name: str) -> Tensor:
        """Return what became of one tensor, in its stored shape: the keep mask (bool), or the pruned weight."""
        shape = tuple(self._weights.shape(name))
        data = torch.from_file(str(self._scratch(name, "pruned")), size=int(np.prod(shape)), dtype=self._dtypes[name])
        return data.reshape(shape)

    def _write(self, file: Path, kind: str, dtypes: dict[str, str]) -> None:
        entries = [(tensor.name, dtypes[tensor.name], tuple(tensor.shape)) for tensor in self._plan.prunable]
        write_tensor_file(file, entries, lambda name: _read(self._scratch(name, kind)), {})

    def _scratch(self, tensor: str, kind: str) -> Path:
        return self._folder / f"{tensor}.{kind}"


def _read(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while data := opened.read(READ_BYTES):
            yield data
