"""The sparse model's folder: the dense model's with the zeroed weights zeroed, as a stream of bytes.

Every byte follows from the dense model, the plan and the opened sums (docs/formats.md, section 5). So whoever has
those can write the folder, and whoever is given one can check it against the same stream.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from crypto.errors import BadAudit
from crypto.names import AGGREGATOR
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.mapped_tensors import STORED_NAMES, as_integers
from silo_agent.checkpoint.tensor_files import Piece, read_tensor_file, tensor_file_pieces
from silo_agent.host.whole_file import whole_folder

SLICE: Final = 1 << 22
"""Elements written at a time."""
SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
CARD_FILE: Final = "README.md"

Division = Mapping[str, Sequence[str]]
"""By file name the tensors in it. That is up to whoever writes the folder: it changes no tensor."""


class SparseModel:
    """The files of a sparse model: of `weights`, as `pruned(name)` says.

    That is +0.0 wherever a keep mask (bool) is False, or the pruned weight itself, of the stored dtype. `pruned` is
    asked once for every prunable tensor; None leaves that one dense. `metadata` joins the safetensors metadata. `card`
    makes the model card from the fraction of zeros by tensor, when all weights are written. Files are divided as those
    of `weights` are, unless a `division` is given.
    """

    def __init__(
        self,
        weights: DenseWeights,
        pruned: Callable[[str], Tensor | None],
        metadata: Mapping[str, str],
        card: Callable[[Mapping[str, float]], str],
        division: Division | None = None,
    ) -> None:
        self._weights, self._pruned, self._metadata, self._card = weights, pruned, metadata, card
        self.division: Final = division_into_files(weights) if division is None else division
        self.achieved: dict[str, float] = {}
        """The fraction of zeros (counted on what was written, over elements) of each prunable tensor so far."""

    def files(self) -> Iterator[tuple[str, Iterator[Piece]]]:
        """Yield each file's name, and the bytes to be used up before the next file.

        At most one tensor and its pruned form are in memory. Raises ModelError where a file beside the weights was
        changed since they were opened.
        """
        weights = self._weights
        for file, tensors in self.division.items():
            entries = [
                (name, STORED_NAMES[weights.dtype(name)], tuple(weights.shape(name))) for name in sorted(tensors)
            ]
            yield file, tensor_file_pieces(file, entries, self._data, {**self._metadata, "format": "pt"})
        if [*self.division] != [SINGLE_FILE]:
            total = sum(weights.shape(name).numel() * weights.dtype(name).itemsize for name in weights.names)
            yield INDEX_FILE, whole(index_content(self.division, total))
        for name in weights.file_digests:
            yield name, whole(weights.file_content(name))
        yield CARD_FILE, whole(self._card(self.achieved).encode())

    def _data(self, name: str) -> Iterator[memoryview]:
        return chain.from_iterable(map(self._pieces, self._weights.stacks.get(name, (name,))))

    def _pieces(self, name: str) -> Iterator[memoryview]:
        tensor, prunable = self._weights.tensor(name), name in self._weights.prunable
        change = self._pruned(name) if prunable else None
        if change is not None and (change.dtype not in (torch.bool, tensor.dtype) or change.shape != tensor.shape):
            raise ValueError(f"the pruned {name} is {change.dtype} {list(change.shape)}")
        kept = change.flatten() if change is not None and change.dtype == torch.bool else None
        tensor = (tensor if change is None or kept is not None else change).contiguous().flatten()
        nonzeros = 0
        for start in range(0, tensor.numel(), SLICE):
            bits = as_integers(tensor[start : start + SLICE])
            if kept is not None:
                bits = bits.masked_fill(~kept[start : start + SLICE], 0)  # a copy: the tensor is the mapped file
            if prunable:
                nonzeros += int(bits.view(tensor.dtype).count_nonzero())
            yield bits.numpy().data
        if prunable:
            self.achieved[name] = (tensor.numel() - nonzeros) / tensor.numel()


def write_sparse_model(model: SparseModel, folder: Path) -> None:
    """Write all files to `folder`, which appears whole or not at all; `from_pretrained` loads it.

    Raises OutputError if `folder` is not empty or cannot be written.
    """
    write_files(model.files(), folder)


def write_files(files: Iterable[tuple[str, Iterable[Piece]]], folder: Path) -> None:
    """Write files, each used up before the next is asked for, to `folder`, which appears whole or not at all.

    Raises OutputError if `folder` is not empty or cannot be written.
    """
    with whole_folder(folder) as partial:
        for name, pieces in files:
            with (partial / name).open("wb") as file:
                for _, piece in pieces:
                    file.write(piece)


def check_sparse_model(model: SparseModel, folder: Path, progress: Callable[[str, int, int], None]) -> None:
    """Compare `folder` with the model's files, as `check_files` does."""
    check_files(model.files(), len(model.division), folder, progress)


def check_files(
    files: Iterable[tuple[str, Iterable[Piece]]], total: int, folder: Path, progress: Callable[[str, int, int], None]
) -> None:
    """Compare `folder` with files, each used up before the next is asked for, byte for byte, in pieces.

    `total` of them hold weights, and come first. Raises BadAudit naming the first file that differs, is missing or is
    too many, and the tensor where it is in one.
    """
    left = {file.name for file in folder.iterdir()}
    for done, (name, pieces) in enumerate(files):
        progress("comparing weights", min(done, total), total)
        file = folder / name
        if name not in left or not file.is_file() or file.is_symlink():
            raise BadAudit(f"{file}: is missing", party=AGGREGATOR)
        left.remove(name)
        with file.open("rb") as opened:
            for tensor, piece in pieces:
                if opened.read(len(piece)) != piece:
                    where = f"tensor {tensor}: is not what the opened sums make of it" if tensor else _OTHERWISE
                    raise BadAudit(f"{file}: {where}", party=AGGREGATOR)
            if opened.read(1):
                raise BadAudit(f"{file}: is too long", party=AGGREGATOR)
    if left:
        raise BadAudit(f"{folder / min(left)}: is no file of this model", party=AGGREGATOR)


_OTHERWISE: Final = "is not what follows from the dense model, the plan and the opened sums"


def division_of(folder: Path, tensors: Collection[str]) -> Division:
    """Return how a sparse model's folder divides `tensors`, all of a model's.

    Raises ModelError where a file is damaged, BadAudit where a tensor is missing, there twice, or too many.
    """
    division = {file.name: [*read_tensor_file(file).tensors] for file in sorted(folder.glob("*.safetensors"))}
    tensors = {*tensors}
    times = Counter(chain.from_iterable(division.values()))
    wrong = {name for name in {*times, *tensors} if times[name] != (name in tensors)}
    if wrong:
        raise BadAudit(f"{folder}: tensor {min(wrong)}: is not there once", party=AGGREGATOR)
    return division


def division_into_files(weights: DenseWeights) -> Division:
    """Return how a model's own files divide its tensors."""
    return {file.name: [name for name in weights.stored_names if weights.file(name) == file] for file in weights.files}


def index_content(division: Division, total: int) -> bytes:
    """Return the content of `INDEX_FILE` for tensors of `total` bytes."""
    by_tensor = {name: file for file, tensors in division.items() for name in tensors}
    index = {"metadata": {"total_size": total}, "weight_map": by_tensor}
    return f"{json.dumps(index, indent=2, sort_keys=True)}\n".encode()


def whole(content: bytes) -> Iterator[Piece]:
    """Yield the content of a file that holds no tensors."""
    yield "", content
