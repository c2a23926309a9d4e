"""Dishonest rounds in the simulated world: what is refused, with which error, and who is named for it."""

import hmac
import struct
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.backends.double_masking.silo import DoubleMaskingSilo
from crypto.backends.double_masking.transcript import (
    ACCEPTANCE,
    OPENING,
    SURVIVORS,
    UPLOAD_ROOT,
    VERDICT,
    auditors,
    bundle_bytes,
    coin_commitment,
    joint_coin,
    open_bundle,
    pair_seed,
    pairwise_sign,
    participants_digest,
    seal_bundle,
    seal_info,
)
from crypto.encoding.layout import open_chunk
from crypto.encoding.wire import encode
from crypto.errors import (
    BadAudit,
    BadSeal,
    BadShare,
    BadSignature,
    BadUpload,
    CorruptSum,
    MalformedMessage,
    ProtocolError,
    SparsiloError,
    TooFewSurvivors,
    UnexpectedMessage,
)
from crypto.names import Phase, Suite
from crypto.primitives.sealed import public_bytes, seal
from crypto.primitives.shamir import PRIME
from scenarios.world import Lanes, World, plain_sum, random_lanes, tree
from sparsilo.v1 import round_pb2
from support.plans import plan, signing_keys, silo_names

SILOS = silo_names(5)
ZERO, ONE, TWO, THREE, FOUR = SILOS
KEYS = signing_keys(5)
AGGREGATOR = "aggregator"
PUBLIC_BYTES = public_bytes(Suite.DEFAULT)
Edit = Callable[[Any], Any]


class Scene:
    """Five silos, three enough, brought to one phase; messages can be altered on their way."""

    def __init__(self, phase: Phase, lost: dict[str, Phase] | None = None) -> None:
        agreed = plan(5, threshold=3)
        self.lanes = random_lanes(agreed, seed=6)
        self.world = World(agreed, KEYS, lost or {})
        self.aggregator = self.world.aggregator
        self.participants = b""
        while self.aggregator.phase is not phase:
            self.step()
        self.prepare()

    def silo(self, name: str) -> DoubleMaskingSilo:
        session = self.world.silos[name]
        assert isinstance(session, DoubleMaskingSilo)
        return session

    def prepare(self) -> None:
        """What silos do before they can speak in the present phase."""
        for silo in self.aggregator.expected:
            if self.aggregator.phase is Phase.UPLOAD and self.world.speaks(silo, Phase.UPLOAD):
                self.world.upload(silo, self.lanes[silo])
            if self.aggregator.phase is Phase.AUDIT:
                for index in self.world.silos[silo].assigned:
                    self.world.silos[silo].audit(index, self.world.committed(index))

    def close(self) -> dict[str, bytes]:
        """Everybody speaks and the phase closes; the answers are not delivered."""
        for silo in self.aggregator.expected:
            if self.world.speaks(silo, self.aggregator.phase) and silo not in self.aggregator.arrived:
                self.aggregator.receive(silo, self.world.silos[silo].message())
        phase = self.aggregator.phase
        if phase is Phase.UNMASK:
            self.aggregator.recover()
            self.world.opened = self.world.open_sum()
            self.aggregator.summed(tree(self.world.opened).root)
        answers = self.aggregator.close_phase()
        if phase is Phase.PLAN:
            self.participants = self.digest_of(next(iter(answers.values())))
        return answers

    def digest_of(self, answer: bytes) -> bytes:
        body = round_pb2.AggregatorMessage.FromString(answer).participants
        return participants_digest(self.world.round.digest, body)

    def step(self) -> None:
        self.prepare()
        for silo, answer in self.close().items():
            self.world.silos[silo].receive(answer)

    def finish(self) -> None:
        """The rest of the round, and its sum is exact."""
        while self.aggregator.phase is not Phase.DONE:
            self.step()
        self.assert_exact()

    def assert_exact(self) -> None:
        opened = {name: sums.tolist() for name, sums in self.world.open().items()}
        assert opened == plain_sum(self.lanes, self.aggregator.survivors)


def alter_answer(answer: bytes, edit: Edit) -> bytes:
    message = round_pb2.AggregatorMessage.FromString(answer)
    edit(getattr(message, message.WhichOneof("body") or ""))
    return encode(message)


def alter_message(data: bytes, edit: Edit) -> bytes:
    message = round_pb2.SiloMessage.FromString(data)
    edit(getattr(message, message.WhichOneof("body") or ""))
    return encode(message)


def flip(data: bytes, bit: int = 0) -> bytes:
    """One bit of `data` flipped, counting from the end."""
    return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")


def entries(field: str) -> dict[str, Edit]:
    """Wrong orders and names in a repeated field of entries that name a silo."""

    def swap(body: Any) -> None:
        items = [type(item).FromString(item.SerializeToString()) for item in getattr(body, field)]
        del getattr(body, field)[:]
        getattr(body, field).extend([items[1], items[0], *items[2:]])

    def twice(body: Any) -> None:
        getattr(body, field).append(getattr(body, field)[-1])

    def unknown(body: Any) -> None:
        getattr(body, field)[-1].silo = "silo-999"

    def nameless(body: Any) -> None:
        getattr(body, field)[0].silo = ""

    return {"unsorted": swap, "twice": twice, "unknown": unknown, "nameless": nameless}


def drop(field: str, *indices: int) -> Edit:
    def edit(body: Any) -> None:
        for index in sorted(indices, reverse=True):
            del getattr(body, field)[index]

    return edit


def mangle(field: str, index: int, attribute: str, change: Callable[[bytes], bytes] = flip) -> Edit:
    def edit(body: Any) -> None:
        item = getattr(body, field)[index]
        setattr(item, attribute, change(getattr(item, attribute)))

    return edit


def exchange(field: str, one: int, other: int, attribute: str) -> Edit:
    """What entry `one` holds goes to `other` and the other way about."""

    def edit(body: Any) -> None:
        items = getattr(body, field)
        first, second = getattr(items[one], attribute), getattr(items[other], attribute)
        setattr(items[one], attribute, second)
        setattr(items[other], attribute, first)

    return edit


