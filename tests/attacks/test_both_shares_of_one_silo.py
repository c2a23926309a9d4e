"""A dishonest aggregator asks the same silos for both shares of one silo: it survived, and then it did not."""

import pytest

from attacks.stage import (
    FOUR,
    ONE,
    SILOS,
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
from crypto.errors import MalformedMessage, UnexpectedMessage
from crypto.names import Phase
from crypto.primitives import shamir
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("4.1", "4.9", "5.4.3", "5.6.2")


def other_survivors(stage: Stage) -> bytes:
    """The survivors once more, the victim now not among them."""
    survivors = round_pb2.Survivors()
    survivors.CopyFrom(stage.aggregator.transcript.survivors)
    without("roots", FOUR)(survivors)
    return told(stage, survivors=survivors)


def test_the_second_question_is_not_answered() -> None:
    stage = Stage(Phase.UNMASK)
    for silo in SILOS:
        revealed = heard(stage.silos[silo].message())
        assert ([share.silo for share in revealed.self_seeds], list(revealed.bundle_keys)) == (SILOS, [])
        assert_refused(stage.silos[silo], other_survivors(stage), UnexpectedMessage)


def test_nor_is_one_silo_named_twice() -> None:
    stage = Stage(Phase.UPLOAD)
    answer = altered(stage.answers()[ZERO], lambda body: body.roots.append(body.roots[-1]))
    assert_refused(stage.silos[ZERO], answer, MalformedMessage)


def test_silos_that_forgot_what_they_revealed_would_give_the_victim_away() -> None:
    stage = Stage(Phase.UNMASK)
    coalition = (ZERO, ONE, TWO)
    seeds, keys = {}, {}
    for silo in coalition:
        point, session = stage.plan.point(silo), stage.silos[silo]
        seeds[point] = heard(session.message()).self_seeds[-1].share
        forget_survivors(session)
        session.receive(other_survivors(stage))
    signatures = round_pb2.SurvivorsSignatures()
    for silo in coalition:
        signatures.signatures.add(silo=silo, signature=heard(stage.silos[silo].message()).signature)
    for silo in coalition:
        stage.silos[silo].receive(told(stage, survivors_signatures=signatures))
        keys[stage.plan.point(silo)] = heard(stage.silos[silo].message()).bundle_keys[0].share
    bundle = heard(stage.said[FOUR, Phase.SHARES]).bundle
    pair_seeds = open_bundle(shamir.combine(keys, 3), stage.context, FOUR, SILOS[:4], bundle)
    masks = [(shamir.combine(seeds, 3), -1), *pairwise_of(stage, FOUR, pair_seeds)]
    assert stripped(stage, stage.wire[FOUR], masks) == plain(stage, FOUR)
