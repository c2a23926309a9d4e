"""The bounds of a policy: every field of a plan is thought of, and each bound refuses the first number outside it."""

import re
from collections.abc import Callable
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from crypto.errors import PlanError
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from silo_agent.consent.bounds import BOUNDS, Number, is_most
from silo_agent.consent.policy import Approval, Policy, check_policy
from sparsilo.v1 import plan_pb2
from support.opened import Tensors, planned
from support.plans import plan_message
from support.small_plans import SMALL_PLANS

POLICY = Policy(Approval.AUTO, None, **SMALL_PLANS)
SILO = "silo-001"
PROTOCOL = Path(__file__).parents[3] / "docs/protocol.md"


def rows() -> list[tuple[set[str], str]]:
    """The table of docs/protocol.md, 14.1.4: a row's fields, and its last column."""
    table = PROTOCOL.read_text().partition("**14.1.4**")[2].partition("\n### ")[0]
    lines = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    return [({*re.findall(r"`(\w+\.\w+)`", cells[1])}, cells[3]) for cells in lines]


@pytest.mark.clause("14.1.4")
def test_every_field_of_a_plan_is_in_the_table_once() -> None:
    """A field that is added to the plan's messages has to be thought of there."""
    listed = [field for named, _ in rows() for field in named]
    messages = (plan_pb2.Plan, plan_pb2.File, plan_pb2.Member, plan_pb2.Tensor, plan_pb2.Pruning, plan_pb2.Round)
    messages += (plan_pb2.Evaluation, plan_pb2.Candidate, plan_pb2.Votes, plan_pb2.Weights, plan_pb2.Scales)
    messages += (plan_pb2.Outliers, plan_pb2.Sampling, plan_pb2.Energies, plan_pb2.Gram)
    messages += (plan_pb2.DenseTarget,)
    assert {message.DESCRIPTOR.name for message in messages} == set(plan_pb2.DESCRIPTOR.message_types_by_name)
    assert sorted(listed) == sorted(
        f"{m.DESCRIPTOR.name}.{field.name}" for m in messages for field in m.DESCRIPTOR.fields
    )


def test_every_bound_is_in_the_table_and_every_bound_there_is_a_policys() -> None:
    named = {name for _, kept in rows() for name in re.findall(r"`(\w+)`", kept)}
    policy = {field.name for field in fields(Policy)} | {"budget"}
    assert BOUNDS.keys() <= named <= policy


TENSORS: Tensors = {"blocks.0.weight": (0, (6, 10), False), "blocks.1.weight": (1, (6, 10), False)}


def usual(change: Callable[[plan_pb2.Plan], None] = lambda _: None) -> Plan:
    message = plan_message(6, colluders=1, threshold=5, least_survivors=5)
    message.rounds.add(evaluation=plan_pb2.Evaluation(sequences=7, candidates=[plan_pb2.Candidate(dense=True)]))
    change(message)
    return checked_plan(message)


ASKED: dict[str, tuple[str, Number]] = {
    "colluders": ("colluders", 1),
    "least_honest_survivors": ("honest silos of a threshold", 4),
    "least_survivors": ("survivors of a sum", 5),
    "least_cohort": ("silos of a sum", 6),
    "sparsity_ratio": ("sparsity ratio of silo-001", Decimal("0.5")),
    "sparsity_ratio_of_others": ("sparsity ratio of silo-000", Decimal("0.5")),
    "samples": ("samples", 4),
    "sequence_length": ("sequence_length", 16),
    "held_out_sequences": ("rounds[1].sequences", 7),
    "most_evaluations": ("evaluation rounds", 1),
    "most_rounds": ("rounds", 2),
}
"""Of `usual`: by bound, or by what both bounds are of, what is asked and how much."""


@pytest.mark.clause("2.3.7", "14.1.1", "14.1.3")
@pytest.mark.parametrize("name", BOUNDS)
def test_each_bound_refuses_the_first_number_outside_it(name: str) -> None:
    what, asked = ASKED.get(name) or ASKED[name.removeprefix("most_").removeprefix("least_")]
    step = Decimal("1e-27") if isinstance(asked, Decimal) else 1
    change: dict[str, Any] = {name: asked}
    check_policy(usual(), replace(POLICY, **change), SILO)
    change = {name: asked - step if is_most(name) else asked + step}
    with pytest.raises(PlanError) as refused:
        check_policy(usual(), replace(POLICY, **change), SILO)
    verb = "allows" if is_most(name) else "asks for"
    limit = f"{change[name]:f}" if isinstance(asked, Decimal) else change[name]
    assert refused.value.message == f"plan: {what}: {asked} where this silo {verb} {limit}"
    assert refused.value.hint == f"{name} in the policy"


