"""Sparse models and tensor files, read back byte by byte with a reader of our own and with the libraries' readers."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from aggregator.results import sparse_checkpoint
from aggregator.results.sparse_checkpoint import write_sparse_model, write_tensors
from crypto.errors import ModelError, OutputError
from silo_agent.model.dense_weights import DenseWeights
from support.models import tiny_llama

PROVENANCE = {"sparsilo": "1", "plan_digest": "ab" * 32}


def raw_tensors(file: Path) -> tuple[dict[str, str], dict[str, tuple[str, list[int], bytes]]]:
    """Metadata and (dtype, shape, bytes) per tensor of a safetensors file, by the format's own words."""
    content = file.read_bytes()
    [length] = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    body = content[8 + length :]
    return metadata, {
        name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])]) for name, entry in header.items()
    }


def folder_tensors(folder: Path) -> dict[str, tuple[str, list[int], bytes]]:
    return {
        name: entry for file in sorted(folder.glob("*.safetensors")) for name, entry in raw_tensors(file)[1].items()
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def random_keep(weights: DenseWeights) -> Callable[[str], Tensor]:
    """About one weight in three zeroed, another pattern for every tensor, the same at every call."""

    def keep(name: str) -> Tensor:
        generator = torch.Generator().manual_seed(sum(name.encode()))
        return torch.rand(weights.tensor(name).shape, generator=generator) > 1 / 3

    return keep


def pieces(content: bytes, size: int) -> Iterator[memoryview]:
    return (memoryview(content)[start : start + size] for start in range(0, len(content), size))


# --- write_tensors ----------------------------------------------------------------------------------------------


DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
    "C64": torch.complex64,
}


@settings(max_examples=60, deadline=None)
@given(
    entries=st.lists(
        st.tuples(st.sampled_from(list(DTYPES)), st.lists(st.integers(0, 5), max_size=3)), min_size=1, max_size=6
    ),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    size=st.integers(1, 40),
)
def test_the_library_reads_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[str, list[int]]],
    metadata: dict[str, str],
    size: int,
) -> None:
    path = tmp_path_factory.mktemp("tensors") / "any.safetensors"
    random = np.random.default_rng(3)
    expected: dict[str, Tensor] = {}
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    for index, (dtype, shape) in enumerate(entries):
        one: int = torch.zeros((), dtype=DTYPES[dtype]).element_size()
        high = 2 if dtype == "BOOL" else 256
        content = random.integers(0, high, (int(np.prod(shape, dtype=int)), one), dtype=np.uint8)
        expected[f"ü{index}"] = torch.from_numpy(content.reshape(-1)).view(DTYPES[dtype]).reshape(shape)
        tensors.append((f"ü{index}", dtype, tuple(shape)))
    blobs = {name: tensor.flatten().view(torch.uint8).numpy().tobytes() for name, tensor in expected.items()}
    write_tensors(path, tensors, lambda name: pieces(blobs[name], size), metadata)

    with safe_open(path, framework="pt") as reader:
        assert (reader.metadata() or {}) == metadata
        assert set(reader.keys()) == set(expected)
        for name, tensor in expected.items():
            read = reader.get_tensor(name)
            assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
            assert read.flatten().view(torch.uint8).numpy().tobytes() == blobs[name]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_header_is_canonical(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    blobs = {"b": b"\x01", "a": b"abcdefgh", "c": b"\x02\x03"}
    tensors = [("b", "U8", (1,)), ("c", "U8", (2,)), ("a", "F32", (2, 1))]
    write_tensors(path, tensors, lambda name: [blobs[name]], {"z": "1", "k": "2"})
    header = (
        b'{"__metadata__":{"k":"2","z":"1"},'
        b'"a":{"data_offsets":[0,8],"dtype":"F32","shape":[2,1]},'
        b'"b":{"data_offsets":[8,9],"dtype":"U8","shape":[1]},'
        b'"c":{"data_offsets":[9,11],"dtype":"U8","shape":[2]}}'
    )
    padded = header.ljust((len(header) + 7) // 8 * 8)
    assert path.read_bytes() == struct.pack("<Q", len(padded)) + padded + b"abcdefgh" + b"\x01" + b"\x02\x03"


@pytest.mark.parametrize("metadata_length", range(8))
def test_the_bytes_begin_at_a_multiple_of_eight(tmp_path: Path, metadata_length: int) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, [("a", "U8", (1,))], lambda _: [b"x"], {"m": "m" * metadata_length})
    assert (path.stat().st_size - 1) % 8 == 0
    assert raw_tensors(path)[1] == {"a": ("U8", [1], b"x")}


@pytest.mark.parametrize("length", [0, 11, 13, 24])
def test_bytes_that_do_not_fit_the_header_are_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"what was there before")
    with pytest.raises(ValueError, match="data of a is"):
        write_tensors(path, [("a", "F32", (3,)), ("b", "U8", (1,))], lambda _: pieces(bytes(length), 5), {})
    assert contents(tmp_path) == {path.name: b"what was there before"}


