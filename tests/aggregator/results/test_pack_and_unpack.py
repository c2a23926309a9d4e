"""Packing a sparse model and unpacking it: every bit, the format's own words on bytes, and what is refused."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from aggregator.results import bitmask_container
from aggregator.results.bitmask_container import pack, unpack
from crypto.errors import ModelError, OutputError
from silo_agent.checkpoint.bitmask_container import BitmaskContainer, load
from support.models import tiny_llama

ODD = ["00000080", "0dd0d5ff", "0df0957f", "0000807f", "01000000"]
"""Little-endian -0.0, NaNs with payloads, infinity, and the smallest subnormal: all of them values."""


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def entries(file: Path) -> tuple[dict[str, str], dict[str, tuple[str, list[int], bytes]]]:
    """Metadata and (dtype, shape, bytes) of every entry, by safetensors' own words."""
    content = file.read_bytes()
    [length] = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    body = content[8 + length :]
    return metadata, {
        name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])]) for name, entry in header.items()
    }


def sparse(folder: Path, dtype: torch.dtype = torch.float32, shards: bool = False, ratio: float = 0.6) -> Path:
    """A model with that many zeros in its blocks, one matrix all zero, one with odd numbers, files beside it."""
    tiny_llama(folder, dtype=dtype, shards=shards)
    generator = torch.Generator().manual_seed(1)
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if "proj" in name:
                tensors[name] = tensor.masked_fill(torch.rand(tensor.shape, generator=generator) < ratio, 0)
            if name.endswith("1.mlp.up_proj.weight"):
                tensors[name] = torch.zeros_like(tensor)
            if name.endswith("1.mlp.down_proj.weight") and dtype == torch.float32:
                tensors[name].view(-1)[:5] = torch.frombuffer(bytearray.fromhex("".join(ODD)), dtype=dtype)
        save_file(tensors, file, {"format": "pt", "sparsilo.release": "votes"})
    (folder / "template.jinja").write_bytes(b"\x00\xff")
    (folder / "linked.txt").symlink_to(folder / "template.jinja")
    (folder / "old.bin").write_bytes(b"dense weights")
    (folder / "subfolder").mkdir()
    return folder


@pytest.fixture(params=[(torch.float32, False), (torch.bfloat16, True), (torch.float16, False)], ids=str)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return sparse(tmp_path / "model", *request.param)


def test_what_is_unpacked_is_what_was_packed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitmask_container, "SLICE", 104)  # slices end inside rows and tensors
    before = contents(model)
    packed = pack(model, tmp_path / "c")
    assert contents(model) == before
    unpack(tmp_path / "c", tmp_path / "u")
    after = contents(tmp_path / "u")
    assert after.keys() == before.keys() - {"old.bin"}
    for name in after:
        if name.endswith(".safetensors"):  # the library orders a header by chance
            assert entries(tmp_path / "u" / name) == entries(model / name)
        else:
            assert after[name] == before[name]
    dense = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    small = sum(file.stat().st_size for file in (tmp_path / "c").glob("*.bitmask.safetensors"))
    assert (packed.dense, packed.bitmask) == (dense, small)
    assert small < 0.75 * dense  # embeddings and headers are a large part of a model this small


def test_the_bytes_are_as_the_format_says(model: Path, tmp_path: Path) -> None:
    """Each entry computed from the dense file's bytes with numpy's own packing of a list of bools."""
    pack(model, tmp_path / "c")
    files = sorted(model.glob("*.safetensors"))
    ways = set()
    for index, file in enumerate(files, 1):
        metadata, found = entries(tmp_path / "c" / f"{file.stem}.bitmask.safetensors")
        shapes = json.loads(metadata.pop("sparsilo.bitmask.shapes"))
        assert metadata == {
            "format": "sparsilo-bitmask/1",
            "sparsilo.bitmask.part": f"{index}/{len(files)}",
            "sparsilo.release": "votes",
        }
        for name, (dtype, shape, content) in entries(file)[1].items():
            one = len(content) // int(np.prod(shape))
            elements = [content[at : at + one] for at in range(0, len(content), one)]
            kept = [element != bytes(one) for element in elements]
            small = (len(elements) + 7) // 8 + sum(kept) * one
            ways.add(small < len(content))
            if small >= len(content):
                assert found.pop(name) == (dtype, shape, content)
                continue
            assert shapes.pop(name) == shape
            bits = np.packbits(kept, bitorder="little").tobytes()
            assert found.pop(f"{name}.keep_bits") == ("U8", [len(bits)], bits)
            values = b"".join(element for element in elements if element != bytes(one))
            assert found.pop(f"{name}.values") == (dtype, [sum(kept)], values)
        assert found == shapes == {}
    assert ways == {True, False}


