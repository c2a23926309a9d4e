"""`silo-agent verify`: a folder's words and signatures against a pinned roster, as a user runs it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from crypto.backends.double_masking.transcript import OPENING, VERDICT, joint_coin, participants_digest
from crypto.encoding.wire import encode
from crypto.errors import BadAudit, BadSignature, CorruptSum, IdentityError, InputError, MalformedMessage, SparsiloError
from crypto.names import Backend, Phase, Suite
from crypto.secagg.round import Round
from scenarios.world import World, random_lanes, tree
from silo_agent.cli import cli
from silo_agent.opened_sums.opened_sum import OpenedRound
from silo_agent.opened_sums.verify import verify_opened
from sparsilo.v1 import round_pb2
from support.commands import Ran, run
from support.opened import Tensors, planned
from support.plans import plan, signing_keys, silo_names
from support.saved_round import save

SILOS = silo_names(5)


def played(suite: Suite = Suite.DEFAULT, seed: int = 3, **fields: object) -> World:
    """The last silo drops out with its upload half done; the first after it signed the survivors."""
    agreed = plan(5, threshold=3, suite=suite, **fields)
    world = World(agreed, signing_keys(5, suite), {SILOS[-1]: Phase.UPLOAD, SILOS[0]: Phase.UNMASK})
    world.run(random_lanes(agreed, seed=seed))
    return world


def verify(folder: Path, capsys: pytest.CaptureFixture[str], *more: object) -> Ran:
    ran = run(cli, ["verify", folder, "--roster", folder.parent / "roster.yaml", *more], capsys)
    if ran.code:
        assert (ran.err.startswith("error: "), ran.err.count("\n")) == (True, 1)
    else:
        assert ran.err == ""
    return ran


@pytest.mark.parametrize("suite", list(Suite))
def test_what_was_established(suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = played(suite)
    ran = verify(save(world, tmp_path / "t"), capsys, "--suite", suite.profile, "--output", "json")
    assert ran.code == 0
    assert ran.data == {
        "round": world.round.digest.hex(),
        "plan": world.plan.digest.hex(),
        "release": "votes",
        "input": "",
        "cohort": [],
        "survivors": SILOS[:4],
        "dropped": SILOS[4:],
        "signed": {
            "acceptance": SILOS,
            "upload": SILOS[:4],
            "survivors": SILOS[:4],
            "opening": SILOS[1:4],
            "verdict": SILOS[1:4],
        },
        "same_as_own": False,
        "chunks": len(world.layout.chunks),
        "recomputed": len(world.layout.chunks),
        "sum_root": tree(world.opened).root.hex(),
    }


def test_the_same_for_a_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = played()
    lines = verify(save(world, tmp_path / "t"), capsys).out.splitlines()
    said = dict(re.split("  +", line) for line in lines)
    assert said["round"] == world.round.digest.hex()
    assert said["survivors"] == said["upload signed by"] == "silo-000, silo-001, silo-002, silo-003"
    assert said["dropped"] == "silo-004"
    assert (said["starts from"], said["cohort"]) == ("the dense model", "the whole roster")
    assert said["verdict signed by"] == "silo-001, silo-002, silo-003"
    assert said["own transcript"] == "not compared: no --own"
    chunks = len(world.layout.chunks)
    assert said["chunks recomputed"] == f"{chunks} of {chunks}, from the words that the survivors signed"
    assert said["sum root"] == tree(world.opened).root.hex()


def test_a_later_round_over_a_cohort(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors: Tensors = {"blocks.0.weight": (0, (6, 10), False), "blocks.1.weight": (1, (3, 7), True)}
    agreed = planned(tensors, silos=5, cohort_floor=3, capacities=(2,) * 5)
    round_ = Round.of(agreed.encoded, 2, bytes(range(32)), SILOS[1:4])
    world = World(agreed, signing_keys(5), {}, round_)
    world.run(random_lanes(agreed, 3, round_))
    folder = save(world, tmp_path / "t")
    found = verify(folder, capsys, "--output", "json").data
    assert (found["input"], found["cohort"]) == (bytes(range(32)).hex(), SILOS[1:4])
    lines = verify(folder, capsys).out.splitlines()
    said = dict(re.split("  +", line) for line in lines)
    assert (said["starts from"], said["cohort"]) == (bytes(range(32)).hex(), "silo-001, silo-002, silo-003")


@pytest.mark.parametrize("name", ["silo-000.words", "silo-003.words", "opened_sum.words"])
def test_words_that_nobody_signed(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(played(), tmp_path / "t")
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    ran = verify(folder, capsys, "--output", "json")
    assert ran.code == 1
    assert f"step 10, words: aggregator: {folder / name}: is not what" in ran.err
    assert '"code": "bad_audit"' in ran.out
    assert verify(folder, capsys, "--signatures-only").code == 0


def test_a_sum_that_all_silos_signed_and_that_is_not_the_sum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = played()
    world.opened[3] = world.opened[3][:-1] + bytes([world.opened[3][-1] ^ 1])
    transcript = world.aggregator.transcript
    participants = participants_digest(world.round.digest, transcript.participants)
    transcript.opening.sum_root = tree(world.opened).root
    opening, coin = encode(transcript.opening), joint_coin(participants, transcript.coins)
    for signed in transcript.opening_signatures.signatures:
        signed.signature = world.keys[signed.silo].sign(OPENING + participants, opening)
    for signed in transcript.verdicts.signatures:
        signed.signature = world.keys[signed.silo].sign(VERDICT + participants, opening + coin)
    ran = verify(save(world, tmp_path / "t"), capsys)
    assert ran.code == 1
    assert "error: step 11, sum: aggregator: chunk 3 as opened is not the sum of the uploads" in ran.err


def test_a_missing_or_short_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(played(), tmp_path / "t")
    words = folder / "silo-002.words"
    words.write_bytes(words.read_bytes()[:-8])
    ran = verify(folder, capsys)
    assert (ran.code, f"{words}: is not" in ran.err) == (4, True)
    words.unlink()
    ran = verify(folder, capsys)
    assert (ran.code, f"{words}: cannot be read: No such file" in ran.err) == (4, True)
    (folder / "opened_sum.words").unlink()
    ran = verify(folder, capsys, "--signatures-only")
    assert ran.code == 0
    assert "none: --signatures-only" in ran.out
    assert verify(folder, capsys, "--signatures-only", "--output", "json").data["recomputed"] == 0
    (folder / "transcript").unlink()
    ran = verify(folder, capsys, "--signatures-only")
    assert (ran.code, f"{folder}: holds no transcript" in ran.err) == (4, True)


def test_an_altered_transcript_names_step_and_party(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = played()
    world.aggregator.transcript.survivors.roots[1].root = bytes(32)
    ran = verify(save(world, tmp_path / "t"), capsys)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: step 4, uploads: silo-001: a signature does not verify")


def test_another_roster_or_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(played(), tmp_path / "t")
    assert verify(folder, capsys, "--suite", "fips").code == 2
    roster = yaml.safe_load((tmp_path / "roster.yaml").read_text())
    roster["silo-001"] = roster["silo-002"]
    (tmp_path / "roster.yaml").write_text(yaml.safe_dump(roster))
    ran = verify(folder, capsys)
    assert ran.code == 2
    assert "step 2, roster: the plan's roster differs from the pinned one at silo-001" in ran.err


def test_a_backend_without_signatures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = verify(save(played(backend=Backend.INSECURE_PLAINTEXT), tmp_path / "t"), capsys)
    assert ran.code == 4
    assert "step 1, bytes and plan: the backend is insecure_plaintext" in ran.err


def test_a_silos_own_transcript_must_be_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, own = played(), tmp_path / "own"
    folder = save(world, tmp_path / "t")
    own.write_bytes(encode(world.silos[SILOS[2]].transcript))
    assert "the same, byte for byte" in verify(folder, capsys, "--own", own).out
    assert verify(folder, capsys, "--own", own, "--output", "json").data["same_as_own"] is True

    # Keys and signatures of another session over the same plan: sound by themselves, but not what this silo saw.
    own.write_bytes(encode(played().silos[SILOS[2]].transcript))
    ran = verify(folder, capsys, "--own", own)
    assert ran.code == 1
    assert (
        f"step 9, own transcript: aggregator: the transcript is not the one in {own}: another participants" in ran.err
    )
    own.write_bytes(b"no transcript")
    ran = verify(folder, capsys, "--own", own)
    assert (ran.code, f"{own}: Transcript: not a protobuf message" in ran.err) == (1, True)
    ran = verify(folder, capsys, "--own", tmp_path / "none")
    assert (ran.code, f"{tmp_path / 'none'}: cannot be read" in ran.err) == (4, True)


# An earlier round as the aggregator serves it, to whoever starts from it.


def served(world: World, folder: Path) -> tuple[Path, Path]:
    """Sum and transcript."""
    folder.mkdir()
    world.opened = world.opened or world.open_sum()
    (folder / "words").write_bytes(b"".join(world.opened))
    (folder / "transcript").write_bytes(encode(world.aggregator.transcript))
    return folder / "words", folder / "transcript"


def pinned(world: World) -> dict[str, bytes]:
    return {silo: key.public_bytes for silo, key in world.keys.items()}


@pytest.mark.clause("2.2.4")
@pytest.mark.parametrize("backend", list(Backend))
def test_an_honest_round_is_what_a_later_one_starts_from(backend: Backend, tmp_path: Path) -> None:
    world = played(backend=backend)
    words, transcript = served(world, tmp_path / "served")
    if backend is Backend.INSECURE_PLAINTEXT:
        transcript.unlink()  # it signs nothing, so there is nothing to look at
    found = verify_opened(world.round, words, transcript, pinned(world))
    assert found == OpenedRound(world.round, 4, tree(world.opened).root, words)
    lanes = {name: sums.tolist() for name, sums in found.small_sections().items()}
    assert lanes == {name: sums.tolist() for name, sums in world.open().items()}


@pytest.mark.clause("2.2.4")
@pytest.mark.parametrize("at", [0, 50, -1])
def test_words_that_are_not_the_signed_sum(at: int, tmp_path: Path) -> None:
    world = played()
    words, transcript = served(world, tmp_path / "served")
    content = bytearray(words.read_bytes())
    content[at] ^= 1
    words.write_bytes(content)
    with pytest.raises(BadAudit, match=r"^aggregator: the opened sum is not the one that was signed"):
        verify_opened(world.round, words, transcript, pinned(world))
    for damaged in (content[:-8], content + bytes(8)):
        words.write_bytes(damaged)
        with pytest.raises(BadAudit, match=r"^aggregator: the opened sum has another length"):
            verify_opened(world.round, words, transcript, pinned(world))
    words.unlink()
    with pytest.raises(InputError, match=f"^{words}: cannot be read"):
        verify_opened(world.round, words, transcript, pinned(world))


@pytest.mark.clause("2.2.4")
def test_the_transcript_and_words_of_another_round_of_the_same_silos(tmp_path: Path) -> None:
    world, other = played(), played(seed=4, run=b"another run of 5")
    words, transcript = served(other, tmp_path / "other")
    verify_opened(other.round, words, transcript, pinned(other))
    with pytest.raises(BadAudit, match=f"another round than {world.round.digest.hex()[:16]}"):
        verify_opened(world.round, words, transcript, pinned(world))
    own, _ = served(world, tmp_path / "own")
    with pytest.raises(BadAudit, match="of another round"):
        verify_opened(world.round, own, transcript, pinned(world))


def unsigned(transcript: round_pb2.Transcript) -> None:
    for signed in transcript.opening_signatures.signatures:
        signed.signature = bytes(64)


def without_verdicts(transcript: round_pb2.Transcript) -> None:
    transcript.ClearField("verdicts")


def empty(transcript: round_pb2.Transcript) -> None:
    plan = transcript.plan
    transcript.Clear()
    transcript.plan = plan


def another_root(transcript: round_pb2.Transcript) -> None:
    transcript.opening.sum_root = bytes(32)


@pytest.mark.clause("2.2.4")
@pytest.mark.parametrize(
    ("change", "error"),
    [(unsigned, BadSignature), (without_verdicts, SparsiloError), (empty, SparsiloError), (another_root, BadSignature)],
)
def test_a_transcript_that_nobody_signed(
    change: Callable[[round_pb2.Transcript], None], error: type[SparsiloError], tmp_path: Path
) -> None:
    world = played()
    change(world.aggregator.transcript)
    words, transcript = served(world, tmp_path / "served")
    with pytest.raises(error):
        verify_opened(world.round, words, transcript, pinned(world))


@pytest.mark.clause("2.2.4")
def test_a_transcript_signed_by_others_than_the_pinned_roster(tmp_path: Path) -> None:
    world = played()
    words, transcript = served(world, tmp_path / "served")
    roster = pinned(world) | {SILOS[1]: pinned(world)[SILOS[2]]}
    with pytest.raises(IdentityError, match="differs from the pinned one at silo-001"):
        verify_opened(world.round, words, transcript, roster)


def test_no_transcript(tmp_path: Path) -> None:
    world = played()
    words, transcript = served(world, tmp_path / "served")
    transcript.write_bytes(b"no transcript")
    with pytest.raises(MalformedMessage):
        verify_opened(world.round, words, transcript, pinned(world))
    transcript.unlink()
    with pytest.raises(InputError, match=f"^{transcript}: cannot be read"):
        verify_opened(world.round, words, transcript, pinned(world))


def test_plain_words_must_still_be_of_one_number_of_survivors(tmp_path: Path) -> None:
    world = played(backend=Backend.INSECURE_PLAINTEXT)
    words, transcript = served(world, tmp_path / "served")
    content = bytearray(words.read_bytes())
    content[0] = 3  # the first header word
    words.write_bytes(content)
    found = verify_opened(world.round, words, transcript, pinned(world))
    with pytest.raises(CorruptSum, match="the header counts 4 silos, not the 3 survivors"):
        list(found.chunks())
