"""Where a silo keeps what became of a plan's weights: what it made of them itself, and what all silos together did."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

TOGETHER: Final = "together"
"""The scope of what all silos made of the model, as the opened sums say."""


@dataclass(frozen=True)
class PrunedFiles:
    """The two files of one scope. `weights` exists where the pruner changes the weights that it keeps."""

    keep_masks: Path
    weights: Path

    @property
    def changed(self) -> Path:
        """The file of new weights, or of keep masks where kept weights stay as they are."""
        return self.weights if self.weights.exists() else self.keep_masks


def pruned_files(folder: Path, scope: int | str | None) -> PrunedFiles:
    """Return the files of a block, of all blocks (None), or of `TOGETHER`, in a run's folder."""
    stem = "" if scope is None else f"{scope}."
    return PrunedFiles(folder / f"{stem}keep_mask.safetensors", folder / f"{stem}weights.safetensors")
