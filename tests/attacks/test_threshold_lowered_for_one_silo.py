"""A dishonest aggregator shows one silo a plan with a lower threshold than the others', whose shares then suffice."""

import pytest

from attacks.stage import FOUR, SILOS, ZERO, Stage, assert_refused, entry, gullible, told
from crypto.errors import BadSeal, BadSignature
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("2.2.2", "3.1.1", "5.1.4")


def deceived() -> tuple[Stage, Stage]:
    """What four silos agreed to, and what FOUR was shown; either plan is one that a silo may accept."""
    agreed, lowered = Stage(threshold=4), Stage(threshold=3)
    assert agreed.round.digest != lowered.round.digest
    return agreed, lowered


def participants(agreed: Stage, lowered: Stage) -> round_pb2.Participants:
    """Four acceptances of one plan and one of the other, put together."""
    accepted = {silo: (lowered if silo == FOUR else agreed).silos[silo].message() for silo in SILOS}
    bodies = {silo: round_pb2.SiloMessage.FromString(data).acceptance for silo, data in accepted.items()}
    return round_pb2.Participants(
        keys=[
            round_pb2.SignedKey(
                silo=silo,
                sealing_key=body.sealing_key,
                coin_commitment=body.coin_commitment,
                signature=body.signature,
            )
            for silo, body in bodies.items()
        ]
    )


def test_its_acceptance_is_worth_nothing_to_the_others_nor_theirs_to_it() -> None:
    agreed, lowered = deceived()
    together = participants(agreed, lowered)
    for silo in SILOS[:4]:
        assert_refused(agreed.silos[silo], told(agreed, participants=together), BadSignature, FOUR)
    assert_refused(lowered.silos[FOUR], told(lowered, participants=together), BadSignature, ZERO)


def test_even_unsigned_no_seal_would_open() -> None:
    """The participants digest holds the plan as well."""
    agreed, lowered = deceived()
    together = participants(agreed, lowered)
    with gullible():
        agreed.silos[ZERO].receive(told(agreed, participants=together))
        lowered.silos[FOUR].receive(told(lowered, participants=together))
        for silo in SILOS[1:4]:
            agreed.silos[silo].receive(told(agreed, participants=together))
    sent = {
        silo: round_pb2.SiloMessage.FromString((lowered if silo == FOUR else agreed).silos[silo].message()).pair_seeds
        for silo in SILOS[1:]
    }
    delivery = [round_pb2.Sealed(silo=silo, sealed=entry(sent[silo], "sealed", ZERO).sealed) for silo in sent]
    answer = told(agreed, pair_seed_delivery=round_pb2.PairSeedDelivery(sealed=delivery))
    assert_refused(agreed.silos[ZERO], answer, BadSeal, FOUR)
