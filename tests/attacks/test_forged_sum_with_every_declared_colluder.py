"""A dishonest aggregator forges a chunk, and as many auditors as the plan reckons with say that it is right."""

from contextlib import suppress
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import pytest

from attacks.stage import Stage, agents, assert_refused, assert_silent, heard, told
from crypto.backends.double_masking.replay import check_covered
from crypto.backends.double_masking.transcript import VERDICT, auditors, auditors_a_chunk, joint_coin
from crypto.encoding.wire import encode
from crypto.errors import BadAudit, ConnectionFailed
from crypto.names import Phase
from scenarios.world import Lanes
from silo_agent.consent.accusations import Accusations
from sparsilo.v1 import round_pb2
from support.plans import plan, silo_names

pytestmark = pytest.mark.clause("3.7.4", "5.9.4", "5.9.7", "5.9.8", "14.6.1")

SEVEN, COLLUDERS = silo_names(7), 2
COINS, CHUNKS = 40, 50


def exchanged(opened: dict[str, Lanes]) -> None:
    """Two different counts of the first chunk, which changes no other."""
    votes = opened["votes blocks.0.weight"]
    most, least = int(votes.argmax()), int(votes.argmin())
    votes[[most, least]] = votes[[least, most]]


def test_it_does_not_come_to_done_at_any_honest_silo() -> None:
    stage = Stage(silos=7, threshold=5, colluders=COLLUDERS)
    stage.forge = exchanged
    stage.go_on(Phase.AUDIT)
    drawn = stage.auditors(0)
    assert len(drawn) == COLLUDERS + 1
    *liars, honest = drawn
    with pytest.raises(BadAudit):
        stage.speak(honest)
    assert_silent(stage.silos[honest])
    transcript, verdicts = stage.aggregator.transcript, round_pb2.Verdicts()
    judged = encode(transcript.opening) + joint_coin(stage.context, transcript.coins)
    others = [silo for silo in SEVEN if silo not in drawn]
    for silo in SEVEN:
        if silo in others:
            stage.speak(silo)
            verdicts.signatures.add(silo=silo, signature=heard(stage.said[silo, Phase.AUDIT]).signature)
        elif silo in liars:
            verdicts.signatures.add(silo=silo, signature=stage.keys[silo].sign(VERDICT + stage.context, judged))
    answer = told(stage, verdicts=verdicts)
    for silo in others:
        assert_refused(stage.silos[silo], answer, BadAudit)


@pytest.mark.parametrize("colluders", [1, 2, 3])
def test_whichever_silos_collude_every_chunk_of_every_coin_has_an_honest_auditor(colluders: int) -> None:
    signers, of_a_chunk = 7, auditors_a_chunk(plan(9, threshold=7, colluders=colluders))
    assert of_a_chunk == colluders + 1
    for coin in range(COINS):
        for drawn in auditors(coin.to_bytes(32, "little"), CHUNKS, signers, of_a_chunk).tolist():
            assert len({*drawn}) == of_a_chunk
            assert all({*drawn} - {*liars} for liars in combinations(range(signers), colluders))


@pytest.mark.parametrize("declared", [0, 1, 2, 3])
def test_one_colluder_more_passes_as_often_as_the_protocol_says(declared: int) -> None:
    """With 0 declared an honest auditor can be called silent, so that a liar beside it is enough."""
    signers, of_a_chunk, liars = 7, max(2, declared + 1), {*range(declared + 1)}
    coins, passed = 4000, 0
    for coin in range(coins):
        drawn = auditors(coin.to_bytes(32, "little"), 1, signers, of_a_chunk)
        honest_auditors = {*drawn[0].tolist()} - liars
        with suppress(BadAudit):
            check_covered(drawn, sorted({*range(signers)} - honest_auditors), declared)
            passed += 1
    probability = 1 / comb(signers, of_a_chunk) if declared else 1 - comb(signers - 1, 2) / comb(signers, 2)
    assert abs(passed - coins * probability) < 5 * (coins * probability) ** 0.5


def test_a_try_that_is_given_up_is_an_accusation_at_every_honest_silo(tmp_path: Path) -> None:
    """One colluder more than declared; the aggregator falls silent, as where the coins draw an honest auditor."""
    honest = SEVEN[COLLUDERS + 1 :]
    stage = agents(Stage(silos=7, threshold=5, colluders=COLLUDERS), tmp_path, *honest)
    stage.forge = exchanged
    stage.go_on(Phase.AUDIT)
    for silo in honest:
        agent: Any = stage.silos[silo]
        with pytest.raises(ConnectionFailed):
            agent.calls.throw(ConnectionFailed("silent"))
        assert Accusations(tmp_path / silo).standing() == [stage.round.digest]


def test_without_colluders_two_look_so_that_one_may_fall_silent() -> None:
    assert auditors_a_chunk(plan(5)) == 2
