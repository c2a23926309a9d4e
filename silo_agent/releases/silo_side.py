"""The silo's side of a release kind: what it prepares, its lanes, and what the opened sum becomes.

A kind's side is the module of this folder that is named as the kind; what everybody knows of it is in crypto/releases.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crypto.encoding.layout import Chunk, OpenedChunk
from crypto.errors import CorruptSum
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.pruning.sparsity import Sparsity
from crypto.releases.planned_rounds import only_allocates
from crypto.releases.release_spec import spec_of
from crypto.secagg.round import Round
from crypto.secagg.session import Entropy
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.pruning.expansion import ExpandedTensor
from silo_agent.pruning.pruned_files import PrunedFiles
from silo_agent.pruning.pruners import Statistic


class SiloRelease(Protocol):
    """What a silo releases in one round."""

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """Return the values of one chunk's lanes, shape (chunk.lanes,)."""


class OpenedSum(Protocol):
    """An opened round, as silo_agent/opened_sums/opened_sum has it."""

    @property
    def round(self) -> Round:
        """The round that opened it."""

    @property
    def survivors(self) -> int:
        """How many silos it is over."""

    def chunks(self) -> Iterator[OpenedChunk]:
        """Yield each chunk with its summed lanes, in order."""

    def small_sections(self) -> dict[str, NDArray[np.uint64]]:
        """Return all lanes by section."""


class Solving(Protocol):
    """What everybody prunes by the opened sums with, as silo_agent/opened_sums/together has it."""

    @property
    def device(self) -> torch.device:
        """Where weights are solved for."""

    def public_grams(self, block: int) -> Mapping[str, Tensor]:
        """Return X^T X of a block's inputs on text that the model writes, by prunable: float32 [d_in, d_in]."""

    def public_energies(self, block: int, *, dense: bool) -> Mapping[str, Tensor]:
        """Return the energies of a block's inputs on text that the model writes, by prunable: float32 [d_in].

        `dense`: of the dense model, and not of what was made of the blocks before together.
        """

    def outliers(self, dense: "OpenedSum") -> Sequence[int]:
        """Return by block how many weights stand out by the pooled statistics `dense`, of the dense model (2.8.1)."""

    def settled(
        self,
        solved: ExpandedTensor,
        gram: Tensor,
        sparsity: Sparsity,
        kind: ReleaseKind,
        aim: Tensor | None = None,
    ) -> ExpandedTensor:
        """Return what becomes of a tensor that was solved for with `gram`, float32 [d_in, d_in], which is pooled, or
        (`kind` energies) of pooled energies and public correlations.

        It was to come near `aim`, float32 [d_out, d_in], or else the dense weight.
        """


class Earlier(Protocol):
    """What follows from the rounds before in the same plan, as silo_agent/opened_sums/opened_rounds has it."""

    @property
    def plan(self) -> Plan:
        """The plan of all these rounds."""

    def sparsity(self, block: int) -> Sparsity:
        """Return what mask expansion zeroes in a block."""

    def exponents(self, block: int | None) -> dict[str, int]:
        """Return the fixed point of a scope's differences, by tensor."""

    @property
    def solving(self) -> Solving:
        """What weights are pruned by opened sums with."""


@dataclass(frozen=True)
class SiloWork:
    """What an agent lends a kind for one round."""

    plan: Plan
    index: int
    earlier: Earlier
    weights: DenseWeights
    device: torch.device
    sequences: Callable[[int], tuple[Tensor, Tensor]]
    """From how many sequences to hold out, to the calibration sequences and those: int64 [n, L]."""
    pruned: Callable[[], PrunedFiles]
    """Prunes the scope of the round where that was not done yet."""
    self_calibrated: Callable[[], PrunedFiles]
    """Prunes the whole model on text that it writes itself, where that was not done yet."""
    statistics: Callable[[Statistic], Iterator[Mapping[str, Tensor]]]
    """Sums up the inputs of the round's prunables over the calibration sequences, block by block, by name."""
    energies_of_units: Callable[[], Iterator[Iterator[Mapping[str, Tensor]]]]
    """By block of the round's scope and by unit of text, what the statistic "energies" is of that unit alone."""
    dense_target: Callable[[str], tuple[Tensor, Tensor]]
    """From the last layer of the round's block to what `BlockWalk.dense_target` has of it, the others as pruned."""
    folder: Path
    """Where files of the round may lie while it lasts."""
    together: Callable[[], Mapping[str, Tensor]]
    """Derives what the silos made of the model together, from the opened sums, where that was not done yet."""
    candidate: Callable[[bytes], Mapping[str, Tensor]]
    """From the SHA-256 of a file to its keep masks by parameter name, fetched and checked."""
    entropy: Entropy
    progress: Callable[[str, int, int], None]

    @property
    def block(self) -> int | None:
        """The block that the round is about; None: all of them."""
        return self.plan.block(self.index)


class SiloSide(Protocol):
    """What every kind has."""

    def prepare(self, work: SiloWork) -> SiloRelease:
        """Compute what the silo releases."""


class PruningSide(SiloSide, Protocol):
    """What a kind that prunes has besides."""

    def expanded(self, earlier: Earlier, opened: OpenedSum, weights: DenseWeights) -> Iterator[ExpandedTensor]:
        """Yield what an opened round made of each of its tensors. Raises CorruptSum where sums cannot be true."""


class PoolingSide(PruningSide, Protocol):
    """What a kind that pools statistics has besides."""

    def pooled_energies(self, opened: OpenedSum, solving: Solving) -> Mapping[str, Tensor]:
        """Return the pooled energies of a round's inputs by the tensor that has a section: float32 [d_in]."""


def silo_side(kind: ReleaseKind) -> SiloSide:
    """Return a kind's module."""
    module: Any = import_module(f"silo_agent.releases.{kind}")
    side: SiloSide = module
    return side


def expanded_tensors(earlier: Earlier, opened: OpenedSum, weights: DenseWeights) -> Iterator[ExpandedTensor]:
    """Yield what an opened round made of the model's tensors: nothing, where it does not prune."""
    plan, index = opened.round.plan, opened.round.index
    if spec_of(plan, index).prunes and not only_allocates(plan, index):
        side: Any = silo_side(plan.release_kind(index))
        pruning: PruningSide = side
        yield from pruning.expanded(earlier, opened, weights)


def pooled_energies(opened: OpenedSum, solving: Solving) -> Mapping[str, Tensor]:
    """Return the pooled energies of a round of a kind that pools, by the tensor that has a section: float32 [d_in]."""
    side: Any = silo_side(opened.round.plan.release_kind(opened.round.index))
    pooling: PoolingSide = side
    return pooling.pooled_energies(opened, solving)


def next_section(
    chunks: Iterator[OpenedChunk], section: str, shape: Sequence[int], dtype: type[np.unsignedinteger], most: int
) -> NDArray[Any]:
    """Return all lanes of the section that comes next, in `shape`. Raises CorruptSum where one is above `most`."""
    values = np.empty(int(np.prod(shape)), dtype)
    filled = 0
    while filled < len(values):
        chunk, opened = next(chunks)
        if chunk.section.name != section:
            raise RuntimeError(f"section {chunk.section.name} where {section} is due")
        if opened.max() > most:
            raise CorruptSum(f"section {section}: a sum is {opened.max()}, above {most}")
        values[chunk.start : chunk.start + chunk.lanes] = opened
        filled += chunk.lanes
    return values.reshape(tuple(shape))
