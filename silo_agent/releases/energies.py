"""The silo's side of the `energies` kind: how strong each input feature of the prunable tensors is on its text.

By the sum of all silos everybody prunes alike: as one owner of all their text would, up to the fixed point.
"""

import logging
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crypto.encoding.fixed_point import encode_clipped
from crypto.encoding.layout import Chunk, OpenedChunk
from crypto.names import ReleaseKind
from crypto.plan import Plan, oriented
from crypto.pruning.pruners import PRUNERS
from crypto.releases.energies import (
    CLIPPED_SECTION,
    ENERGY_WIDTH,
    energies_section,
    exponents_of,
    has_products,
    most_a_silo,
    own_inputs,
)
from crypto.releases.release_spec import layout_of
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.pruning.expansion import ExpandedTensor
from silo_agent.pruning.prune import as_integers, prune_weight
from silo_agent.releases.contributed_energies import contributed, estimated
from silo_agent.releases.shared_inputs import check_shared
from silo_agent.releases.silo_side import Earlier, OpenedSum, SiloRelease, SiloWork, Solving, next_section
from silo_agent.second_order.public_correlations import with_public_correlations
from sparsilo.v1 import plan_pb2

NO_LIMIT: Final = (1 << 64) - 1

_log = logging.getLogger(__name__)


def prepare(work: SiloWork) -> SiloRelease:
    """Sum up the squares of the inputs of the round's tensors."""
    if work.plan.pruning.clip:
        return contributed(work)
    energies: dict[str, Tensor] = {}
    for of_block in work.statistics("energies"):
        check_shared(work.plan, work.index, of_block)
        energies |= of_block
    return EnergiesRelease(work.plan, work.index, energies)


def expanded(earlier: Earlier, opened: OpenedSum, weights: DenseWeights) -> Iterator[ExpandedTensor]:
    """Yield each tensor as the planned pruner prunes it by the pooled energies."""
    plan, index, energies = earlier.plan, opened.round.index, pooled_energies(opened, earlier.solving)
    updates = PRUNERS[plan.pruning.pruner].updates_weights
    needs_products = updates or plan.pruning.quantise_bits is not None
    for block, inputs in groupby(own_inputs(plan, index), lambda tensor: tensor.block):
        public = earlier.solving.public_grams(block) if needs_products else {}
        for owner in inputs:
            energy = energies[owner.name].to(earlier.solving.device)
            gram = with_public_correlations(energy, public[owner.name]) if needs_products else energy
            yield from pruned_alike(earlier, index, owner, gram if updates else energy, gram, weights)


def pooled_energies(opened: OpenedSum, solving: Solving) -> dict[str, Tensor]:
    """Return the pooled energies of a round's inputs by the tensor that has a section: float32 [d_in]."""
    plan, index, chunks = opened.round.plan, opened.round.index, opened.chunks()
    if plan.pruning.clip:
        return estimated(opened, solving)
    warn_of_clipped(plan, index, chunks)
    return {tensor.name: pooled_energy(plan, tensor, chunks) for tensor in own_inputs(plan, index)}


class EnergiesRelease:
    """The lanes of one round, of float32 [d_in] energies by tensor."""

    def __init__(self, plan: Plan, index: int, energies: Mapping[str, Tensor]) -> None:
        self._lanes: dict[str, NDArray[np.uint64]] = {}
        clipped = []
        for tensor in own_inputs(plan, index):
            self._lanes[energies_section(tensor.name)], too_large = encode_energy(plan, tensor, energies[tensor.name])
            clipped.append(too_large)
        self._lanes[CLIPPED_SECTION] = np.array(clipped, np.uint64)

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """Return the values of one chunk's lanes."""
        return self._lanes[chunk.section.name][chunk.start : chunk.start + chunk.lanes]


def encode_energy(plan: Plan, tensor: plan_pb2.Tensor, energy: Tensor) -> tuple[NDArray[np.uint64], int]:
    """Return the lanes of an input's energies, float32 [d_in], and how many of them were cut to the plan's scale."""
    values = energy.double().cpu().numpy()
    return encode_clipped(values, unit_exponents(plan, tensor), most_a_silo(ENERGY_WIDTH, len(plan.silos)))


def unit_exponents(plan: Plan, tensor: plan_pb2.Tensor) -> NDArray[np.int64]:
    """Return e, one or one a feature, where energies of a tensor's input are whole numbers of 2^e (2.4.11).

    Where the plan has scales of products, a feature's energy is at most the square of its scale, and fills its lane.
    """
    exponents = exponents_of(tensor)
    if has_products(plan, tensor):
        return 2 * exponents - (most_a_silo(ENERGY_WIDTH, len(plan.silos)).bit_length() - 1)
    return exponents


def warn_of_clipped(plan: Plan, index: int, chunks: Iterator[OpenedChunk]) -> None:
    """Read the section that comes first, and warn of each later one of which silos cut values to the plan's scale."""
    _, *statistics = layout_of(plan, index).sections
    clipped: NDArray[np.uint64] = next_section(chunks, CLIPPED_SECTION, [len(statistics)], np.uint64, NO_LIMIT)
    for section, count in zip(statistics, clipped.tolist(), strict=True):
        if count:
            _log.warning("%s: %d of the silos' statistics were cut to the plan's scale", section.name, count)


def pooled_energy(plan: Plan, tensor: plan_pb2.Tensor, chunks: Iterator[OpenedChunk]) -> Tensor:
    """Return the energies that come next, summed over the survivors: float32 [d_in]."""
    sums = next_section(chunks, energies_section(tensor.name), [oriented(tensor)[1]], np.uint64, NO_LIMIT)
    return torch.from_numpy(np.ldexp(sums.astype(np.float64), unit_exponents(plan, tensor))).float()


def pruned_alike(
    earlier: Earlier,
    index: int,
    owner: plan_pb2.Tensor,
    statistic: Tensor,
    gram: Tensor,
    weights: DenseWeights,
    aim: Tensor | None = None,
) -> Iterator[ExpandedTensor]:
    """Yield the tensors that share the input of `owner`, pruned by the pooled `statistic` of it.

    Where the plan quantises, they are then quantised by its Gram matrix `gram`; else nobody looks at that. With an
    `aim`, as `prune_weight` has it, they are to come near that.
    """
    work, sparsity = earlier.plan.pruning, earlier.sparsity(owner.block)
    for tensor in earlier.plan.tensors(index):
        if owner.name in (tensor.name, tensor.shares_input_of):
            pruned = prune_weight(weights, tensor.name, statistic, work.pruner, sparsity, statistic.device, aim)
            if work.quantise_bits is not None:
                pruned = as_integers(pruned, weights, gram, work.quantise_bits)
            expanded_tensor = ExpandedTensor(pruned.name, pruned.keep, pruned.weight, pruned.quantised)
            if pruned.weight is not None:
                kind = ReleaseKind.GRAM if has_products(earlier.plan, owner) else ReleaseKind.ENERGIES
                expanded_tensor = earlier.solving.settled(expanded_tensor, gram, sparsity, kind, aim)
            yield expanded_tensor
