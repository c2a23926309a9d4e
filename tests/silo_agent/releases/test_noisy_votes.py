"""Keep masks with noise: the lanes of a silo, and what is made of the sums."""

from collections.abc import Mapping
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from crypto.encoding.layout import Chunk, Section, open_chunk, pack_chunk
from crypto.errors import CorruptSum, PlanError
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.privacy.noise_shares import DEVIATIONS, VOTE_BITS, noise_shares, reach
from crypto.pruning.sparsity import Sparsity
from crypto.releases.release_spec import layout_of
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.pruning.expansion import ExpandedTensor
from silo_agent.pruning.mask_expansion import expand
from silo_agent.pruning.prune import write_keep_masks
from silo_agent.pruning.relative_importance import relative_importance
from silo_agent.releases import votes
from silo_agent.releases.noise import Noise, NoisyVotes
from silo_agent.releases.votes import VotesRelease
from support.opened import opened, planned, released

SHAPE, SILOS = (40, 30), 5
TENSORS = {"blocks.0.weight": (0, SHAPE, False), "blocks.1.weight": (1, SHAPE[::-1], True)}
PROMISE = {"epsilon": 1e5, "delta": 1e-6}


def noisy_plan(units: int, silos: int = SILOS) -> Plan:
    return planned(TENSORS, silos=silos, chunk_words=7, vote_units=units, comparison_group="layer", **PROMISE)