@pytest.mark.clause("14.1.1")
@pytest.mark.parametrize("odd", ["silo-000", "silo-001", "silo-002", "silo-004"])
def test_the_range_of_others_is_that_of_every_other_silo_and_the_own_range_this_ones(odd: str) -> None:
    def change(message: plan_pb2.Plan) -> None:
        message.roster[int(odd[-1])].sparsity_ratio = "0.7"

    policy, at = replace(POLICY, most_sparsity_ratio_of_others=Decimal("0.6")), usual(change)
    own = replace(POLICY, most_sparsity_ratio=Decimal("0.6"))
    for refusing, other in ((policy, own) if odd != SILO else (own, policy),):
        with pytest.raises(PlanError, match=f"sparsity ratio of {odd}: 0.7 where this silo allows 0.6"):
            check_policy(at, refusing, SILO)
        check_policy(at, other, SILO)


@pytest.mark.clause("14.1.2")
@pytest.mark.parametrize(
    ("pruning", "ends"),
    [
        ({"sparsity_ratio": "0.7"}, ("0.7", "0.7")),
        ({"sparsity_ratio": "", "pattern": "2:5", "comparison_group": "row"}, ("0.6", "0.6")),
        ({"sparsity_ratio": "0.7", "allocation": "owl"}, ("0.54", "0.86")),
        ({"sparsity_ratio": "0.1", "allocation": "owl"}, ("0", "0.26")),
        ({"sparsity_ratio": "0.9", "allocation": "owl"}, ("0.74", "0.9999")),
        (
            {"sparsity_ratio": "0.6", "allocation": "alpha", "block_alphas": ["1.0000", "999999.0000"]},
            ("0.42", "0.78"),
        ),
        ({"sparsity_ratio": "0.8", "allocation": "alpha", "block_alphas": ["3.0000", "2.0000"]}, ("0.6001", "0.9999")),
        ({"sparsity_ratio": "0.8", "allocation": "alpha", "block_alphas": ["3.0000", "3.0000"]}, ("0.8", "0.8")),
    ],
)
def test_how_much_of_a_block_a_silo_prunes(pruning: dict[str, Any], ends: tuple[str, str]) -> None:
    plan = planned(TENSORS, **{"comparison_group": "layer", **pruning})
    assert plan.pruning.ratio_range(SILO) == tuple(map(Decimal, ends))
    low, high = map(Decimal, ends)
    wide = replace(POLICY, least_sparsity_ratio=Decimal(0), most_sparsity_ratio=Decimal(1))
    within = replace(wide, least_sparsity_ratio_of_others=low, most_sparsity_ratio_of_others=high)
    check_policy(plan, within, SILO)
    for narrow in ({"least_sparsity_ratio_of_others": low + 1}, {"most_sparsity_ratio_of_others": high / 2}):
        changed: dict[str, Any] = narrow
        with pytest.raises(PlanError, match="sparsity ratio of silo-000"):
            check_policy(plan, replace(within, **changed), SILO)


@pytest.mark.clause("14.1.3")
def test_every_evaluation_is_counted_and_each_holds_out_enough() -> None:
    def change(message: plan_pb2.Plan) -> None:
        message.rounds.add().CopyFrom(message.rounds[1])
        message.rounds[2].evaluation.sequences = 6

    plan = usual(change)
    with pytest.raises(PlanError, match="evaluation rounds: 2 where this silo allows 1"):
        check_policy(plan, POLICY, SILO)
    with pytest.raises(PlanError, match=r"rounds\[2\].sequences: 6 where this silo asks for 7"):
        check_policy(plan, replace(POLICY, most_evaluations=2, least_held_out_sequences=7), SILO)
    check_policy(plan, replace(POLICY, most_evaluations=2, least_held_out_sequences=6), SILO)


def test_a_rehearsal_bounds_nothing_that_it_was_asked_for() -> None:
    from aggregator.local import WIDEST

    about_silos = {"colluders", "least_honest_survivors", "least_survivors", "least_cohort"}
    assert WIDEST.keys() == BOUNDS.keys() - about_silos - {"most_evaluations"}  # it evaluates once
    for name, value in WIDEST.items():
        values = BOUNDS[name].values
        widest = range(2) if values is None else values
        assert value == widest[0] if not is_most(name) else value in (1, 1_000_000_000), name


@pytest.mark.clause("14.1.2", "2.7.3")
@pytest.mark.parametrize(("ratio", "refused"), [("0.17", "least sparsity ratio"), ("0.7", "largest sparsity ratio")])
def test_exponents_that_single_a_block_out_are_refused(ratio: str, refused: str) -> None:
    """They are whoever's choice makes the plan. One block of ten is pruned as much, or as little, as they can."""
    tensors: Tensors = {f"blocks.{block}.weight": (block, (6, 10), False) for block in range(10)}
    one, others = ("1.0000", "999999.9999") if refused.startswith("least") else ("999999.9999", "1.0000")
    even, odd = (
        planned(tensors, comparison_group="layer", sparsity_ratio=ratio, allocation="alpha", block_alphas=exponents)
        for exponents in ([others] * 10, [others] * 9 + [one])
    )
    check_policy(even, POLICY, SILO)
    with pytest.raises(PlanError, match=refused):
        check_policy(odd, POLICY, SILO)
    factors = [end / Decimal(ratio) for end in odd.pruning.ratio_range(SILO)]
    assert Decimal(7) / 13 - Decimal("0.001") <= factors[0] and factors[1] <= Decimal(13) / 7 + Decimal("0.001")
