"""A dishonest aggregator rewrites a round's transcript or its sum after the round, for those who were not there."""

from collections.abc import Callable

import pytest

from attacks.stage import AGGREGATOR, FOUR, SILOS, Stage, entry, flip
from crypto.backends.verification import verify_transcript
from crypto.encoding.wire import encode
from crypto.errors import BadAudit, BadSignature, IdentityError, SparsiloError
from crypto.names import Phase, Suite
from crypto.primitives.signing import SigningKey
from scenarios.world import tree
from sparsilo.v1 import round_pb2, words_pb2

pytestmark = pytest.mark.clause("5.10.1")

Edit = Callable[[round_pb2.Transcript], object]


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage(Phase.DONE)


def roster(stage: Stage) -> dict[str, bytes]:
    return {silo: stage.plan.signing_key(silo) for silo in stage.plan.silos}


LIES: dict[str, tuple[Edit, type[SparsiloError], str]] = {
    "another sum": (lambda t: setattr(t.opening, "sum_root", bytes(32)), BadSignature, SILOS[0]),
    "another upload": (lambda t: setattr(entry(t.survivors, "roots", FOUR), "root", bytes(32)), BadSignature, FOUR),
    "another seed": (lambda t: setattr(t.opening.self_seeds[4], "seed", bytes(32)), BadSignature, SILOS[0]),
    "another coin": (lambda t: setattr(t.coins.coins[4], "coin", bytes(32)), BadAudit, FOUR),
    "a survivor less": (
        lambda t: (t.survivors.roots.pop(), t.survivors_signatures.signatures.pop(), t.opening.self_seeds.pop()),
        BadSignature,
        SILOS[0],
    ),
    "a verdict of another": (
        lambda t: setattr(t.verdicts.signatures[4], "signature", t.opening_signatures.signatures[4].signature),
        BadSignature,
        FOUR,
    ),
    "another plan": (lambda t: setattr(t, "plan", Stage(run=b"another run     ").plan.encoded), BadSignature, SILOS[0]),
}


@pytest.mark.parametrize("lie", LIES)
def test_no_signature_covers_the_lie(lie: str, stage: Stage) -> None:
    rewritten = round_pb2.Transcript()
    rewritten.CopyFrom(stage.aggregator.transcript)
    assert verify_transcript(encode(rewritten), roster(stage)).signed["verdict"] == tuple(SILOS)
    edit, error, party = LIES[lie]
    edit(rewritten)
    with pytest.raises(error) as found:
        verify_transcript(encode(rewritten), roster(stage))
    assert type(found.value) is error
    assert getattr(found.value, "party", "") == party


def test_a_round_of_silos_that_are_nobody(stage: Stage) -> None:
    pinned = roster(stage) | {FOUR: SigningKey.generate(Suite.DEFAULT).public_bytes}
    with pytest.raises(IdentityError, match=FOUR):
        verify_transcript(encode(stage.aggregator.transcript), pinned)


def test_another_sum_beside_the_true_transcript(stage: Stage) -> None:
    verified = verify_transcript(encode(stage.aggregator.transcript), roster(stage))
    verified.recompute(0, stage.committed(0))
    forged = [flip(stage.opened[0]), *stage.opened[1:]]
    theirs = words_pb2.CommittedChunk(words=forged[0], path=tree(forged).path(0))
    with pytest.raises(BadAudit, match="the opened sum") as found:
        verified.recompute(0, [*stage.committed(0)[:-1], theirs])
    assert found.value.party == AGGREGATOR
