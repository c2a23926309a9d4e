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
from transformers import (
    FalconH1Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaPreTrainedModel,
    SiglipVisionConfig,
)
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, Transpose, WeightConverter

from crypto.errors import ModelError
from silo_agent.checkpoint import stored_parameters
from silo_agent.checkpoint.blocks import find_blocks, prunable_parameters
from silo_agent.checkpoint.dense_weights import DenseWeights
from support.models import family, in_memory, tiny_llama, tiny_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("sharded"), shards=True)


def test_blocks_are_the_longest_outermost_list_with_linear_layers() -> None:
    def linear(count: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Linear(2, 2) for _ in range(count))

    model = nn.Module()
    model.short = nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(2))
    model.blocks = nn.ModuleList(nn.ModuleDict({"experts": linear(9), "norm": nn.LayerNorm(2)}) for _ in range(2))
    model.blocks.append(nn.Sequential(nn.Linear(2, 2)))  # of another class
    model.projections = linear(5)
    model.norms = nn.ModuleList(nn.LayerNorm(2) for _ in range(5))
    assert find_blocks(Path(), model) == [(f"blocks.{index}", model.blocks[index]) for index in range(3)]
    names = [name for name, _ in prunable_parameters(model.blocks[0])]
    assert names == [f"experts.{index}.weight" for index in range(9)]


def test_blocks_of_a_part_that_reads_images_do_not_count() -> None:
    changes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    vision = SiglipVisionConfig(**changes, num_hidden_layers=5, image_size=28, patch_size=14)
    config = Gemma3Config(text_config=family("gemma3_text"), vision_config=vision, mm_tokens_per_image=4)
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(config)
    names = [name for name, _ in find_blocks(Path(), model)]
    assert names == [f"model.language_model.layers.{index}" for index in range(2)]


def test_routers_stay_dense_and_gates_where_there_are_experts() -> None:
    layers: dict[str, nn.Module] = {name: nn.Linear(2, 2) for name in ("gate", "gate_proj", "output_gate")}
    block = nn.ModuleDict({**layers, "router": nn.ModuleDict({"classifier": nn.Linear(2, 2)})})
    plain = ["gate.weight", "gate_proj.weight", "output_gate.weight"]
    assert [name for name, _ in prunable_parameters(block)] == plain
    block.update({"experts": nn.ModuleList([nn.Linear(2, 2)]), "shared_expert_gate": nn.Linear(2, 1)})
    routed = ["gate_proj.weight", "output_gate.weight", "experts.0.weight"]
    assert [name for name, _ in prunable_parameters(block)] == routed


def test_only_experts_have_matrices_of_three_dimensions() -> None:
    class Gates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 2, 2))

    class SomeExperts(Gates):
        pass

    block = nn.ModuleDict({"gates": Gates(), "mlp": SomeExperts()})
    assert [name for name, _ in prunable_parameters(block)] == ["mlp.weight"]


def test_convolutions_are_not_experts() -> None:
    block = nn.ModuleDict({"linear": nn.Linear(2, 2), "convolution": nn.Conv1d(2, 2, 3)})
    assert [name for name, _ in prunable_parameters(block)] == ["linear.weight"]


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


