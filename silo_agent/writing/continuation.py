"""How a model goes on from a prompt: what a person looks at to see whether a pruned model still behaves."""

from collections.abc import Callable, Sequence
from typing import Final

import torch

from crypto.errors import ModelError
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.calibration import positions
from silo_agent.writing.streamed_model import streamed_model

TOKENS: Final = 48
"""The longest continuation."""


@torch.no_grad()
def continuations(
    weights: DenseWeights, prompts: Sequence[str], *, device: torch.device, progress: Callable[[int, int], None]
) -> list[str]:
    """Return how the model goes on from each prompt: the likeliest token each time, up to TOKENS or its end of text.

    `progress` is called with (prompts done, prompts). Raises ModelError for a prompt without tokens, or one that
    leaves no positions for a continuation.
    """
    model, tokenizer = streamed_model(weights, device), weights.tokenizer
    most = positions(weights.config)
    texts = []
    for done, prompt in enumerate(prompts):
        progress(done, len(prompts))
        tokens = tokenizer(prompt, verbose=False)["input_ids"]
        if not tokens or (most is not None and len(tokens) + TOKENS > most):
            raise ModelError(
                f"{weights.folder}: prompt {done + 1} has {len(tokens)} tokens", hint="give a prompt of other length"
            )
        ids = torch.tensor([tokens], device=device)
        for _ in range(TOKENS):
            fresh = model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)
            if int(fresh) == tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, fresh], 1)
        texts.append(str(tokenizer.decode(ids[0, len(tokens) :].tolist())))
    progress(len(prompts), len(prompts))
    return texts
