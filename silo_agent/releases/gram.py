"""The silo's side of the `gram` kind: products of every two input features of the prunable tensors, over its text.

The lanes lie in a file: of a large model they are larger than its weights.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crypto.encoding.fixed_point import encode_signed
from crypto.encoding.layout import Chunk, OpenedChunk
from crypto.plan import Plan, oriented
from crypto.releases.energies import CLIPPED_SECTION, energies_section, exponents_of, has_products, own_inputs
from crypto.releases.gram import gram_section, product_bits, triangle
from crypto.releases.release_spec import layout_of
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.pruning.expansion import ExpandedTensor
from silo_agent.releases.energies import (
    encode_energy,
    pooled_energy,
    pruned_alike,
    warn_of_clipped,
)
from silo_agent.releases.shared_inputs import check_shared
from silo_agent.releases.silo_side import Earlier, OpenedSum, SiloWork, Solving, next_section
from silo_agent.second_order.public_correlations import with_public_correlations
from sparsilo.v1 import plan_pb2

LANES_FILE: Final = "gram.lanes"
"""One at a time in a run's folder: each round's takes the place of the one before."""


def prepare(work: SiloWork) -> "GramRelease":
    """Sum up the products of the inputs of the round's tensors, and encode them block by block."""
    release = GramRelease(work.plan, work.index, work.folder / LANES_FILE)
    for of_block in work.statistics("grams"):
        check_shared(work.plan, work.index, of_block)
        release.add(of_block)
    return release


def expanded(earlier: Earlier, opened: OpenedSum, weights: DenseWeights) -> Iterator[ExpandedTensor]:
    """Yield each tensor as the planned pruner prunes it by the pooled Gram matrix; one is in memory at a time.

    Where products of its input were not summed, the matrix is of pooled energies and public correlations.
    """
    plan, index, chunks = earlier.plan, opened.round.index, opened.chunks()
    survivors, silos, device = opened.survivors, len(opened.round.silos), earlier.solving.device
    warn_of_clipped(plan, index, chunks)
    for block, of_block in groupby(own_inputs(plan, index), lambda tensor: tensor.block):
        inputs = list(of_block)
        public = {} if all(has_products(plan, owner) for owner in inputs) else earlier.solving.public_grams(block)
        for owner in inputs:
            if has_products(plan, owner):
                gram = pooled_gram(owner, chunks, survivors, silos).to(device)
            else:
                gram = with_public_correlations(pooled_energy(plan, owner, chunks).to(device), public[owner.name])
            yield from pruned_alike(earlier, index, owner, gram, gram, weights)


def pooled_energies(opened: OpenedSum, solving: Solving) -> dict[str, Tensor]:
    """Return the pooled energies of a round's inputs by the tensor that has a section: float32 [d_in]."""
    del solving  # nothing public has a part in them
    plan, index, chunks = opened.round.plan, opened.round.index, opened.chunks()
    warn_of_clipped(plan, index, chunks)
    survivors, silos = opened.survivors, len(opened.round.silos)

    def energy(owner: plan_pb2.Tensor) -> Tensor:
        if not has_products(plan, owner):
            return pooled_energy(plan, owner, chunks)
        return pooled_gram(owner, chunks, survivors, silos).diagonal().clone()

    return {owner.name: energy(owner) for owner in own_inputs(plan, index)}


class GramRelease:
    """The lanes of one round, in `file`: `add` takes the float32 [d_in, d_in] Gram matrices of its blocks in order.

    Of inputs whose products are not summed it takes the diagonals. A product is taken relative to the public scales of
    its two features, so one lane's width suits all of them.
    """

    def __init__(self, plan: Plan, index: int, file: Path) -> None:
        self._plan, self._inputs, self._bits = plan, own_inputs(plan, index), product_bits(len(plan.silos))
        self._file = file
        self._file.write_bytes(b"")
        self._starts: dict[str, int] = {}
        _, *statistics = layout_of(plan, index).sections
        self._places = {section.name: place for place, section in enumerate(statistics)}
        self._clipped = np.zeros(len(statistics), np.uint64)
        self._energies: dict[str, NDArray[np.uint64]] = {}

    def add(self, grams: Mapping[str, Tensor]) -> None:
        """Encode the matrices of a block's inputs, by the tensor that the plan says has them."""
        for tensor in self._inputs:
            if tensor.name not in grams:
                continue
            if not has_products(self._plan, tensor):
                section, energies = energies_section(tensor.name), grams[tensor.name].diagonal()
                self._energies[section], too_large = encode_energy(self._plan, tensor, energies)
                self._clipped[self._places[section]] = too_large
            else:
                exponents = exponents_of(tensor)
                rows = enumerate(grams[tensor.name].cpu().numpy())
                upper = ((row[at:], exponents[at:] + exponents[at]) for at, row in rows)
                self.write(gram_section(tensor.name), upper)

    def write(self, section: str, rows: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]]) -> None:
        """Encode a section, row by row; each comes with the exponents of two that its values are relative to."""
        with self._file.open("ab") as lanes:
            self._starts[section] = lanes.tell()
            for row, exponents in rows:
                relative = np.ldexp(row.astype(np.float64), -exponents)
                self._clipped[self._places[section]] += np.uint64(np.count_nonzero(np.abs(relative) > 1))
                lanes.write(encode_signed(relative, -self._bits, self._bits).astype(np.uint32).data)

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """Return the values of one chunk's lanes."""
        if chunk.section.name == CLIPPED_SECTION:
            return self._clipped[chunk.start : chunk.start + chunk.lanes]
        if chunk.section.name in self._energies:
            return self._energies[chunk.section.name][chunk.start : chunk.start + chunk.lanes]
        start = self._starts[chunk.section.name] + np.dtype(np.uint32).itemsize * chunk.start
        return np.fromfile(self._file, np.uint32, chunk.lanes, offset=start)


def pooled_gram(tensor: plan_pb2.Tensor, chunks: Iterator[OpenedChunk], survivors: int, silos: int) -> Tensor:
    """Return the Gram matrix that comes next, summed over the survivors: float32 [d_in, d_in]."""
    features, bits, exponents = oriented(tensor)[1], product_bits(silos), exponents_of(tensor)
    section, most = gram_section(tensor.name), survivors << bits + 1
    sums = next_section(chunks, section, [triangle(features)], np.uint32, most)
    gram = np.empty((features, features), np.float32)
    start = 0
    for at in range(features):
        row = sums[start : start + features - at].astype(np.int64) - (survivors << bits)
        gram[at, at:] = np.ldexp(row.astype(np.float64), exponents[at:] + exponents[at] - bits)
        gram[at:, at] = gram[at, at:]
        start += features - at
    return torch.from_numpy(gram)
