"""What a run's opened sums made of the model's tensors, on disk: at most one tensor is in memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from crypto.plan import Plan
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.mapped_tensors import STORED_NAMES
from silo_agent.checkpoint.tensor_files import Entry, tensor_file_pieces, write_tensor_file
from silo_agent.pruning.expansion import ExpandedTensor
from silo_agent.second_order.quantised_files import QuantisedFiles

READ_BYTES: Final = 1 << 20


class PrunedTensors(Mapping[str, Tensor]):
    """Collects tensors in `folder`, which is made where it is missing, as rounds that prune finish; maps their names to
    the keep mask (bool), or the new weight where kept ones are new, in the stored shape.
    """

    def __init__(self, plan: Plan, weights: DenseWeights, folder: Path, *, keep_counts: bool = True) -> None:
        """`keep_counts`: whether the folder also gets how many silos kept each weight, for `write_counts`."""
        self._plan, self._weights, self._folder, self._keeps_counts = plan, weights, folder, keep_counts
        self._dtypes: dict[str, torch.dtype] = {}
        self.keep_counts: dict[str, list[int]] = {}
        """By tensor, how many weights were kept by 0, 1, ... all of the round's survivors; none where nobody voted."""
        self.quantised: Final = QuantisedFiles(weights, folder)
        """The tensors as integers, where the plan quantises."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of the file that these tensors would make: by parameter the expanded keep mask, or the weight where
        kept ones are new (docs/formats.md, section 3).
        """
        dtypes = {name: STORED_NAMES[dtype] for name, dtype in self._dtypes.items()}
        hashed = sha256()
        for _, piece in tensor_file_pieces("pruned", self._entries(dtypes), self._data("pruned"), {}):
            hashed.update(piece)
        return hashed.digest()

    def add(self, tensors: Iterable[ExpandedTensor], survivors: int) -> None:
        """Take one round's tensors, which `survivors` silos decided on."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for tensor in tensors:
            self._dtypes[tensor.name] = tensor.changed.dtype
            self._scratch(tensor.name, "pruned").write_bytes(tensor.changed.view(torch.uint8).numpy().data)
            if tensor.quantised is not None:
                self.quantised.add(tensor.name, tensor.quantised)
            if self._keeps_counts and tensor.keep_counts is not None:
                self._scratch(tensor.name, "counts").write_bytes(tensor.keep_counts.numpy().data)
                histogram = np.bincount(tensor.keep_counts.numpy().reshape(-1), minlength=survivors + 1)
                self.keep_counts[tensor.name] = histogram.tolist()

    def write_counts(self, file: Path) -> None:
        """Write the keep counts to `file`, as uint8 tensors named as the model's parameters. Raises OutputError."""
        write_tensor_file(file, self._entries(dict.fromkeys(self._dtypes, "U8")), self._data("counts"), {})

    def __getitem__(self, name: str) -> Tensor:
        shape = tuple(self._weights.shape(name))
        data = torch.from_file(str(self._scratch(name, "pruned")), size=int(np.prod(shape)), dtype=self._dtypes[name])
        return data.reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._dtypes)

    def __len__(self) -> int:
        return len(self._dtypes)

    def _entries(self, dtypes: Mapping[str, str]) -> list[Entry]:
        return [(tensor.name, dtypes[tensor.name], tuple(tensor.shape)) for tensor in self._plan.prunable]

    def _data(self, kind: str) -> Callable[[str], Iterator[bytes]]:
        return lambda name: _read(self._scratch(name, kind))

    def _scratch(self, tensor: str, kind: str) -> Path:
        return self._folder / f"{tensor}.{kind}"


def _read(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while data := opened.read(READ_BYTES):
            yield data
