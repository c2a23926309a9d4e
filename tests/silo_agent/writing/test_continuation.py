"""How a model goes on, against one that is called whole for every token."""

from pathlib import Path

import pytest
import torch

from crypto.errors import ModelError
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.writing.continuation import TOKENS, continuations
from support.models import family, in_memory, tiny_model

CPU = torch.device("cpu")
PROMPTS = ("the first", "a second and longer one")


def told(weights: DenseWeights, *prompts: str) -> list[str]:
    return continuations(weights, prompts, device=CPU, progress=lambda *_: None)


def test_it_takes_the_likeliest_token_each_time(tmp_path: Path) -> None:
    tiny_model(tmp_path, family("llama"))
    weights, model = DenseWeights.open(tmp_path), in_memory(tmp_path)
    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor([weights.tokenizer(prompt)["input_ids"]])
        length = ids.shape[1]
        with torch.no_grad():
            while ids.shape[1] < length + TOKENS and ids[0, -1] != weights.tokenizer.eos_token_id:
                ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
        fresh = ids[0, length:].tolist()
        if fresh[-1] == weights.tokenizer.eos_token_id:
            fresh.pop()
        expected.append(weights.tokenizer.decode(fresh))
    assert told(weights, *PROMPTS) == expected


def test_a_prompt_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    tiny_model(tmp_path, family("llama"))
    weights = DenseWeights.open(tmp_path)
    longest = "a " * weights.config.max_position_embeddings
    with pytest.raises(ModelError, match="prompt 2 has"):
        told(weights, "fine", longest)