def setting(**fields: Callable[[bytes], bytes]) -> Edit:
    def edit(body: Any) -> None:
        for name, change in fields.items():
            setattr(body, name, change(getattr(body, name)))

    return edit


def forge_own_root(body: Any) -> None:
    """Even this silo's own good signature, on another root than it computed."""
    body.roots[0].root = bytes(32)


Case = tuple[Phase, Edit, type[SparsiloError], str]
AT_SILO: dict[str, Case] = {  # what reaches silo-000
    **{
        f"{phase} {how}": (phase, edit, MalformedMessage, AGGREGATOR)
        for phase, field in (
            (Phase.PLAN, "keys"),
            (Phase.KEYS, "sealed"),
            (Phase.SHARES, "sealed"),
            (Phase.UPLOAD, "roots"),
            (Phase.CONSISTENCY, "signatures"),
            (Phase.OPENING, "signatures"),
            (Phase.COIN, "coins"),
            (Phase.AUDIT, "signatures"),
        )
        for how, edit in entries(field).items()
    },
    **{f"seeds {how}": (Phase.UNMASK, edit, BadAudit, AGGREGATOR) for how, edit in entries("self_seeds").items()},
    "participant's key altered": (Phase.PLAN, mangle("keys", 2, "sealing_key"), BadSignature, TWO),
    "participant's commitment altered": (Phase.PLAN, mangle("keys", 2, "coin_commitment"), BadSignature, TWO),
    "participant's commitment missing": (
        Phase.PLAN,
        mangle("keys", 2, "coin_commitment", lambda _: b""),
        BadSignature,
        TWO,
    ),
    "participant's signature altered": (Phase.PLAN, mangle("keys", 2, "signature"), BadSignature, TWO),
    "participant's signature cut": (Phase.PLAN, mangle("keys", 2, "signature", lambda s: s[:-1]), BadSignature, TWO),
    "participant's signature missing": (Phase.PLAN, mangle("keys", 2, "signature", lambda _: b""), BadSignature, TWO),
    "participants' keys exchanged": (Phase.PLAN, exchange("keys", 3, 4, "sealing_key"), BadSignature, THREE),
    "participants' signatures exchanged": (Phase.PLAN, exchange("keys", 3, 4, "signature"), BadSignature, THREE),
    "one silo's key and signature under two names": (
        Phase.PLAN,
        lambda body: body.keys[4].MergeFrom(round_pb2.SignedKey(signature=body.keys[3].signature)),
        BadSignature,
        FOUR,
    ),
    "own key missing": (Phase.PLAN, drop("keys", 0), ProtocolError, AGGREGATOR),
    "nobody takes part": (Phase.PLAN, drop("keys", 0, 1, 2, 3, 4), ProtocolError, AGGREGATOR),
    "two participants": (Phase.PLAN, drop("keys", 1, 3, 4), TooFewSurvivors, ""),
    "contribution altered": (Phase.KEYS, mangle("sealed", 1, "sealed"), BadSeal, TWO),
    "contribution cut": (Phase.KEYS, mangle("sealed", 1, "sealed", lambda s: s[:-1]), BadSeal, TWO),
    "contribution missing": (Phase.KEYS, mangle("sealed", 1, "sealed", lambda _: b""), BadSeal, TWO),
    "contributions exchanged": (Phase.KEYS, exchange("sealed", 0, 3, "sealed"), BadSeal, ONE),
    "two contributors": (Phase.KEYS, drop("sealed", 0, 1, 3), TooFewSurvivors, ""),
    "contribution of its own": (
        Phase.KEYS,
        lambda body: body.sealed.insert(0, round_pb2.Sealed(silo=ZERO)),
        MalformedMessage,
        AGGREGATOR,
    ),
    "shares altered": (Phase.SHARES, mangle("sealed", 3, "sealed"), BadSeal, FOUR),
    "shares exchanged": (Phase.SHARES, exchange("sealed", 1, 2, "sealed"), BadSeal, TWO),
    "two sharers": (Phase.SHARES, drop("sealed", 0, 1, 2), TooFewSurvivors, ""),
    "shares of its own": (
        Phase.SHARES,
        lambda body: body.sealed.insert(0, round_pb2.Sealed(silo=ZERO)),
        MalformedMessage,
        AGGREGATOR,
    ),
    "survivor's root altered": (Phase.UPLOAD, mangle("roots", 3, "root"), BadSignature, THREE),
    "survivor's signature altered": (Phase.UPLOAD, mangle("roots", 3, "signature"), BadSignature, THREE),
    "survivors' roots exchanged": (Phase.UPLOAD, exchange("roots", 1, 2, "root"), BadSignature, ONE),
    "own upload missing": (Phase.UPLOAD, drop("roots", 0), BadUpload, AGGREGATOR),
    "own root replaced": (Phase.UPLOAD, forge_own_root, BadSignature, ZERO),
    "nobody survives": (Phase.UPLOAD, drop("roots", 0, 1, 2, 3, 4), BadUpload, AGGREGATOR),
    "two survivors": (Phase.UPLOAD, drop("roots", 1, 2, 4), TooFewSurvivors, ""),
    "survivors' signature altered": (Phase.CONSISTENCY, mangle("signatures", 4, "signature"), BadSignature, FOUR),
    "survivors' signatures exchanged": (
        Phase.CONSISTENCY,
        exchange("signatures", 3, 4, "signature"),
        BadSignature,
        THREE,
    ),
    "two signatures": (Phase.CONSISTENCY, drop("signatures", 1, 2, 4), TooFewSurvivors, ""),
    "no signatures": (Phase.CONSISTENCY, drop("signatures", 0, 1, 2, 3, 4), TooFewSurvivors, ""),
    "own seed altered": (Phase.UNMASK, mangle("self_seeds", 0, "seed"), BadAudit, AGGREGATOR),
    "own seed missing": (Phase.UNMASK, drop("self_seeds", 0), BadAudit, AGGREGATOR),
    "another's seed missing": (Phase.UNMASK, drop("self_seeds", 4), BadAudit, AGGREGATOR),
    "another's seed cut": (Phase.UNMASK, mangle("self_seeds", 4, "seed", lambda s: s[1:]), BadAudit, AGGREGATOR),
    "another's seed too long": (
        Phase.UNMASK,
        mangle("self_seeds", 4, "seed", lambda s: s + b"0"),
        BadAudit,
        AGGREGATOR,
    ),
    "a pair seed of two survivors": (
        Phase.UNMASK,
        lambda body: body.pair_seeds.add(dropped=TWO, survivor=ONE, seed=bytes(32)),
        BadAudit,
        AGGREGATOR,
    ),
    "no sum root": (Phase.UNMASK, setting(sum_root=lambda _: b""), BadAudit, AGGREGATOR),
    "a sum root cut": (Phase.UNMASK, setting(sum_root=lambda root: root[1:]), BadAudit, AGGREGATOR),
    "an opening's signature altered": (Phase.OPENING, mangle("signatures", 4, "signature"), BadSignature, FOUR),
    "an opening's signatures exchanged": (
        Phase.OPENING,
        exchange("signatures", 2, 3, "signature"),
        BadSignature,
        TWO,
    ),
    "own signature of the opening missing": (Phase.OPENING, drop("signatures", 0), BadAudit, AGGREGATOR),
    "two signatures of the opening": (Phase.OPENING, drop("signatures", 1, 2, 4), TooFewSurvivors, ""),
    "own coin missing": (Phase.COIN, drop("coins", 0), MalformedMessage, AGGREGATOR),
    "another's coin missing": (Phase.COIN, drop("coins", 4), MalformedMessage, AGGREGATOR),
    "own coin altered": (Phase.COIN, mangle("coins", 0, "coin"), BadAudit, ZERO),
    "another's coin altered": (Phase.COIN, mangle("coins", 3, "coin"), BadAudit, THREE),
    "another's coin empty": (Phase.COIN, mangle("coins", 3, "coin", lambda _: b""), BadAudit, THREE),
    "coins exchanged": (Phase.COIN, exchange("coins", 2, 3, "coin"), BadAudit, TWO),
    "verdict altered": (Phase.AUDIT, mangle("signatures", 4, "signature"), BadSignature, FOUR),
    "verdicts exchanged": (Phase.AUDIT, exchange("signatures", 2, 3, "signature"), BadSignature, TWO),
    "two verdicts": (Phase.AUDIT, drop("signatures", 1, 2, 4), TooFewSurvivors, ""),
}


