"""How well the model, dense, under keep masks or with new weights, predicts sequences."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from crypto.releases.evaluation import MOST_NATS
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.activations import BlockWalk


def losses_by_sequence(
    weights: DenseWeights, sequences: Tensor | Sequence[Tensor], changed: Mapping[str, Tensor], *, device: torch.device
) -> Tensor:
    """Return each sequence's negative log-likelihood, over all its tokens but the first: float64 [n], on the CPU.

    `sequences` and `changed` are as in `BlockWalk`: keep masks or new weights, read a block at a time; names without
    one stay dense. Sequences of one length are in their order, those of the first one's length come first.
    Log-probabilities are float32, in nats, their sum float64. A token counts for at most MOST_NATS, also where the
    model's output for it is not finite.
    """
    walk = BlockWalk(weights, sequences, device=device)
    for _ in walk:
        walk.advance(changed)
    by_batch = []
    for ids, logits in walk.logits():
        predicted = logits[:, :-1].flatten(0, 1).float()
        losses = functional.cross_entropy(predicted, ids[:, 1:].flatten(), reduction="none")
        by_batch.append(losses.nan_to_num(MOST_NATS).clamp(0, MOST_NATS).double().view(len(ids), -1).sum(1).cpu())
    return torch.cat(by_batch)


def negative_log_likelihood(
    weights: DenseWeights, sequences: Tensor | Sequence[Tensor], changed: Mapping[str, Tensor], *, device: torch.device
) -> tuple[float, int]:
    """Return the summed negative log-likelihood in nats, and of how many tokens: all but each sequence's first.

    Perplexity is exp(sum / tokens). All else is as in `losses_by_sequence`.
    """
    losses = losses_by_sequence(weights, sequences, changed, device=device)
    return losses.sum().item(), sum(len(sequence) - 1 for sequence in sequences)