def test_computed_buffers_are_those_of_from_pretrained(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 64
    tiny_model(tmp_path, family("llama", rope_parameters=rope))
    buffers = dict(DenseWeights.open(tmp_path).skeleton().named_buffers())
    expected = dict(in_memory(tmp_path).named_buffers())
    assert buffers.keys() == expected.keys() and "model.rotary_emb.inv_freq" in buffers
    assert all(torch.equal(buffers[key], value) for key, value in expected.items())


def test_a_buffer_that_the_whole_model_fills(tmp_path: Path) -> None:
    sizes = {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
    sizes |= {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
    config = family("llama").to_dict() | sizes | {"ssm_multipliers": [0.5, 0.25, 2.0, 3.0, 0.125]}
    names = FalconH1Config().to_dict().keys() - {"model_type", "architectures"}
    tiny_model(tmp_path, FalconH1Config(**{name: config[name] for name in names & config.keys()}))
    buffers = dict(DenseWeights.open(tmp_path).skeleton().named_buffers())
    expected = dict(in_memory(tmp_path).named_buffers())
    name = "model.layers.1.mamba.mup_vector"
    assert len(expected[name].unique()) == 5 and torch.equal(buffers[name], expected[name])


def test_a_buffer_that_nothing_computes(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaPreTrainedModel, "initialize_weights", lambda _: None)
    with pytest.raises(ModelError, match=r"model.rotary_emb.\w*inv_freq is in no file, and transformers does not"):
        DenseWeights.open(llama)


def test_a_parameter_whose_rows_are_in_several_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model(tmp_path / "phi3", family("phi3"))
    expected = {}
    for index in range(2):
        prefix = f"model.layers.{index}.self_attn"
        rows = load_file(folder / "model.safetensors")[f"{prefix}.qkv_proj.weight"].split([32, 16, 16])
        expected |= {f"{prefix}.{name}.weight": part.contiguous() for name, part in zip("qkv", rows, strict=True)}
        tensors(lambda held, prefix=prefix: held.pop(f"{prefix}.qkv_proj.weight"))(folder)
    tensors(lambda held: held.update(expected))(folder)
    sources = [f"self_attn.{name}.weight" for name in "qkv"]
    rule = WeightConverter(sources, "self_attn.qkv_proj.weight", [Concatenate(0)])
    monkeypatch.setattr(stored_parameters, "get_model_conversion_mapping", lambda _: [rule])
    weights = DenseWeights.open(folder)
    assert expected.keys() <= set(weights.prunable)
    block = weights.skeleton().model.layers[1]
    weights.load(block, "model.layers.1", torch.device("cpu"), torch.float32)
    for name in "qkv":
        stored = f"model.layers.1.self_attn.{name}.weight"
        assert torch.equal(weights.loaded(block, "model.layers.1", stored), expected[stored])
    tensors(lambda held: held.pop(stored))(folder)
    with pytest.raises(
        ModelError, match=r"0 tensors self_attn.v.weight for .*qkv_proj.weight, config.json describes one"
    ):
        DenseWeights.open(folder)


def test_blocks_that_share_a_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_llama(tmp_path)
    tensors(lambda held: [held.pop(f"model.layers.1.mlp.{name}_proj.weight") for name in ("gate", "up", "down")])(
        folder
    )
    built = DenseWeights.skeleton

    def sharing(self: DenseWeights) -> nn.Module:
        model: nn.Module = built(self)
        first, second = model.get_submodule("model.layers")
        second.mlp = first.mlp
        return model

    monkeypatch.setattr(DenseWeights, "skeleton", sharing)
    with pytest.raises(ModelError, match=r"layers.0 and model.layers.1 share model.layers.0.mlp.gate_proj.weight"):
        DenseWeights.open(folder)


def test_loading_one_block_leaves_the_others_on_meta(llama: Path) -> None:
    weights = DenseWeights.open(llama)
    skeleton = weights.skeleton()
    weights.load(skeleton.get_submodule("model.layers.1"), "model.layers.1", torch.device("cpu"), torch.float32)
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(skeleton.get_parameter(name), weights.tensor(name))
    assert {key for key, value in skeleton.named_parameters() if not value.is_meta} == {
        key for key in weights.names if key.startswith("model.layers.1.")
    }


def test_what_is_written_to_a_tensor_stays_in_memory(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path))
    before = weights.digest()
    for name in weights.names:
        tensor = weights.tensor(name)
        tensor.zero_()
        assert tensor.count_nonzero() == 0
    assert weights.digest() == before == DenseWeights.open(tmp_path).digest()


def test_a_tensor_that_is_let_go_is_unmapped(llama: Path) -> None:
    def mapped() -> int:
        return sum(str(llama) in line for line in Path("/proc/self/maps").read_text().splitlines())

    weights = DenseWeights.open(llama)
    assert mapped() == 0
    tensors = [weights.tensor(name) for name in weights.names[:3]]
    assert mapped() == 3
    del tensors
    assert mapped() == 0


@pytest.mark.parametrize("value", [torch.zeros(3, 0), torch.tensor(2.5), torch.tensor([True, False])])
def test_tensors_of_every_shape(tmp_path: Path, llama: Path, value: torch.Tensor) -> None:
    shutil.copytree(llama, tmp_path, dirs_exist_ok=True)
    save_file({**load_file(llama / "model.safetensors"), "other": value}, tmp_path / "model.safetensors")
    weights = DenseWeights.open(tmp_path)
    assert torch.equal(weights.tensor("other"), value) and weights.dtype("other") == value.dtype
    assert weights.shape("other") == value.shape and "other" in weights.digest()


def test_a_checkpoint_of_the_base_model_alone(tmp_path: Path) -> None:
    """As the hub's `gpt2` is: no `transformer.` before the names, and causal masks that the model does not have."""
    tiny_model(tmp_path, family("gpt2"))
    expected = in_memory(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in whole.items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    save_file(bare, tmp_path / "model.safetensors", {"format": "pt"})
    weights = DenseWeights.open(tmp_path)
    assert weights.blocks[1].prefix == "transformer.h.1"
    assert weights.blocks[1].prunable == tuple(
        f"h.1.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    )
    skeleton = weights.skeleton()
    weights.load(skeleton, "", torch.device("cpu"), torch.float32)
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        assert torch.equal(skeleton(input_ids=ids).logits, expected(input_ids=ids).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_shards_of_experts(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = tiny_model(tmp_path, family("qwen3_moe", num_experts=11), shards=True, dtype=dtype)
    assert len(list(folder.glob("*.safetensors"))) > 3
    weights = DenseWeights.open(folder)
    skeleton = weights.skeleton()
    block, prefix = skeleton.get_submodule("model.layers.1"), "model.layers.1"
    weights.load(block, prefix, torch.device("cpu"), torch.float32)
    held, inner = in_memory(folder).model.layers[1].mlp.experts, 24
    for expert in range(11):  # in the order of their numbers, not of their names
        for name, rows in (("gate_proj", slice(0, inner)), ("up_proj", slice(inner, 2 * inner))):
            full = f"{prefix}.mlp.experts.{expert}.{name}.weight"
            assert torch.equal(weights.loaded(block, prefix, full), held.gate_up_proj[expert, rows])
            assert weights.place(full).expert == expert
        full = f"{prefix}.mlp.experts.{expert}.down_proj.weight"
        assert torch.equal(weights.loaded(block, prefix, full), held.down_proj[expert])


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
        (
            config(quantization_config={"quant_method": "gptq", "bits": 4}),
            r"config.json: the model is quantised \(gptq\)",
        ),
        (config(quantization_config={"quant_method": "fp8"}), r"config.json: the model is quantised \(fp8\)"),
        (config(quantization_config={"quant_method": "mxfp4"}), r"config.json: the model is quantised \(mxfp4\)"),
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


EXPERTS = "model.layers.0.block_sparse_moe.experts"
W1 = f"{EXPERTS}.2.w1.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.pop(W1), "3 tensors .*w1.weight for model.layers.0.mlp.experts.gate_up_proj, .* 4 experts"),
        (lambda held: held.update({W1: held[W1][1:]}), f"tensor {W1} above .*w3.weight has shape .143, 32.*.144, 32."),
        (lambda held: held.update({W1: held[W1].T.contiguous()}), f"tensor {W1} above .*w3.weight has shape"),
        (lambda held: held.update({W1: held[W1][:, 1:].contiguous()}), f"tensor {W1} above .*w3.weight has shape"),
        (lambda held: held.update({W1: held[W1].to(torch.float8_e5m2)}), f"{W1} is stored as torch.float8"),
    ],
)
def test_refuses_experts(
    tmp_path: Path, mixtral: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(mixtral, folder)
    tensors(change)(folder)
    with pytest.raises(ModelError, match=message) as raised:
        DenseWeights.open(folder)
    assert str(folder) in raised.value.message and raised.value.hint


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("mixtral"), family("mixtral"))


def test_refuses_a_layout_it_does_not_know(mixtral: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mapping(model: nn.Module) -> list[object]:
        transposed = WeightConverter("experts.*.w2.weight", "experts.down_proj", [MergeModulelist(), Transpose(1, 2)])
        return [each for each in get_model_conversion_mapping(model) if "w2" not in str(each)] + [transposed]

    monkeypatch.setattr(stored_parameters, "get_model_conversion_mapping", mapping)
    with pytest.raises(ModelError, match=r"experts.0.w2.weight and .*experts.down_proj are laid out differently"):
        DenseWeights.open(mixtral)


def test_refuses_a_type_it_does_not_know(tmp_path: Path, llama: Path) -> None:
    shutil.copytree(llama, tmp_path, dirs_exist_ok=True)
    save_file({**load_file(llama / "model.safetensors"), "x": torch.ones(2).cfloat()}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors: tensor x is stored as C64"):
        DenseWeights.open(tmp_path)


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
