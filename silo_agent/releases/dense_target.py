"""The silo's side of the `dense_target` kind: what a block's last layer should write for its hidden states to be dense.

The lanes lie in the file that those of `gram` lie in.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crypto.encoding.layout import OpenedChunk
from crypto.plan import oriented
from crypto.releases.dense_target import target_section
from crypto.releases.energies import exponents_of, own_inputs
from crypto.releases.gram import product_bits
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.pruning.aimed_weight import aimed
from silo_agent.pruning.expansion import ExpandedTensor
from silo_agent.releases.energies import pruned_alike, warn_of_clipped
from silo_agent.releases.gram import LANES_FILE, GramRelease, pooled_gram
from silo_agent.releases.silo_side import Earlier, OpenedSum, SiloWork, next_section
from sparsilo.v1 import plan_pb2


def prepare(work: SiloWork) -> "DenseTargetRelease":
    """Sum up the products of the last layer's inputs with one another and with what is missing, and encode them."""
    release = DenseTargetRelease(work.plan, work.index, work.folder / LANES_FILE)
    for tensor in own_inputs(work.plan, work.index):
        gram, target = work.dense_target(tensor.name)
        release.add({tensor.name: gram})
        release.add_target(tensor, target)
    return release


def expanded(earlier: Earlier, opened: OpenedSum, weights: DenseWeights) -> Iterator[ExpandedTensor]:
    """Yield the last layer as the planned pruner prunes it, aiming at the pooled target."""
    plan, index, chunks, device = earlier.plan, opened.round.index, opened.chunks(), earlier.solving.device
    warn_of_clipped(plan, index, chunks)
    for owner in own_inputs(plan, index):
        sums = chunks, opened.survivors, len(opened.round.silos)
        gram, target = (pooled(owner, *sums).to(device) for pooled in (pooled_gram, pooled_target))
        stored = weights.tensor(owner.name).to(device)
        aim = aimed(stored.T if owner.input_first else stored, gram, target)
        yield from pruned_alike(earlier, index, owner, gram, gram, weights, aim)


class DenseTargetRelease(GramRelease):
    """The lanes of one round: `add` is followed by `add_target` of the same tensor."""

    def add_target(self, tensor: plan_pb2.Tensor, target: Tensor) -> None:
        """Encode a target, float32 [d_out, d_in], each entry relative to the scales of its output and its input."""
        scales = exponents_of(tensor) + output_exponents(tensor)[:, None]
        self.write(target_section(tensor.name), zip(target.cpu().numpy(), scales, strict=True))


def output_exponents(tensor: plan_pb2.Tensor) -> NDArray[np.int64]:
    """Return the exponents of two that the plan has of a tensor's outputs."""
    return np.frombuffer(tensor.output_exponents, np.int8).astype(np.int64)


def pooled_target(tensor: plan_pb2.Tensor, chunks: Iterator[OpenedChunk], survivors: int, silos: int) -> Tensor:
    """Return the target that comes next, summed over the survivors: float32 [d_out, d_in]."""
    bits, shape = product_bits(silos), oriented(tensor)
    sums = next_section(chunks, target_section(tensor.name), shape, np.uint32, survivors << bits + 1)
    target = np.empty(shape, np.float32)
    for row, lanes, exponent in zip(target, sums, output_exponents(tensor), strict=True):
        centred = (lanes.astype(np.int64) - (survivors << bits)).astype(np.float64)
        row[:] = np.ldexp(centred, exponents_of(tensor) + exponent - bits)
    return torch.from_numpy(target)
