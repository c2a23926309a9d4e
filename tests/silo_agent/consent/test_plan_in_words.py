"""What a person reads before approving: every figure by another calculation, every release kind, and what the threat
model says each party learns.
"""

import json
from collections.abc import Iterable
from decimal import Decimal
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from crypto.names import Backend, ComparisonGroup, Pruner, ReleaseKind
from crypto.plan import Plan
from crypto.plan_options import PLAN_OPTIONS, PlanOption
from crypto.plan_rules import checked_plan
from crypto.privacy.accountant import combined_multiplier
from crypto.releases.planned_rounds import planned_rounds
from crypto.releases.release_spec import events_of
from silo_agent.consent.expected_traffic import upload_bytes
from silo_agent.consent.plan_in_words import BytesUp, plan_in_words, sentences
from sparsilo.v1 import plan_pb2
from support.opened import Tensors, planned
from support.plans import plan, plan_message
from support.pooled_plans import small

SILO = "silo-001"
TENSORS: Tensors = {f"blocks.{block}.weight": (block, (6, 10 + 5 * block), False) for block in range(3)}
WEIGHTS = {block: 6 * (10 + 5 * block) for block in range(3)}


def said(plan: Plan, silo: str = SILO) -> str:
    """All of it, as one text."""
    return "\n".join(f"{heading}: {sentence}" for heading, sentence in sentences(plan_in_words(plan, silo)))


