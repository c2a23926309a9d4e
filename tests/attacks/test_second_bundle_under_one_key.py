"""A dishonest aggregator delivers other contributions to a silo that has spoken, for a second bundle under one key."""

from typing import Any

import pytest

from attacks.stage import ONE, ZERO, Stage, altered, assert_refused, heard, without
from crypto.errors import UnexpectedMessage
from crypto.names import Phase

pytestmark = pytest.mark.clause("3.6.2", "4.1", "4.3")


def with_another_delivery() -> tuple[Stage, bytes, Any]:
    """What the silo knew before the first delivery comes last."""
    stage = Stage(Phase.KEYS)
    answers = stage.answers()
    known = stage.silos[ZERO]._known  # type: ignore[attr-defined]
    stage.silos[ZERO].receive(answers[ZERO])
    return stage, altered(answers[ZERO], without("sealed", ONE)), known


def test_there_is_one_bundle() -> None:
    stage, delivery, _ = with_another_delivery()
    session = stage.silos[ZERO]
    assert session.message() == session.message()
    assert_refused(session, delivery, UnexpectedMessage)


def test_of_two_the_difference_is_that_of_pair_seeds() -> None:
    stage, delivery, known = with_another_delivery()
    session, bundles = stage.silos[ZERO], []
    bundles.append(heard(session.message()).bundle)
    seeds = session._known.pair_seeds  # type: ignore[attr-defined]
    session.phase, session._known = Phase.KEYS, known  # type: ignore[attr-defined]  # a silo that forgot
    session.receive(delivery)
    bundles.append(heard(session.message()).bundle)
    first, second = (int.from_bytes(bundle[:32], "big") for bundle in bundles)
    of_one, of_two = (int.from_bytes(seeds[silo], "big") for silo in (ONE, "silo-002"))
    assert first ^ second == of_one ^ of_two
