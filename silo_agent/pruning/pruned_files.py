"""Where a silo keeps what it made of a plan's weights."""

from dataclasses import dataclass
from pathlib import Path

from crypto.plan import Plan


@dataclass(frozen=True)
class PrunedFiles:
    """The two files of one scope. `weights` exists where the pruner changes the weights that it keeps."""

    keep_masks: Path
    weights: Path


def pruned_files(state: Path, plan: Plan, block: int | None) -> PrunedFiles:
    """Return the files of a block, or of all where it is None, in a state folder."""
    stem = plan.digest.hex() + ("" if block is None else f".{block}")
    return PrunedFiles(state / f"{stem}.keep_mask.safetensors", state / f"{stem}.weights.safetensors")
