"""Quantised models, loaded by transformers with compressed-tensors' own code and read back byte by byte."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from crypto.errors import BadAudit, ModelError, OutputError
from crypto.names import Bits
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.mapped_tensors import TORCH_DTYPES
from silo_agent.checkpoint.tensor_files import read_tensor_file
from silo_agent.results.quantised_checkpoint import (
    check_quantised_model,
    packed,
    quantisation_config,
    unpacked,
    write_quantised_model,
)
from silo_agent.second_order.gptq import Quantised, round_to_nearest
from support.models import family, tiny_llama, tiny_model
from support.raw_tensors import raw_tensors

TOKENS = torch.arange(40).reshape(2, 20)


def rounded(weights: DenseWeights, bits: Bits) -> Callable[[str], Quantised]:
    """Every weight quantised alone, half of them pruned."""

    def quantised(name: str) -> Quantised:
        weight = weights.tensor(name)
        keep = torch.rand(weight.shape, generator=torch.Generator().manual_seed(len(name))) > 0.5
        return round_to_nearest(weight, bits, keep)

    return quantised


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.eval()(input_ids=TOKENS).logits
    return result


def dequantised(folder: Path, quantised: Callable[[str], Quantised]) -> Any:
    """The dense model with the prunable weights rounded, in plain torch."""
    weights = DenseWeights.open(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    for name in weights.prunable:
        place = weights.place(name)
        parameter = model.get_parameter(place.parameter).data
        (parameter if place.expert is None else parameter.flatten(0, 1)[place.first : place.last]).copy_(
            quantised(name).weight
        )
    return model


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("dtype", "shards"), [(torch.float32, False), (torch.bfloat16, True), (torch.float16, False)])
def test_transformers_computes_what_the_dequantised_weights_do(
    tmp_path: Path, bits: Bits, dtype: torch.dtype, shards: bool
) -> None:
    # inputs of 128, in groups; and of 264 before the way down, where a row has one scale
    dense = tiny_llama(tmp_path / "dense", hidden=128, dtype=dtype, shards=shards)
    weights = DenseWeights.open(dense)
    quantised = rounded(weights, bits)
    write_quantised_model(weights, quantised, bits, tmp_path / "quantised")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "quantised")
    assert {module.weight_packed.dtype for module in model.modules() if hasattr(module, "weight_packed")} == {
        torch.int32
    }
    expected = logits(dequantised(dense, quantised))
    assert torch.equal(logits(model), expected)
    assert not torch.equal(expected, logits(AutoModelForCausalLM.from_pretrained(dense)))
    for name in weights.prunable:  # decompressed by the first use
        assert torch.equal(model.get_parameter(name), quantised(name).weight)


@pytest.mark.parametrize("name", ["opt", "phi3", "gemma2", "qwen2", "mixtral", "qwen3_moe"])
def test_other_families(tmp_path: Path, name: str) -> None:
    dense = tiny_model(tmp_path / "dense", family(name))
    weights = DenseWeights.open(dense)
    write_quantised_model(weights, rounded(weights, 4), 4, tmp_path / "quantised")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "quantised")
    torch.testing.assert_close(logits(model), logits(dequantised(dense, rounded(weights, 4))))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("d_in", [64, 72, 13])
def test_levels_are_packed_as_compressed_tensors_packs_them(bits: Bits, d_in: int) -> None:
    generator = torch.Generator().manual_seed(d_in)
    levels = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (5, d_in), generator=generator, dtype=torch.int8)
    words = packed(levels, bits).view("<i4")
    assert np.array_equal(words, pack_to_int32(levels, bits).numpy())
    for row, of_row in zip(levels.tolist(), words.view("<u4").tolist(), strict=True):
        number = sum(word << 32 * index for index, word in enumerate(of_row))
        assert number == sum((level + 2 ** (bits - 1)) << bits * index for index, level in enumerate(row))
    assert torch.equal(unpacked(torch.from_numpy(words), d_in, bits), levels)


@pytest.mark.parametrize("shards", [False, True])
def test_what_is_not_quantised_stays_as_it_is(tmp_path: Path, shards: bool) -> None:
    dense = tiny_llama(tmp_path / "dense", hidden=128, dtype=torch.bfloat16, shards=shards)
    weights = DenseWeights.open(dense)
    write_quantised_model(weights, rounded(weights, 4), 4, tmp_path / "quantised")
    before, after = (
        {file.name: raw_tensors(file)[1] for file in folder.glob("*.safetensors")}
        for folder in (dense, tmp_path / "quantised")
    )
    assert before.keys() == after.keys()
    written: set[str] = set()
    for file, tensors in before.items():
        for name, entry in tensors.items():
            if name in weights.prunable:
                weight = rounded(weights, 4)(name)
                names = {name + part for part in ("_shape", "_packed", "_scale")}
                d_out, d_in = weight.levels.shape
                assert after[file][f"{name}_shape"] == ("I64", [2], np.array([d_out, d_in], "<i8").tobytes())
                assert after[file][f"{name}_packed"][:2] == ("I32", [d_out, d_in // 8])
                scales = weight.scales.view(torch.int16).numpy().tobytes()
                assert after[file][f"{name}_scale"] == ("BF16", [*weight.scales.shape], scales)
            else:
                names = {name}
                assert after[file][name] == entry
            assert names <= after[file].keys()
            written |= names
    assert written == {name for tensors in after.values() for name in tensors}
    names_of_files = {file.name for file in dense.iterdir()}
    assert {file.name for file in (tmp_path / "quantised").iterdir()} == names_of_files
    for name in names_of_files - before.keys() - {"config.json", "model.safetensors.index.json"}:
        assert (tmp_path / "quantised" / name).read_bytes() == (dense / name).read_bytes()
    if shards:
        index = json.loads((tmp_path / "quantised/model.safetensors.index.json").read_bytes())
        assert index["weight_map"] == {name: file for file, tensors in after.items() for name in tensors}
        contents = (content for tensors in after.values() for _, _, content in tensors.values())
        assert index["metadata"] == {"total_size": sum(map(len, contents))}


def test_the_config_says_how_to_read_it(tmp_path: Path) -> None:
    dense = tiny_model(tmp_path / "dense", family("llama", hidden_size=128, intermediate_size=264))
    weights = DenseWeights.open(dense)
    write_quantised_model(weights, rounded(weights, 8), 8, tmp_path / "quantised")
    config = json.loads((tmp_path / "quantised/config.json").read_bytes())
    weight = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False}
    attention = [rf"re:.*\.self_attn\.{name}_proj$" for name in "kqvo"]
    assert config.pop("quantization_config") == {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": [r"re:.*\.mlp\.down_proj$"],
                "weights": weight | {"strategy": "channel", "group_size": None},
            },
            "group_1": {
                "targets": sorted([*attention, r"re:.*\.mlp\.gate_proj$", r"re:.*\.mlp\.up_proj$"]),
                "weights": weight | {"strategy": "group", "group_size": 128},
            },
        },
        "ignore": ["model.embed_tokens", "lm_head"],
    }
    assert config == json.loads((dense / "config.json").read_bytes())


def test_layers_with_the_same_groups_are_the_linear_ones_and_routers_are_ignored(tmp_path: Path) -> None:
    large = {"hidden_size": 128, "head_dim": 32, "moe_intermediate_size": 256}
    for name, sizes in {"channel": {}, "group": large}.items():
        weights = DenseWeights.open(tiny_model(tmp_path / name, family("qwen3_moe", **sizes)))
        config = quantisation_config(weights, 4)
        [group] = config["config_groups"].values()
        assert (group["targets"], group["weights"]["strategy"]) == (["Linear"], name)
        assert {"lm_head", "model.layers.0.mlp.gate", "model.layers.1.mlp.gate"} <= {*config["ignore"]}
        assert not any("proj" in layer for layer in config["ignore"])


def test_experts_with_other_groups_are_named_by_a_pattern(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path / "dense", family("qwen3_moe", hidden_size=128, head_dim=32)))
    down, others = (group["targets"] for group in quantisation_config(weights, 4)["config_groups"].values())
    assert down == [r"re:.*\.mlp\.experts\.\d+\.down_proj$"]
    assert r"re:.*\.mlp\.experts\.\d+\.gate_proj$" in others and len(others) == 4 + 2


def check(folder: Path, dense: Path, bits: Bits = 4) -> None:
    """Hold a quantised folder against what `rounded` makes of the dense model."""
    weights = DenseWeights.open(dense)
    check_quantised_model(weights, lambda name: rounded(weights, bits)(name).weight, bits, folder, lambda *_: None)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shards", [False, True])
def test_a_published_model_is_what_the_weights_make_however_it_is_divided(
    tmp_path: Path, bits: Bits, shards: bool
) -> None:
    dense = tiny_llama(tmp_path / "dense", dtype=torch.bfloat16, shards=shards)
    divided = tiny_llama(tmp_path / "divided", dtype=torch.bfloat16, shards=not shards)
    weights = DenseWeights.open(divided)
    write_quantised_model(weights, rounded(weights, bits), bits, tmp_path / "quantised")
    check(tmp_path / "quantised", dense, bits)


FIRST = "model.layers.0.mlp.down_proj.weight"
"""Rows of 72, a scale a row: at 4 bits all 9 words of a row are full."""


Alter = Callable[[Path], object]


def altered(name: str, change: Callable[[Tensor], object]) -> Alter:
    """What changes a tensor of a folder where it lies."""

    def alter(folder: Path) -> None:
        stored = read_tensor_file(folder / "model.safetensors").tensors[name]
        content = np.memmap(stored.file, np.uint8, "r+", stored.start, (stored.size,))
        change(torch.from_numpy(content).view(TORCH_DTYPES[stored.dtype]).view(stored.shape))

    return alter


def saved_anew(change: Callable[[dict[str, Tensor]], object]) -> Alter:
    def alter(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return alter


def config(change: Callable[[Any], object]) -> Alter:
    """What changes how config.json says that the weights are quantised."""

    def alter(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_bytes())
        change(content["quantization_config"])
        (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")

    return alter


ALTERATIONS: dict[str, tuple[str, Alter]] = {
    "one level": (f"tensor {FIRST}: is not the weight", altered(f"{FIRST}_packed", lambda it: it[3, 4].add_(1 << 20))),
    "one scale": (f"tensor {FIRST}: is not the weight", altered(f"{FIRST}_scale", lambda it: it[3].mul_(1.01))),
    "one sign": (f"tensor {FIRST}: is not the weight", altered(f"{FIRST}_scale", lambda it: it[3].neg_())),
    "levels of another layout": (
        f"tensor {FIRST}_packed: is I32 .*, not I32",
        saved_anew(lambda tensors: tensors.update({f"{FIRST}_packed": tensors[f"{FIRST}_packed"].reshape(9, 32)})),
    ),
    "a shape": (f"tensor {FIRST}_shape: ", altered(f"{FIRST}_shape", lambda it: it[0].add_(1))),
    "a dense tensor": ("tensor model.norm.weight: ", altered("model.norm.weight", lambda it: it[0].add_(1))),
    "a name": (
        "tensor a: is not there once",
        saved_anew(lambda tensors: tensors.update(a=tensors.pop(f"{FIRST}_scale"))),
    ),
    "one tensor more": (
        "tensor a: is not there once",
        saved_anew(lambda tensors: tensors.update(a=torch.zeros(1))),
    ),
    "the bits": (
        "config.json: ",
        config(lambda it: it["config_groups"]["group_0"]["weights"].update(num_bits=8)),
    ),
    "what is ignored": ("config.json: ", config(lambda it: it["ignore"].append("model.layers.0.mlp.up_proj"))),
    "no config": ("config.json: is missing", lambda folder: (folder / "config.json").unlink()),
    "another file": ("modeling.py: is no file of this model", lambda folder: (folder / "modeling.py").touch()),
    "no folder": (": is missing", lambda folder: folder.rename(folder.with_name("away"))),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_a_published_model_that_was_altered_is_refused(tmp_path: Path, alteration: str) -> None:
    dense, folder = tiny_llama(tmp_path / "dense"), tmp_path / "quantised"
    weights = DenseWeights.open(dense)
    write_quantised_model(weights, rounded(weights, 4), 4, folder)
    said, alter = ALTERATIONS[alteration]
    alter(folder)
    with pytest.raises(BadAudit, match=said):
        check(folder, dense)


def test_bits_that_no_weight_has_are_compared_too(tmp_path: Path) -> None:
    """Rows of 76 levels at 4 bits fill half of their last word: what nobody reads there could say anything."""
    dense, folder = tiny_model(tmp_path / "dense", family("llama", intermediate_size=76)), tmp_path / "quantised"
    weights = DenseWeights.open(dense)
    write_quantised_model(weights, rounded(weights, 4), 4, folder)
    check(folder, dense)
    altered(f"{FIRST}_packed", lambda it: it[0, -1].bitwise_or_(1 << 24))(folder)
    with pytest.raises(BadAudit, match=f"tensor {FIRST}_packed: "):
        check(folder, dense)


def test_experts_in_one_tensor_are_refused(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path / "dense", family("granitemoe")))
    name = "model.layers.0.block_sparse_moe.input_linear.weight"
    assert name in weights.stacks
    with pytest.raises(ModelError, match=f"{name} holds all experts' matrices"):
        write_quantised_model(weights, rounded(weights, 4), 4, tmp_path / "quantised")
    assert [file.name for file in tmp_path.iterdir()] == ["dense"]


def test_weights_that_are_stored_input_first_are_refused(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path / "dense", family("gpt2")))
    with pytest.raises(ModelError, match=r"transformer\.h\.0\.attn\.c_attn\.weight is stored input first"):
        write_quantised_model(weights, rounded(weights, 4), 4, tmp_path / "quantised")
    assert [file.name for file in tmp_path.iterdir()] == ["dense"]


CHANGES: dict[str, Callable[[Quantised], Quantised]] = {
    "int16": lambda weight: weight._replace(levels=weight.levels.short()),
    "float64": lambda weight: weight._replace(scales=weight.scales.double()),
    "a row less": lambda weight: weight._replace(levels=weight.levels[1:]),
    "more groups": lambda weight: weight._replace(scales=weight.scales.repeat(1, 2)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_quantised_weight_of_another_shape_or_type_is_refused(tmp_path: Path, change: str) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path / "dense"))
    with pytest.raises(ValueError, match="the quantised "):
        write_quantised_model(
            weights, lambda name: CHANGES[change](rounded(weights, 4)(name)), 4, tmp_path / "quantised"
        )
    assert [file.name for file in tmp_path.iterdir()] == ["dense"]


def test_a_place_with_something_in_it_is_refused(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path / "dense"))
    with pytest.raises(OutputError, match="dense"):
        write_quantised_model(weights, rounded(weights, 4), 4, tmp_path / "dense")
