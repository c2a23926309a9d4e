"""safetensors files (https://github.com/huggingface/safetensors, "Format"): where tensors lie, and how to write them.

A file is 8 bytes, little-endian, that say how long the header is; the header, JSON that gives each tensor's dtype,
shape, first byte and end; and the tensors, row by row, little-endian. Neither reading nor writing needs torch.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from crypto.errors import ModelError, OutputError
from silo_agent.host.whole_file import whole_file


class Dtype(NamedTuple):
    """What torch calls a dtype, and the bytes of one element."""

    torch_name: str
    bytes: int


DTYPES: Final = {
    "BOOL": Dtype("bool", 1), "U8": Dtype("uint8", 1), "I8": Dtype("int8", 1),
    "F8_E4M3": Dtype("float8_e4m3fn", 1), "F8_E5M2": Dtype("float8_e5m2", 1),
    "I16": Dtype("int16", 2), "F16": Dtype("float16", 2), "BF16": Dtype("bfloat16", 2),
    "I32": Dtype("int32", 4), "F32": Dtype("float32", 4),
    "I64": Dtype("int64", 8), "F64": Dtype("float64", 8),
}  # fmt: skip
"""By the name in a header. Files with any other dtype are refused."""

Entry = tuple[str, str, tuple[int, ...]]
"""A tensor to be written: its name, the dtype's name in the header, and its shape."""

Piece = tuple[str, bytes | memoryview]
"""The next bytes of a file, after the name of the tensor that they are of; empty for what is of none."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file. `start` is its first byte, counted from the file's first."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Bytes of all its elements."""
        return prod(self.shape) * DTYPES[self.dtype].bytes

    def mapped(self) -> NDArray[np.uint8]:
        """Map its bytes from the file, privately: what is written to them stays in memory."""
        if not self.size:
            return np.empty(0, np.uint8)
        return np.memmap(self.file, np.uint8, mode="c", offset=self.start, shape=(self.size,))


@dataclass(frozen=True)
class TensorFile:
    """A file's header: its tensors by name, in the order of their bytes, and its metadata."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def read_tensor_file(file: Path) -> TensorFile:
    """Read a file's header. Raises ModelError naming the file where it is damaged or holds a dtype not in `DTYPES`."""
    try:
        # safetensors' own reader checks the header, but does not tell where a tensor lies
        with safe_open(file, framework="np"), file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            header = json.loads(content.read(length))
    except (SafetensorError, OSError) as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(
            f"{file}: damaged or not safetensors: {line}", hint="copy or download the file again"
        ) from error
    metadata = header.pop("__metadata__", None) or {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ModelError(f"{file}: tensor {name} is stored as {entry['dtype']}", hint="use the unquantised model")
    in_order = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return TensorFile(
        {
            name: StoredTensor(file, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
            for name, entry in in_order
        },
        metadata,
    )


def write_tensor_file(
    path: Path,
    entries: Sequence[Entry],
    data: Callable[[str], Iterable[bytes | memoryview]],
    metadata: Mapping[str, str] | None = None,
    *,
    as_given: bool = False,
) -> None:
    """Write a file in pieces, as `tensor_file_pieces` yields them; `path` appears whole, or is as it was.

    Raises OutputError if the file cannot be written, ValueError if `data` does not fit `entries`.
    """
    pieces = tensor_file_pieces(path.name, entries, data, metadata, as_given=as_given)
    try:
        with whole_file(path) as file:
            for _, piece in pieces:
                file.write(piece)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}", hint="check space and permissions") from error


def tensor_file_pieces(
    name: str,
    entries: Sequence[Entry],
    data: Callable[[str], Iterable[bytes | memoryview]],
    metadata: Mapping[str, str] | None = None,
    *,
    as_given: bool = False,
) -> Iterator[Piece]:
    """Yield the bytes of a file called `name`: the header, and then the tensors.

    `data(name)` yields that tensor's little-endian bytes, and is called once per tensor: wider elements first, which
    aligns every tensor, otherwise in the order given. The same arguments give the same bytes. With `as_given` the order
    is the given one throughout and the JSON has spaces: so were files of keep masks and pruned weights from the first,
    and plans name them by their SHA-256.
    Raises ValueError if `data` does not fit `entries`.
    """
    # safetensors' own save_file wants every tensor in memory at once: more than a machine has, for the models in use
    names = [tensor for tensor, _, _ in entries]
    if len({*names, "__metadata__"}) != len(names) + 1:
        raise ValueError(f"{name}: tensor names repeat, or one is __metadata__")
    ordered = entries if as_given else sorted(entries, key=lambda entry: -DTYPES[entry[1]].bytes)
    sizes = {tensor: DTYPES[dtype].bytes * prod(shape) for tensor, dtype, shape in ordered}
    head = _header(ordered, sizes, metadata, as_given=as_given)
    yield "", len(head).to_bytes(8, "little") + head
    for tensor, size in sizes.items():
        left = size
        for piece in data(tensor):
            view = memoryview(piece)
            left -= view.nbytes
            if left < 0:
                break
            if view.nbytes:
                yield tensor, view.cast("B")
        if left:
            raise ValueError(f"{name}: the data of {tensor} is {'short' if left > 0 else 'too long'}")


def _header(
    entries: Sequence[Entry], sizes: Mapping[str, int], metadata: Mapping[str, str] | None, *, as_given: bool
) -> bytes:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, dtype, shape in entries:
        start, end = end, end + sizes[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header) if as_given else json.dumps(header, sort_keys=True, separators=(",", ":"))
    return text.encode() + b" " * (-len(text) % 8)  # aligns the tensors; the text is ASCII