@pytest.mark.clause("4.9", "5.1.4", "5.2.3", "5.3.4", "5.4.3", "5.5.3", "5.6.6", "5.7.3", "5.8.2", "5.8.3", "5.9.4")
@pytest.mark.parametrize("case", AT_SILO)
def test_a_silo_refuses(case: str) -> None:
    phase, edit, error, party = AT_SILO[case]
    scene = Scene(phase)
    answer = scene.close()[ZERO]
    silo = scene.silo(ZERO)
    with pytest.raises(error) as refused:
        silo.receive(alter_answer(answer, edit))
    assert type(refused.value) is error
    assert getattr(refused.value, "party", "") == party
    assert silo.phase is Phase.ABORTED
    with pytest.raises(UnexpectedMessage):
        silo.receive(answer)  # not even the right one helps now


@pytest.mark.parametrize(
    ("phase", "edit"),
    [
        (Phase.PLAN, drop("keys", 3, 4)),
        (Phase.KEYS, drop("sealed", 0, 2)),
        (Phase.SHARES, drop("sealed", 2, 3)),
        (Phase.UPLOAD, drop("roots", 1, 4)),
        (Phase.CONSISTENCY, drop("signatures", 0, 4)),
        (Phase.OPENING, drop("signatures", 1, 4)),
    ],
)
def test_three_of_five_are_enough_for_a_silo(phase: Phase, edit: Edit) -> None:
    scene = Scene(phase)
    silo = scene.silo(ZERO)
    silo.receive(alter_answer(scene.close()[ZERO], edit))
    assert silo.phase is scene.aggregator.phase


def test_an_acceptance_that_this_silo_did_not_make_now_is_not_its_own() -> None:
    """The same silo's key and good signature from a session that was restarted: its private key is gone."""
    scene = Scene(Phase.PLAN)
    before = scene.world.make_silo(ZERO)
    scene.aggregator.receive(ZERO, before.message())
    answer = scene.close()[ZERO]
    with pytest.raises(ProtocolError, match=r"^aggregator: .*own key"):
        scene.silo(ZERO).receive(answer)
    before.receive(answer)
    assert before.phase is Phase.KEYS


def test_a_root_that_this_silo_signed_but_did_not_compute_is_not_its_own() -> None:
    scene = Scene(Phase.UPLOAD)
    answer = scene.close()[ZERO]

    def other_root(body: Any) -> None:
        body.roots[0].root = bytes(32)
        body.roots[0].signature = KEYS[ZERO].sign(UPLOAD_ROOT + scene.participants, bytes(32))

    with pytest.raises(BadUpload, match=r"^aggregator: .*own upload"):
        scene.silo(ZERO).receive(alter_answer(answer, other_root))


def test_who_shared_nothing_cannot_survive() -> None:
    scene = Scene(Phase.UPLOAD, {FOUR: Phase.SHARES})

    def add(body: Any) -> None:
        signature = KEYS[FOUR].sign(UPLOAD_ROOT + scene.participants, bytes(32))
        body.roots.append(round_pb2.SignedRoot(silo=FOUR, root=bytes(32), signature=signature))

    with pytest.raises(MalformedMessage, match=r"^aggregator: survivors"):
        scene.silo(ZERO).receive(alter_answer(scene.close()[ZERO], add))


def test_who_did_not_survive_cannot_sign() -> None:
    scene = Scene(Phase.CONSISTENCY, {FOUR: Phase.UPLOAD})
    signature = KEYS[FOUR].sign(SURVIVORS + scene.participants, b"")
    answer = scene.close()[ZERO]
    with pytest.raises(MalformedMessage, match=r"^aggregator: survivors signatures"):
        scene.silo(ZERO).receive(alter_answer(answer, lambda b: b.signatures.add(silo=FOUR, signature=signature)))