def words(sections: Iterable[tuple[int, int]], chunk_words: int) -> int:
    """Of sections of (lanes, most that a lane sums to), header words included (docs/protocol.md, 2.4)."""
    total = 0
    for lanes, most in sections:
        body = ceil(lanes / (64 // len(f"{most:b}")))
        total += body + ceil(body / chunk_words)
    return total


def votes(weights: int, silos: int) -> list[tuple[int, int]]:
    """One tensor, whose comparison group is all of it."""
    return [(weights, silos), (1, silos * weights)]


def deltas(weights: int, silos: int) -> list[tuple[int, int]]:
    return [*votes(weights, silos), (weights, silos << 17)]


def of_kinds(kinds: str, **fields: object) -> Plan:
    """A plan over five silos of all rounds that lead to votes or weights, and an evaluation."""
    release = ReleaseKind.WEIGHTS if "weights" in kinds else ReleaseKind.VOTES
    message = planned(TENSORS, release, comparison_group="layer", **fields).message  # type: ignore[arg-type]
    if "evaluation" in kinds:
        candidates = [plan_pb2.Candidate(name="dense", dense=True), plan_pb2.Candidate(name="a", digest=bytes(32))]
        message.rounds.add(evaluation=plan_pb2.Evaluation(sequences=7, candidates=candidates))
    return checked_plan(message)


CASES: list[tuple[str, dict[str, Any], list[list[tuple[int, int]]]]] = [
    ("votes", {"pruner": "magnitude"}, [[each for n in WEIGHTS.values() for each in votes(n, 5)]]),
    (
        "votes evaluation",
        {"pruner": "magnitude"},
        [[each for n in WEIGHTS.values() for each in votes(n, 5)], [(2, 2**64 - 1)] * 2],
    ),
    (
        "scales weights",
        {"pruner": "sparsegpt"},
        [[(128, 5)] * 3, [each for n in WEIGHTS.values() for each in deltas(n, 5)]],
    ),
    (
        "outliers votes",
        {"pruner": "ria", "allocation": "owl"},
        [[(3, 5 * 120)], [each for n in WEIGHTS.values() for each in votes(n, 5)]],
    ),
    ("iterative votes", {"pruner": "ria", "schedule": "iterative"}, [votes(n, 5) for n in WEIGHTS.values()]),
]


@pytest.mark.parametrize("chunk_words", [1, 3, 1000])
@pytest.mark.parametrize(("kinds", "fields", "rounds"), CASES)
def test_bytes_up_and_down(
    kinds: str, fields: dict[str, Any], rounds: list[list[tuple[int, int]]], chunk_words: int
) -> None:
    made = of_kinds(kinds, chunk_words=chunk_words, **fields)
    each = [8 * words(sections, chunk_words) for sections in rounds]
    assert [upload_bytes(made, index) for index in range(len(made.message.rounds))] == each
    found = plan_in_words(made, SILO)
    assert found.rounds == len(rounds)
    assert found.bytes_up == BytesUp(exact=True, bytes=sum(each))
    # two of five audit a chunk, and get five silos' words of it and the opened ones; then what later rounds start from
    candidate = sum(WEIGHTS.values()) if "evaluation" in kinds else 0
    assert found.bytes_down_estimate == sum(each) * 2 * 6 // 5 + sum(each[:-1]) + candidate
    assert f"{sum(each):,} bytes" in said(made)


@pytest.mark.parametrize(("silo", "capacity"), [("silo-000", 3), ("silo-001", 1), ("silo-002", 2)])
@pytest.mark.parametrize(("last", "cohort"), [(1, 3), (2, 4)])
def test_with_layer_sampling_it_is_an_upper_bound(last: int, cohort: int, silo: str, capacity: int) -> None:
    """Cohorts have ceil(9 / 3) or ceil(10 / 3) silos at most, and the dearest blocks may be drawn."""
    made = of_kinds("sampling votes", cohort_floor=3, capacities=(3, 1, 2, 2, last))
    blocks = [8 * words(votes(n, cohort), 3) for n in WEIGHTS.values()]
    coin = 8 * words([(4, 2**64 - 1)], 3)
    assert [upload_bytes(made, index, cohort) for index in range(1, 4)] == blocks
    up = coin + sum(sorted(blocks)[-capacity:])
    found = plan_in_words(made, silo)
    assert found.bytes_up == BytesUp(exact=False, bytes=up)
    assert found.bytes_down_estimate == up * 2 * (cohort + 1) // cohort + coin + sum(blocks[:-1])
    assert f"at most {up:,} bytes" in said(made, silo)
    assert f"only in {capacity} of 3 blocks" in said(made, silo)


@pytest.mark.parametrize(
    ("colluders", "auditors", "share"), [(0, 2, "29%"), (1, 2, "29%"), (2, 3, "43%"), (4, 5, "71%")]
)
def test_colluders_cost_bytes_and_that_is_told(colluders: int, auditors: int, share: str) -> None:
    made = checked_plan(plan_message(7, threshold=7, colluders=colluders))
    found = plan_in_words(made, SILO)
    assert found.bytes_down_estimate == found.bytes_up.bytes * auditors * 8 // 7
    sentence = f"{auditors} / k of them with k signers, about {share} where all 7 sign"
    assert f"as an auditor, the sums of the chunks that it is drawn for: {sentence}" in said(made)


def test_survivors_colluders_and_silos() -> None:
    message = plan_message(7, threshold=6, colluders=2, least_survivors=6)
    found = plan_in_words(checked_plan(message), SILO)
    assert (found.least_survivors, found.colluders, len(found.silos)) == (6, 2, 7)
    text = said(checked_plan(message))
    assert "summed over: at least 6 of 7 silos: silo-000, silo-001" in text and "silo-006" in text
    assert "withstands: a dishonest aggregator with up to 2 silos that work with it" in text
    assert "with 6 survivors, 5 silos that work together learn this one's" in text
    assert "as long as no silo works with it" in said(plan(4))


@pytest.mark.parametrize(("floor", "colluders", "least"), [(3, 0, 3), (4, 1, 4), (6, 0, 4), (7, 2, 5)])
def test_with_layer_sampling_fewer_survivors_are_enough(floor: int, colluders: int, least: int) -> None:
    """Of a cohort the least t with 2t > m + c, or c + 3."""
    message = planned(TENSORS, silos=7, cohort_floor=floor, capacities=(3,) * 7).message
    message.colluders, message.threshold, message.least_survivors = colluders, 7, 7
    assert plan_in_words(checked_plan(message), SILO).least_survivors == least


KIND_PLANS = {
    ReleaseKind.VOTES: of_kinds("votes"),
    ReleaseKind.WEIGHTS: of_kinds("weights", pruner="sparsegpt"),
    ReleaseKind.SCALES: of_kinds("weights", pruner="sparsegpt"),
    ReleaseKind.OUTLIERS: of_kinds("votes", allocation="owl"),
    ReleaseKind.SAMPLING: of_kinds("votes", cohort_floor=3, capacities=(3, 1, 2, 2, 1)),
    ReleaseKind.EVALUATION: of_kinds("votes evaluation"),
}


@pytest.mark.parametrize(
    ("kind", "leaves", "sums"),
    [
        (ReleaseKind.VOTES, "the keep masks of 270 weights, one bit each", "how many silos keep it"),
        (ReleaseKind.WEIGHTS, "by how much each kept weight differs", "the sum of their differences"),
        (ReleaseKind.SCALES, "for each of 3 weight matrices the power of two", "lies in which power of two"),
        (ReleaseKind.OUTLIERS, "for each of 3 blocks how many weights stand out", "outlying weights, added up"),
        (ReleaseKind.SAMPLING, "random numbers; nothing of the text", "no silo chose alone"),
        (ReleaseKind.EVALUATION, "for each of 2 candidates its negative log-likelihood", "token counts, added up"),
    ],
)
def test_what_leaves_and_what_is_opened(kind: ReleaseKind, leaves: str, sums: str) -> None:
    found = plan_in_words(KIND_PLANS[kind], SILO)
    [entry] = [each for each in found.leaves if each.release == kind]
    assert leaves in entry.what
    assert entry.hidden == "as masked counters, which only the sum of the silos opens"
    [learned] = [text for text in found.revealed_to.aggregator if text.startswith(f"{kind}, over all survivors")]
    assert sums in learned
    assert {each.release for each in found.leaves} == {
        spec.WhichOneof("release") for spec in KIND_PLANS[kind].message.rounds
    }
    assert sum(each.rounds for each in found.leaves) == len(KIND_PLANS[kind].message.rounds)
    assert kind in said(KIND_PLANS[kind])


def test_what_each_other_silo_learns() -> None:
    """docs/threat-model.md: as an auditor a / k of the sums; with the iterative schedule everything but the last
    block's, with `weights` the exponents, with `owl` the outliers; and the candidates.
    """

    def learned(made: Plan) -> str:
        return "; ".join(plan_in_words(made, SILO).revealed_to.each_other_silo)

    assert "2 / k of them with k signers, about 40% where all 5 sign" in learned(of_kinds("votes"))
    assert "about 67% where all 3 sign" in learned(plan(3))
    assert "later rounds start from" not in learned(of_kinds("votes"))
    assert "start from: votes (2 rounds)" in learned(of_kinds("votes", schedule="iterative"))
    assert "start from: scales (1 rounds)" in learned(KIND_PLANS[ReleaseKind.WEIGHTS])
    assert "start from: outliers (1 rounds)" in learned(KIND_PLANS[ReleaseKind.OUTLIERS])
    assert "start from: sampling (1 rounds), votes (2 rounds)" in learned(KIND_PLANS[ReleaseKind.SAMPLING])
    assert "the 1 keep masks from outside that are evaluated" in learned(KIND_PLANS[ReleaseKind.EVALUATION])
    assert "from outside" not in learned(of_kinds("votes"))


def test_what_is_not_protected() -> None:
    def risks(made: Plan) -> str:
        return "; ".join(plan_in_words(made, SILO).not_protected)

    for made in KIND_PLANS.values():
        assert "all survivors agree on a weight, its count tells each one's choice" in risks(made)
        assert "exact statistics" in risks(made)
        assert "take the model from a source that you trust" in risks(made)
        assert plan_in_words(made, SILO).epsilon.startswith("unbounded: this plan adds no noise")
    assert "one silo alone kept a weight" in risks(KIND_PLANS[ReleaseKind.WEIGHTS])
    assert "one silo alone kept a weight" not in risks(KIND_PLANS[ReleaseKind.VOTES])
    message = of_kinds("votes evaluation").message
    del message.rounds[0]
    assert "agree on a weight" not in risks(checked_plan(message))


def test_a_backend_that_hides_nothing_is_called_so() -> None:
    text = said(plan(4, backend=Backend.INSECURE_PLAINTEXT))
    assert "NOT masked" in text
    assert "aggregator learns: this silo's own numbers, as they are" in text
    assert "withstands: nobody" in text
    assert "masked counters" not in text and "auditor" not in text


@pytest.mark.parametrize(
    ("fields", "computed"),
    [
        ({}, "wanda prunes the model to a sparsity ratio of 0.5, on 4 sequences of 16 tokens"),
        ({"pruner": "magnitude"}, "magnitude prunes the model to a sparsity ratio of 0.5, without looking at text"),
        ({"allocation": "owl"}, "a sparsity ratio of 0.5, less where a block has many outliers, on 4 sequences"),
        (
            {"allocation": "alpha", "block_alphas": ["2.0000", "3.0000", "4.0000"]},
            "a sparsity ratio of 0.5, less where a block's weights look better trained, on 4 sequences",
        ),
        ({"own_ratios": {SILO: "0.25"}}, "a sparsity ratio of 0.25, on"),
        ({"own_ratios": {"silo-000": "0.25"}}, "a sparsity ratio of 0.5, on"),
        ({"schedule": "iterative"}, "block after block"),
        ({"samples": 1000, "sequence_length": 2048}, "1,000 sequences of 2,048 tokens of this silo's text"),
    ],
)
def test_what_is_computed_here(fields: dict[str, Any], computed: str) -> None:
    assert computed in "\n".join(plan_in_words(of_kinds("votes", **fields), SILO).computed_here)


def test_a_pattern_and_held_out_text_are_said() -> None:
    message = planned({"w": (0, (4, 8), False)}, comparison_group="row", pattern="2:4", sparsity_ratio="").message
    assert "to the pattern 2:4, on" in said(checked_plan(message))
    assert "how well 2 candidate models predict 7 further sequences" in said(KIND_PLANS[ReleaseKind.EVALUATION])


@pytest.mark.parametrize(
    ("seconds", "text"), [(90, "90 seconds"), (600, "10 minutes"), (7200, "2 hours"), (86_400, "24 hours")]
)
def test_deadlines(seconds: int, text: str) -> None:
    message = plan_message(4)
    message.preparation_seconds = seconds
    found = plan_in_words(checked_plan(message), SILO)
    assert (found.preparation_seconds, found.phase_seconds, found.least_bytes_per_second) == (seconds, 5, 125_000)
    assert f"within {text}, in which people decide" in said(checked_plan(message))
    assert said(checked_plan(message)).endswith(
        "later, within 5 seconds, where its words take no longer than at 125,000 bytes a second"
    )


def test_what_an_evaluation_of_the_federated_model_computes_and_sums() -> None:
    def told(*kinds: str) -> str:
        message = of_kinds("votes").message
        spec = message.rounds.add(evaluation=plan_pb2.Evaluation(sequences=7)).evaluation
        for kind in kinds:
            spec.candidates.add(name=kind, **{kind: True})
        return said(checked_plan(message))

    once_more = "wanda prunes the model once more, on text that it writes itself"
    squares = (
        "for each of {} candidates its negative log-likelihood on held-out text, and the tokens, and for {} of them"
    )
    everything = told("dense", "pruned", "self_calibrated", "own")
    assert once_more in everything and squares.format(4, 2) in everything
    assert once_more not in told("dense", "pruned", "own") and squares.format(3, 1) in told("dense", "pruned", "own")
    assert "of them the squares" not in told("dense", "pruned")


@pytest.mark.parametrize("pruner", Pruner)
def test_it_is_a_json_document_and_has_the_digests(pruner: Pruner) -> None:
    made = of_kinds("votes", pruner=pruner)
    found = plan_in_words(made, SILO)
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()
    assert found.plan == made.digest.hex()
    assert found.model == made.model_digest.hex()
    assert made.digest.hex() in said(made) and found.model in said(made)


def test_the_threat_model_still_says_what_these_words_are_taken_from() -> None:
    """Where it changes, these words have to."""
    text = " ".join((Path(__file__).parents[3] / "docs/threat-model.md").read_text().split())
    for passage in (
        "the keep counts and nonzero counts summed over the survivors",
        "with `weights` also the summed differences of kept weights, and how many silos' largest difference lies in "
        "which power of two; with `owl` the summed outliers a block; with `energies` or `gram`, instead of counts, the "
        "pooled sums of squares, or of products, of the inputs of each weight matrix; with `dense_target` also those "
        "of the products of a block's last layer's inputs and what is missing there to the dense model's hidden "
        "states; in an evaluation the summed "
        "negative log-likelihoods and token counts, and over all held-out sequences the summed squares of how far what "
        "silos get by themselves is from what they made together; who took part, when, and how much was sent",
        "as an auditor, the sums of the chunks it was drawn for, about a / k of them with k signers",
        "all sums of earlier rounds that a round starts from",
        "who talks when, and how much",
        "Text, tokens, activations and scores never leave a silo",
    ):
        assert passage in text


ASKED_WITH: dict[str, dict[str, object]] = {
    "release": {"pruner": Pruner.SPARSEGPT},
    "force_comparison_group": {"comparison_group": ComparisonGroup.COLUMN},
    "capacities": {"cohort_floor": 3},
    "delta": {"epsilon": 2.0},
}
"""What has to be asked as well for an option to mean anything."""


OF_ASKED_PLAN: dict[str, object] = {"release": ReleaseKind.VOTES, "pruner": Pruner.WANDA}
"""What `asked_plan` has in place of defaults."""


def other_values(option: PlanOption) -> list[object]:
    """Some values of an option that `asked_plan` does not have by itself."""
    values: dict[type, list[object]] = {
        bool: [True],
        int: [1, 2],
        float: [0.5, 0.25],
        str: ["2:5"],
        Decimal: [Decimal("0.25")],
    }
    own = values.get(option.kind) or list(option.choices or option.kind)
    usual = (
        OF_ASKED_PLAN.get(option.name, option.default),
        option.unset.partition(";")[0],
    )  # that of votes comes first
    return [{"silo-003": value} if option.by_silo else value for value in own if value not in usual]


def asked_plan(**options: object) -> Plan:
    """A plan with these values of options, whether or not it could be carried out."""
    message = planned(TENSORS, comparison_group="layer").message
    for member in message.roster:
        member.capacity = 3 if options.get("cohort_floor") else 0
    for option in PLAN_OPTIONS:
        if option.name in options:
            option.write(message, options[option.name])
    message.pruning.clip = 1000 if "epsilon" in options else 0
    if noise := options.get("vote_noise"):
        message.pruning.vote_units, message.pruning.delta = int(16 / float(str(noise))), 1e-6
    message.pruning.block_alphas.extend(["2.0000"] * len(TENSORS) if message.pruning.allocation == "alpha" else [])
    if options.get("release") is ReleaseKind.DENSE_TARGET:
        message.model[0].output_exponents = b"\0"
    pruning = planned_rounds(Plan(message, b""), ReleaseKind(str(options.get("release", "votes"))))
    del message.rounds[:]
    for kind, block in pruning:
        getattr(message.rounds.add(block=block), kind).SetInParent()
    return Plan(message, b"not checked")


@pytest.mark.parametrize(
    ("option", "value"),
    [(option, value) for option in PLAN_OPTIONS for value in other_values(option)],
    ids=lambda value: value.name if isinstance(value, PlanOption) else str(value),
)
def test_whoever_approves_is_told_of_every_option(option: PlanOption, value: object) -> None:
    also = ASKED_WITH.get(option.name, {})
    texts = [said(asked_plan(**also, **more)).splitlines() for more in ({}, {option.name: value})]
    assert texts[0][1:] != texts[1][1:], "beside the first line, which is the digest"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"comparison_group": ComparisonGroup.ROW}, "keep counts are compared within each row of a weight matrix"),
        ({"force_comparison_group": True}, "that comparison group is known to ruin what wanda does"),
        ({"weight_scaling": True}, "each kept weight is multiplied by the share of silos that kept it"),
        ({"cohort_floor": 4}, "each block is pruned by 4 or more silos, which are drawn at random"),
        ({"threshold": 4}, "4 of the 5 silos are enough to open a sum"),
        ({"threshold": 4, "cohort_floor": 3}, "4 of the 5 silos are enough to open a sum, and of a block's silos a"),
    ],
)
def test_what_is_also_asked(asked: dict[str, object], told: str) -> None:
    assert told in "\n".join(plan_in_words(asked_plan(**asked), SILO).also_asked)


def test_nothing_else_is_asked_by_default() -> None:
    assert plan_in_words(asked_plan(), SILO).also_asked == ("3 of the 5 silos are enough to open a sum",)


def test_a_plan_with_noise_says_what_it_promises_and_how_little_that_is_for_all_of_the_text() -> None:
    message = small(ReleaseKind.ENERGIES, epsilon=2.0, delta=1e-6, clip=1 << 19, samples=500)
    words = plan_in_words(checked_plan(message), SILO)
    promise, _, of_silo = words.epsilon.partition("; ")
    assert promise == (
        "2 at delta 1e-06 for each unit of text, a person or else a record, in all rounds of this plan together"
    )
    multiplier = combined_multiplier(events_of(checked_plan(message))) / 500
    assert float(of_silo.split()[0]) == pytest.approx(1 / (2 * multiplier**2), rel=0.05)
    assert "noise is added: epsilon 2 at delta 1e-06 is kept for each unit of text" in words.also_asked
    assert "with this silo's share of the noise added" in words.leaves[0].what
    assert not any("exact statistics" in sentence for sentence in words.not_protected)
    assert any("what many units have in common" in sentence for sentence in words.not_protected)
    assert "at most 500 units of this silo's text" in words.computed_here[0]
