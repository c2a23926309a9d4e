"""How well the model, dense, under keep masks or with new weights, predicts sequences."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from crypto.releases.evaluation import MOST_NATS
from silo_agent.model.activations import BlockWalk
from silo_agent.model.dense_weights import DenseWeights


def negative_log_likelihood(
    weights: DenseWeights, sequences: Tensor | Sequence[Tensor], changed: Mapping[str, Tensor], *, device: torch.device
) -> tuple[float, int]:
    """Return the summed negative log-likelihood in nats, and of how many tokens: all but each sequence's first.

    `sequences` and `changed` are as in `BlockWalk`: keep masks or new weights, read a block at a time; names without
    one stay dense. Perplexity is exp(sum / tokens). Log-probabilities are float32, their sum float64. A token counts
    for at most MOST_NATS, also where the model's output for it is not finite.
    """
    walk = BlockWalk(weights, sequences, device=device)
    for _ in walk:
        walk.advance(changed)
    total, tokens = 0.0, 0
    for ids, logits in walk.logits():
        predicted = logits[:, :-1].flatten(0, 1).float()
        losses = functional.cross_entropy(predicted, ids[:, 1:].flatten(), reduction="none")
        total += losses.nan_to_num(MOST_NATS).clamp(0, MOST_NATS).double().sum().item()
        tokens += len(losses)
    return total, tokens
