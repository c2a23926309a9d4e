"""Tiny randomly initialised models with a tokenizer of their own, and text to calibrate them on."""

import random
import string
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 300

torch.set_num_threads(1)  # models this small only wait for a second thread


def words(characters: int, seed: int) -> str:
    """Deterministic word-like text: common words are short and come often."""
    generator = random.Random(seed)
    lexicon = ["".join(generator.choices(string.ascii_lowercase, k=2 + rank // 20)) for rank in range(120)]
    weights = [1 / (rank + 1) for rank in range(len(lexicon))]
    text = ""
    while len(text) < characters:
        text += " ".join(generator.choices(lexicon, weights, k=generator.randrange(4, 12))).capitalize() + ".\n"
    return text[:characters]


def write_text(path: Path, characters: int, seed: int) -> Path:
    path.write_text(words(characters, seed))
    return path


@cache
def tokenizer() -> Any:
    """A byte-level BPE trained on the spot; it puts `<s>` before every record."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([words(20_000, seed=0)], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=bpe, model_max_length=64, **special)


BLOCKS = {  # where each family keeps its blocks
    "llama": "model.layers",  # grouped-query attention, tied embeddings
    "mistral": "model.layers",  # sliding window
    "qwen2": "model.layers",  # biases
    "qwen3": "model.layers",  # norms of queries and keys
    "gemma2": "model.layers",  # attention masks that alternate by block, scaled embeddings
    "gemma3_text": "model.layers",  # rotary frequencies that alternate too
    "phi3": "model.layers",  # one matrix for queries, keys and values, one for gate and up
    "opt": "model.decoder.layers",  # biases, learned positions
    "gpt2": "transformer.h",  # Conv1D: weights [d_in, d_out]
    "gpt_neox": "gpt_neox.layers",  # attention and MLP side by side
    "falcon": "transformer.h",  # blocks that return tuples
    "mixtral": "model.layers",  # experts
    "qwen3_moe": "model.layers",  # experts
}


STACKED = ("gpt_oss", "granitemoe")
"""Families whose files hold all experts' matrices in one tensor: [d_in, d_out] each, and [d_out, d_in]."""


def family(name: str, **changes: Any) -> Any:
    """The config of a tiny model of one of `BLOCKS` or `STACKED`, with two blocks and context 256."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
    }
    grouped: dict[str, Any] = {"num_key_value_heads": 2, "intermediate_size": 72}
    routed: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
    own: dict[str, dict[str, Any]] = {
        "llama": {**grouped, "tie_word_embeddings": True},
        "mistral": {**grouped, "sliding_window": 8},
        "qwen2": {**grouped, "tie_word_embeddings": False, "vocab_size": VOCABULARY + 1},  # its tokenizer adds one
        "qwen3": {**grouped, "head_dim": 16},
        "gemma2": {**grouped, "head_dim": 8, "sliding_window": 8},
        "gemma3_text": {**grouped, "head_dim": 8, "sliding_window": 8, "layer_types": None},
        "phi3": grouped,
        "opt": {"ffn_dim": 72, "word_embed_proj_dim": 32, "dropout": 0.1},
        "gpt2": {"n_inner": 72},
        "gpt_neox": {"intermediate_size": 72},
        "falcon": {"bias": True},
        "mixtral": {**grouped, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
        "qwen3_moe": {**grouped, **routed, "num_experts": 12, "head_dim": 16},
        "granitemoe": {**grouped, "num_local_experts": 4, "num_experts_per_tok": 2},
        "gpt_oss": {**grouped, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 8},
    }
    return AutoConfig.for_model(name, **(sizes | own[name] | changes))


def tiny_model(
    folder: Path, config: Any, *, seed: int = 0, dtype: torch.dtype = torch.float32, shards: bool = False
) -> Path:
    """Save a model of any family, every parameter random (biases and norms too, so that each of them matters)."""
    make: Any = AutoModelForCausalLM.from_config
    model = make(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(noise if parameter.dim() > 1 else noise + 1)
    model.to(dtype).save_pretrained(folder, max_shard_size="20KB" if shards else "1GB")
    tokenizer().save_pretrained(folder)
    return folder


def in_memory(folder: Path) -> Any:
    """The whole model as transformers loads it, in float32: what references are computed with."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def tiny_llama(
    folder: Path,
    *,
    seed: int = 0,
    blocks: int = 2,
    hidden: int = 32,
    dtype: torch.dtype = torch.float32,
    shards: bool = False,
) -> Path:
    """A Llama with grouped-query attention (4 heads, 2 key-value heads) and tied embeddings."""
    config = family("llama", num_hidden_layers=blocks, hidden_size=hidden, intermediate_size=hidden * 2 + 8)
    return tiny_model(folder, config, seed=seed, dtype=dtype, shards=shards)
