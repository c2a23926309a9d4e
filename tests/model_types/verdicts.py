"""What becomes of the types that do not work, and why. Every other type of transformers' mapping must."""

REFUSED: dict[str, str] = {
    "dbrx": "is one matrix for all experts",
    "deepseek_v4": "what .*wo_a.weight and the like are multiplied with cannot be seen",
    "glm_moe_dsa": "its blocks hand on more than hidden states",
    "hrm_text": "gqkv_proj.weight and .* are laid out differently",
    "hy_v4": "its blocks hand on more than hidden states",
    "inkling2_text": "w13_weight and .* are laid out differently",
    "reformer": "its blocks do not run one by one",
    "rwkv": "it changes hidden states between its blocks",
    "xlm": "it changes hidden states between its blocks",
    "zamba": "model.layers.1 and model.layers.3 share model.layers.1.shared_transf",
    "zamba2": "model.layers.1 and model.layers.3 share model.layers.1.shared_transf",
    "zaya": "its blocks hand on more than hidden states",
}
"""What the ModelError says, as a pattern."""

REASONS: dict[str, str] = {
    "dbrx": "its experts' matrices lie one below the other in a matrix",
    "deepseek_v4": "its output projection multiplies each group of heads with rows of its own",
    "glm_moe_dsa": "blocks may attend to the tokens that an earlier block's indexer chose",
    "hrm_text": "files hold queries, keys, values and gate as one matrix that the model cuts up",
    "hy_v4": "blocks may attend to the tokens that an earlier block's indexer chose",
    "inkling2_text": "files and model hold the rows of experts' gates and of their other halves in different orders",
    "reformer": "its blocks are reversible: each takes two streams",
    "rwkv": "it halves the hidden states after every sixth block",
    "xlm": "its attention and its feed-forward layers are lists of their own",
    "zamba": "blocks share one attention layer",
    "zamba2": "blocks share one attention layer",
    "zaya": "a block's router reads what the block before it computed",
}
"""Why, for the page."""

NOT_BUILDABLE: dict[str, str] = {
    "blt": "transformers' own model does not run: its config has no `num_hidden_layers`",
    "emu3": "transformers saves a config of a type that AutoModelForCausalLM does not load",
    "gemma3n": "its vision tower needs the package timm; as `gemma3n_text` it works",
    "gemma4_assistant": "it drafts for another model, and reads that one's keys and values",
    "gemma4_unified_assistant": "it drafts for another model, and reads that one's keys and values",
    "mllama": "transformers saves a config of a type that AutoModelForCausalLM does not load",
    "musicgen": "transformers builds no causal language model from this type's config",
    "musicgen_melody": "transformers builds no causal language model from this type's config",
}
"""Why there is no tiny model to try."""
