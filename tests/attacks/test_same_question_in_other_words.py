"""A dishonest aggregator asks the same again with a field changed that changes nothing in what a silo answers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from attacks.stage import ZERO, Stage, agents
from crypto.errors import ReleaseRefused
from crypto.names import ComparisonGroup
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.releases.release_spec import question_of
from silo_agent.consent.ledger import Release
from silo_agent.consent.state_store import StateStore
from sparsilo.v1 import plan_pb2
from support.plans import plan_message

pytestmark = pytest.mark.clause("2.5.1", "2.5.3")


def test_votes_for_another_comparison_group(tmp_path: Path) -> None:
    """The group is that of mask expansion; a silo compares scores in its pruner's own, so its votes are the same."""
    agents(Stage(group="layer"), tmp_path, ZERO).finish()
    with pytest.raises(ReleaseRefused):
        agents(Stage(group="row"), tmp_path, ZERO)


def renamed(plan: plan_pb2.Plan) -> None:
    plan.rounds[0].evaluation.candidates[0].name = "another"


def reordered(plan: plan_pb2.Plan) -> None:
    candidates = plan.rounds[0].evaluation.candidates
    candidates.append(candidates.pop(0))


def another_ratio(plan: plan_pb2.Plan) -> None:
    plan.pruning.sparsity_ratio = "0.25"


def another_group(plan: plan_pb2.Plan) -> None:
    plan.pruning.comparison_group = ComparisonGroup.ROW


@pytest.mark.parametrize("change", [renamed, reordered, another_ratio, another_group])
def test_an_evaluation_of_the_same_candidates(change: Callable[[plan_pb2.Plan], None], tmp_path: Path) -> None:
    """The held-out sequences and the keep masks are the same, and so is every loss."""
    message, store = plan_message(5, threshold=3), StateStore(tmp_path / "agent.sqlite")
    evaluation = plan_pb2.Evaluation(sequences=2)
    evaluation.candidates.add(name="dense", dense=True)
    evaluation.candidates.add(name="federated", digest=b"1" * 32)
    message.rounds[0].evaluation.CopyFrom(evaluation)
    store.release(release(checked_plan(message)))
    change(message)
    message.run = b"another run     "
    with pytest.raises(ReleaseRefused):
        store.begin(release(checked_plan(message)))


def release(plan: Plan) -> Release:
    return Release(plan.round_digest(0, b""), question_of(plan, 0, b""), plan.release_kind(0), bytes(32), plan.silos)
