"""A dishonest aggregator and a silo collude: the silo signs two survivor sets, so that each reaches a quorum."""

import pytest

from attacks.stage import (
    FOUR,
    ONE,
    SILOS,
    THREE,
    TWO,
    ZERO,
    Stage,
    altered,
    assert_refused,
    forget_survivors,
    heard,
    pairwise_of,
    plain,
    stripped,
    told,
    without,
)
from crypto.backends.double_masking.transcript import open_bundle
from crypto.errors import TooFewSurvivors
from crypto.names import Phase
from crypto.primitives import shamir
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("2.1.4", "2.5.6", "5.5.3")

WITH, WITHOUT = (ZERO, ONE), (TWO, THREE)
"""The honest silos that see the victim ZERO survive, and those that see it dropped. FOUR colludes."""


def two_sets(stage: Stage) -> dict[tuple[str, ...], bytes]:
    """What each half would be sent in CONSISTENCY, FOUR's signature among them."""
    answers = stage.answers()
    shown = {WITH: answers[ZERO], WITHOUT: altered(answers[ZERO], without("roots", ZERO))}
    sent = {}
    for half, survivors in shown.items():
        signed = round_pb2.SurvivorsSignatures()
        for silo in (*half, FOUR):
            stage.silos[silo].receive(survivors)
            signed.signatures.add(silo=silo, signature=heard(stage.silos[silo].message()).signature)
        sent[half] = told(stage, survivors_signatures=signed)
        forget_survivors(stage.silos[FOUR])  # a liar's own session does what it likes
    return sent


def test_no_two_quorums_without_an_honest_silo_in_both() -> None:
    stage = Stage(Phase.UPLOAD, threshold=4, colluders=1)
    for half, answer in two_sets(stage).items():
        for silo in half:
            assert_refused(stage.silos[silo], answer, TooFewSurvivors, "")


def test_a_plan_for_no_colluders_would_give_the_victim_away() -> None:
    stage = Stage(Phase.UPLOAD)
    seeds, keys = {}, {}
    for half, answer in two_sets(stage).items():
        forget_survivors(stage.silos[FOUR])
        survivors = told(stage, survivors=stage.aggregator.transcript.survivors)
        stage.silos[FOUR].receive(survivors if half is WITH else altered(survivors, without("roots", ZERO)))
        for silo in (*half, FOUR):
            stage.silos[silo].receive(answer)
            revealed, point = heard(stage.silos[silo].message()), stage.plan.point(silo)
            if half is WITH:
                seeds[point] = revealed.self_seeds[0].share
            else:
                keys[point] = revealed.bundle_keys[0].share
    bundle = heard(stage.said[ZERO, Phase.SHARES]).bundle
    pair_seeds = open_bundle(shamir.combine(keys, 3), stage.context, ZERO, SILOS[1:], bundle)
    masks = [(shamir.combine(seeds, 3), -1), *pairwise_of(stage, ZERO, pair_seeds)]
    assert stripped(stage, stage.wire[ZERO], masks) == plain(stage, ZERO)
