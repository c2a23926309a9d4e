"""A dishonest aggregator that opened a dropped silo's bundle asks once more, now with the silo among the survivors."""

import pytest

from attacks.stage import (
    FOUR,
    SILOS,
    Stage,
    assert_refused,
    forget_survivors,
    heard,
    pairwise_of,
    plain,
    stripped,
    told,
)
from crypto.backends.double_masking.transcript import UPLOAD_ROOT
from crypto.errors import MalformedMessage, UnexpectedMessage
from crypto.names import Phase
from crypto.primitives import shamir
from scenarios.world import tree
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("4.1", "5.5.1", "5.6.2", "5.6.3", "5.6.4")


def late() -> tuple[Stage, bytes]:
    """FOUR's words and root arrived when the survivors were fixed; a survivor set with it."""
    stage = Stage(Phase.UPLOAD, {FOUR: Phase.UPLOAD})
    stage.wire[FOUR] = [stage.silos[FOUR].masked(at, words) for at, words in enumerate(stage.packed(FOUR))]
    root = tree(stage.wire[FOUR]).root
    signature = stage.keys[FOUR].sign(UPLOAD_ROOT + stage.context, root)
    assert heard(stage.silos[FOUR].message()).signature == signature
    stage.go_on(Phase.UNMASK)
    survivors = round_pb2.Survivors()
    survivors.CopyFrom(stage.aggregator.transcript.survivors)
    survivors.roots.add(silo=FOUR, root=root, signature=signature)
    return stage, told(stage, survivors=survivors)


def test_the_second_question_is_not_answered() -> None:
    stage, with_it = late()
    for silo in SILOS[:4]:
        revealed = heard(stage.silos[silo].message())
        assert FOUR not in [share.silo for share in revealed.self_seeds]
        assert [share.silo for share in revealed.bundle_keys] == [FOUR]
        assert_refused(stage.silos[silo], with_it, UnexpectedMessage)


def test_an_honest_aggregator_takes_no_share_that_it_may_not_have() -> None:
    stage, _ = late()
    message = round_pb2.SiloMessage.FromString(stage.silos[SILOS[0]].message())
    message.revealed_shares.self_seeds.add(silo=FOUR, share=bytes(66))
    with pytest.raises(MalformedMessage, match="self-seed shares must name exactly"):
        stage.aggregator.receive(SILOS[0], message.SerializeToString(deterministic=True))
    stage.finish()


def test_silos_that_forgot_what_they_revealed_would_give_its_words_away() -> None:
    stage, with_it = late()
    coalition, seeds = SILOS[:3], {}
    for silo in coalition:
        stage.speak(silo)
        forget_survivors(stage.silos[silo])
        stage.silos[silo].receive(with_it)
    signatures = round_pb2.SurvivorsSignatures()
    for silo in coalition:
        signatures.signatures.add(silo=silo, signature=heard(stage.silos[silo].message()).signature)
    for silo in coalition:
        stage.silos[silo].receive(told(stage, survivors_signatures=signatures))
        seeds[stage.plan.point(silo)] = heard(stage.silos[silo].message()).self_seeds[-1].share
    stage.aggregator.recover()
    stage.aggregator.close_phase()
    pairwise = {pair.survivor: pair.seed for pair in stage.aggregator.transcript.opening.pair_seeds}
    masks = [(shamir.combine(seeds, 3), -1), *pairwise_of(stage, FOUR, pairwise)]
    assert stripped(stage, stage.wire[FOUR], masks) == plain(stage, FOUR)