def test_names_that_a_header_cannot_hold_are_refused(tmp_path: Path) -> None:
    for names in (["a", "a"], ["__metadata__"]):
        with pytest.raises(ValueError, match="names"):
            write_tensors(tmp_path / "t", [(name, "U8", (1,)) for name in names], lambda _: [b"x"], {})
    assert not contents(tmp_path)


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for parent in ("missing", "file"):
        with pytest.raises(OutputError, match=r"t\.safetensors"):
            write_tensors(tmp_path / parent / "t.safetensors", [], lambda _: [], {})


def test_only_one_slice_is_alive_at_a_time(tmp_path: Path) -> None:
    """The next slice is asked for only when the last is on its way to the disk."""
    written: list[int] = []

    def data(_name: str) -> Iterator[bytes]:
        for _ in range(8):
            written.append((tmp_path / ".t.partial").stat().st_size)
            yield bytes(1 << 20)

    write_tensors(tmp_path / "t", [("a", "U8", (8 << 20,))], data, {})
    assert [size >> 20 for size in written] == list(range(8))


# --- write_sparse_model -----------------------------------------------------------------------------------------


@pytest.fixture(params=[(torch.float32, False), (torch.bfloat16, True), (torch.float16, False)], ids=str)
def dense(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    dtype, shards = request.param
    folder = tmp_path / "dense"
    tiny_llama(folder, dtype=dtype, shards=shards)
    return folder


def test_only_zeroed_weights_change(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_checkpoint, "SLICE", 100)  # slices end inside rows and inside tensors
    weights = DenseWeights.open(dense)
    keep, digest = random_keep(weights), weights.digest()
    achieved = write_sparse_model(weights, keep, tmp_path / "sparse", PROVENANCE)
    assert weights.digest() == digest  # its tensors are views of the mapped files

    before, after = folder_tensors(dense), folder_tensors(tmp_path / "sparse")
    assert before.keys() == after.keys()
    assert achieved.keys() == set(weights.prunable)
    for name, (dtype, shape, content) in before.items():
        if name not in weights.prunable:
            assert after[name] == (dtype, shape, content)
            continue
        one = len(content) // int(np.prod(shape))
        expected = bytearray(content)
        zeros = 0
        for index, kept in enumerate(keep(name).flatten().tolist()):
            if not kept:
                expected[index * one : (index + 1) * one] = bytes(one)
                zeros += 1
        assert after[name] == (dtype, shape, bytes(expected))
        assert achieved[name] == zeros / int(np.prod(shape))
    for file in dense.iterdir():
        copy = tmp_path / "sparse" / file.name
        if file.suffix == ".safetensors":
            assert raw_tensors(copy)[0] == {"format": "pt"} | PROVENANCE
        else:
            assert copy.read_bytes() == file.read_bytes()
    assert {file.name for file in dense.iterdir()} == {file.name for file in (tmp_path / "sparse").iterdir()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_signs_of_zero_and_nan_payloads(tmp_path: Path, dtype: torch.dtype) -> None:
    """Kept weights keep every bit; zeroed ones become +0.0 whatever they were; both zeros count as zeros."""
    tiny_llama(tmp_path / "dense", dtype=dtype)
    file = tmp_path / "dense" / "model.safetensors"
    name = "model.layers.0.mlp.down_proj.weight"
    tensors = load_file(file)
    tensors[name] = tensors[name].clone()
    tensors[name][tensors[name] == 0] = 1.0
    one = dtype.itemsize
    # little-endian: -0.0, a quiet NaN and a signalling NaN with payloads, infinity, a negative number
    odd = {
        2: ["0080", "d5ff", "957f", "807f", "80bf"],
        4: ["00000080", "0dd0d5ff", "0df0957f", "0000807f", "000080bf"],
    }[one]
    row = torch.frombuffer(bytearray.fromhex("".join(odd)), dtype=dtype)
    tensors[name].view(-1)[:5] = row
    save_file(tensors, file, {"format": "pt"})
    content = raw_tensors(file)[1][name][2]
    assert content[: 5 * one] == bytes.fromhex("".join(odd))

    weights = DenseWeights.open(tmp_path / "dense")
    numel = tensors[name].numel()
    for kept in (True, False):

        def keep(asked: str, kept: bool = kept) -> Tensor | None:
            mask = torch.ones(weights.tensor(asked).shape, dtype=torch.bool)
            mask.view(-1)[:5] = kept
            return mask if asked == name else None

        folder = tmp_path / f"sparse_{kept}"
        achieved = write_sparse_model(weights, keep, folder, PROVENANCE)
        after = folder_tensors(folder)[name][2]
        assert after[5 * one :] == content[5 * one :]
        assert after[: 5 * one] == (content[: 5 * one] if kept else bytes(5 * one))
        assert achieved[name] == (1 if kept else 5) / numel
        others = set(weights.prunable) - {name}
        assert {other: achieved[other] for other in others} == dict.fromkeys(others, 0.0)


def test_it_loads_with_its_tokenizer_and_generates(dense: Path, tmp_path: Path) -> None:
    weights = DenseWeights.open(dense)
    keep = random_keep(weights)
    write_sparse_model(weights, keep, tmp_path / "sparse", PROVENANCE)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "sparse")
    loaded = model.state_dict()
    assert set(weights.prunable) <= loaded.keys()
    for name in weights.names:
        tensor = weights.tensor(name)
        expected = tensor.where(keep(name), torch.zeros_like(tensor)) if name in weights.prunable else tensor
        assert torch.equal(loaded[name], expected)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "sparse")
    ids = tokenizer("a", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=3, min_new_tokens=3).shape == (1, ids.shape[1] + 3)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_stay_tied_and_are_written_once(tmp_path: Path, tied: bool) -> None:
    dense = tmp_path / "dense"
    tiny_llama(dense)
    model: Any = AutoModelForCausalLM.from_pretrained(dense)
    model.config.tie_word_embeddings = tied
    (dense / "model.safetensors").unlink()
    type(model)(model.config).save_pretrained(dense)

    weights = DenseWeights.open(dense)
    write_sparse_model(weights, random_keep(weights), tmp_path / "sparse", PROVENANCE)
    assert ("lm_head.weight" in folder_tensors(tmp_path / "sparse")) is not tied
    sparse: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "sparse")
    assert (sparse.lm_head.weight is sparse.model.embed_tokens.weight) is tied
    assert torch.equal(sparse.model.embed_tokens.weight, weights.tensor("model.embed_tokens.weight"))
    assert torch.equal(sparse.lm_head.weight, weights.tensor(f"{'model.embed_tokens' if tied else 'lm_head'}.weight"))


