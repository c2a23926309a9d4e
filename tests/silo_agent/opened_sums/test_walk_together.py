"""A walk that waits at a block, and begins anew for one before it."""

from pathlib import Path

import torch

from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.opened_sums.walk_together import WalkTogether
from support.models import tiny_llama


def test_blocks_in_the_order_of_their_names_are_each_themselves(tmp_path: Path) -> None:
    """Of twelve blocks 0, 1, 10, 11, 2 and so on; sequences are read once for each beginning."""
    weights = DenseWeights.open(tiny_llama(tmp_path / "dense", blocks=12))
    text, read = torch.arange(40).view(2, 20), 0

    def sequences() -> torch.Tensor:
        nonlocal read
        read += 1
        return text

    by_name = sorted(range(12), key=lambda block: f"model.layers.{block}.")
    assert by_name[:5] == [0, 1, 10, 11, 2]
    orders = by_name, range(12)
    energies = []
    for order in orders:
        walk = WalkTogether(weights, sequences, torch.device("cpu"))
        energies.append({block: walk.at(block, lambda _: {}).energies() for block in order})
    assert read == 3
    for block in range(12):
        named, numbered = (of[block] for of in energies)
        assert set(named) == set(weights.blocks[block].prunable)
        assert all(torch.equal(named[name], numbered[name]) for name in named)
