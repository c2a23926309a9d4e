"""A dishonest aggregator serves another opened sum than was signed: a coin that draws the cohort of its choice."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attacks.coin import ME, drawn, offer_of, serve, start_after
from attacks.stage import AGGREGATOR
from crypto.backends.double_masking.transcript import OPENING, participants_digest
from crypto.encoding.wire import encode
from crypto.errors import BadAudit, BadSignature
from scenarios.world import World, tree
from silo_agent.model.calibration import data_digest
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.rounds.run_files import RunFiles

pytestmark = pytest.mark.clause("2.2.4", "2.6.1")


def ground(world: World, honest: Start, folder: Path) -> tuple[list[bytes], Start, set[str]]:
    """The first coin, counted up from the true one, that puts the silo among the aggregator's friends alone: silo-000,
    which is in every cohort, and one that was not drawn.
    """
    (chunk,) = world.opened
    friends = {"silo-000", next(silo for silo in world.plan.silos if silo not in honest.round.cohort)}
    header, *words = struct.unpack("<5Q", chunk)
    for more in range(1, 9999):
        forged = [struct.pack("<5Q", header, *words[:3], (words[3] + more) % 2**64)]
        start = start_after(world, folder, forged)
        if {*start.round.cohort} == {ME, *friends}:
            return forged, start, friends
    raise AssertionError("no such coin")


def test_words_beside_the_true_transcript(approach: Callable[..., Any], tmp_path: Path) -> None:
    silo = approach()
    world, honest = drawn(silo, tmp_path)
    forged, start, _ = ground(world, honest, tmp_path)
    assert start.round.cohort != honest.round.cohort
    serve(silo, world, forged)
    silo.refuses(silo.agreed, BadAudit, "the opened sum is not the one that was signed", **offer_of(start.round))
    serve(silo, world, forged)
    silo.refuses(silo.agreed, BadAudit, AGGREGATOR, **offer_of(honest.round))


def test_words_with_a_root_that_its_friends_signed(approach: Callable[..., Any], tmp_path: Path) -> None:
    """Two of the five: fewer than the threshold."""
    silo = approach()
    world, honest = drawn(silo, tmp_path)
    forged, start, friends = ground(world, honest, tmp_path)
    transcript = world.aggregator.transcript
    transcript.opening.sum_root = tree(forged).root
    context = OPENING + participants_digest(world.round.digest, transcript.participants)
    for signed in transcript.opening_signatures.signatures:
        if signed.silo in friends:
            signed.signature = world.keys[signed.silo].sign(context, encode(transcript.opening))
    serve(silo, world, forged)
    silo.refuses(
        silo.agreed, BadSignature, next(s for s in world.plan.silos if s not in friends), **offer_of(start.round)
    )


def test_a_silo_that_took_part_holds_it_to_what_it_saw_itself(approach: Callable[..., Any], tmp_path: Path) -> None:
    """Its own transcript is not asked for again, whatever the aggregator would serve."""
    silo = approach()
    world, honest = drawn(silo, tmp_path)
    forged, start, _ = ground(world, honest, tmp_path)
    files = RunFiles(silo.config.state, world.plan.digest, data_digest(silo.config.calibration))
    files.begin()
    own = files.transcript(world.round)
    own.write_bytes(encode(world.silos[ME].transcript))
    silo.downloaded.add(own.name)
    serve(silo, world, forged)
    del silo.served["transcript", world.round.digest]
    silo.refuses(silo.agreed, BadAudit, "not the one that was signed", **offer_of(start.round))
    serve(silo, world)
    silo.accepts(silo.agreed, **offer_of(honest.round))