def test_who_did_not_sign_the_opening_cannot_judge_it() -> None:
    scene = Scene(Phase.AUDIT, {FOUR: Phase.OPENING})
    signature = KEYS[FOUR].sign(VERDICT + scene.participants, b"")
    answer = scene.close()[ZERO]
    with pytest.raises(MalformedMessage, match=r"^aggregator: verdict signatures"):
        scene.silo(ZERO).receive(alter_answer(answer, lambda b: b.signatures.add(silo=FOUR, signature=signature)))


PAIRS: dict[str, Edit] = {  # of FOUR with ZERO, ONE, TWO and THREE
    "own altered": mangle("pair_seeds", 0, "seed"),
    "own missing": drop("pair_seeds", 0),
    "another's missing": drop("pair_seeds", 3),
    "another's cut": mangle("pair_seeds", 3, "seed", lambda seed: seed[1:]),
    "exchanged with its silos": exchange("pair_seeds", 1, 2, "survivor"),
    "exchanged with all of it": lambda body: body.pair_seeds.reverse(),
    "twice": lambda body: body.pair_seeds.append(body.pair_seeds[3]),
    "none": lambda body: body.ClearField("pair_seeds"),
    "ends exchanged": lambda body: body.pair_seeds[2].MergeFrom(round_pb2.PairSeed(dropped=TWO, survivor=FOUR)),
    "the dropped silo's self seed": lambda body: body.self_seeds.add(silo=FOUR, seed=bytes(32)),
}


@pytest.mark.clause("5.6.6")
@pytest.mark.parametrize("case", PAIRS)
def test_an_opening_has_the_true_seeds_of_exactly_the_dropped_silos_pairs(case: str) -> None:
    scene = Scene(Phase.UNMASK, {FOUR: Phase.UPLOAD})
    answer = scene.close()[ZERO]
    with pytest.raises(BadAudit, match=r"^aggregator: the opening"):
        scene.silo(ZERO).receive(alter_answer(answer, PAIRS[case]))
    assert scene.silo(ZERO).phase is Phase.ABORTED


@pytest.mark.parametrize(("phase", "purpose"), [(Phase.KEYS, b"contribution"), (Phase.SHARES, b"shares")])
def test_a_sealed_message_of_the_wrong_length_is_its_senders_fault(phase: Phase, purpose: bytes) -> None:
    right = {Phase.KEYS: 32, Phase.SHARES: 132}[phase]
    for length in (0, right - 1, right + 1):
        scene = Scene(phase)
        info = seal_info(purpose, scene.participants, THREE, ZERO)
        sealed = seal(Suite.DEFAULT, scene.silo(ZERO)._known.secrets.sealing_key.public_bytes, bytes(length), info)
        edit = mangle("sealed", 2, "sealed", lambda _, sealed=sealed: sealed)  # type: ignore[misc]
        with pytest.raises(MalformedMessage, match=f"^silo-003: a sealed {purpose.decode()} has the wrong length"):
            scene.silo(ZERO).receive(alter_answer(scene.close()[ZERO], edit))


def test_a_message_sealed_for_another_silo_phase_or_sender_does_not_open() -> None:
    scene = Scene(Phase.SHARES)
    key = scene.silo(ZERO)._known.secrets.sealing_key
    info = (b"shares", scene.participants, THREE, ZERO)
    sealed = seal(Suite.DEFAULT, key.public_bytes, bytes(132), seal_info(*info))
    assert key.open(sealed, seal_info(*info)) == bytes(132)
    for at, other in enumerate((b"contribution", bytes(32), TWO, ONE)):
        wrong: Any = [*info[:at], other, *info[at + 1 :]]
        with pytest.raises(BadSeal):
            key.open(sealed, seal_info(*wrong))


def test_contexts_by_hand() -> None:
    agreed, digest, keys = plan(5, threshold=3), bytes(range(32)), round_pb2.Participants()
    keys.keys.add(silo=ZERO, sealing_key=b"key", coin_commitment=b"commitment", signature=b"signature")
    by_hand = sha256(b"sparsilo/1 participants" + digest + encode(keys)).digest()
    assert participants_digest(digest, keys) == by_hand
    assert seal_info(b"shares", digest, ONE, ZERO) == b"sparsilo/1 shares\0" + digest + b"silo-001\0silo-000"

    contributions = {ONE: b"1" * 32, THREE: b"3" * 32}
    extracted = hmac.digest(bytes(32), b"1" * 32 + b"3" * 32, "sha256")
    info = b"sparsilo/1 pair seed\0" + digest + b"silo-001\0silo-003"
    seed = hmac.digest(extracted, info + b"\x01", "sha256")  # RFC 5869
    assert pair_seed(digest, agreed, ONE, THREE, contributions) == seed
    assert pair_seed(digest, agreed, THREE, ONE, contributions) == seed
    assert (pairwise_sign(agreed, ONE, THREE), pairwise_sign(agreed, THREE, ONE)) == (1, -1)


@pytest.mark.clause("3.7.1", "3.7.2", "3.7.5")
@pytest.mark.parametrize("silos", [2, 3, 200])
def test_coins_and_auditors_by_hand(silos: int) -> None:
    digest, coin = bytes(range(32)), b"c" * 32
    assert coin_commitment(digest, ONE, coin) == sha256(b"sparsilo/1 coin" + digest + b"silo-001\0" + coin).digest()
    coins = round_pb2.Coins(coins=[round_pb2.SiloCoin(silo=ONE, coin=coin), round_pb2.SiloCoin(silo=TWO, coin=digest)])
    joint = sha256(b"sparsilo/1 joint coin" + digest + encode(coins)).digest()
    assert joint_coin(digest, coins) == joint
    expected = []
    for chunk in range(2000):
        drawn = sha256(b"sparsilo/1 auditors" + joint + struct.pack("<Q", chunk)).digest()
        first, second = struct.unpack("<2Q", drawn[:16])
        places = list(range(silos))
        expected.append((places.pop(first % silos), places[second % (silos - 1)]))
    assert list(map(tuple, auditors(joint, 2000, silos, 2).tolist())) == expected
    assert {place for pair in expected for place in pair} == set(range(silos))


