"""What a sparse model says of its origin: as the hub reads it, the same for the same work, and nothing of one silo."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.secagg.round import Round
from silo_agent.opened_sums.opened_sum import OpenedRound
from silo_agent.results.provenance import Provenance
from support.plans import plan

ACHIEVED = 0.5


def provenance(agreed: Plan, survivors: int = 4) -> Provenance:
    opened = OpenedRound(Round(agreed, 0), survivors, b"", Path("none"))
    return Provenance(agreed, [opened], bytes(32))


def card(agreed: Plan, survivors: int = 4) -> str:
    return provenance(agreed, survivors).card({tensor.name: ACHIEVED for tensor in agreed.prunable})


def test_the_hub_reads_it() -> None:
    data = ModelCard(card(plan(5))).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert "sparsilo" in (data.tags or [])


def test_it_says_what_went_in() -> None:
    agreed, said = plan(5), card(plan(5))
    weights = sum(tensor.shape[0] * tensor.shape[1] for tensor in agreed.prunable)
    for words in (
        *(agreed.model_digest.hex(), str(agreed.pruning.sparsity), f"{weights:,}", "5, of which every sum is over 4"),
        *(f"{agreed.message.pruning.samples} sequences", "`votes`", f"`{agreed.message.pruning.pruner}`", "50.0000%"),
    ):
        assert words in said
    assert not any(silo in said for silo in agreed.silos)


def test_the_same_work_has_the_same_card_and_metadata_whatever_the_run() -> None:
    message = plan(5).message
    message.run = bytes(16)
    other = checked_plan(message)
    assert other.digest != plan(5).digest
    assert card(other) == card(plan(5))
    assert provenance(other).metadata == provenance(plan(5)).metadata


@pytest.mark.parametrize("survivors", [3, 4, 5])
def test_survivors_are_the_fewest_of_all_rounds(survivors: int) -> None:
    agreed = plan(5)
    rounds = [OpenedRound(Round(agreed, 0), count, b"", Path("none")) for count in (5, survivors, 5)]
    assert Provenance(agreed, rounds, bytes(32)).metadata["sparsilo.survivors"] == str(survivors)
    assert f"every sum is over {survivors} or more" in card(agreed, survivors)
