"""What a person reads of who hides this silo, and that where it is weak comes first."""

from collections.abc import Callable
from typing import Any

import pytest

from crypto.names import Backend
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from silo_agent.consent.hidden_among import Contribution, contributions, hidden_among, honest_silos, weak_points
from silo_agent.consent.plan_in_words import plan_in_words, sentences
from sparsilo.v1 import plan_pb2
from support.opened import Tensors, planned
from support.plans import plan_message, silo_names

SILO = "silo-001"
TENSORS: Tensors = {f"blocks.{block}.weight": (block, (6, 10), False) for block in range(3)}


def usual(silos: int = 7, change: Callable[[plan_pb2.Plan], None] = lambda _: None, **fields: Any) -> Plan:
    """One of which nothing is weak."""
    message = planned(TENSORS, silos=silos, comparison_group="layer", samples=64, **fields).message
    message.colluders, message.threshold, message.least_survivors = 1, 6, 6
    change(message)
    return checked_plan(message)


def weak(plan: Plan) -> str:
    return "\n".join(weak_points(plan, SILO))


def test_a_plan_of_which_nothing_is_weak() -> None:
    plan = usual()
    assert weak(plan) == ""
    assert next(sentences(plan_in_words(plan, SILO)))[0] == "plan"


def two(message: plan_pb2.Plan) -> None:
    message.colluders, message.threshold, message.least_survivors, message.two_honest_survivors = 4, 6, 6, True


def nobody_colludes(message: plan_pb2.Plan) -> None:
    message.colluders = 0


def one_less(message: plan_pb2.Plan) -> None:
    message.threshold = 5


def few_sequences(message: plan_pb2.Plan) -> None:
    message.pruning.samples = 63


def few_held_out(message: plan_pb2.Plan) -> None:
    message.rounds.add(evaluation=plan_pb2.Evaluation(sequences=63, candidates=[plan_pb2.Candidate(dense=True)]))


def in_cohorts(message: plan_pb2.Plan) -> None:
    message.pruning.cohort_floor = 6
    del message.rounds[:]
    message.rounds.add().sampling.SetInParent()
    for member in message.roster:
        member.capacity = 3
    for block in range(3):
        message.rounds.add(block=block).votes.SetInParent()


def in_plain_words(message: plan_pb2.Plan) -> None:
    message.backend = Backend.INSECURE_PLAINTEXT


@pytest.mark.clause("14.1.6")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (one_less, "no more than 4 honest silos: 3 together learn the last one's part"),
        (two, "no more than 2 honest silos: 1 together"),
        (two, "says two_honest_survivors"),
        (nobody_colludes, "reckons with no silo that works with the aggregator"),
        (few_sequences, "Only 63 sequences of 16 tokens are calibrated on"),
        (few_held_out, "Only 63 sequences of 16 tokens are held out"),
        (in_cohorts, "over a cohort of 6 or more of the 7 silos"),
        (in_plain_words, "Nothing is hidden"),
    ],
)
def test_what_is_weak_comes_first(change: Callable[[plan_pb2.Plan], None], said: str) -> None:
    plan = usual(change=change)
    assert said in weak(plan)
    words = plan_in_words(plan, SILO)
    first, *_ = sentences(words)
    assert first == ("WEAK", words.weak[0])
    assert [*words.weak] == weak(plan).splitlines() == words.as_dict()["weak"]


@pytest.mark.clause("14.1.6")
@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"silo-000": "0.25", "silo-006": "0.75"}, ""),
        ({"silo-000": "0.24"}, "silo-000 prune to 0.24: 76% of their keep masks"),
        ({"silo-000": "0.9", "silo-006": "0.9"}, "silo-000, silo-006 prune to 0.9: 90%"),
        ({SILO: "0.9"}, ""),
    ],
)
def test_others_of_whom_most_is_guessed(own: dict[str, str], said: str) -> None:
    assert said in weak(usual(own_ratios=own))
    assert bool(said) == bool(weak(usual(own_ratios=own)))


def test_with_outliers_the_end_that_is_guessed_best_counts() -> None:
    assert weak(usual(allocation="owl", sparsity_ratio="0.59")) == ""  # 0.43 to 0.75
    assert "prune to 0.76: 76%" in weak(usual(allocation="owl", sparsity_ratio="0.6"))
    assert "prune to 0.24: 76%" in weak(usual(allocation="owl", sparsity_ratio="0.4"))


@pytest.mark.clause("14.1.6")
def test_every_silos_ratio_and_capacity() -> None:
    own = {"silo-000": "0.3", "silo-006": "0.7"}
    plan = usual(own_ratios=own)
    parts = contributions(plan)
    assert parts == tuple(Contribution(silo, own.get(silo, "0.5"), 3) for silo in silo_names(7))
    shown = "\n".join(sentence for _, sentence in sentences(plan_in_words(plan, SILO)))
    others = ", ".join(silo_names(7)[1:6])
    assert f"to a sparsity ratio of 0.5 (blocks: 3): {others}\n" in shown
    assert "to a sparsity ratio of 0.3 (blocks: 3): silo-000\n" in shown
    assert plan_in_words(plan, SILO).as_dict()["contributions"] == [
        {"silo": part.silo, "sparsity_ratio": part.sparsity_ratio, "blocks": 3} for part in parts
    ]
    sampled = planned(TENSORS, cohort_floor=3, capacities=(3, 1, 2, 2, 1), allocation="owl", comparison_group="layer")
    assert contributions(sampled)[1] == Contribution("silo-001", "0.34 to 0.66", 1)
    assert [part.blocks for part in contributions(sampled)] == [3, 1, 2, 2, 1]


def test_what_a_sum_hides_this_silo_among() -> None:
    assert hidden_among(usual()) == (
        "at least 5 honest silos, this one among them, each of which keeps 50% of the weights that it prunes"
    )
    assert "keeps 30% to 50% of" in hidden_among(usual(own_ratios={"silo-003": "0.7"}))
    pattern = planned({"w": (0, (4, 8), False)}, comparison_group="row", pattern="6:8", sparsity_ratio="")
    assert "3 honest silos, this one among them, each of which keeps 75%" in hidden_among(pattern)
    message = plan_message(4)
    message.rounds[0].evaluation.CopyFrom(plan_pb2.Evaluation(sequences=9, candidates=[plan_pb2.Candidate(dense=True)]))
    evaluation = checked_plan(message)
    assert hidden_among(evaluation) == "at least 3 honest silos, this one among them, each with its own text"
    assert contributions(evaluation) == ()
    assert "prune" not in weak(evaluation)
    assert hidden_among(usual(change=in_plain_words)).startswith("nobody")


@pytest.mark.parametrize(("colluders", "threshold", "honest"), [(0, 4, 4), (1, 6, 5), (3, 7, 4)])
def test_how_many_of_a_sum_are_honest(colluders: int, threshold: int, honest: int) -> None:
    message = plan_message(7, colluders=colluders, threshold=threshold)
    assert honest_silos(checked_plan(message)) == honest