# A dishonest aggregator that shows different silos different sets.


def test_silos_that_were_shown_different_participants_cannot_understand_each_other() -> None:
    scene = Scene(Phase.PLAN)
    answers = scene.close()
    answers[ZERO] = alter_answer(answers[ZERO], drop("keys", 4))
    for silo, answer in answers.items():
        scene.world.silos[silo].receive(answer)
    sent = {
        silo: {item.silo: item.sealed for item in round_pb2.SiloMessage.FromString(session.message()).pair_seeds.sealed}
        for silo, session in scene.world.silos.items()
    }
    assert FOUR not in sent[ZERO]
    for recipient, senders in ((ONE, SILOS[:1] + SILOS[2:4]), (ZERO, SILOS[1:4])):
        delivery = round_pb2.PairSeedDelivery(
            sealed=[round_pb2.Sealed(silo=sender, sealed=sent[sender][recipient]) for sender in senders]
        )
        answer = encode(round_pb2.AggregatorMessage(round=scene.world.round.digest, pair_seed_delivery=delivery))
        with pytest.raises(BadSeal):
            scene.world.silos[recipient].receive(answer)


@pytest.mark.clause("5.5.3", "5.6.1")
def test_a_signature_on_other_survivors_reveals_nothing() -> None:
    scene = Scene(Phase.UPLOAD)
    answers = scene.close()
    answers[ZERO] = alter_answer(answers[ZERO], drop("roots", 4))
    for silo, answer in answers.items():
        scene.world.silos[silo].receive(answer)
    with pytest.raises(BadSignature, match=r"^silo-000: "):  # an honest aggregator notices
        scene.aggregator.receive(ZERO, scene.silo(ZERO).message())
    for silo in SILOS[1:]:
        scene.aggregator.receive(silo, scene.silo(silo).message())
    forwarded = next(iter(scene.aggregator.close_phase().values()))
    with pytest.raises(BadSignature, match=r"^silo-001: "):  # one that does not care gets no shares
        scene.silo(ZERO).receive(alter_answer(forwarded, drop("signatures", 3)))


@pytest.mark.clause("5.7.3", "5.8.1")
def test_a_signature_on_another_opening_reveals_no_coin() -> None:
    """As if a sum could be chosen for one silo once the others' coins are known."""
    scene = Scene(Phase.UNMASK)
    answers = scene.close()
    answers[ZERO] = alter_answer(answers[ZERO], setting(sum_root=flip))
    for silo, answer in answers.items():
        scene.world.silos[silo].receive(answer)
    with pytest.raises(BadSignature, match=r"^silo-000: "):
        scene.aggregator.receive(ZERO, scene.silo(ZERO).message())
    for silo in SILOS[1:]:
        scene.aggregator.receive(silo, scene.silo(silo).message())
    forwarded = next(iter(scene.aggregator.close_phase().values()))
    with pytest.raises(BadSignature, match=r"^silo-001: "):
        scene.silo(ZERO).receive(forwarded)
    with pytest.raises(UnexpectedMessage):
        scene.silo(ZERO).message()


# What the aggregator refuses from silo-001; the round goes on as if it had not arrived.


def resign(scene: Scene, context: bytes, what: str) -> Edit:
    def edit(body: Any) -> None:
        body.signature = KEYS[ONE].sign(context, getattr(body, what) if what else b"")

    return edit


def sealed_to_itself(body: Any) -> None:
    body.sealed.insert(1, round_pb2.Sealed(silo=ONE, sealed=body.sealed[0].sealed))


AT_AGGREGATOR: dict[str, tuple[Phase, Edit, type[ProtocolError]]] = {
    **{
        f"{phase} {how}": (phase, edit, MalformedMessage)
        for phase, field in (
            (Phase.KEYS, "sealed"),
            (Phase.SHARES, "sealed"),
            (Phase.UNMASK, "self_seeds"),
        )
        for how, edit in entries(field).items()
    },
    "sealing key altered": (Phase.PLAN, setting(sealing_key=flip), BadSignature),
    "coin commitment altered": (Phase.PLAN, setting(coin_commitment=flip), BadSignature),
    "acceptance signature altered": (Phase.PLAN, setting(signature=flip), BadSignature),
    "acceptance signature missing": (Phase.PLAN, setting(signature=lambda _: b""), BadSignature),
    "contribution missing": (Phase.KEYS, drop("sealed", 0), MalformedMessage),
    "last contribution missing": (Phase.KEYS, drop("sealed", 3), MalformedMessage),
    "no contributions": (Phase.KEYS, drop("sealed", 0, 1, 2, 3), MalformedMessage),
    "contribution to itself": (Phase.KEYS, sealed_to_itself, MalformedMessage),
    "shares missing": (Phase.SHARES, drop("sealed", 1), MalformedMessage),
    "shares to itself": (Phase.SHARES, sealed_to_itself, MalformedMessage),
    "short bundle": (Phase.SHARES, setting(bundle=lambda b: b[:-1]), MalformedMessage),
    "long bundle": (Phase.SHARES, setting(bundle=lambda b: b + b"x"), MalformedMessage),
    "no bundle": (Phase.SHARES, setting(bundle=lambda _: b""), MalformedMessage),
    "root altered": (Phase.UPLOAD, setting(root=flip), BadUpload),
    "root missing": (Phase.UPLOAD, setting(root=lambda _: b""), BadUpload),
    "upload signature altered": (Phase.UPLOAD, setting(signature=flip), BadSignature),
    "survivors' signature altered": (Phase.CONSISTENCY, setting(signature=flip), BadSignature),
    "survivors' signature missing": (Phase.CONSISTENCY, setting(signature=lambda _: b""), BadSignature),
    "self-seed share missing": (Phase.UNMASK, drop("self_seeds", 0), MalformedMessage),
    "last self-seed share missing": (Phase.UNMASK, drop("self_seeds", 3), MalformedMessage),
    "bundle-key share missing": (Phase.UNMASK, drop("bundle_keys", 0), MalformedMessage),
    "both shares of a survivor": (
        Phase.UNMASK,
        lambda body: body.bundle_keys.insert(0, body.self_seeds[0]),
        MalformedMessage,
    ),
    "both shares of a dropped silo": (
        Phase.UNMASK,
        lambda body: body.self_seeds.append(body.bundle_keys[0]),
        MalformedMessage,
    ),
    "bundle-key share of a survivor": (
        Phase.UNMASK,
        lambda body: setattr(body.bundle_keys[0], "silo", ZERO),
        MalformedMessage,
    ),
    "short self-seed share": (Phase.UNMASK, mangle("self_seeds", 0, "share", lambda s: s[1:]), BadShare),
    "long self-seed share": (Phase.UNMASK, mangle("self_seeds", 3, "share", lambda s: b"\0" + s), BadShare),
    "no self-seed share": (Phase.UNMASK, mangle("self_seeds", 0, "share", lambda _: b""), BadShare),
    "short bundle-key share": (Phase.UNMASK, mangle("bundle_keys", 0, "share", lambda s: s[1:]), BadShare),
    "long bundle-key share": (Phase.UNMASK, mangle("bundle_keys", 0, "share", lambda s: s + b"\0"), BadShare),
    "opening signature altered": (Phase.OPENING, setting(signature=flip), BadSignature),
    "opening signature missing": (Phase.OPENING, setting(signature=lambda _: b""), BadSignature),
    "coin altered": (Phase.COIN, setting(coin=flip), BadAudit),
    "coin missing": (Phase.COIN, setting(coin=lambda _: b""), BadAudit),
    "verdict altered": (Phase.AUDIT, setting(signature=flip), BadSignature),
    "verdict missing": (Phase.AUDIT, setting(signature=lambda _: b""), BadSignature),
}


