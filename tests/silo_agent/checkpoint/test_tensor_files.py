"""Tensor files, read back with a reader of our own and with the library's; and the library's files, read."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from crypto.errors import ModelError, OutputError
from silo_agent.checkpoint.mapped_tensors import mapped_tensor
from silo_agent.checkpoint.tensor_files import DTYPES as TABLE
from silo_agent.checkpoint.tensor_files import Entry, read_tensor_file, write_tensor_file
from support.raw_tensors import raw_tensors


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def pieces(content: bytes, size: int) -> Iterator[memoryview]:
    return (memoryview(content)[start : start + size] for start in range(0, len(content), size))


DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}


@settings(max_examples=60, deadline=None)
@given(
    entries=st.lists(
        st.tuples(st.sampled_from(list(DTYPES)), st.lists(st.integers(0, 5), max_size=3)), min_size=1, max_size=6
    ),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    size=st.integers(1, 40),
    as_given=st.booleans(),
)
def test_the_library_reads_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[str, list[int]]],
    metadata: dict[str, str],
    size: int,
    as_given: bool,
) -> None:
    path = tmp_path_factory.mktemp("tensors") / "any.safetensors"
    random = np.random.default_rng(3)
    expected: dict[str, Tensor] = {}
    tensors: list[Entry] = []
    for index, (dtype, shape) in enumerate(entries):
        one: int = torch.zeros((), dtype=DTYPES[dtype]).element_size()
        high = 2 if dtype == "BOOL" else 256
        content = random.integers(0, high, (int(np.prod(shape, dtype=int)), one), dtype=np.uint8)
        expected[f"ü{index}"] = torch.from_numpy(content.reshape(-1)).view(DTYPES[dtype]).reshape(shape)
        tensors.append((f"ü{index}", dtype, tuple(shape)))
    blobs = {name: tensor.flatten().view(torch.uint8).numpy().tobytes() for name, tensor in expected.items()}
    write_tensor_file(path, tensors, lambda name: pieces(blobs[name], size), metadata, as_given=as_given)

    with safe_open(path, framework="pt") as reader:
        assert (reader.metadata() or {}) == metadata
        assert set(reader.keys()) == set(expected)
        for name, tensor in expected.items():
            read = reader.get_tensor(name)
            assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
            assert read.flatten().view(torch.uint8).numpy().tobytes() == blobs[name]
    header = read_tensor_file(path)
    assert header.metadata == metadata
    assert {name: (stored.dtype, stored.shape) for name, stored in header.tensors.items()} == {
        name: (dtype, shape) for name, dtype, shape in tensors
    }
    for name, stored in header.tensors.items():
        assert path.read_bytes()[stored.start : stored.start + stored.size] == blobs[name] == stored.mapped().tobytes()
        mapped = mapped_tensor(stored)
        assert (mapped.dtype, mapped.shape) == (expected[name].dtype, expected[name].shape)
        assert mapped.flatten().view(torch.uint8).numpy().tobytes() == blobs[name]
    starts = [(stored.start, stored.start + stored.size) for stored in header.tensors.values()]
    assert starts == sorted(starts)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_header_is_canonical(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    blobs = {"b": b"\x01", "a": b"abcdefgh", "c": b"\x02\x03"}
    tensors = [("b", "U8", (1,)), ("c", "U8", (2,)), ("a", "F32", (2, 1))]
    write_tensor_file(path, tensors, lambda name: [blobs[name]], {"z": "1", "k": "2"})
    header = (
        b'{"__metadata__":{"k":"2","z":"1"},'
        b'"a":{"data_offsets":[0,8],"dtype":"F32","shape":[2,1]},'
        b'"b":{"data_offsets":[8,9],"dtype":"U8","shape":[1]},'
        b'"c":{"data_offsets":[9,11],"dtype":"U8","shape":[2]}}'
    )
    padded = header.ljust((len(header) + 7) // 8 * 8)
    assert path.read_bytes() == struct.pack("<Q", len(padded)) + padded + b"abcdefgh" + b"\x01" + b"\x02\x03"


def test_as_given_nothing_is_sorted(tmp_path: Path) -> None:
    """The bytes of keep-mask files from the first: plans name them by their digests."""
    path = tmp_path / "t.safetensors"
    blobs = {"b": b"\x01", "a": b"abcdefgh", "c": b"\x02\x03"}
    tensors = [("b", "BOOL", (1,)), ("a", "F32", (2, 1)), ("c", "U8", (2,))]
    write_tensor_file(path, tensors, lambda name: [blobs[name]], as_given=True)
    header = (
        b'{"b": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]}, '
        b'"a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [1, 9]}, '
        b'"c": {"dtype": "U8", "shape": [2], "data_offsets": [9, 11]}}'
    )
    padded = header.ljust((len(header) + 7) // 8 * 8)
    assert path.read_bytes() == struct.pack("<Q", len(padded)) + padded + b"\x01" + b"abcdefgh" + b"\x02\x03"


@pytest.mark.parametrize("metadata_length", range(8))
def test_the_bytes_begin_at_a_multiple_of_eight(tmp_path: Path, metadata_length: int) -> None:
    path = tmp_path / "t.safetensors"
    write_tensor_file(path, [("a", "U8", (1,))], lambda _: [b"x"], {"m": "m" * metadata_length})
    assert (path.stat().st_size - 1) % 8 == 0
    assert raw_tensors(path)[1] == {"a": ("U8", [1], b"x")}


@pytest.mark.parametrize("length", [0, 11, 13, 24])
def test_bytes_that_do_not_fit_the_header_are_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"what was there before")
    with pytest.raises(ValueError, match="data of a is"):
        write_tensor_file(path, [("a", "F32", (3,)), ("b", "U8", (1,))], lambda _: pieces(bytes(length), 5), {})
    assert contents(tmp_path) == {path.name: b"what was there before"}


def test_names_that_a_header_cannot_hold_are_refused(tmp_path: Path) -> None:
    for names in (["a", "a"], ["__metadata__"]):
        with pytest.raises(ValueError, match="names"):
            write_tensor_file(tmp_path / "t", [(name, "U8", (1,)) for name in names], lambda _: [b"x"], {})
    assert not contents(tmp_path)


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for parent in ("missing", "file"):
        with pytest.raises(OutputError, match=r"t\.safetensors"):
            write_tensor_file(tmp_path / parent / "t.safetensors", [], lambda _: [], {})


def test_only_one_slice_is_alive_at_a_time(tmp_path: Path) -> None:
    """The next slice is asked for only when the last is on its way to the disk."""
    written: list[int] = []

    def data(_name: str) -> Iterator[bytes]:
        for _ in range(8):
            written.append(next(tmp_path.iterdir()).stat().st_size)
            yield bytes(1 << 20)

    write_tensor_file(tmp_path / "t", [("a", "U8", (8 << 20,))], data, {})
    assert [size >> 20 for size in written] == list(range(8))


def test_the_table_is_torchs() -> None:
    assert {name: getattr(torch, dtype.torch_name) for name, dtype in TABLE.items()} == DTYPES
    assert {name: dtype.bytes for name, dtype in TABLE.items()} == {
        name: dtype.itemsize for name, dtype in DTYPES.items()
    }


def test_what_is_written_to_a_mapped_tensor_stays_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensor_file(path, [("a", "U8", (3,))], lambda _: [b"abc"])
    stored = read_tensor_file(path).tensors["a"]
    stored.mapped()[:] = 0
    assert path.read_bytes().endswith(b"abc") and stored.mapped().tobytes() == b"abc"


@pytest.mark.parametrize("dtype", ["C64", "F8_E8M0", "U16"])
def test_a_dtype_that_is_not_in_the_table_is_refused(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    header = json.dumps({"a": {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ModelError, match=rf"t\.safetensors: tensor a is stored as {dtype}"):
        read_tensor_file(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[:20],
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content.replace(b"[0,12]", b"[0,11]"),
        lambda content: content.replace(b"[3]", b"[2]"),
        lambda _: b"",
    ],
)
def test_a_damaged_file_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensor_file(path, [("a", "F32", (3,))], lambda _: [bytes(12)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=r"t\.safetensors: damaged or not safetensors"):
        read_tensor_file(path)
    with pytest.raises(ModelError, match=r"none: damaged or not safetensors: FileNotFoundError"):
        read_tensor_file(tmp_path / "none")


def test_reading_and_writing_load_no_torch(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from silo_agent.checkpoint.tensor_files import read_tensor_file, write_tensor_file

file = Path(sys.argv[1])
write_tensor_file(file, [("a", "BF16", (2,))], lambda _: [b"abcd"])
assert read_tensor_file(file).tensors["a"].mapped().tobytes() == b"abcd"
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "t"], check=True, cwd=Path(__file__).parents[3])
