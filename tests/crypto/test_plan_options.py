"""Options of a plan: each has a field of it, whatever can be asked for has an option, and values are written so."""

from decimal import Decimal

import pytest
from google.protobuf.descriptor import Descriptor

from crypto.errors import PlanError
from crypto.names import Allocation, ComparisonGroup, Pruner, ReleaseKind, Schedule
from crypto.plan_options import PLAN_OPTIONS, PlanOption, PlanOptions
from crypto.pruning.sparsity import Pattern, Sparsity
from sparsilo.v1 import plan_pb2
from support.plans import plan_message

BY_NAME = {option.name: option for option in PLAN_OPTIONS}


def names(message: Descriptor, prefix: str = "") -> set[str]:
    return {f"{prefix}{field.name}" for field in message.fields}


def test_whatever_can_be_asked_for_has_an_option() -> None:
    """The rest of a plan is who takes part, in which model, how words travel, and what follows from the options."""
    plan, pruning, member = (kind.DESCRIPTOR for kind in (plan_pb2.Plan, plan_pb2.Pruning, plan_pb2.Member))
    given = {
        "protocol",
        "run",
        "suite",
        "backend",
        "model",
        "files",
        "chunk_words",
        "roster",
        "roster.silo",
        "roster.signing_key",
    }
    following = {"least_survivors", "two_honest_survivors", "rounds", "pruning"}
    following |= {"pruning.block_alphas", "pruning.clip", "pruning.vote_units"}
    fields = names(plan) | names(pruning, "pruning.") | names(member, "roster.")
    assert {option.plan_field for option in PLAN_OPTIONS} - {""} == fields - given - following


def test_names_and_flags_are_each_given_once() -> None:
    flags = [option.flag or option.name for option in PLAN_OPTIONS]
    assert len(set(flags)) == len(flags) == len(BY_NAME)
    assert all(option.help or issubclass(option.kind, Pruner) for option in PLAN_OPTIONS)


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("pruner", Pruner.WANDA, "wanda"),
        ("comparison_group", ComparisonGroup.LAYER, "layer"),
        ("allocation", Allocation.UNIFORM, ""),
        ("allocation", Allocation.OWL, "owl"),
        ("allocation", Allocation.ALPHA, "alpha"),
        ("schedule", Schedule.ONE_SHOT, ""),
        ("schedule", Schedule.ITERATIVE, "iterative"),
        ("sparsity_ratio", Decimal("0.50"), "0.5"),
        ("sparsity_ratio", None, ""),
        ("pattern", "2:4", "2:4"),
        ("weight_scaling", True, True),
        ("samples", 7, 7),
    ],
)
def test_what_a_plan_has_of_a_value(name: str, value: object, written: object) -> None:
    message = plan_pb2.Plan()
    BY_NAME[name].write(message, value)
    assert getattr(message.pruning, name) == written


def test_values_by_silo_are_the_members() -> None:
    message = plan_message(4)
    BY_NAME["capacities"].write(message, {"silo-001": 2, "silo-003": 1})
    BY_NAME["silo_sparsity_ratios"].write(message, {"silo-002": Decimal("0.70")})
    assert [member.capacity for member in message.roster] == [0, 2, 0, 1]
    assert [member.sparsity_ratio for member in message.roster] == ["", "", "0.7", ""]


def test_a_release_is_what_the_rounds_are_made_of() -> None:
    message = plan_pb2.Plan()
    BY_NAME["release"].write(message, ReleaseKind.WEIGHTS)
    assert message == plan_pb2.Plan()


@pytest.mark.parametrize(("name", "value"), [("threshold", -1), ("samples", 1 << 32), ("capacities", {"silo-001": -1})])
def test_a_value_that_the_field_cannot_hold(name: str, value: object) -> None:
    with pytest.raises(PlanError, match=f"plan: {name}: .* is out of range"):
        BY_NAME[name].write(plan_message(4), value)


@pytest.mark.parametrize(
    ("options", "sparsity"),
    [
        (PlanOptions(), Sparsity(Decimal("0.5"), ComparisonGroup.LAYER)),
        (PlanOptions(sparsity_ratio=Decimal(0)), Sparsity(Decimal(0), ComparisonGroup.LAYER)),
        (PlanOptions(comparison_group=ComparisonGroup.COLUMN), Sparsity(Decimal("0.5"), ComparisonGroup.COLUMN)),
        (PlanOptions(pattern="2:4"), Sparsity(Pattern(2, 4), ComparisonGroup.ROW)),
    ],
)
def test_the_sparsity_that_options_ask_for(options: PlanOptions, sparsity: Sparsity) -> None:
    assert options.sparsity == sparsity


@pytest.mark.parametrize("pattern", ["", "4:2", "2-4"])
def test_a_pattern_that_is_none(pattern: str) -> None:
    with pytest.raises(PlanError, match="pattern"):
        _ = PlanOptions(pattern=pattern).sparsity


@pytest.mark.parametrize("option", PLAN_OPTIONS, ids=lambda option: option.name)
def test_an_option_knows_its_field(option: PlanOption) -> None:
    assert option.default == getattr(PlanOptions(), option.name)
    assert option.by_silo == (option.default == {})
    assert option.default in (None, {}) or type(option.default) is option.kind