@pytest.mark.clause("5.1.3", "5.2.2", "5.3.3", "5.4.2", "5.5.2", "5.6.3", "5.7.2", "5.8.2", "5.9.5")
@pytest.mark.parametrize("case", AT_AGGREGATOR)
def test_the_aggregator_refuses_and_the_round_goes_on(case: str) -> None:
    phase, edit, error = AT_AGGREGATOR[case]
    scene = Scene(phase, {FOUR: Phase.UPLOAD})
    with pytest.raises(error, match=r"^silo-001: ") as refused:
        scene.aggregator.receive(ONE, alter_message(scene.silo(ONE).message(), edit))
    assert type(refused.value) is error
    assert refused.value.party == ONE
    assert scene.aggregator.phase is phase
    assert scene.aggregator.arrived == frozenset()
    scene.finish()
    assert scene.aggregator.survivors == (ZERO, ONE, TWO, THREE)


@pytest.mark.clause("3.1.2")
@pytest.mark.parametrize("phase", [Phase.PLAN, Phase.UPLOAD, Phase.CONSISTENCY, Phase.OPENING, Phase.COIN, Phase.AUDIT])
def test_another_silos_signature_or_coin_is_nobody_elses(phase: Phase) -> None:
    scene = Scene(phase)
    data = scene.silo(TWO).message()
    if phase is Phase.UPLOAD:  # as if it had uploaded the same words
        scene.aggregator.uploaded(ONE, round_pb2.SiloMessage.FromString(data).upload_root.root)
    with pytest.raises(BadAudit if phase is Phase.COIN else BadSignature, match=r"^silo-001: "):
        scene.aggregator.receive(ONE, data)


@pytest.mark.clause("3.1.2")
def test_a_signature_made_for_one_purpose_is_worth_nothing_for_another() -> None:
    """Whatever bytes ONE was brought to sign elsewhere: the context tells the purposes apart."""
    scene = Scene(Phase.UPLOAD)
    root = round_pb2.SiloMessage.FromString(scene.silo(ONE).message()).upload_root.root
    contexts = [
        ACCEPTANCE + scene.participants,
        SURVIVORS + scene.participants,
        OPENING + scene.participants,
        VERDICT + scene.participants,
        UPLOAD_ROOT + scene.world.round.digest,  # not bound to the participants
        UPLOAD_ROOT + bytes(32),
        UPLOAD_ROOT,
    ]
    for context in contexts:
        with pytest.raises(BadSignature, match=r"^silo-001: "):
            scene.aggregator.receive(ONE, alter_message(scene.silo(ONE).message(), resign(scene, context, "root")))
    right = alter_message(scene.silo(ONE).message(), resign(scene, UPLOAD_ROOT + scene.participants, "root"))
    assert right == scene.silo(ONE).message()
    assert len(root) == 32


def test_a_key_that_the_roster_does_not_pin_is_refused() -> None:
    scene = Scene(Phase.PLAN)
    stranger = DoubleMaskingSilo(scene.world.round, ONE, KEYS[TWO], bytes)
    with pytest.raises(BadSignature, match=r"^silo-001: "):
        scene.aggregator.receive(ONE, stranger.message())


malformed_keys = pytest.mark.parametrize(
    "key",
    [
        b"",
        bytes(PUBLIC_BYTES - 1),
        bytes(PUBLIC_BYTES + 1),
        b"\xff" * PUBLIC_BYTES,  # beyond ML-KEM's modulus
        bytes(PUBLIC_BYTES),  # an X25519 point of low order
    ],
)


@malformed_keys
def test_a_malformed_sealing_key_is_refused_from_its_owner(key: bytes) -> None:
    scene = Scene(Phase.PLAN)

    def sign_it(body: Any) -> None:
        body.sealing_key = key
        body.signature = KEYS[ONE].sign(ACCEPTANCE + scene.world.round.digest, key + body.coin_commitment)

    with pytest.raises(BadSeal, match=r"^silo-001: "):
        scene.aggregator.receive(ONE, alter_message(scene.silo(ONE).message(), sign_it))
    scene.finish()


