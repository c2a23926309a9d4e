"""Whole rounds over a cohort of the roster, as layer sampling draws one for each block."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import BadSignature, MalformedMessage, TooFewSurvivors, UnexpectedMessage
from crypto.names import Backend, Phase
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.secagg.round import Round
from scenarios.world import World, plain_sum, random_lanes
from silo_agent.opened_sums.opened_sum import OpenedRound
from silo_agent.opened_sums.verify import verify_opened
from sparsilo.v1 import round_pb2, words_pb2
from support.driven import Driven
from support.opened import Tensors, planned
from support.plans import signing_keys

TENSORS: Tensors = {"blocks.0.weight": (0, (6, 10), False), "blocks.1.weight": (1, (3, 7), True)}
INPUT = b"what was opened before, 32 bytes"
A, B, C, D, E, F, G = (f"silo-{index:03d}" for index in range(7))


def sampled(silos: int = 7, *, colluders: int = 0, floor: int = 3, **changes: object) -> Plan:
    """Rounds: the coin, and votes of two blocks."""
    message = planned(TENSORS, silos=silos, cohort_floor=floor, capacities=(2,) * silos).message
    message.colluders, message.threshold = colluders, (silos + colluders) // 2 + 1
    message.least_survivors = silos
    message.phase_seconds = message.preparation_seconds = 1
    for field, value in changes.items():
        setattr(message, field, value)
    return checked_plan(message)


def block_round(plan: Plan, *cohort: str, block: int = 1) -> Round:
    return Round.of(plan.encoded, 1 + block, INPUT, cohort)


def world_of(round_: Round, lost: dict[str, Phase] | None = None) -> World:
    return World(round_.plan, signing_keys(len(round_.plan.silos)), lost or {}, round_)


@pytest.mark.clause("2.6.2", "2.6.3", "2.4.5")
@pytest.mark.parametrize("backend", list(Backend))
@pytest.mark.parametrize("cohort", [(A, B, C), (B, E, G), (A, C, D, F), (A, B, C, D, E, F, G)])
def test_the_sum_is_exact_over_the_cohort(cohort: tuple[str, ...], backend: Backend) -> None:
    """Lanes are as wide as the cohort needs, not the roster."""
    round_ = block_round(sampled(backend=backend), *cohort)
    lanes = random_lanes(round_.plan, 1, round_)
    world = world_of(round_)
    opened = world.run(lanes)
    assert {name: sums.tolist() for name, sums in opened.items()} == plain_sum(lanes, cohort)
    assert world.aggregator.survivors == cohort
    assert [section.width for section in round_.layout.sections] == [
        (len(cohort) * most).bit_length() for most in (1, 21)
    ]


@pytest.mark.clause("2.6.3")
@pytest.mark.parametrize("phase", [Phase.PLAN, Phase.KEYS, Phase.SHARES, Phase.UPLOAD, Phase.UNMASK, Phase.AUDIT])
def test_a_cohort_of_four_loses_one_and_not_two(phase: Phase) -> None:
    """Also where the whole roster's rounds need all seven."""
    cohort = (B, C, E, G)
    round_ = block_round(sampled(), *cohort)
    lanes = random_lanes(round_.plan, 2, round_)
    world = world_of(round_, {E: phase})
    opened = world.run(lanes)
    survivors = cohort if phase in (Phase.UNMASK, Phase.AUDIT) else (B, C, G)
    assert world.aggregator.survivors == survivors
    assert {name: sums.tolist() for name, sums in opened.items()} == plain_sum(lanes, survivors)
    with pytest.raises(TooFewSurvivors, match=f"phase {phase}: 2 of 4 silos answered and 3 are needed"):
        world_of(round_, {B: phase, E: phase}).run(lanes)


@pytest.mark.clause("2.6.3")
@pytest.mark.parametrize("phase", [Phase.PLAN, Phase.UPLOAD])
def test_a_cohort_of_three_has_nobody_to_spare(phase: Phase) -> None:
    round_ = block_round(sampled(5), A, C, E)
    with pytest.raises(TooFewSurvivors, match=f"phase {phase}: 2 of 3 silos answered and 3 are needed"):
        world_of(round_, {C: phase}).run(random_lanes(round_.plan, 3, round_))


@pytest.mark.clause("2.6.3")
def test_with_a_colluder_a_cohort_needs_one_more() -> None:
    plan = sampled(colluders=1, floor=4)
    round_ = block_round(plan, A, B, C, D)
    assert (round_.threshold, round_.least_survivors) == (4, 4)
    with pytest.raises(TooFewSurvivors, match="3 of 4 silos answered and 4 are needed"):
        world_of(round_, {D: Phase.UPLOAD}).run(random_lanes(plan, 3, round_))
    larger = block_round(plan, A, B, C, D, E)
    lanes = random_lanes(plan, 3, larger)
    opened = world_of(larger, {D: Phase.UPLOAD}).run(lanes)
    assert {name: sums.tolist() for name, sums in opened.items()} == plain_sum(lanes, (A, B, C, E))


