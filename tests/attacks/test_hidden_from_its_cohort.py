"""A dishonest aggregator keeps a silo that was drawn out of its cohort, or lets in one that was not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attacks.coin import ME, drawn, offer_of
from attacks.stage import assert_refused, heard
from crypto.encoding.wire import encode
from crypto.errors import MalformedMessage, TooFewSurvivors, UnexpectedMessage
from crypto.names import Phase
from crypto.secagg.round import Round
from scenarios.world import World, random_lanes
from sparsilo.v1 import round_pb2
from support.plans import signing_keys

pytestmark = pytest.mark.clause("2.2.4", "2.6.2", "2.6.3")


def test_the_others_of_the_cohort_notice_who_is_missing(approach: Callable[..., Any], tmp_path: Path) -> None:
    """Left out, or exchanged for one that was not drawn."""
    silo = approach()
    world, start = drawn(silo, tmp_path)
    cohort = start.round.cohort
    others = [other for other in world.plan.silos if other not in cohort]
    for hidden in {*cohort} - {ME}:
        for instead in others:
            forged = tuple(sorted({*cohort, instead} - {hidden}))
            silo.refuses(silo.agreed, UnexpectedMessage, "another cohort", **offer_of(start.round) | {"cohort": forged})


def test_a_silo_that_was_not_drawn_takes_no_part(approach: Callable[..., Any], tmp_path: Path) -> None:
    silo = approach()
    _, start = drawn(silo, tmp_path, in_cohort=False)
    honest = offer_of(start.round)
    silo.refuses(silo.agreed, UnexpectedMessage, "to a silo that is not in its cohort", **honest)
    with_it = tuple(sorted({*start.round.cohort, ME}))
    silo.refuses(silo.agreed, UnexpectedMessage, "another cohort", **honest | {"cohort": with_it})


def test_never_told_of_the_round_it_is_one_lost_too_many(approach: Callable[..., Any], tmp_path: Path) -> None:
    """A cohort of three has nobody to spare."""
    world, start = drawn(approach(), tmp_path)
    round_ = start.round
    hiding = World(world.plan, signing_keys(5), {ME: Phase.PLAN}, round_)
    with pytest.raises(TooFewSurvivors, match="phase plan: 2 of 3 silos answered and 3 are needed"):
        hiding.run(random_lanes(world.plan, 1, round_))


@pytest.mark.parametrize("signs_another", [False, True])
def test_nor_is_anybody_let_in_between_the_silos_that_accepted(
    signs_another: bool, approach: Callable[..., Any], tmp_path: Path
) -> None:
    """Not even one whose signature is of this very round."""
    world, start = drawn(approach(), tmp_path)
    round_ = start.round
    outsider = next(silo for silo in world.plan.silos if silo not in round_.cohort)
    with_it = Round(world.plan, round_.index, round_.input_digest, tuple(sorted({*round_.cohort, outsider})))
    among = World(world.plan, signing_keys(5), round_=round_)
    stranger = World(world.plan, signing_keys(5), round_=with_it).silos[outsider]
    if not signs_another:
        stranger.round = round_
    with pytest.raises(UnexpectedMessage, match="has nothing to say"):
        among.aggregator.receive(outsider, stranger.message())
    participants = round_pb2.Participants()
    for silo, session in sorted({**among.silos, outsider: stranger}.items()):
        said = heard(session.message())
        participants.keys.add(
            silo=silo, sealing_key=said.sealing_key, coin_commitment=said.coin_commitment, signature=said.signature
        )
    answer = encode(round_pb2.AggregatorMessage(round=round_.digest, participants=participants))
    for session in among.silos.values():
        assert_refused(session, answer, MalformedMessage)
