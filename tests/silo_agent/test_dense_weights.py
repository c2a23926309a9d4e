"""The model folder: what it finds is what transformers loads, and everything wrong with it is named."""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from crypto.errors import ModelError
from models import BLOCKS, family, in_memory, tiny_llama, tiny_model
from silo_agent.dense_weights import Block, DenseWeights, _find_blocks


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("sharded"), shards=True)


@pytest.mark.parametrize("name", BLOCKS)
def test_finds_every_linear_of_every_block_in_module_order(tmp_path: Path, name: str) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path, family(name, num_hidden_layers=3)))
    model = in_memory(tmp_path)
    linear = [key for key, module in model.named_modules() if isinstance(module, nn.Linear) and key != "lm_head"]
    assert list(weights.prunable) == [f"{key}.weight" for key in linear]
    assert [block.prefix for block in weights.blocks] == [f"{BLOCKS[name]}.{index}" for index in range(3)]
    assert [block.index for block in weights.blocks] == [0, 1, 2]
    assert all(key.startswith(f"{block.prefix}.") for block in weights.blocks for key in block.prunable)


def test_blocks_are_the_longest_outermost_list_of_one_class() -> None:
    def linear(count: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Linear(2, 2) for _ in range(count))

    model = nn.Module()
    model.short = linear(2)
    model.blocks = nn.ModuleList(nn.ModuleDict({"experts": linear(9), "norm": nn.LayerNorm(2)}) for _ in range(3))
    model.mixed = nn.ModuleList([*linear(4), nn.Sequential(nn.Linear(2, 2))])
    model.norms = nn.ModuleList(nn.LayerNorm(2) for _ in range(5))
    assert list(_find_blocks(Path(), model)) == [
        Block(i, f"blocks.{i}", tuple(f"blocks.{i}.experts.{j}.weight" for j in range(9))) for i in range(3)
    ]


def test_shards_hold_the_same_model(llama: Path, sharded: Path) -> None:
    one, many = DenseWeights.open(llama), DenseWeights.open(sharded)
    assert one.files == (llama / "model.safetensors",)
    assert len(many.files) > 2 and list(many.files) == sorted(sharded.glob("*.safetensors"))
    assert one.names == many.names == tuple(sorted(load_file(llama / "model.safetensors")))
    assert all(torch.equal(one.tensor(name), many.tensor(name)) for name in one.names)
    assert one.digest() == many.digest()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_digest_hashes_what_its_docstring_says(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path, dtype=dtype))
    content = (tmp_path / "model.safetensors").read_bytes()  # parsed by hand: header length, header, data
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    assert weights.digest().keys() == header.keys()
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        written = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}[entry["dtype"]]
        shape = struct.pack(f"<{len(entry['shape']) + 1}Q", len(entry["shape"]), *entry["shape"])
        expected = hashlib.sha256(f"{name}\0{written}\0".encode() + shape + content[start:end]).digest()
        assert weights.digest()[name] == expected


def test_shape_and_dtype(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path, hidden=48, dtype=torch.bfloat16))
    assert weights.shape("model.layers.1.self_attn.k_proj.weight") == (24, 48)
    assert weights.dtype("model.layers.1.self_attn.k_proj.weight") == weights.config.dtype == torch.bfloat16


@pytest.mark.parametrize("name", BLOCKS)
def test_a_loaded_skeleton_is_the_model(tmp_path: Path, name: str) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path, family(name), dtype=torch.bfloat16))
    model = in_memory(tmp_path)
    skeleton = weights.skeleton()
    assert all(parameter.is_meta for parameter in skeleton.parameters()) and not skeleton.training
    weights.load(skeleton, "", torch.device("cpu"), torch.float32)
    loaded, expected = dict(skeleton.named_parameters()), dict(model.named_parameters())
    assert loaded.keys() >= expected.keys()
    assert all(
        torch.equal(loaded[key], value) and loaded[key].dtype == torch.float32 for key, value in expected.items()
    )
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        assert torch.equal(skeleton(input_ids=ids).logits, model(input_ids=ids).logits)
    weights.release(skeleton)
    assert all(parameter.is_meta for parameter in skeleton.parameters())


