"""Masks of a run that did not come to its end serve another that asks for the same, and none that asks for anything
else.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crypto.encoding.wire import encode
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from silo_agent.consent.state_store import OfferedPlan
from silo_agent.pruning.pruned_files import PrunedFiles, pruned_files
from silo_agent.rounds.adopted_masks import _what_masks_follow_from, adopt_masks
from silo_agent.rounds.run_files import RunFiles
from sparsilo.v1 import plan_pb2
from support.plans import plan_message

SILO, TEXT = "silo-001", bytes(32)


def offered(message: plan_pb2.Plan) -> OfferedPlan:
    return OfferedPlan(checked_plan(message).digest, encode(message), "", "", None, None, None, None)


def other_run(message: plan_pb2.Plan) -> plan_pb2.Plan:
    """The same plan, submitted again."""
    again = plan_pb2.Plan()
    again.CopyFrom(message)
    again.run = bytes(range(16))
    return again


def adopted(state: Path, before: plan_pb2.Plan, after: plan_pb2.Plan, text: bytes = TEXT) -> PrunedFiles:
    """The files of `after`, once a run of `before` on TEXT has left its own."""
    left = RunFiles(state, checked_plan(before).digest, TEXT)
    left.begin()
    files = pruned_files(left.work, None)
    files.weights.write_bytes(b"weights")
    files.keep_masks.write_bytes(b"masks")
    own = RunFiles(state, checked_plan(after).digest, text)
    own.begin()
    unread = OfferedPlan(bytes(32), b"of another release", "", "", None, None, None, None)
    adopt_masks(own, checked_plan(after), SILO, [unread, offered(before), offered(after)])
    adopt_masks(own, checked_plan(after), SILO, [unread, offered(before), offered(after)])  # once more does no harm
    return pruned_files(own.work, None)


def same(message: plan_pb2.Plan) -> None:
    """Nothing that keep masks follow from."""
    message.phase_seconds, message.colluders, message.threshold = 77, 0, 3
    message.roster[0].sparsity_ratio = "0.25"  # another silo's


def another_ratio(message: plan_pb2.Plan) -> None:
    message.pruning.sparsity_ratio = "0.6"


def another_own_ratio(message: plan_pb2.Plan) -> None:
    message.roster[1].sparsity_ratio = "0.25"


def another_pruner(message: plan_pb2.Plan) -> None:
    message.pruning.pruner = "ria"


def more_samples(message: plan_pb2.Plan) -> None:
    message.pruning.samples += 1


def another_model(message: plan_pb2.Plan) -> None:
    message.model[0].digest = b"\1" * 32


def another_tokenizer(message: plan_pb2.Plan) -> None:
    message.files.add(name="tokenizer.json", digest=bytes(32))


@pytest.mark.parametrize("change", [lambda _: None, same])
def test_the_same_work_on_the_same_text(change: Callable[[plan_pb2.Plan], None], tmp_path: Path) -> None:
    before = plan_message(5, threshold=3)
    after = other_run(before)
    change(after)
    files = adopted(tmp_path, before, after)
    assert (files.keep_masks.read_bytes(), files.weights.read_bytes()) == (b"masks", b"weights")


@pytest.mark.parametrize(
    "change", [another_ratio, another_own_ratio, another_pruner, more_samples, another_model, another_tokenizer]
)
def test_anything_else(change: Callable[[plan_pb2.Plan], None], tmp_path: Path) -> None:
    before = plan_message(5, threshold=3)
    after = other_run(before)
    change(after)
    assert not adopted(tmp_path, before, after).keep_masks.exists()
    assert not adopted(tmp_path, before, other_run(before), bytes(31) + b"\1").keep_masks.exists()


@pytest.mark.parametrize("field", ["schedule", "allocation", "cohort_floor"])
def test_what_follows_from_opened_sums(field: str, tmp_path: Path) -> None:
    """They are other sums in another run, whatever this silo has."""
    values: dict[str, Any] = {"schedule": "iterative", "allocation": "owl", "cohort_floor": 3}
    before = checked_plan(plan_message(5, threshold=3))
    message = plan_pb2.Plan.FromString(before.encoded)
    setattr(message.pruning, field, values[field])
    plan = Plan(message, before.encoded)  # its rounds do not matter here
    assert _what_masks_follow_from(before, SILO) is not None
    assert _what_masks_follow_from(plan, SILO) is None