def test_two_writes_are_byte_identical(dense: Path, tmp_path: Path) -> None:
    weights = DenseWeights.open(dense)
    backwards = dict(reversed(PROVENANCE.items()))
    (tmp_path / "b").mkdir()  # an empty folder is no obstacle
    first = write_sparse_model(weights, random_keep(weights), tmp_path / "a", PROVENANCE)
    again = write_sparse_model(DenseWeights.open(dense), random_keep(weights), tmp_path / "b", backwards)
    assert first == again
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_tensor_without_a_keep_mask_stays_dense(dense: Path, tmp_path: Path) -> None:
    weights = DenseWeights.open(dense)
    asked: list[str] = []
    achieved = write_sparse_model(weights, asked.append, tmp_path / "new" / "sparse", PROVENANCE)
    assert sorted(asked) == sorted(weights.prunable)
    assert set(achieved.values()) == {0.0}
    assert folder_tensors(tmp_path / "new" / "sparse") == folder_tensors(dense)


def test_dense_weights_in_other_formats_and_folders_are_not_copied(tmp_path: Path) -> None:
    dense = tmp_path / "dense"
    tiny_llama(dense)
    kept = {file.name for file in dense.iterdir()} | {"extra.jinja", "linked.txt"}
    for name in ("pytorch_model.bin", "x.pt", "x.h5", "x.msgpack", "x.gguf", "x.ONNX", "extra.jinja"):
        (dense / name).write_bytes(b"x")
    (dense / "linked.txt").symlink_to(dense / "extra.jinja")  # as in the hub's cache
    (dense / "original").mkdir()
    (dense / "original" / "params.json").write_bytes(b"x")
    write_sparse_model(DenseWeights.open(dense), lambda _: None, tmp_path / "sparse", PROVENANCE)
    assert {file.name for file in (tmp_path / "sparse").iterdir()} == kept
    assert not any(file.is_symlink() for file in (tmp_path / "sparse").iterdir())


