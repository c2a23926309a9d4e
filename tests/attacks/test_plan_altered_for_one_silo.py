"""A dishonest aggregator asks one silo alone for more, by a plan that differs from the others' in one field."""

import pytest

from attacks.stage import FOUR, SILOS, ZERO, Stage, altered, assert_refused, assert_turned_away, entry
from crypto.encoding.wire import encode
from crypto.errors import BadSignature, UnexpectedMessage
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("2.2.1", "2.2.2", "4.2", "5.1.3", "5.1.4")


def stages() -> tuple[Stage, Stage]:
    """What four silos agreed to, and what FOUR was shown: nonzero counts row by row."""
    return Stage(), Stage(group="row")


def test_its_acceptance_is_worth_nothing_to_the_others() -> None:
    agreed, asked = stages()
    accepted = round_pb2.SiloMessage.FromString(asked.silos[FOUR].message())
    assert_turned_away(agreed, FOUR, encode(accepted), UnexpectedMessage)  # an honest aggregator: another round
    accepted.round = agreed.round.digest
    assert_turned_away(agreed, FOUR, encode(accepted), BadSignature)

    def put_in(body: round_pb2.Participants) -> None:
        for field in ("sealing_key", "coin_commitment", "signature"):
            setattr(entry(body, "keys", FOUR), field, getattr(accepted.acceptance, field))

    answers = agreed.answers()
    for silo in SILOS[:4]:
        assert_refused(agreed.silos[silo], altered(answers[silo], put_in), BadSignature, FOUR)


def test_nor_are_the_others_acceptances_to_it() -> None:
    agreed, asked = stages()
    agreed.answers()
    theirs = entry(agreed.aggregator.transcript.participants, "keys", ZERO)
    answer = altered(asked.answers()[FOUR], lambda body: entry(body, "keys", ZERO).CopyFrom(theirs))
    assert_refused(asked.silos[FOUR], answer, BadSignature, ZERO)
