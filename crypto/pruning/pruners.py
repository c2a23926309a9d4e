"""What everybody knows of each pruner, whoever runs it; the algorithms are in silo_agent/pruning/pruners."""

from dataclasses import dataclass
from typing import Final

from crypto.names import ComparisonGroup, Pruner


@dataclass(frozen=True)
class PrunerFacts:
    """What a plan needs to know of one pruner."""

    own_group: ComparisonGroup
    """The group in which its authors compare scores, and every silo does."""
    updates_weights: bool = False
    """Whether it changes the weights that it keeps."""
    reads_text: bool = True


PRUNERS: Final = {
    Pruner.MAGNITUDE: PrunerFacts(ComparisonGroup.LAYER, reads_text=False),
    Pruner.WANDA: PrunerFacts(ComparisonGroup.ROW),
    Pruner.RIA: PrunerFacts(ComparisonGroup.LAYER),  # as its code compares unless told otherwise
    Pruner.SPARSEGPT: PrunerFacts(ComparisonGroup.LAYER, updates_weights=True),  # within each block of 128 columns
    Pruner.ADMM: PrunerFacts(ComparisonGroup.LAYER, updates_weights=True),  # as its code compares unless told otherwise
    Pruner.ALPS: PrunerFacts(ComparisonGroup.LAYER, updates_weights=True),
    Pruner.SWAPS: PrunerFacts(ComparisonGroup.ROW, updates_weights=True),
}

RUINOUS: Final = {
    (ComparisonGroup.ROW, ComparisonGroup.COLUMN): "silos that compare in rows keep few weights of quiet columns, and "
    "an even share of every column deletes those of the strong ones: perplexity in the thousands",
    (ComparisonGroup.LAYER, ComparisonGroup.ROW): "silos that compare in the whole layer keep few weights of quiet "
    "rows: perplexity four times as high",
    (ComparisonGroup.LAYER, ComparisonGroup.COLUMN): "silos that compare in the whole layer keep few weights of quiet "
    "columns: perplexity in the thousands",
}
"""Silos' and aggregator's comparison groups that do not go together (FedPrLLM, arXiv 2505.13547, section 4)."""