@malformed_keys
def test_nothing_is_sealed_to_a_malformed_key(key: bytes) -> None:
    with pytest.raises(BadSeal):
        seal(Suite.DEFAULT, key, b"text", b"info")


# Shares that lie.


def shares_of(data: bytes, field: str) -> dict[str, bytes]:
    body = round_pb2.SiloMessage.FromString(data).revealed_shares
    return {share.silo: share.share for share in getattr(body, field)}


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(SILOS), st.sampled_from(list(Phase)[:6]), max_size=3))
def test_nobody_reveals_both_shares_of_one_silo(lost: dict[str, Phase]) -> None:
    order = list(Phase)
    if len(lost) > 2:
        with pytest.raises(TooFewSurvivors):
            Scene(Phase.DONE, lost)
        return
    scene = Scene(Phase.UNMASK, lost)
    uploaded = [s for s in SILOS if s not in lost or order.index(lost[s]) > order.index(Phase.UPLOAD)]
    gone_in_upload = [s for s in SILOS if lost.get(s) is Phase.UPLOAD]
    revealed: dict[tuple[str, str], set[bytes]] = {}
    for silo in scene.aggregator.expected:
        data = scene.silo(silo).message()
        self_seeds, bundle_keys = shares_of(data, "self_seeds"), shares_of(data, "bundle_keys")
        assert list(self_seeds) == uploaded
        assert list(bundle_keys) == gone_in_upload
        assert not set(self_seeds) & set(bundle_keys)
        assert scene.silo(silo).message() == data
        for kind, shares in (("seed", self_seeds), ("key", bundle_keys)):
            for owner, share in shares.items():
                revealed.setdefault((kind, owner), set()).add(share)
    assert all(len(shares) == len(scene.aggregator.expected) for shares in revealed.values())  # each holder its own
    scene.finish()


def lagrange_at_zero(point: int, points: list[int]) -> int:
    weight = 1
    for other in points:
        if other != point:
            weight = weight * other * pow(other - point, -1, PRIME) % PRIME
    return weight


LIAR, VICTIM = ONE, {"self_seeds": TWO, "bundle_keys": FOUR}
holders = pytest.mark.parametrize("silent", [(), (THREE,)], ids=["more than enough shares", "just enough"])
kinds = pytest.mark.parametrize("field", ["self_seeds", "bundle_keys"])


def lie(field: str, silent: tuple[str, ...], change: Callable[[int], int]) -> Scene:
    """FOUR is dropped in UPLOAD; then everybody reveals, and LIAR changes its share of one secret."""
    scene = Scene(Phase.UNMASK, {FOUR: Phase.UPLOAD, **dict.fromkeys(silent, Phase.UNMASK)})

    def edit(body: Any) -> None:
        for share in getattr(body, field):
            if share.silo == VICTIM[field]:
                share.share = change(int.from_bytes(share.share, "big")).to_bytes(66, "big")

    scene.aggregator.receive(LIAR, alter_message(scene.silo(LIAR).message(), edit))
    return scene


@holders
@kinds
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_an_altered_share_never_opens_a_sum(field: str, silent: tuple[str, ...], data: st.DataObject) -> None:
    change = data.draw(
        st.one_of(
            st.integers(0, 527).map(lambda bit: lambda share: share ^ 1 << bit),
            st.integers(1, PRIME - 1).map(lambda by: lambda share: (share + by) % PRIME),
            st.sampled_from([0, 1, PRIME, 2**528 - 1]).map(lambda new: lambda _: new),
        )
    )
    scene = lie(field, silent, change)
    with pytest.raises((BadShare, CorruptSum)):
        scene.close()
        scene.world.open()


@holders
@kinds
@pytest.mark.parametrize("shift", [1, -1, 1 << 200])
def test_a_share_altered_so_that_the_secret_stays_in_range_never_opens_a_sum(
    field: str, silent: tuple[str, ...], shift: int
) -> None:
    """With just enough shares no polynomial check is left: the bundle's tag and the header word are what notice."""
    points = [scene_point for scene_point, silo in enumerate(SILOS, 1) if silo not in (FOUR, *silent)]
    weight = lagrange_at_zero(2, points)
    scene = lie(field, silent, lambda share: (share + shift * pow(weight, -1, PRIME)) % PRIME)
    if not silent:
        with pytest.raises(BadShare, match="not on the polynomial"):
            scene.close()
    elif field == "bundle_keys":
        with pytest.raises(BadShare, match=r"^the shares of the bundle key of silo-004 do not open its bundle"):
            scene.close()
    else:
        scene.close()
        with pytest.raises(CorruptSum, match="the header counts"):
            scene.world.open()


@kinds
def test_shares_of_two_silos_exchanged_never_open_a_sum(field: str) -> None:
    scene = Scene(Phase.UNMASK, {FOUR: Phase.UPLOAD})
    data = alter_message(scene.silo(LIAR).message(), exchange("self_seeds", 0, 1, "share"))
    scene.aggregator.receive(LIAR, data)
    with pytest.raises(BadShare):
        scene.close()


def test_shares_that_a_silo_dealt_wrong_never_open_a_sum() -> None:
    scene = Scene(Phase.SHARES)
    info = seal_info(b"shares", scene.participants, TWO, ZERO)
    sealed = seal(Suite.DEFAULT, scene.silo(ZERO)._known.secrets.sealing_key.public_bytes, bytes(132), info)
    data = alter_message(scene.silo(TWO).message(), mangle("sealed", 0, "sealed", lambda _: sealed))
    scene.aggregator.receive(TWO, data)
    while scene.aggregator.phase is not Phase.UNMASK:
        scene.step()
    with pytest.raises(BadShare):
        scene.close()


def test_a_bundle_that_its_key_does_not_open_names_nobody() -> None:
    scene = Scene(Phase.SHARES, {FOUR: Phase.UPLOAD})
    scene.aggregator.receive(FOUR, alter_message(scene.silo(FOUR).message(), setting(bundle=flip)))
    while scene.aggregator.phase is not Phase.UNMASK:
        scene.step()
    with pytest.raises(BadShare, match=r"^the shares of the bundle key of silo-004 do not open its bundle") as refused:
        scene.close()
    assert refused.value.party == ""