def test_computed_buffers_are_those_of_from_pretrained(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 64
    tiny_model(tmp_path, family("llama", rope_parameters=rope))
    buffers = dict(DenseWeights.open(tmp_path).skeleton().named_buffers())
    expected = dict(in_memory(tmp_path).named_buffers())
    assert buffers.keys() == expected.keys() and "model.rotary_emb.inv_freq" in buffers
    assert all(torch.equal(buffers[key], value) for key, value in expected.items())


def test_loading_one_block_leaves_the_others_on_meta(llama: Path) -> None:
    weights = DenseWeights.open(llama)
    skeleton = weights.skeleton()
    weights.load(skeleton.get_submodule("model.layers.1"), "model.layers.1", torch.device("cpu"), torch.float32)
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(skeleton.get_parameter(name), weights.tensor(name))
    assert {key for key, value in skeleton.named_parameters() if not value.is_meta} == {
        key for key in weights.names if key.startswith("model.layers.1.")
    }


def test_reads_the_tokenizer(llama: Path) -> None:
    assert DenseWeights.open(llama).tokenizer("a")["input_ids"][0] == 0


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere: no such folder"):
        DenseWeights.open(tmp_path / "nowhere")


def config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def cut(name: str, size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        held = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
        change(held)
        save_file(held, folder / "model.safetensors")

    return rewrite


def only_bin(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("config.json"), "config.json: no such file"),
        (write("config.json", b"{nope"), "config.json: not readable as JSON"),
        (write("config.json", b"\xff"), "config.json: not readable as JSON"),
        (write("config.json", b"[]"), "config.json: not a JSON object"),
        (config(model_type="nope"), "config.json: ValueError"),
        (config(model_type="nope", auto_map={"AutoConfig": "x.Y"}), "config.json: ValueError"),
        (config(hidden_size="wide"), "config.json: .*hidden_size"),
        (config(num_attention_heads=0), "config.json: "),
        (config(hidden_act="zzz"), "config.json: no causal language model can be built: .*zzz"),
        (config(architectures=["BertForMaskedLM"]), "config.json: architectures .'BertForMaskedLM'. is not a causal"),
        (config(architectures=None), "config.json: architectures .. is not a causal"),
        (config(model_type="t5"), "config.json: no causal language model can be built"),
        (config(quantization_config={"quant_method": "gptq", "bits": 4}), "config.json: the model is quantised"),
        (config(num_hidden_layers=0), "no decoder blocks"),
        (config(num_hidden_layers=3), "tensor model.layers.2.[a-z_.]*weight is missing"),
        (config(intermediate_size=80), r"tensor model.layers.0.mlp.gate_proj.weight has shape \[72, 32\].* \[80, 32\]"),
        (remove("model.safetensors"), "no model.safetensors"),
        (only_bin, "only PyTorch .bin files"),
        (cut("model.safetensors", 5000), "model.safetensors: damaged"),
        (cut("model.safetensors", -1), "model.safetensors: damaged"),
        (cut("model.safetensors", 0), "model.safetensors: damaged"),
        (write("model.safetensors", b"x" * 100), "model.safetensors: damaged"),
        (tensors(lambda held: held.pop(UP)), f"tensor {UP} is missing"),
        (tensors(lambda held: held.update({UP: held[UP].T.contiguous()})), f"tensor {UP} has shape .32, 72."),
        (tensors(lambda held: held.update({NORM: torch.ones(33)})), f"tensor {NORM} has shape .33."),
        (tensors(lambda held: held.update({UP: held[UP].to(torch.float8_e4m3fn)})), f"{UP} is stored as torch.float8"),
        (tensors(lambda held: held.update({UP: held[UP].to(torch.int8)})), f"{UP} is stored as torch.int8"),
    ],
)
def test_refuses(tmp_path: Path, llama: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    damage(folder)
    with pytest.raises(ModelError, match=message) as raised:
        DenseWeights.open(folder)
    assert str(folder) in raised.value.message and raised.value.hint and "\n" not in str(raised.value)


def index(**changes: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "model.safetensors.index.json"
        content = json.loads(file.read_text())
        content["weight_map"] |= changes
        file.write_text(json.dumps(content))

    return change


FIRST = "model-00001-of-00006.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove(FIRST), f"{FIRST}: no such file, but"),
        (cut(FIRST, 3000), f"{FIRST}: damaged"),
        (write("model.safetensors.index.json", b"{"), "index.json: not readable as JSON"),
        (write("model.safetensors.index.json", b"{}"), "index.json: no weight_map"),
        (index(extra=FIRST), f"{FIRST}: tensor extra is missing"),
        (index(extra="../model.safetensors"), "index.json: ../model.safetensors is not a file of this folder"),
    ],
)
def test_refuses_shards(tmp_path: Path, sharded: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sharded, folder)
    damage(folder)
    with pytest.raises(ModelError, match=message) as raised:
        DenseWeights.open(folder)
    assert str(folder) in raised.value.message and raised.value.hint


@pytest.mark.parametrize("damage", [remove("tokenizer.json"), write("tokenizer.json", b"{nope")])
def test_refuses_a_missing_or_broken_tokenizer(tmp_path: Path, llama: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    damage(folder)
    weights = DenseWeights.open(folder)
    with pytest.raises(ModelError, match="model: no usable tokenizer"):
        _ = weights.tokenizer


@pytest.mark.parametrize("rows", [299, 300])
def test_the_tokenizer_must_fit_the_embedding(tmp_path: Path, rows: int) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path, family("llama", vocab_size=rows)))
    if rows == 300:
        assert len(weights.tokenizer) == 300
    else:
        with pytest.raises(ModelError, match="the tokenizer has 300 tokens, the embedding 299 rows"):
            _ = weights.tokenizer
