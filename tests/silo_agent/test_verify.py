"""`silo-agent verify`: a folder's words and signatures against a pinned roster, as a user runs it."""

import re
from pathlib import Path

import pytest
import yaml

from commands import Ran, run
from crypto.backends.double_masking.transcript import OPENING, VERDICT, joint_coin, participants_digest
from crypto.names import Backend, Phase, Suite
from crypto.secagg.wire import encode
from plans import plan, signing_keys, silo_names
from scenarios.world import World, random_lanes, tree
from silo_agent.cli import cli

SILOS = silo_names(5)


def played(suite: Suite = Suite.DEFAULT, seed: int = 3, **fields: object) -> World:
    """The last silo drops out with its upload half done; the first after it signed the survivors."""
    agreed = plan(5, threshold=3, suite=suite, **fields)
    world = World(agreed, signing_keys(5, suite), {SILOS[-1]: Phase.UPLOAD, SILOS[0]: Phase.UNMASK})
    world.run(random_lanes(agreed, seed=seed))
    return world


def save(world: World, folder: Path) -> Path:
    """As an aggregator saves it; the pinned roster goes beside the folder."""
    folder.mkdir()
    (folder / "transcript").write_bytes(encode(world.aggregator.transcript))
    for silo in world.aggregator.survivors:
        (folder / f"{silo}.words").write_bytes(b"".join(world.wire[silo]))
    (folder / "opened_sum.words").write_bytes(b"".join(world.opened))
    roster = {silo: key.public_bytes.hex() for silo, key in world.keys.items()}
    (folder.parent / "roster.yaml").write_text(yaml.safe_dump(roster))
    return folder


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
    assert said["verdict signed by"] == "silo-001, silo-002, silo-003"
    assert said["own transcript"] == "not compared: no --own"
    chunks = len(world.layout.chunks)
    assert said["chunks recomputed"] == f"{chunks} of {chunks}, from the words that the survivors signed"
    assert said["sum root"] == tree(world.opened).root.hex()


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
    assert (ran.code, f"{folder / 'transcript'}: cannot be read" in ran.err) == (4, True)


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
