"""A round's transcript against a roster: an honest one says who did what, an altered one is refused where it lies."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.backends.double_masking.transcript import (
    ACCEPTANCE,
    OPENING,
    VERDICT,
    auditors,
    joint_coin,
    participants_digest,
)
from crypto.backends.verification import MAX_TRANSCRIPT_BYTES, verify_transcript
from crypto.encoding.wire import encode
from crypto.errors import (
    BadAudit,
    BadSeal,
    BadSignature,
    IdentityError,
    MalformedMessage,
    PlanError,
    SparsiloError,
    TooFewSurvivors,
    UnexpectedMessage,
)
from crypto.names import Backend, Phase, Suite
from crypto.secagg.verified import Verified
from scenarios.world import World, random_lanes, tree
from sparsilo.v1 import round_pb2, words_pb2
from support.plans import plan, signing_keys, silo_names

SILOS = silo_names(6)
ZERO, ONE, TWO, THREE, FOUR, FIVE = SILOS
KEYS = signing_keys(6)
ROSTER = {silo: key.public_bytes for silo, key in KEYS.items()}
AGGREGATOR = "aggregator"
Edit = Callable[[Any], Any]


def played(lost: Mapping[str, Phase], suite: Suite = Suite.DEFAULT, colluders: int = 0) -> World:
    least = max(4, colluders + 3)
    agreed = plan(6, threshold=least, least_survivors=least, suite=suite, colluders=colluders)
    world = World(agreed, signing_keys(6, suite), lost)
    world.run(random_lanes(agreed, seed=7))
    return world


@pytest.fixture(scope="module")
def world() -> World:
    """FIVE drops out before it uploads, FOUR after, so it survives and signs nothing later."""
    return played({FIVE: Phase.UPLOAD, FOUR: Phase.UNMASK})


def verified(world: World) -> Verified:
    keys = {silo: key.public_bytes for silo, key in world.keys.items()}
    return verify_transcript(encode(world.aggregator.transcript), keys)


@pytest.mark.parametrize("suite", list(Suite))
@pytest.mark.parametrize(
    "lost",
    [
        {},
        {FIVE: Phase.PLAN},
        {ZERO: Phase.KEYS, FIVE: Phase.SHARES},
        {ZERO: Phase.UPLOAD, THREE: Phase.UPLOAD},
        {TWO: Phase.CONSISTENCY, FIVE: Phase.AUDIT},
        {ONE: Phase.OPENING, FOUR: Phase.UPLOAD},
    ],
    ids=lambda lost: " ".join(f"{silo}-{phase}" for silo, phase in lost.items()) or "nobody",
)
def test_an_honest_transcript_says_who_did_what_and_its_sum_can_be_repeated(
    lost: Mapping[str, Phase], suite: Suite
) -> None:
    world = played(lost, suite)
    found = verified(world)

    def spoke(phase: Phase) -> tuple[str, ...]:
        return tuple(silo for silo in SILOS if world.speaks(silo, phase))

    assert found.round == world.round
    assert found.survivors == spoke(Phase.UPLOAD)
    assert found.dropped == tuple(silo for silo in SILOS if silo not in spoke(Phase.UPLOAD))
    assert found.signed == {
        "acceptance": spoke(Phase.PLAN),
        "upload": spoke(Phase.UPLOAD),
        "survivors": spoke(Phase.CONSISTENCY),
        "opening": spoke(Phase.OPENING),
        "verdict": spoke(Phase.AUDIT),
    }
    uploads = {silo: tree(world.wire[silo]).root for silo in found.survivors}
    assert found.roots == {**uploads, "": tree(world.opened).root}
    for index in range(len(world.layout.chunks)):
        found.recompute(index, world.committed(index))


@pytest.mark.parametrize("suite", list(Suite))
def test_whoever_comes_to_the_end_has_the_aggregators_transcript_to_the_byte(suite: Suite) -> None:
    world = played({FIVE: Phase.UPLOAD, FOUR: Phase.UNMASK}, suite)
    theirs = encode(world.aggregator.transcript)
    assert [encode(world.silos[silo].transcript) == theirs for silo in SILOS] == [True] * 4 + [False] * 2


# What is altered, and where that is found: (edit, error, step, party).


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def entry(message: str, field: str, index: int, attribute: str, change: Callable[[Any], Any] = flip) -> Edit:
    def edit(transcript: Any) -> None:
        item = getattr(getattr(transcript, message), field)[index]
        setattr(item, attribute, change(getattr(item, attribute)))

    return edit


def without(message: str, field: str, *indices: int) -> Edit:
    def edit(transcript: Any) -> None:
        for index in sorted(indices, reverse=True):
            del getattr(getattr(transcript, message), field)[index]

    return edit


def swapped(message: str, field: str) -> Edit:
    def edit(transcript: Any) -> None:
        items = getattr(getattr(transcript, message), field)
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        del items[:]
        items.extend([copies[1], copies[0], *copies[2:]])

    return edit


def doubled(message: str, field: str) -> Edit:
    return lambda transcript: getattr(getattr(transcript, message), field).append(
        getattr(getattr(transcript, message), field)[-1]
    )


def setting(message: str, **values: Any) -> Edit:
    def edit(transcript: Any) -> None:
        for name, value in values.items():
            setattr(getattr(transcript, message), name, value)

    return edit


def missing(message: str) -> Edit:
    return lambda transcript: transcript.ClearField(message)


def replanned(**fields: Any) -> Edit:
    def edit(transcript: Any) -> None:
        transcript.plan = plan(6, threshold=4, least_survivors=4, **fields).encoded

    return edit


def unusable_key(transcript: Any) -> None:
    """TWO itself signs a key that nobody can seal to."""
    key, message = transcript.participants.keys[2], b"no key" + bytes(32)
    key.sealing_key, key.coin_commitment = message[:6], message[6:]
    key.signature = KEYS[TWO].sign(ACCEPTANCE + plan_digest(transcript), message)


def plan_digest(transcript: Any) -> bytes:
    return plan(6, threshold=4, least_survivors=4).round_digest(transcript.index, transcript.input)


def signed_by(message: str, silo: str) -> Edit:
    return lambda transcript: getattr(transcript, message).signatures.add(silo=silo, signature=bytes(64))


LISTS = {
    "participants": ("keys", "3, acceptances"),
    "survivors": ("roots", "4, uploads"),
    "survivors_signatures": ("signatures", "5, survivors"),
    "opening_signatures": ("signatures", "6, opening"),
    "coins": ("coins", "7, coins"),
    "verdicts": ("signatures", "8, verdicts"),
}
Case = tuple[Edit, type[SparsiloError], str, str]
CASES: dict[str, Case] = {
    **{
        f"{message} {how}": (edit, MalformedMessage, step, AGGREGATOR)
        for message, (field, step) in LISTS.items()
        for how, edit in {
            "unsorted": swapped(message, field),
            "twice": doubled(message, field),
            "unknown": entry(message, field, -1, "silo", lambda _: "silo-999"),
            "nameless": entry(message, field, 0, "silo", lambda _: ""),
        }.items()
    },
    **{
        f"{message} of too few": (without(message, field, 0, *more), TooFewSurvivors, step, "")
        for message, more, (field, step) in (
            ("participants", (1, 2), LISTS["participants"]),
            ("survivors", (1,), LISTS["survivors"]),
            ("survivors_signatures", (1,), LISTS["survivors_signatures"]),
            ("opening_signatures", (), LISTS["opening_signatures"]),
            ("verdicts", (), LISTS["verdicts"]),
        )
    },
    **{
        f"{message} altered in {attribute}": (entry(message, field, 2, attribute), BadSignature, step, TWO)
        for message, attributes, (field, step) in (
            ("participants", ("sealing_key", "coin_commitment", "signature"), LISTS["participants"]),
            ("survivors", ("root", "signature"), LISTS["survivors"]),
            ("survivors_signatures", ("signature",), LISTS["survivors_signatures"]),
            ("opening_signatures", ("signature",), LISTS["opening_signatures"]),
            ("verdicts", ("signature",), LISTS["verdicts"]),
        )
        for attribute in attributes
    },
    **{
        f"no {message}": (missing(message), TooFewSurvivors, step, "")
        for message, (_, step) in LISTS.items()
        if message != "coins"
    },
    "no opening": (missing("opening"), BadAudit, "6, opening", AGGREGATOR),
    "no coins": (missing("coins"), MalformedMessage, "7, coins", AGGREGATOR),
    "another run": (replanned(run=bytes(16)), BadSignature, "3, acceptances", ZERO),
    "no plan": (lambda transcript: transcript.ClearField("plan"), PlanError, "1, bytes and plan", ""),
    "another backend": (replanned(backend=Backend.INSECURE_PLAINTEXT), PlanError, "1, bytes and plan", ""),
    "another suite": (replanned(suite=Suite.FIPS), IdentityError, "2, roster", ""),
    "another index": (
        lambda transcript: setattr(transcript, "index", 1),
        UnexpectedMessage,
        "1, bytes and plan",
        AGGREGATOR,
    ),
    "an input": (
        lambda transcript: setattr(transcript, "input", bytes(32)),
        UnexpectedMessage,
        "1, bytes and plan",
        AGGREGATOR,
    ),
    "a key that nobody can seal to": (unusable_key, BadSeal, "3, acceptances", TWO),
    "a participant left out": (without("participants", "keys", 5), BadSignature, "4, uploads", ZERO),
    "a survivor left out": (without("survivors", "roots", 4), MalformedMessage, "5, survivors", AGGREGATOR),
    "a survivor that uploaded nothing": (
        lambda transcript: transcript.survivors.roots.add(silo=FIVE, root=bytes(32), signature=bytes(64)),
        BadSignature,
        "4, uploads",
        FIVE,
    ),
    "survivors signed by a dropped silo": (
        signed_by("survivors_signatures", FIVE),
        MalformedMessage,
        "5, survivors",
        AGGREGATOR,
    ),
    "another sum": (setting("opening", sum_root=bytes(32)), BadSignature, "6, opening", ZERO),
    "half a sum root": (setting("opening", sum_root=bytes(31)), BadAudit, "6, opening", AGGREGATOR),
    "another self seed": (entry("opening", "self_seeds", 1, "seed"), BadSignature, "6, opening", ZERO),
    "half a self seed": (
        entry("opening", "self_seeds", 1, "seed", lambda seed: seed[:16]),
        BadAudit,
        "6, opening",
        AGGREGATOR,
    ),
    "another pair seed": (entry("opening", "pair_seeds", 1, "seed"), BadSignature, "6, opening", ZERO),
    "a self seed left out": (without("opening", "self_seeds", 4), BadAudit, "6, opening", AGGREGATOR),
    "a pair seed left out": (without("opening", "pair_seeds", 2), BadAudit, "6, opening", AGGREGATOR),
    "pair seeds unsorted": (swapped("opening", "pair_seeds"), BadAudit, "6, opening", AGGREGATOR),
    "the self seed of a dropped silo": (
        lambda transcript: transcript.opening.self_seeds.add(silo=FIVE, seed=bytes(32)),
        BadAudit,
        "6, opening",
        AGGREGATOR,
    ),
    "a dropped silo left out": (
        without("opening", "pair_seeds", 0, 1, 2, 3, 4),
        BadSignature,
        "6, opening",
        ZERO,
    ),
    "a survivor's pair seed": (
        lambda transcript: transcript.opening.pair_seeds.add(dropped=FOUR, survivor=ZERO, seed=bytes(32)),
        MalformedMessage,
        "6, opening",
        AGGREGATOR,
    ),
    "a stranger's pair seed": (
        entry("opening", "pair_seeds", 0, "dropped", lambda _: "silo-999"),
        MalformedMessage,
        "6, opening",
        AGGREGATOR,
    ),
    "another coin": (entry("coins", "coins", 2, "coin"), BadAudit, "7, coins", TWO),
    "a coin left out": (without("coins", "coins", 2), MalformedMessage, "7, coins", AGGREGATOR),
    "a verdict of who did not sign the opening": (
        signed_by("verdicts", FOUR),
        MalformedMessage,
        "8, verdicts",
        AGGREGATOR,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_altered_is_found_with_its_step_and_party(case: str, world: World) -> None:
    edit, error, step, party = CASES[case]
    altered = round_pb2.Transcript()
    altered.CopyFrom(world.aggregator.transcript)
    edit(altered)
    with pytest.raises(SparsiloError) as refused:
        verify_transcript(encode(altered), ROSTER)
    assert type(refused.value) is error
    assert refused.value.message.startswith(f"step {step}: {party}")
    assert getattr(refused.value, "party", "") == party


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_bit_of_a_transcript_can_be_another(world: World, data: st.DataObject) -> None:
    encoded = bytearray(encode(world.aggregator.transcript))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SparsiloError, match=r"^step \d, "):
        verify_transcript(bytes(encoded), ROSTER)


@pytest.mark.parametrize(
    "how", [lambda b: b[:-1], lambda b: b + b"\x58\x00", lambda b: b + bytes(MAX_TRANSCRIPT_BYTES)]
)
def test_only_canonical_bytes_within_the_limit_are_read(how: Callable[[bytes], bytes], world: World) -> None:
    with pytest.raises(MalformedMessage, match=r"^step 1, bytes and plan: aggregator: Transcript"):
        verify_transcript(how(encode(world.aggregator.transcript)), ROSTER)


@pytest.mark.parametrize(
    ("roster", "named"),
    [
        ({**ROSTER, TWO: ROSTER[THREE]}, TWO),
        ({silo: key for silo, key in ROSTER.items() if silo != FOUR}, FOUR),
        ({**ROSTER, "silo-006": bytes(32)}, "silo-006"),
        ({}, ZERO),
    ],
)
def test_only_the_pinned_roster_counts(roster: Mapping[str, bytes], named: str, world: World) -> None:
    with pytest.raises(IdentityError, match=rf"^step 2, roster: .* {named}"):
        verify_transcript(encode(world.aggregator.transcript), roster)


def test_signatures_beyond_the_threshold_may_be_left_out_and_nobody_is_said_to_have_signed() -> None:
    whole = played({})
    transcript = whole.aggregator.transcript
    for signatures in (transcript.survivors_signatures, transcript.verdicts):
        del signatures.signatures[0]
    found = verified(whole)
    assert found.signed["survivors"] == found.signed["verdict"] == tuple(SILOS[1:])
    assert found.signed["opening"] == tuple(SILOS)


@pytest.mark.parametrize("colluders", [0, 1, 2])
def test_a_chunk_that_lacks_a_verdict_is_found(colluders: int) -> None:
    """One of its two auditors is enough only where the plan reckons with no colluders."""
    whole = played({}, colluders=colluders)
    transcript = whole.aggregator.transcript
    participants = participants_digest(whole.round.digest, transcript.participants)
    of_a_chunk = max(2, colluders + 1)
    coin, chunks = joint_coin(participants, transcript.coins), len(whole.layout.chunks)
    *others, last = auditors(coin, chunks, 6, of_a_chunk)[0].tolist()
    if colluders == 0:
        without("verdicts", "signatures", others[0])(transcript)
        assert len(verified(whole).signed["verdict"]) == 5
        last -= last > others[0]
    without("verdicts", "signatures", last)(transcript)
    with pytest.raises(BadAudit, match=r"^step 8, verdicts: aggregator: .* chunk 0 among them"):
        verified(whole)


# What signatures cannot show, the words do.


@pytest.mark.parametrize("whose", [ZERO, FOUR, ""])
def test_altered_words_are_found_at_their_chunk(whose: str, world: World) -> None:
    recompute = verified(world).recompute
    for index in range(len(world.layout.chunks)):
        pieces = world.committed(index)
        altered = [
            words_pb2.CommittedChunk(silo=p.silo, words=flip(p.words) if p.silo == whose else p.words, path=p.path)
            for p in pieces
        ]
        with pytest.raises(BadAudit, match=f"^aggregator: chunk {index} of {whose or 'the opened sum'} is not what"):
            recompute(index, altered)
        recompute(index, pieces)


@pytest.mark.parametrize("lie", ["sum", "seed"])
def test_an_opening_that_every_silo_signed_falsely_is_found_by_the_words(lie: str) -> None:
    lied = played({})
    if lie == "sum":
        lied.opened[1] = flip(lied.opened[1])
    resign(lied, (lambda _: None) if lie == "sum" else another_seed)
    recompute = verified(lied).recompute
    with pytest.raises(BadAudit, match=r"^aggregator: chunk 1 as opened is not the sum"):
        recompute(1, lied.committed(1))


def another_seed(opening: round_pb2.Opening) -> None:
    opening.self_seeds[0].seed = bytes(32)


def resign(world: World, edit: Edit) -> None:
    """All silos, dishonest together, sign another opening and that it is right."""
    transcript = world.aggregator.transcript
    participants = participants_digest(world.round.digest, transcript.participants)
    transcript.opening.sum_root = tree(world.opened).root
    edit(transcript.opening)
    message, coin = encode(transcript.opening), joint_coin(participants, transcript.coins)
    for signed in transcript.opening_signatures.signatures:
        signed.signature = world.keys[signed.silo].sign(OPENING + participants, message)
    for signed in transcript.verdicts.signatures:
        signed.signature = world.keys[signed.silo].sign(VERDICT + participants, message + coin)
