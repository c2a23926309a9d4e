"""Bitmask containers as docs/bitmask-container.md has them: written here by hand from its words, read by the reader."""

import json
import random
import struct
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from crypto.errors import ModelError
from silo_agent.checkpoint.bitmask_container import BitmaskContainer, load, stored_bytes
from support.models import family, tiny_model

WIDTH = {torch.float32: 4, torch.bfloat16: 2, torch.float16: 2, torch.float64: 8, torch.int8: 1, torch.bool: 1}


def packed(content: bytes, width: int) -> tuple[bytes, bytes]:
    """Keep bits and values of a tensor's bytes, an element at a time (section 3)."""
    elements = [content[at : at + width] for at in range(0, len(content), width)]
    bits = bytearray((len(elements) + 7) // 8)
    for index, element in enumerate(elements):
        if element != bytes(width):
            bits[index // 8] |= 1 << (index % 8)
    return bytes(bits), b"".join(element for element in elements if element != bytes(width))


def write(folder: Path, name: str, tensors: dict[str, Tensor], part: str = "1/1", **metadata: str) -> Path:
    """One file of a container, every tensor of two dimensions as bitmask, written by safetensors itself."""
    folder.mkdir(exist_ok=True)
    entries: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for key, tensor in tensors.items():
        if tensor.dim() != 2:
            entries[key] = tensor
            continue
        bits, values = packed(tensor.flatten().view(torch.uint8).numpy().tobytes(), tensor.element_size())
        shapes[key] = list(tensor.shape)
        entries[f"{key}.keep_bits"] = torch.tensor(list(bits), dtype=torch.uint8)
        entries[f"{key}.values"] = torch.tensor(list(values), dtype=torch.uint8).view(tensor.dtype)
    file = folder / f"{name}.bitmask.safetensors"
    own = {
        "format": "sparsilo-bitmask/1",
        "sparsilo.bitmask.part": part,
        "sparsilo.bitmask.shapes": json.dumps(shapes),
    }
    save_file(entries, file, own | metadata)
    return file


def same(found: Tensor, expected: Tensor) -> bool:
    return (found.dtype, found.shape) == (expected.dtype, expected.shape) and torch.equal(
        found.flatten().view(torch.uint8), expected.flatten().view(torch.uint8)
    )


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(list(WIDTH)),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    share=st.sampled_from([0, 0.3, 1]),
    seed=st.integers(0, 999),
)
def test_every_bit_comes_back(
    dtype: torch.dtype, rows: int, columns: int, share: float, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    generator, width = random.Random(seed), WIDTH[dtype]
    choices = [b"\x01"] if dtype == torch.bool else [generator.randbytes(width), bytes(width - 1) + b"\x80"]
    content = b"".join(
        generator.choice(choices) if generator.random() < share else bytes(width) for _ in range(rows * columns)
    )
    tensor = torch.frombuffer(bytearray(content), dtype=dtype).reshape(rows, columns)
    folder = tmp_path_factory.mktemp("container")
    write(folder, "model", {"a": tensor, "b": torch.arange(3.0)})
    container = BitmaskContainer(folder)
    assert same(container["a"], tensor)
    assert same(container["b"], torch.arange(3.0))


def test_only_plus_zero_is_not_kept() -> None:
    """The words of section 3 on the numbers that could be taken for zeros."""
    row = torch.tensor([[0.0, -0.0, 1e-45, float("nan"), 0.0, 2.0, 0.0, 0.0, -1.0]])
    bits, values = packed(row.flatten().view(torch.uint8).numpy().tobytes(), 4)
    assert bits == bytes([0b00101110, 1])
    assert len(values) == 5 * 4


@pytest.mark.parametrize(
    ("elements", "kept", "width", "expected"),
    [
        (16, 16, 2, 32),  # nothing to gain: dense
        (16, 15, 2, 32),  # 2 + 30: as large
        (16, 14, 2, 30),
        (17, 0, 4, 3),
        (1000, 500, 2, 1125),
        (0, 0, 2, 0),
    ],
)
def test_stored_bytes(elements: int, kept: int, width: int, expected: int) -> None:
    assert stored_bytes(elements, kept, width) == expected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A container of two files."""
    generator = torch.Generator().manual_seed(0)
    for index in (1, 2):
        weight = torch.randn(6, 7, generator=generator) * (torch.rand(6, 7, generator=generator) > 0.5)
        tensors = {f"w{index}": weight, f"norm{index}": torch.ones(6)}
        write(tmp_path / "c", f"model-0000{index}-of-00002", tensors, f"{index}/2", origin="x")
    return tmp_path / "c"


def test_it_is_a_mapping(folder: Path) -> None:
    container = BitmaskContainer(folder)
    assert set(container) == {"w1", "w2", "norm1", "norm2"}
    assert len(container) == 4
    assert "w1.values" not in container
    assert container.get("w3") is None
    assert (container.dtype("w1"), container.shape("w1")) == ("F32", (6, 7))
    assert (container.dtype("norm1"), container.shape("norm1")) == ("F32", (6,))
    first, second = container.files
    assert (container.names(first), container.names(second)) == (("norm1", "w1"), ("norm2", "w2"))
    assert container.metadata(first) == {"format": "pt", "origin": "x"}


def test_a_folder_without_a_container_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match=r"no file \*\.bitmask\.safetensors"):
            BitmaskContainer(folder)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"PK\x03\x04 a zip file", None])
def test_a_damaged_file_is_refused(content: bytes | None, folder: Path) -> None:
    file = folder / "model-00002-of-00002.bitmask.safetensors"
    file.write_bytes(file.read_bytes()[:-1] if content is None else content)
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.bitmask\.safetensors: damaged") as refused:
        BitmaskContainer(folder)
    assert refused.value.hint


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "sparsilo-bitmask/2"}])
def test_another_format_is_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "x.bitmask.safetensors", metadata)
    with pytest.raises(ModelError, match=r"x\.bitmask\.safetensors: its format is"):
        BitmaskContainer(tmp_path)


def test_a_missing_and_a_foreign_file_are_refused(folder: Path) -> None:
    file = write(folder, "other", {"x": torch.ones(2)})
    with pytest.raises(ModelError, match=r"3 files .* are parts 1/1, 1/2, 2/2"):
        BitmaskContainer(folder)
    file.unlink()
    (folder / "model-00001-of-00002.bitmask.safetensors").unlink()
    with pytest.raises(ModelError, match=r"1 files .* are parts 2/2"):
        BitmaskContainer(folder)


def test_a_tensor_in_two_files_is_refused(folder: Path) -> None:
    write(folder, "model-00002-of-00002", {"norm1": torch.ones(2)}, "2/2")
    with pytest.raises(ModelError, match=r"model-00002.*: norm1 is in model-00001"):
        BitmaskContainer(folder)


@pytest.mark.parametrize(
    "shapes",
    [
        "",
        "[]",
        "nonsense",
        '{"w": 3}',
        '{"w": ["x"]}',
        '{"w": [-6, -7]}',
        '{"w": [6, 9]}',
        '{"v": [6, 7]}',
        '{"n": [2]}',
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: str, tmp_path: Path) -> None:
    write(tmp_path, "m", {"w": torch.eye(6, 7), "n": torch.ones(2)}, **{"sparsilo.bitmask.shapes": shapes})
    with pytest.raises(ModelError, match=r"m\.bitmask\.safetensors: "):
        BitmaskContainer(tmp_path)


@pytest.mark.parametrize("byte", [0, 5])  # one too many among the 42, and one beyond them
def test_keep_bits_that_do_not_fit_the_values_are_refused(byte: int, tmp_path: Path) -> None:
    file = write(tmp_path, "m", {"w": torch.eye(6, 7)})
    entries = load_file(file)
    entries["w.keep_bits"][byte] |= 1 << 7
    save_file(entries, file, metadata_of(file))
    container = BitmaskContainer(tmp_path)
    with pytest.raises(ModelError, match=r"m\.bitmask\.safetensors: w: keep bits and values do not fit"):
        container["w"]


@pytest.mark.parametrize(("half", "shape"), [("keep_bits", (3, 2)), ("keep_bits", (5,)), ("values", (2, 3))])
def test_halves_of_another_shape_are_refused(half: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    file = write(tmp_path, "m", {"w": torch.eye(6, 7)})
    entries = load_file(file)
    entry = entries[f"w.{half}"]
    entries[f"w.{half}"] = entry[: prod(shape)].reshape(shape).clone()
    save_file(entries, file, metadata_of(file))
    with pytest.raises(ModelError, match=r"m\.bitmask\.safetensors: w: keep bits or values have another shape"):
        BitmaskContainer(tmp_path)


def metadata_of(file: Path) -> Any:
    with safe_open(file, framework="pt") as reader:
        return reader.metadata()


def test_keep_bits_of_another_dtype_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "m", {"w": torch.eye(6, 7)})
    content = file.read_bytes()
    assert content.count(b'"U8"') == 1
    file.write_bytes(content.replace(b'"U8"', b'"I8"'))
    with pytest.raises(ModelError, match="w: keep bits"):
        BitmaskContainer(tmp_path)


# --- load -------------------------------------------------------------------------------------------------------


def container_of(model: Path, folder: Path) -> Path:
    """Every file of a model folder, packed by this module's own words."""
    tensors = {name: tensor for file in model.glob("*.safetensors") for name, tensor in load_file(file).items()}
    write(folder, "model", tensors)
    for file in model.iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("name", "dtype", "changes"),
    [
        ("llama", torch.bfloat16, {}),  # tied embeddings
        ("opt", torch.float32, {}),
        ("qwen2", torch.float16, {}),
        (
            "mixtral",  # one tensor an expert in the files, fused in the model
            torch.float32,
            {"num_local_experts": 3, "num_key_value_heads": 2, "intermediate_size": 40},
        ),
    ],
)
def test_it_loads_as_the_folder_does(name: str, dtype: torch.dtype, changes: dict[str, Any], tmp_path: Path) -> None:
    config = family(name, **changes) if name != "mixtral" else mixtral(changes)
    model = tiny_model(tmp_path / "m", config, dtype=dtype)
    container = container_of(model, tmp_path / "c")
    loaded = load(container)
    expected: Any = AutoModelForCausalLM.from_pretrained(model)
    assert type(loaded) is type(expected)
    assert not loaded.training
    assert loaded.state_dict().keys() == expected.state_dict().keys()
    for key, tensor in expected.state_dict().items():
        assert same(loaded.state_dict()[key], tensor)
    assert loaded.generation_config.to_dict() == expected.generation_config.to_dict()
    ids = torch.arange(8).reshape(1, 8)
    assert torch.equal(loaded(ids).logits, expected(ids).logits)


def mixtral(changes: dict[str, Any]) -> Any:
    from transformers import MixtralConfig

    sizes = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return MixtralConfig(**sizes, **changes, bos_token_id=0, eos_token_id=1)


def test_from_pretrained_finds_no_weights_in_a_container(tmp_path: Path) -> None:
    container = container_of(tiny_model(tmp_path / "m", family("opt")), tmp_path / "c")
    with pytest.raises(OSError, match="no file named model"):
        AutoModelForCausalLM.from_pretrained(container)


def test_a_container_that_is_not_the_whole_model_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "m", family("opt"))
    tensors = load_file(model / "model.safetensors")
    name = "model.decoder.layers.1.fc1.weight"
    full = tensors.pop(name)
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=f"no tensor that fits {name}"):
        load(container_of(model, tmp_path / "c"))
    save_file(tensors | {name: full[:-1].clone()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=f"no tensor that fits {name}"):
        load(container_of(model, tmp_path / "d"))


@pytest.mark.parametrize("content", [None, b"{", b"{}"])
def test_a_container_without_a_usable_config_is_refused(content: bytes | None, tmp_path: Path) -> None:
    container = container_of(tiny_model(tmp_path / "m", family("opt")), tmp_path / "c")
    config = container / "config.json"
    config.unlink() if content is None else config.write_bytes(content)
    with pytest.raises(ModelError, match="no causal language model can be built"):
        load(container)


def test_the_header_that_this_module_writes_is_safetensors_own(folder: Path) -> None:
    """The tests' writer is the library: the reader reads no private dialect of ours."""
    content = (folder / "model-00001-of-00002.bitmask.safetensors").read_bytes()
    [length] = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert header["w1.keep_bits"]["shape"] == [6]
    assert header["w1.values"]["dtype"] == "F32"