def test_a_tensor_that_the_index_does_not_name_is_left_out(tmp_path: Path) -> None:
    dense = tmp_path / "dense"
    tiny_llama(dense, shards=True)
    shard = sorted(dense.glob("*.safetensors"))[0]
    save_file(load_file(shard) | {"stray": torch.ones(3)}, shard, {"format": "pt"})
    weights = DenseWeights.open(dense)
    write_sparse_model(weights, lambda _: None, tmp_path / "sparse", PROVENANCE)
    assert folder_tensors(tmp_path / "sparse").keys() == set(weights.names)


def test_a_crash_leaves_nothing_behind(dense: Path, tmp_path: Path) -> None:
    weights = DenseWeights.open(dense)
    asked: list[str] = []

    def crash(name: str) -> Tensor | None:
        asked.append(name)
        if len(asked) == len(weights.prunable):
            raise RuntimeError("crash")
        return random_keep(weights)(name)

    with pytest.raises(RuntimeError, match="crash"):
        write_sparse_model(weights, crash, tmp_path / "sparse", PROVENANCE)
    assert [file.name for file in tmp_path.iterdir()] == ["dense"]


@pytest.mark.parametrize("change", [Tensor.byte, Tensor.flatten, lambda mask: mask[:3]])
def test_a_keep_mask_of_another_shape_or_type_is_refused(tmp_path: Path, change: Callable[[Tensor], Tensor]) -> None:
    tiny_llama(tmp_path / "dense")
    weights = DenseWeights.open(tmp_path / "dense")
    keep = random_keep(weights)
    with pytest.raises(ValueError, match="the pruned "):
        write_sparse_model(weights, lambda name: change(keep(name)), tmp_path / "sparse", PROVENANCE)
    assert [file.name for file in tmp_path.iterdir()] == ["dense"]


def test_a_place_with_something_in_it_is_refused(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "dense")
    weights = DenseWeights.open(tmp_path / "dense")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    before = sorted(tmp_path.rglob("*"))
    for folder in (tmp_path / "full", tmp_path / "dense", tmp_path / "file", tmp_path / "file" / "below"):
        asked: list[str] = []
        with pytest.raises(OutputError, match=folder.name):
            write_sparse_model(weights, asked.append, folder, PROVENANCE)
        assert not asked  # before the work, not after it
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dtype_that_cannot_be_written_is_a_model_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_llama(tmp_path / "dense")
    weights = DenseWeights.open(tmp_path / "dense")
    monkeypatch.delitem(sparse_checkpoint.BYTES, "F32")
    with pytest.raises(ModelError, match=r"model\.safetensors: .* is F32"):
        write_sparse_model(weights, lambda _: None, tmp_path / "sparse", PROVENANCE)
    assert [file.name for file in tmp_path.iterdir()] == ["dense"]
