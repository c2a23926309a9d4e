"""A tiny config of any `model_type`: its own default one, with every size made small by what it is called."""

import re
from typing import Any

from transformers import CONFIG_MAPPING

VOCABULARY = 300
LAYERS = 2

SIZES: tuple[tuple[str, int], ...] = (
    (r"num_hidden_layers|n_layers?|num_layers|(num_)?(en|de)coder_layers|depth|num_blocks", LAYERS),
    (r"num_layers_per_stack", LAYERS),
    (r"hidden_size|.*_hidden_size|d_model|n_embd|embed_dim|emb_dim|embedding_dim|embedding_size|.*_embedding_size", 32),
    (r"hidden_size_per_layer_input|pronunciation_embed_dim|shape_embed_dim|hidden_size_global|word_embed_proj_dim", 32),
    (r"adapter_(in|out)_dim|adapter_input_size|lru_width|output_channels|dim_model_base|ple_embed_dim", 32),
    (r".*expert.*(intermediate|hidden)_size|moe_intermediate_size|shared_intermediate_size", 24),
    (r"(.*_)?intermediate_size(_mlp)?|ffn_dim|.*_ffn_dim|d_ff|dff|dim_ff|d_inner|feed_forward_size", 48),
    (r"ffn_hidden_size", 48),
    (r"(.*_)?attention_heads|(.*_)?n_heads?|(.*_)?num_heads|index_n_heads|linear_num_(value_)?heads|mlp_dim", 4),
    (r"num_key_value_heads|.*_key_value_heads|num_kv_heads|linear_num_key_heads|num_query_groups", 2),
    (r"head_dim|(swa|global|linear|linear_key|linear_value|v|qk_nope|qk_rope|index|attention)_head_dim", 8),
    (r"dim_head|d_head|d_kv|attention_head_size|kv_channels|rotary_dim", 8),
    (r"qk_head_dim|.*_lora_rank|.*_rank|hc_lowrank", 16),
    (r"num_experts|n_routed_experts|num_local_experts|moe_num_experts", 4),
    (r"n_group|topk_group|num_expert_group|n_groups|mamba_n_groups|n_shared_experts|num_shared_experts|o_groups", 1),
    (r"num_experts_per_tok(en)?|moe_topk|moe_k|moe_top_k|zero_expert_num|num_altup_inputs|hc_mult|hc_count", 2),
    (r"vocab_size|.*_vocab_size|vocab_size_per_layer_input", VOCABULARY),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_(source|target)_positions|context_length", 256),
    (r"model_max_length|original_max_position_embeddings", 256),
    (r"sliding_window|sliding_window_size|attention_window_size|local_attention|window_size|block_size|chunk_size", 8),
    (r"mamba_chunk_size|attention_chunk_size", 8),
    (r"mamba_d_state|ssm_state_size|state_size", 8),
    (r"mamba_(d_head|head_dim|headdim)|mamba_(n|num)_heads|n_mamba_heads", 8),
    (r"mamba_d_ssm|attention_hidden_size|mamba_dt_rank|time_step_rank", 64),
    (r"mamba_dt_rank|time_step_rank", 8),
    (r"first_k_dense_replace|num_dense_layers|num_kv_shared_layers", 1),
    (r"index_topk", 8),
)  # fmt: skip
"""A value by a pattern that the whole name must fit; the last that fits counts."""

OWN: dict[str, dict[str, Any]] = {
    "bamba": {"layer_types": "unset", "attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_hidden_layers": 4},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "num_experts_per_tok": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {"is_decoder": True, "attn_layers": ["local", "lsh"], "axial_pos_shape": [16, 16],
                 "axial_pos_embds_dim": [8, 24], "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
              "num_hidden_layers": 4, "attention_head_dim": 16, "num_key_value_heads": 4},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
               "hybrid_layer_ids": [1, 3], "num_hidden_layers": 4, "attention_head_dim": 16,
               "num_key_value_heads": 4, "num_query_groups": 4},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0], "intermediate_size": [48] * 4,
    },
    "gemma4_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
        "per_layer_config": "unset",
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "full_attn_idxs": "unset"},
    "rwkv": {"attention_hidden_size": 32, "num_hidden_layers": 7},
    "dots3_note_text": {"head_dim": 16},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"], "rope_parameters": {
        name: {"rope_type": "default", "rope_theta": 10000.0} for name in ("sliding_attention", "full_attention")}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "flint": {"mlp_only_layers": [0]},
    "llama4_text": {
        "num_hidden_layers": 4, "moe_layers": [1, 3], "no_rope_layers": [1, 1, 1, 0], "layer_types": "unset",
    },
    "zaya": {"num_experts_per_tok": 1},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128, "num_heads": 2, "chunk_size": 8},
    "hrm_text": {"num_hidden_layers": "unset"},
    "qwen4_exp_text": {
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
}  # fmt: skip
"""What the sizes above do not get right, by type, also of a config inside another; "unset" leaves a name out."""
OWN["gemma4_unified_text"] = OWN["gemma4_text"]
OWN["gemma4_text"] = OWN["gemma4_text"] | {
    "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 24,
}  # fmt: skip


def tiny_config(model_type: str) -> Any:
    """Return the config of a tiny model. Raises what transformers raises where there is none."""
    make = CONFIG_MAPPING[model_type]
    return make(**_shrunk(make().to_dict(), OWN.get(model_type, {})))


def _shrunk(config: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    layers = next((config[name] for name in ("num_hidden_layers", "n_layer", "num_layers") if name in config), None)
    layer_lists = {
        name: value for name, value in config.items() if isinstance(value, list) and layers and len(value) == layers
    }
    kept = _layers_of_each_kind(layer_lists, layers or LAYERS)
    small: dict[str, Any] = {}
    for name, value in config.items():
        if name in ("transformers_version", "architectures", "dtype", "torch_dtype"):
            continue
        if isinstance(value, dict) and "model_type" in value:
            small[name] = _shrunk(value, OWN.get(value["model_type"], {}))
        elif name in layer_lists:
            small[name] = [_value(name, value[index]) for index in kept]
        else:
            small[name] = _value(name, value)
            if name in ("num_hidden_layers", "n_layer", "num_layers") and layer_lists:
                small[name] = len(kept)
    if config.get("kv_lora_rank"):  # latent attention: as many keys as queries
        small["num_key_value_heads"] = small["num_attention_heads"]
    if config.get("per_layer_config"):
        small["per_layer_config"] = {
            str(kept.index(int(index))): _shrunk(of, {}) for index, of in config["per_layer_config"].items()
            if int(index) in kept
        }  # fmt: skip
    return {name: value for name, value in (small | own).items() if value != "unset"}


def _layers_of_each_kind(lists: dict[str, list[Any]], layers: int) -> list[int]:
    """Return the indices of the first layers, as many as there are kinds of layers, one of each kind."""
    kinds: dict[str, int] = {}
    for index in range(layers):
        kinds.setdefault(repr([of[index] for of in lists.values()]), index)
    kept = sorted(kinds.values())
    return kept if len(kept) >= LAYERS else [*kept, *(index for index in range(layers) if index not in kept)][:LAYERS]


def _value(name: str, value: Any) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if re.fullmatch(r".*_token_(id|index)", name):
        return min(value, VOCABULARY - 1)
    fitting = [size for pattern, size in SIZES if re.fullmatch(pattern, name)]
    return fitting[-1] if fitting else value