def test_a_tensor_is_packed_only_where_that_is_smaller(tmp_path: Path) -> None:
    """1 of 16 zero is where a bitmask breaks even in 16 bits: one zero more is packed, and one byte is won."""
    folder = tiny_llama(tmp_path / "m", dtype=torch.float16)
    name = "model.layers.0.self_attn.q_proj.weight"  # 32 x 32
    for zeros, packed in ((63, False), (64, False), (65, True)):
        tensors = load_file(folder / "model.safetensors")
        tensors[name] = torch.ones(32, 32, dtype=torch.float16)
        tensors[name].view(-1)[:zeros] = 0
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        pack(folder, tmp_path / str(zeros))
        found = entries(tmp_path / str(zeros) / "model.bitmask.safetensors")[1]
        assert (f"{name}.keep_bits" in found, name in found) == (packed, not packed)


def test_both_ways_are_deterministic(model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        pack(model, tmp_path / name)
        unpack(tmp_path / name, tmp_path / f"{name}-unpacked")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a-unpacked") == contents(tmp_path / "b-unpacked")
    pack(tmp_path / "a-unpacked", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "a")
    unpack(tmp_path / "again", tmp_path / "twice")
    assert contents(tmp_path / "twice") == contents(tmp_path / "a-unpacked")


def test_the_container_the_model_and_the_unpacked_model_are_one(model: Path, tmp_path: Path) -> None:
    pack(model, tmp_path / "c")
    unpack(tmp_path / "c", tmp_path / "u")
    read: Any = AutoModelForCausalLM.from_pretrained
    expected = read(model).state_dict()
    for found in (load(tmp_path / "c"), read(tmp_path / "u")):
        assert found.state_dict().keys() == expected.keys()
        for name, tensor in found.state_dict().items():
            assert tensor.dtype == expected[name].dtype
            assert torch.equal(tensor.view(torch.uint8), expected[name].view(torch.uint8))  # NaNs too


def test_a_tensor_that_the_index_does_not_name_is_left_out(tmp_path: Path) -> None:
    """As in the sparse model folder: it belongs to no model and is in no plan's digest."""
    folder = sparse(tmp_path / "m", torch.bfloat16, shards=True)
    file = min(folder.glob("*.safetensors"))
    save_file(load_file(file) | {"stray": torch.zeros(99, 99)}, file, {"format": "pt"})
    pack(folder, tmp_path / "c")
    assert not any("stray" in name for name in BitmaskContainer(tmp_path / "c"))


@pytest.mark.parametrize("stray", [torch.ones(3), torch.zeros(64)], ids=["dense", "bitmask"])
@pytest.mark.parametrize("suffix", [".keep_bits", ".values"])
def test_a_name_that_would_be_ambiguous_is_refused(suffix: str, stray: Tensor, tmp_path: Path) -> None:
    folder = sparse(tmp_path / "m")
    file = folder / "model.safetensors"
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file(load_file(file) | {f"{name}{suffix}": stray}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.safetensors: .*named"):
        pack(folder, tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("go", [pack, unpack])
def test_a_folder_in_use_and_one_that_cannot_be_made_are_refused(go: Any, tmp_path: Path) -> None:
    source = sparse(tmp_path / "m")
    if go is unpack:
        pack(source, tmp_path / "c")
        source = tmp_path / "c"
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_bytes(b"")
    with pytest.raises(OutputError, match="used: exists and is not empty"):
        go(source, tmp_path / "used")
    with pytest.raises(OutputError, match="mine"):
        go(source, tmp_path / "used" / "mine" / "new")
    go(source, tmp_path / "deep" / "new")


@pytest.mark.parametrize("go", [pack, unpack])
def test_another_kind_of_folder_is_refused(go: Any, tmp_path: Path) -> None:
    """A container is no model and a model no container; nothing is left behind."""
    source = sparse(tmp_path / "m")
    if go is pack:
        pack(source, tmp_path / "c")
        source = tmp_path / "c"
    there = {file.name for file in tmp_path.iterdir()}
    for folder in (source, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match=folder.name):
            go(folder, tmp_path / "new")
    assert {file.name for file in tmp_path.iterdir()} == there


def test_damage_found_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    pack(sparse(tmp_path / "m"), tmp_path / "c")
    file = tmp_path / "c" / "model.bitmask.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # among the keep bits, which lie last
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.bitmask\.safetensors: .*keep bits and values do not fit"):
        unpack(tmp_path / "c", tmp_path / "u")
    assert {file.name for file in tmp_path.iterdir()} == {"m", "c"}
