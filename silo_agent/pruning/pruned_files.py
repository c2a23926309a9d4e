"""Where a silo keeps what it made of a plan's weights itself."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PrunedFiles:
    """The two files of one scope. `weights` exists where the pruner changes the weights that it keeps."""

    keep_masks: Path
    weights: Path

    @property
    def changed(self) -> Path:
        """The file of new weights, or of keep masks where kept weights stay as they are."""
        return self.weights if self.weights.exists() else self.keep_masks


def pruned_files(folder: Path, block: int | None) -> PrunedFiles:
    """Return the files of a block, or of all blocks (None), in a run's folder."""
    stem = "" if block is None else f"{block}."
    return PrunedFiles(folder / f"{stem}keep_mask.safetensors", folder / f"{stem}weights.safetensors")
