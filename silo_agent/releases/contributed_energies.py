"""The `energies` kind with noise: what each unit of text contributes, and what is made of sums that noise is on.

A unit's energies are divided by those of public text, clipped in length over all inputs of a block, and counted in
whole units, which is their exact sensitivity (docs/privacy.md). The noise itself is added to any release's lanes, by
silo_agent/releases/noise.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crypto.encoding.layout import Chunk
from crypto.errors import CorruptSum
from crypto.plan import Plan, oriented
from crypto.privacy.clipping import contribution
from crypto.privacy.noise_shares import SHARE_BITS, longest_noise, noise_shares
from crypto.releases.energies import clip_radius, energies_section, exponents_of, own_inputs
from silo_agent.pruning.shrinkage import towards_public
from silo_agent.releases.shared_inputs import check_shared
from silo_agent.releases.silo_side import OpenedSum, SiloWork, Solving, next_section
from sparsilo.v1 import plan_pb2

NO_LIMIT: Final = (1 << 64) - 1

Inputs = Sequence[plan_pb2.Tensor]


def contributed(work: SiloWork) -> "ContributedEnergies":
    """Add up what the units of this silo's text contribute, a block at a time."""
    release, clip = ContributedEnergies(work.plan, work.index), work.plan.pruning.clip
    for inputs, units in zip(_by_block(work.plan, work.index), work.energies_of_units(), strict=False):
        exponents = np.concatenate([exponents_of(tensor) for tensor in inputs])
        total = np.zeros(len(exponents), np.int64)
        for energies in units:
            check_shared(work.plan, work.index, energies)
            values = torch.cat([energies[tensor.name] for tensor in inputs]).double().cpu().numpy()
            total += contribution(np.ldexp(values, -exponents), clip_radius(len(values)), clip)
        release.add(inputs, total)
    return release


class ContributedEnergies:
    """The lanes of one round: sums of contributions, which are 0 where no unit has text."""

    def __init__(self, plan: Plan, index: int) -> None:
        sizes = {energies_section(tensor.name): oriented(tensor)[1] for tensor in own_inputs(plan, index)}
        self._lanes = {section: np.zeros(size, np.uint64) for section, size in sizes.items()}

    def add(self, inputs: Inputs, total: NDArray[np.int64]) -> None:
        """Set the lanes of a block's inputs, one after the other."""
        ends = np.cumsum([oriented(tensor)[1] for tensor in inputs])
        for tensor, lanes in zip(inputs, np.split(total.astype(np.uint64), ends[:-1]), strict=True):
            self._lanes[energies_section(tensor.name)] = lanes

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """Return the values of one chunk's lanes."""
        return self._lanes[chunk.section.name][chunk.start : chunk.start + chunk.lanes]


def estimated(opened: OpenedSum, solving: Solving) -> dict[str, Tensor]:
    """Return estimates of the energies of a round's inputs, up to a factor that a block's inputs share.

    They are by the tensor that has a section: float32 [d_in], and lie between what was opened and what public text has,
    the nearer to that the more noise there is. Raises CorruptSum where a block's sums are longer than units and noise
    make them.
    """
    plan, index, chunks = opened.round.plan, opened.round.index, opened.chunks()
    sums = {
        tensor.name: next_section(chunks, energies_section(tensor.name), [oriented(tensor)[1]], np.uint64, NO_LIMIT)
        for tensor in own_inputs(plan, index)
    }
    deviation = opened.survivors**0.5 * 2.0**SHARE_BITS  # each survivor added a share, whoever it is promised against
    energies = {}
    for inputs in _by_block(plan, index):
        _check_possible(opened, inputs[0].block, [sums[tensor.name] for tensor in inputs])
        public = solving.public_energies(inputs[0].block, dense=plan.block(index) is None)
        for tensor in inputs:
            signed = sums[tensor.name].view(np.int64)  # noise makes a sum negative where it is weak
            unit = np.ldexp(1.0, exponents_of(tensor))
            noisy, of_noise = (torch.from_numpy(values * unit) for values in (signed, deviation))
            estimate = towards_public(noisy, of_noise, public[tensor.name].double().cpu())
            energies[tensor.name] = estimate.float()
    return energies


def _check_possible(opened: OpenedSum, block: int, sums: Sequence[NDArray[np.uint64]]) -> None:
    """Raise CorruptSum where the sums of a block's inputs are longer than its survivors' units and noise make them."""
    plan, lanes = opened.round.plan, np.concatenate(sums).view(np.int64).astype(np.float64)
    shares = opened.survivors * noise_shares(plan)  # any of them may add whole noise (2.9.4)
    most = opened.survivors * plan.message.pruning.samples * plan.pruning.clip + longest_noise(len(lanes), shares)
    if (length := float(np.linalg.norm(lanes))) > most:
        raise CorruptSum(f"energies of block {block}: their length is {length:.3g}, above {most:.3g}")


def _by_block(plan: Plan, index: int) -> list[Inputs]:
    """Return the inputs of each block, in the order of the blocks: a plan has block 10 before block 2."""
    inputs = sorted(own_inputs(plan, index), key=lambda tensor: tensor.block)
    return [list(of_block) for _, of_block in groupby(inputs, lambda tensor: tensor.block)]
