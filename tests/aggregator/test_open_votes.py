"""From honest sums to keep counts and the expanded keep mask, and what the corruption checks notice.

Sums are made from keep masks with numpy and cut by the layout's chunks; no code of a silo is used.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from aggregator.releases.votes import OpenedVotes, open_votes
from aggregator.word_sum import OpenedChunk
from crypto.errors import CorruptSum
from crypto.plan import Plan
from plans import plan_message
from silo_agent.pruned_file import file_digest

SURVIVORS = 4
SHAPES = {"blocks.0.weight": (6, 10), "blocks.1.weight": (1, 7), "blocks.2.weight": (12, 1)}
Counts = dict[str, NDArray[np.uint64]]


def votes_plan(group: str = "row", ratio: str = "0.3", chunk_words: int = 1) -> Plan:
    message = plan_message(5, group=group, tensors=3, chunk_words=chunk_words)
    for tensor in message.model:
        tensor.shape[:] = SHAPES[tensor.name]
    message.pruning.sparsity_ratio = ratio
    return Plan.of(message)


def honest() -> Counts:
    """Counts that the plan's silos could have, 0 and all survivors among them."""
    random = np.random.default_rng(7)
    counts: Counts = {}
    for name, shape in SHAPES.items():
        keep_masks = [random.random(shape) < 0.6 for _ in range(SURVIVORS)]
        counts[name] = np.sum(keep_masks, axis=0, dtype=np.uint64)
    counts["blocks.0.weight"][0, :2] = 0, SURVIVORS
    return counts


def dense() -> dict[str, torch.Tensor]:
    """Weights of few magnitudes, so that counts tie and magnitudes tie too."""
    random = np.random.default_rng(8)
    return {name: torch.tensor(random.choice([-0.5, -0.25, 0.25, 0.5], shape)) for name, shape in SHAPES.items()}


def nonzero(counts: Counts, group: str) -> Counts:
    return {name: count.sum(1) if group == "row" else count.sum().reshape(1) for name, count in counts.items()}


def chunks(plan: Plan, counts: Counts, by_group: Counts) -> Iterator[OpenedChunk]:
    sections = {f"votes {name}": count.reshape(-1) for name, count in counts.items()}
    sections |= {f"nonzero counts {name}": count for name, count in by_group.items()}
    for chunk in plan.layout(0).chunks:
        yield chunk, sections[chunk.section.name][chunk.start : chunk.start + chunk.lanes]


def opened(plan: Plan, counts: Counts, by_group: Counts, folder: Path) -> OpenedVotes:
    weights: Any = SimpleNamespace(tensor=dense().__getitem__)
    return open_votes(plan, chunks(plan, counts, by_group), SURVIVORS, weights, folder)


def expanded(counts: NDArray[np.uint64], weight: torch.Tensor, group: str, ratio: str) -> list[bool]:
    """The lowest count goes first, then the smallest magnitude, then the highest index."""
    votes, sizes, columns = counts.reshape(-1).tolist(), weight.abs().flatten().tolist(), counts.shape[1]
    size = columns if group == "row" else len(votes)
    keep = [True] * len(votes)
    for start in range(0, len(votes), size):
        order = sorted(range(start, start + size), key=lambda at: (votes[at], sizes[at], -at))
        for at in order[: int(Fraction(ratio) * size)]:
            keep[at] = False
    return keep


@pytest.mark.parametrize("ratio", ["0", "0.3", "0.55", "0.9"])
@pytest.mark.parametrize("group", ["layer", "row"])
@pytest.mark.parametrize("chunk_words", [1, 100])
def test_honest_sums_become_counts_and_the_expanded_keep_mask(
    chunk_words: int, group: str, ratio: str, tmp_path: Path
) -> None:
    plan, counts = votes_plan(group, ratio, chunk_words), honest()
    votes = opened(plan, counts, nonzero(counts, group), tmp_path)
    votes.write_counts(tmp_path / "counts.safetensors")
    written, kept = load_file(tmp_path / "counts.safetensors"), load_file(votes.keep_mask)
    assert list(written) == list(kept) == list(SHAPES)
    for name, shape in SHAPES.items():
        assert written[name].dtype == torch.uint8
        assert written[name].tolist() == counts[name].tolist()
        assert kept[name].dtype == torch.bool
        assert kept[name].shape == shape
        assert kept[name].flatten().tolist() == expanded(counts[name], dense()[name], group, ratio)
    assert votes.digest == file_digest(votes.keep_mask)