def keep_masks(seed: int) -> dict[str, Tensor]:
    """Of every row of each tensor half, most often the large weights."""
    random = torch.Generator().manual_seed(seed)
    masks = {}
    for name, (_, shape, turned) in TENSORS.items():
        score = dense(name).T.abs() if turned else dense(name).abs()
        score = score * torch.exp(0.5 * torch.randn(SHAPE[1], generator=random))
        keep = torch.zeros(SHAPE, dtype=torch.bool).scatter_(1, score.topk(SHAPE[1] // 2).indices, value=True)
        masks[name] = keep.T.contiguous() if turned else keep
        assert masks[name].shape == shape
    return masks


def dense(name: str) -> Tensor:
    return torch.randn(TENSORS[name][1], generator=torch.Generator().manual_seed(len(name)))


class Weights(DenseWeights):
    def __init__(self) -> None:
        """It has no files."""

    def tensor(self, name: str) -> Tensor:
        return dense(name)


def noise(seed: int, shares: int = 1) -> Noise:
    return Noise(bytes([seed]) * 32, bytes(32), shares)


def of_silo(plan: Plan, seed: int, folder: Path) -> VotesRelease:
    file = folder / f"{seed}.safetensors"
    write_keep_masks(file, keep_masks(seed).items())
    return VotesRelease(plan, 0, file)


def summed(plan: Plan, folder: Path, silos: int = SILOS) -> dict[str, list[int]]:
    lanes = [released(NoisyVotes(of_silo(plan, at, folder), noise(at), plan), plan) for at in range(silos)]
    return {name: [sum(column) for column in zip(*(of[name] for of in lanes), strict=True)] for name in lanes[0]}


def made(plan: Plan, sums: Mapping[str, list[int]], folder: Path) -> list[ExpandedTensor]:
    start, weights = Start(plan), Weights()
    return list(votes.expanded(start, opened(start.round, sums, SILOS, folder), weights))


@pytest.mark.clause("2.4.3", "2.9.8")
def test_a_lane_is_a_vote_in_units_with_noise_around_the_reach(tmp_path: Path) -> None:
    plan = noisy_plan(units=100)
    exact = of_silo(planned(TENSORS, silos=SILOS, comparison_group="layer"), 0, tmp_path)
    lanes = released(NoisyVotes(exact, noise(7), plan), plan)
    assert list(lanes) == [f"votes {name}" for name in TENSORS], "nonzero counts would have no noise"
    values = np.concatenate([np.array(of) for of in lanes.values()])
    kept = np.concatenate([keep_masks(0)[name].numpy().reshape(-1) for name in TENSORS])
    of_noise = values - 100 * kept - reach(plan)
    assert values.min() >= 0
    assert abs(of_noise.mean()) < 5 * 16 / sqrt(len(values))
    assert of_noise.std() == pytest.approx(16, rel=0.1)


@pytest.mark.clause("2.9.4")
def test_a_silo_that_counts_on_nobody_adds_all_shares_to_a_count(tmp_path: Path) -> None:
    plan = noisy_plan(units=1)
    lanes = released(NoisyVotes(of_silo(plan, 0, tmp_path), noise(3, noise_shares(plan)), plan), plan)
    values = np.concatenate([np.array(of) for of in lanes.values()])
    assert values.std() == pytest.approx(16 * sqrt(noise_shares(plan)), rel=0.1)


@pytest.mark.clause("2.9.8")
@pytest.mark.parametrize("silos", [3, 7, 200])
def test_no_lane_ever_carries_into_the_next(silos: int) -> None:
    """Not with the largest noise of all silos, nor with the smallest."""
    plan = noisy_plan(units=37, silos=silos)

    class Extreme:
        def __init__(self, values: NDArray[np.bool_]) -> None:
            self._values = values

        def lanes(self, chunk: Chunk) -> NDArray[np.bool_]:
            return self._values[: chunk.lanes]

    class Furthest(Noise):
        def of(self, chunk: Chunk, bits: int) -> NDArray[np.int64]:
            assert bits == VOTE_BITS
            return np.where(np.arange(chunk.lanes) % 2, 1, -1) * 10**6

    kept = np.arange(2000) % 2 == 1
    chunk = layout_of(plan, 0).chunks[0]
    words = pack_chunk(chunk, NoisyVotes(Extreme(kept), Furthest(b"", b"", 1), plan).lanes(chunk))
    total = open_chunk(chunk, np.uint64(silos) * words, silos)
    due = np.where(kept[: chunk.lanes], silos * (37 + 2 * reach(plan)), 0)
    assert total.tolist() == due.tolist()


def test_noise_is_hardly_ever_cut() -> None:
    """Each of 12 standard deviations, whoever adds how many shares."""
    for units, silos in ((1, 3), (1, 50)):
        plan = noisy_plan(units, silos)
        assert reach(plan) >= DEVIATIONS * sqrt(noise_shares(plan)) * 2**VOTE_BITS


@pytest.mark.clause("2.9.10")
def test_with_hardly_any_noise_the_counts_decide(tmp_path: Path) -> None:
    plan = noisy_plan(units=1 << 16)
    for tensor in made(plan, summed(plan, tmp_path), tmp_path / "opened"):
        counts = sum(keep_masks(at)[tensor.name].int() for at in range(SILOS))
        assert tensor.keep_counts is not None
        assert torch.equal(tensor.keep_counts.int(), counts)
        assert tensor.keep.sum() == tensor.keep.numel() // 2
        assert counts[tensor.keep].min() >= counts[~tensor.keep].max()


def test_the_sparsity_ratio_is_exact_under_any_noise(tmp_path: Path) -> None:
    plan = noisy_plan(units=1)
    for tensor in made(plan, summed(plan, tmp_path), tmp_path / "opened"):
        assert tensor.keep.sum() == tensor.keep.numel() // 2


def test_likely_counts_are_nearer_to_the_true_expansion_than_noisy_ones(tmp_path: Path) -> None:
    """Noise of two votes a silo. The mean over tensors and rounds, as one may go either way."""
    plan, agreed = noisy_plan(units=8), {"likely": 0, "noisy": 0}
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        lanes = [
            released(NoisyVotes(of_silo(plan, at, folder), noise(50 + 10 * attempt + at), plan), plan)
            for at in range(SILOS)
        ]
        sums = {name: [sum(column) for column in zip(*(of[name] for of in lanes), strict=True)] for name in lanes[0]}
        for tensor in made(plan, sums, folder / "opened"):
            counts = sum(keep_masks(at)[tensor.name].int() for at in range(SILOS)).to(torch.uint8)
            noisy = torch.tensor(sums[f"votes {tensor.name}"]).view(counts.shape)
            importance = relative_importance(counts, SILOS, dense(tensor.name))
            target = plan.pruning.sparsity
            true = expand(counts, importance, Sparsity(target.target, target.group))
            by_noisy = expand(noisy, importance, Sparsity(target.target, target.group))
            agreed["likely"] += int((tensor.keep == true).sum())
            agreed["noisy"] += int((by_noisy == true).sum())
    assert agreed["likely"] > 1.05 * agreed["noisy"]


@pytest.mark.clause("2.9.10")
@pytest.mark.parametrize("off", [-1, 1])
def test_counts_that_no_noise_explains_are_corrupt(off: int, tmp_path: Path) -> None:
    plan = noisy_plan(units=1000)
    sums = summed(plan, tmp_path)
    made(plan, sums, tmp_path / "sound")
    name = "votes blocks.0.weight"
    section = next(section for section in layout_of(plan, 0).sections if section.name == name)
    assert isinstance(section, Section)
    shifted = {**sums, name: [lane + off * 900 for lane in sums[name]]}
    with pytest.raises(CorruptSum, match=r"blocks\.0\.weight: keep counts add up to"):
        made(plan, shifted, tmp_path / "shifted")
    beyond = {**sums, name: [*sums[name][:-1], SILOS * (1000 + 2 * reach(plan)) + 1]}
    with pytest.raises(CorruptSum, match="above"):
        made(plan, beyond, tmp_path / "beyond")


def test_weights_have_no_noise() -> None:
    with pytest.raises(PlanError, match="scales has no noise"):
        planned(
            TENSORS,
            ReleaseKind.WEIGHTS,
            silos=SILOS,
            pruner="sparsegpt",
            vote_units=8,
            comparison_group="layer",
            **PROMISE,
        )