@pytest.mark.clause("2.6.2")
@pytest.mark.parametrize("backend", list(Backend))
def test_nobody_outside_the_cohort_is_heard_in_any_phase(backend: Backend) -> None:
    round_ = block_round(sampled(backend=backend), A, C, F)
    world, outsider = world_of(round_), world_of(round_).make_silo(B)
    while world.aggregator.phase is not Phase.DONE:
        arrived = world.aggregator.arrived
        with pytest.raises(UnexpectedMessage, match=f"^{B}: has nothing to say"):
            world.aggregator.receive(B, outsider.message())
        assert world.aggregator.arrived == arrived
        world.step(random_lanes(round_.plan, 1, round_))
    assert world.aggregator.survivors == (A, C, F)


@pytest.mark.clause("2.6.2")
def test_a_silo_takes_no_keys_from_outside_the_cohort() -> None:
    round_ = block_round(sampled(), A, C, F)
    world, outsider = world_of(round_), world_of(round_).make_silo(B)
    for silo in round_.silos:
        world.aggregator.receive(silo, world.silos[silo].message())
    answer = round_pb2.AggregatorMessage.FromString(world.aggregator.close_phase()[C])
    acceptance = round_pb2.SiloMessage.FromString(outsider.message()).acceptance
    key = round_pb2.SignedKey(
        silo=B,
        sealing_key=acceptance.sealing_key,
        coin_commitment=acceptance.coin_commitment,
        signature=acceptance.signature,
    )
    keys = sorted([*answer.participants.keys, key], key=lambda signed: signed.silo)
    del answer.participants.keys[:]
    answer.participants.keys.extend(keys)
    with pytest.raises(MalformedMessage):
        world.silos[C].receive(encode(answer))
    assert world.silos[C].phase is Phase.ABORTED


@pytest.mark.clause("2.6.2")
def test_a_driver_offers_the_round_to_its_cohort_and_takes_no_words_from_others(tmp_path: Path) -> None:
    async def work() -> None:
        round_ = block_round(sampled(5), A, C, D, E)
        driven = Driven(round_.plan, tmp_path, round_)
        outsider: Any = asyncio.create_task(driven.driver.next(B))
        running = asyncio.create_task(driven.driver.run(round_, tmp_path))
        taking_part = [asyncio.create_task(driven.take_part(silo)) for silo in (A, C, D)]
        losing = asyncio.create_task(driven.take_part(E, Phase.UPLOAD))
        await losing
        words = [
            words_pb2.WordChunk(round=round_.digest, index=chunk.index, words=bytes(8 * chunk.words))
            for chunk in round_.layout.chunks
        ]
        with pytest.raises(UnexpectedMessage, match=f"^{B}: no upload is due"):
            await driven.driver.upload(B, sent(words))
        with pytest.raises(UnexpectedMessage, match="no auditor"):
            await anext(driven.driver.committed(B, round_.digest, 0))
        with pytest.raises(UnexpectedMessage, match="has nothing to say"):
            await driven.driver.advance(B, world_of(round_).make_silo(B).message())
        await driven.driver.gone(E)
        await asyncio.gather(running, *taking_part)
        assert running.result().survivors == (A, C, D)
        assert not outsider.done()
        assert driven.metric("silos") == 4
        assert not (tmp_path / f"{B}.words").exists()
        await driven.driver.finish()
        assert decode(round_pb2.Offer, await outsider, MESSAGE_LIMIT).HasField("over")

    async def sent(words: list[words_pb2.WordChunk]) -> Any:
        for chunk in words:
            yield encode(chunk)

    asyncio.run(asyncio.wait_for(work(), 300))


@pytest.mark.clause("2.2.2", "5.10.1")
def test_a_transcript_names_its_cohort_and_is_of_no_other(tmp_path: Path) -> None:
    round_ = block_round(sampled(), A, C, D, F)
    world = world_of(round_, {F: Phase.UPLOAD})
    world.run(random_lanes(round_.plan, 1, round_))
    transcript = world.aggregator.transcript
    assert (list(transcript.cohort), transcript.input) == ([A, C, D, F], INPUT)
    (tmp_path / "words").write_bytes(b"".join(world.opened))
    (tmp_path / "transcript").write_bytes(encode(transcript))
    roster = {silo: key.public_bytes for silo, key in world.keys.items()}
    opened = verify_opened(round_, tmp_path / "words", tmp_path / "transcript", roster)
    assert opened == OpenedRound(round_, 3, world.aggregator.sum_root, tmp_path / "words")
    for change in ((A, B, C, D, F), (A, B, C, D), (A, C, D)):
        del transcript.cohort[:]
        transcript.cohort.extend(change)
        (tmp_path / "transcript").write_bytes(encode(transcript))
        with pytest.raises((BadSignature, MalformedMessage)):
            verify_opened(block_round(round_.plan, *change), tmp_path / "words", tmp_path / "transcript", roster)