def raised(counts: Counts, name: str, at: tuple[int, int], by: int) -> None:
    counts[name][at] = int(counts[name][at]) + by


def refused(plan: Plan, counts: Counts, by_group: Counts, folder: Path, *words: str) -> None:
    with pytest.raises(CorruptSum) as error:
        opened(plan, counts, by_group, folder)
    assert all(word in error.value.message for word in words), error.value.message
    assert not (folder / "keep_mask.safetensors").exists()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("group", ["layer", "row"])
def test_a_count_above_the_survivors(group: str, name: str, tmp_path: Path) -> None:
    """Even where the group's sum agrees. As many as the survivors are no fault: an honest sum here has them."""
    counts = honest()
    last = (SHAPES[name][0] - 1, SHAPES[name][1] - 1)
    counts[name][last] = SURVIVORS + 1
    refused(votes_plan(group), counts, nonzero(counts, group), tmp_path, name, f"{SURVIVORS + 1} of {SURVIVORS}")


def one_more(count: NDArray[np.uint64]) -> None:
    count[2, 5] = 4 if count[2, 5] == 3 else 3


def one_less(count: NDArray[np.uint64]) -> None:
    count[0, 1] -= np.uint64(1)


def rows_swapped(count: NDArray[np.uint64]) -> None:
    count[[2, 3]] = count[[3, 2]]


def shifted(count: NDArray[np.uint64]) -> None:
    count[:] = np.roll(count, 1)


def moved_to_the_next_row(count: NDArray[np.uint64]) -> None:
    count[0, 1], count[1, 0] = count[0, 1] - np.uint64(4), 4


@pytest.mark.parametrize("change", [one_more, one_less, rows_swapped, shifted, moved_to_the_next_row])
def test_counts_that_do_not_add_up_in_their_group(change: Callable[[NDArray[np.uint64]], None], tmp_path: Path) -> None:
    counts = honest()
    by_group = nonzero(counts, "row")
    change(counts["blocks.0.weight"])
    assert nonzero(counts, "row")["blocks.0.weight"].tolist() != by_group["blocks.0.weight"].tolist()
    refused(votes_plan(), counts, by_group, tmp_path, "blocks.0.weight", "group")


@pytest.mark.parametrize("group", ["layer", "row"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_nonzero_count_that_is_off_by_one(name: str, group: str, tmp_path: Path) -> None:
    counts = honest()
    by_group = nonzero(counts, group)
    by_group[name][-1] += np.uint64(1)
    refused(votes_plan(group), counts, by_group, tmp_path, name, f"group {len(by_group[name]) - 1} has")


def test_the_check_is_no_security_one_more_and_one_less_in_a_group_pass(tmp_path: Path) -> None:
    counts = honest()
    by_group = nonzero(counts, "row")
    counts["blocks.0.weight"][0, :2] = 1, SURVIVORS - 1
    votes = opened(votes_plan(), counts, by_group, tmp_path)
    votes.write_counts(tmp_path / "counts.safetensors")
    assert load_file(tmp_path / "counts.safetensors")["blocks.0.weight"][0, :2].tolist() == [1, SURVIVORS - 1]


def test_the_check_is_no_security_rows_swapped_pass_where_the_layer_is_one_group(tmp_path: Path) -> None:
    counts = honest()
    by_group = nonzero(counts, "layer")
    rows_swapped(counts["blocks.0.weight"])
    opened(votes_plan("layer"), counts, by_group, tmp_path)


def test_two_hundred_survivors_fit_the_counts(tmp_path: Path) -> None:
    message = plan_message(200, tensors=1, shape=(2, 3))
    plan = Plan.of(message)
    counts = {"blocks.0.weight": np.array([[200, 0, 199], [1, 200, 128]], np.uint64)}
    weights: Any = SimpleNamespace(tensor=lambda _: torch.ones(2, 3))
    votes = open_votes(plan, chunks(plan, counts, nonzero(counts, "layer")), 200, weights, tmp_path)
    votes.write_counts(tmp_path / "counts.safetensors")
    assert load_file(tmp_path / "counts.safetensors")["blocks.0.weight"].tolist() == [[200, 0, 199], [1, 200, 128]]
    assert load_file(votes.keep_mask)["blocks.0.weight"].tolist() == [[True, False, True], [False, True, False]]
