"""A dishonest aggregator plans that every other silo keeps all of its weights, or none: it knows what they add, and
subtracts it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from attacks import surrounded
from attacks.conftest import Approached
from attacks.surrounded import VICTIM, watched
from crypto.errors import PlanError
from crypto.names import ComparisonGroup, ReleaseKind
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.pruning.sparsity import Sparsity, parse_ratio
from crypto.releases.planned_rounds import planned_rounds
from crypto.releases.votes import votes_section
from crypto.secagg.round import Round
from silo_agent.checkpoint.pruned_file import PrunedFile
from silo_agent.model.calibration import data_digest
from silo_agent.pruning.keep_mask import keep_by_score
from silo_agent.pruning.pruned_files import pruned_files
from silo_agent.rounds.run_files import RunFiles
from sparsilo.v1 import plan_pb2

pytestmark = pytest.mark.clause("14.1.1", "14.1.2")

KNOWN = ["0", "0.000000001", "0.0999", "0.9001", "0.99", "0.999999999"]
"""Sparsity ratios with which most of what a silo keeps is known, or all of it."""


def of_others(plan: plan_pb2.Plan, ratio: str, *silos: str) -> plan_pb2.Plan:
    """All but the victim have this ratio, or only `silos`."""
    for member in plan.roster:
        if member.silo in (silos or {member.silo} - {VICTIM}):
            member.sparsity_ratio = ratio
    return plan


@pytest.mark.parametrize("ratio", KNOWN)
def test_every_other_silo(ratio: str, approach: Callable[..., Any]) -> None:
    silo = approach()
    silo.refuses(of_others(silo.agreed, ratio), PlanError, f"sparsity ratio of silo-000: {ratio} where this silo")


@pytest.mark.parametrize("ratio", KNOWN)
def test_one_other_silo(ratio: str, approach: Callable[..., Any]) -> None:
    """With it a sum over three is one over two."""
    silo = approach()
    silo.refuses(of_others(silo.agreed, ratio, "silo-004"), PlanError, f"sparsity ratio of silo-004: {ratio} where")


@pytest.mark.parametrize("ratio", KNOWN)
def test_the_ratio_of_all(ratio: str, approach: Callable[..., Any]) -> None:
    """With one that is not known for the victim alone."""
    silo = approach()
    silo.agreed.pruning.sparsity_ratio = ratio
    silo.agreed.roster[2].sparsity_ratio = "0.5"
    silo.refuses(silo.agreed, PlanError, f"sparsity ratio of silo-000: {ratio} where this silo")


@pytest.mark.parametrize(("pattern", "ratio"), [("1:8", "0.875"), ("7:8", "0.125")])
def test_a_pattern_that_keeps_nearly_all_or_nothing(pattern: str, ratio: str, approach: Callable[..., Any]) -> None:
    """As this model's widths allow none beyond them, the silo's bounds are narrower."""
    silo = approach(least_sparsity_ratio_of_others=0.126, most_sparsity_ratio_of_others=0.874)
    silo.agreed.pruning.pattern, silo.agreed.pruning.sparsity_ratio = pattern, ""
    silo.agreed.pruning.comparison_group = "row"
    silo.refuses(silo.agreed, PlanError, f"sparsity ratio of silo-000: {ratio} where this silo")


@pytest.mark.parametrize(("ratio", "reached"), [("0.8", "largest sparsity ratio"), ("0.2", "least sparsity ratio")])
def test_a_ratio_that_outliers_move_out_of_the_range(ratio: str, reached: str, approach: Callable[..., Any]) -> None:
    """With OWL a block's ratio may be 0.16 more or less than the plan's."""
    silo = approach()
    of_others(silo.agreed, ratio)
    silo.agreed.pruning.allocation = "owl"
    del silo.agreed.rounds[:]
    for kind, block in planned_rounds(Plan(silo.agreed, b""), ReleaseKind.VOTES):
        getattr(silo.agreed.rounds.add(block=block), kind).SetInParent()
    silo.refuses(silo.agreed, PlanError, f"{reached} of silo-000")


def test_exponents_that_move_a_block_out_of_the_range(approach: Callable[..., Any]) -> None:
    """They are the model's by no check of the silo's; at 0.75 the second of two blocks would be pruned to 0.975."""
    silo = approach()
    of_others(silo.agreed, "0.75").pruning.allocation = "alpha"
    silo.agreed.pruning.block_alphas.extend(["1.0000", "999999.9999"])
    silo.refuses(silo.agreed, PlanError, "largest sparsity ratio of silo-000: 0.975 where this silo allows 0.9")


@pytest.mark.parametrize("ratio", ["0.1", "0.2", "0.8", "0.9"])
def test_within_the_range_a_silo_takes_part(ratio: str, approach: Callable[..., Any]) -> None:
    silo = approach()
    silo.accepts(of_others(silo.agreed, ratio))


def test_what_it_would_tell(tmp_path: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silo that allows it goes through the whole round, and the sum less four is its keep mask, to the bit."""
    silo = Approached(tmp_path, model, least_sparsity_ratio_of_others=0)
    monkeypatch.setattr(surrounded, "usual_lanes", all_kept)
    around = watched(silo, of_others(silo.agreed, "0"), monkeypatch)
    data = data_digest(silo.config.calibration)
    files = pruned_files(RunFiles(silo.config.state, checked_plan(silo.agreed).digest, data).work, None)
    masks = PrunedFile(files.keep_masks)
    assert len(masks) == 14
    for name, keep in masks.items():
        counts = around.world.open()[votes_section(name)]
        assert (counts - 4).tolist() == keep.flatten().tolist()
        assert 0 < keep.float().mean() < 1


def all_kept(round_: Round) -> Mapping[str, NDArray[np.uint64]]:
    """What a silo has whose ratio is 0, whatever its text is."""
    lanes = {}
    for section in round_.layout.sections:
        kept = section.name.startswith("votes ")
        lanes[section.name] = np.full(section.lanes, 1 if kept else len(lanes[f"votes {section.name[15:]}"]), np.uint64)
    return lanes


@pytest.mark.parametrize(("ratio", "kept"), [("0", 64), ("0.99", 1)])
def test_what_the_others_keep_is_known(ratio: str, kept: int) -> None:
    score = torch.rand(1, 64)
    keep = keep_by_score(score, torch.ones(1, 64), Sparsity(parse_ratio(ratio), ComparisonGroup.ROW))
    assert int(keep.sum()) == kept