def test_a_bundle_names_exactly_its_peers() -> None:
    key, participants, seeds = bytes(32), bytes(range(32)), {ZERO: b"0" * 32, TWO: b"2" * 32}
    bundle = seal_bundle(key, participants, ONE, seeds)
    assert len(bundle) == bundle_bytes(2)
    assert open_bundle(key, participants, ONE, [ZERO, TWO], bundle) == seeds
    for peers in ([ZERO], [ZERO, TWO, THREE]):
        with pytest.raises(MalformedMessage, match=r"^silo-001: its bundle has the wrong length"):
            open_bundle(key, participants, ONE, peers, bundle)
    for wrong in ((bytes(31) + b"1", participants, ONE), (key, bytes(32), ONE), (key, participants, TWO)):
        with pytest.raises(BadShare):
            open_bundle(*wrong, [ZERO, TWO], bundle)


def test_a_bundle_of_other_seeds_never_opens_a_sum() -> None:
    scene = Scene(Phase.SHARES, {FOUR: Phase.UPLOAD})
    silo = scene.silo(FOUR)
    seeds = {peer: sha256(peer.encode()).digest() for peer in SILOS[:4]}
    bundle = seal_bundle(silo._known.secrets.bundle_key, scene.participants, FOUR, seeds)
    scene.aggregator.receive(FOUR, alter_message(silo.message(), setting(bundle=lambda _: bundle)))
    while scene.aggregator.phase is not Phase.UNMASK:
        scene.step()
    answer = scene.close()[ZERO]
    with pytest.raises(CorruptSum, match="the header counts"):
        scene.world.open()
    with pytest.raises(BadAudit, match=r"^aggregator: .*this silo's own"):  # the pair's other end knows its seed
        scene.silo(ZERO).receive(answer)


# Words that were altered.


def keep_mask_lanes() -> dict[str, dict[str, Lanes]]:
    """Every silo's keep masks and nonzero counts that belong together, for the plan of `Scene`."""
    random = np.random.default_rng(8)
    lanes: dict[str, dict[str, Lanes]] = {}
    for silo in SILOS:
        lanes[silo] = {}
        for index in range(2):
            votes = random.integers(0, 2, 60, dtype=np.uint64)
            lanes[silo][f"votes blocks.{index}.weight"] = votes
            lanes[silo][f"nonzero counts blocks.{index}.weight"] = votes.sum(keepdims=True)
    return lanes


def test_a_word_altered_on_the_way_is_noticed_when_the_silo_signs_its_root() -> None:
    scene = Scene(Phase.UPLOAD)
    chunk = scene.world.wire[ONE][0]
    scene.aggregator.uploaded(ONE, sha256(flip(chunk)).digest())  # the root of whatever arrived
    with pytest.raises(BadUpload, match=r"^silo-001: "):
        scene.aggregator.receive(ONE, scene.silo(ONE).message())


@pytest.fixture(scope="module")
def uploaded() -> World:
    world = World(plan(5, threshold=3), KEYS, {FOUR: Phase.UPLOAD})
    world.run(keep_mask_lanes())
    world.opened = []  # so that each `open` adds up the words anew
    return world


@settings(max_examples=100, deadline=None)
@given(silo=st.sampled_from(SILOS[:4]), data=st.data())
def test_a_bit_altered_after_the_upload_is_a_corrupt_sum_or_breaks_a_group_sum(
    uploaded: World, silo: str, data: st.DataObject
) -> None:
    """The header word, and bits outside the lanes, are noticed when a chunk is opened.

    Inside the lanes only the release can notice: the keep counts of a group no longer add up to its nonzero count,
    which aggregator/releases/votes.py checks. One bit changes a word by 2^b, and with it the sum of its lanes, which is
    the word mod 2^width - 1.
    """
    chunk = data.draw(st.sampled_from(uploaded.layout.chunks))
    bit = data.draw(st.integers(0, 64 * chunk.words - 1))
    honest = uploaded.wire[silo][chunk.index]
    uploaded.wire[silo][chunk.index] = flip(honest, bit)
    try:
        opened = uploaded.open()
    except CorruptSum:
        return
    finally:
        uploaded.wire[silo][chunk.index] = honest
    assert bit // 8 < 8 * (chunk.words - 1)  # not in the header, which comes first
    broken = [
        index
        for index in range(2)
        if opened[f"votes blocks.{index}.weight"].sum() != opened[f"nonzero counts blocks.{index}.weight"][0]
    ]
    assert [f"blocks.{index}.weight" for index in broken] == [chunk.section.name.rsplit(" ", 1)[1]]


def test_every_bit_of_a_header_is_noticed(uploaded: World) -> None:
    for chunk in uploaded.layout.chunks[:2]:
        total = np.zeros(chunk.words, np.uint64)
        for silo in uploaded.aggregator.survivors:
            total += np.frombuffer(uploaded.wire[silo][chunk.index], "<u8")
        uploaded.aggregator.unmask_chunk(chunk.index, total)
        for bit in range(64):
            wrong = total.copy()
            wrong[0] ^= np.uint64(1 << bit)
            with pytest.raises(CorruptSum, match="the header counts"):
                open_chunk(chunk, wrong, 4)


def test_the_words_of_another_chunk_round_or_silo_are_a_corrupt_sum(uploaded: World) -> None:
    wires = uploaded.wire[ONE]
    other = World(uploaded.plan, KEYS)
    other.run(keep_mask_lanes())
    for wrong in ([wires[2], wires[1], wires[0], *wires[3:]], other.wire[ONE], uploaded.wire[TWO]):
        uploaded.wire[ONE] = wrong
        try:
            with pytest.raises(CorruptSum, match="the header counts"):
                uploaded.open()
        finally:
            uploaded.wire[ONE] = wires
    assert uploaded.open()
