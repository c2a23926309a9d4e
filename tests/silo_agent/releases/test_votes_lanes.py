"""A keep-mask file as lanes: what safetensors' own reader sees in it, and each comparison group's count."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.releases.release_spec import layout_of
from silo_agent.pruning.prune import write_keep_masks
from silo_agent.releases.votes import VotesRelease
from support.opened import released
from support.plans import plan_message

SHAPES = {"blocks.0.weight": (5, 21), "blocks.1.weight": (1, 1), "blocks.2.weight": (33, 7), "blocks.3.weight": (64, 1)}

TURNED = "blocks.2.weight"


def votes_plan(group: str, chunk_words: int) -> Plan:
    message = plan_message(5, group=group, tensors=len(SHAPES), chunk_words=chunk_words)
    for tensor in message.model:
        tensor.shape[:] = SHAPES[tensor.name]
        tensor.input_first = tensor.name == TURNED
    message.pruning.force_comparison_group = group == "column"
    message.model.add(name="z.norm", digest=bytes(32), shape=[9])  # stored, but not pruned
    return checked_plan(message)


def keep_masks() -> dict[str, Tensor]:
    """Every row with another count; the first row of the first tensor empty, the last one full."""
    generator = torch.Generator().manual_seed(3)
    masks = {name: torch.rand(shape, generator=generator) < 0.4 for name, shape in SHAPES.items()}
    masks["blocks.0.weight"][0] = False
    masks["blocks.0.weight"][-1] = True
    return masks


@pytest.mark.parametrize("chunk_words", [1, 2, 1000])
@pytest.mark.clause("2.4.3")
@pytest.mark.parametrize("group", ["layer", "row", "column"])
def test_lanes_are_the_keep_mask_and_its_counts_by_group(group: str, chunk_words: int, tmp_path: Path) -> None:
    plan, file = votes_plan(group, chunk_words), tmp_path / "keep_mask.safetensors"
    write_keep_masks(file, reversed(keep_masks().items()))
    expected: dict[str, list[int]] = {}
    stored = load_file(file)
    for name in SHAPES:
        rows = [[int(kept) for kept in row] for row in stored[name].tolist()]
        by_row = [row.count(1) for row in rows]
        expected[f"votes {name}"] = [kept for row in rows for kept in row]
        by_column = [column.count(1) for column in zip(*rows, strict=True)]
        by_group = {"row": by_row, "column": by_column, "layer": [sum(by_row)]}
        if name == TURNED:
            by_group |= {"row": by_column, "column": by_row}
        expected[f"nonzero counts {name}"] = by_group[group]
    lanes = released(VotesRelease(plan, 0, file), plan)
    assert lanes == expected
    assert list(lanes) == list(expected), "in the plan's order"
    assert len(layout_of(plan, 0).chunks) > len(expected) or chunk_words == 1000


def test_a_file_that_another_tool_wrote(tmp_path: Path) -> None:
    """Metadata, padding and tensors that the plan does not know are no part of the release."""
    plan, own, other = votes_plan("row", 2), tmp_path / "own.safetensors", tmp_path / "other.safetensors"
    write_keep_masks(own, keep_masks().items())
    save_file({**keep_masks(), "a.weight": torch.ones(3, 3), "zz": torch.ones(2)}, other, {"format": "pt"})
    assert released(VotesRelease(plan, 0, other), plan) == released(VotesRelease(plan, 0, own), plan)


def test_a_blocks_round_has_that_blocks_tensors(tmp_path: Path) -> None:
    message = votes_plan("row", 2).message
    for tensor, block in zip(message.model, (0, 1, 0, 1, 0), strict=True):
        tensor.block = block
    message.pruning.schedule = "iterative"
    del message.rounds[:]
    for block in range(2):
        message.rounds.add(block=block).votes.SetInParent()
    plan, file = checked_plan(message), tmp_path / "keep_mask.safetensors"
    write_keep_masks(file, [(name, keep) for name, keep in keep_masks().items() if name[7] in "13"])
    lanes = released(VotesRelease(plan, 1, file), plan, 1)
    assert [name for name in lanes if name.startswith("votes")] == ["votes blocks.1.weight", "votes blocks.3.weight"]
    for name in ("blocks.1.weight", "blocks.3.weight"):
        assert lanes[f"votes {name}"] == keep_masks()[name].flatten().int().tolist()
