"""What a silo's own text is worth for pruning, beside text that the model writes: found out before any release."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import exp
from pathlib import Path

import torch
from torch import Tensor

from crypto.names import Pruner
from crypto.pruning.sparsity import Sparsity
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.pruned_file import PrunedFile
from silo_agent.model.paired_difference import PairedDifference
from silo_agent.model.perplexity import losses_by_sequence
from silo_agent.pruning.prune import prune_blocks, write_pruned
from silo_agent.pruning.pruned_files import pruned_files


@dataclass(frozen=True)
class OwnTextGain:
    """Perplexities on a silo's held-out sequences, and how far the two pruned models are apart there."""

    dense: float
    self_calibrated: float
    """Pruned on text that the model writes: shares nothing, and needs no text."""
    own: float
    """Pruned on the silo's text alone."""
    difference: PairedDifference
    """Own less self-calibrated: below 0 own text helps."""

    @property
    def in_words(self) -> str:
        """What that means for a silo that thinks of federating."""
        told = f"perplexity is {self.difference.in_words} than with text that the model writes"
        match self.difference.verdict:
            case "lower":
                outcome = f"Own text helps: {told}."
            case "higher":
                outcome = f"Own text does not help: {told}."
            case _:
                outcome = f"Whether own text helps cannot be told: {told}."
        return f"{outcome} Only a federation whose result beats both is worth a release."


def own_text_gain(
    weights: DenseWeights,
    written: Tensor,
    own: Tensor,
    held_out: Tensor,
    *,
    pruner: Pruner,
    sparsity: Sparsity,
    device: torch.device,
    progress: Callable[[str, int, int], None],
) -> OwnTextGain:
    """Prune on the model's text `written` and on `own`, and run both and the dense model on `held_out`: int64 [n, L].

    What was pruned lies in a temporary folder meanwhile. `progress` is called with what is done, how much of it, and
    of how much. Raises what `prune_blocks` raises, and OutputError where the folder has no room.
    """

    def losses(pruned: Path | None) -> Tensor:
        changed = {} if pruned is None else PrunedFile(pruned)
        return losses_by_sequence(weights, held_out, changed, device=device) / (held_out.shape[1] - 1)

    by_text = []
    for name, sequences in (("the model's text", written), ("own text", own)):
        with tempfile.TemporaryDirectory() as folder:
            files = pruned_files(Path(folder), None)
            pruned = prune_blocks(
                weights,
                sequences,
                pruner=pruner,
                sparsity=lambda _: sparsity,
                device=device,
                progress=partial(progress, f"pruning blocks on {name}"),
            )
            write_pruned(files.keep_masks, files.weights, pruned)
            by_text.append(losses(files.changed))
    on_written, on_own = by_text
    dense, self_calibrated, alone = (exp(float(nats.mean())) for nats in (losses(None), on_written, on_own))
    return OwnTextGain(dense, self_calibrated, alone, PairedDifference.of((on_own - on_written).tolist()))
