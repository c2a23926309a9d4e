"""Cases of section 5.10: whole rounds, and rounds in which one thing is not as it was."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np

from crypto.backends.double_masking.silo import DoubleMaskingSilo
from crypto.backends.double_masking.transcript import auditors, auditors_a_chunk, joint_coin, participants_digest
from crypto.encoding.wire import encode
from crypto.names import Phase, Suite
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.primitives.sealed import SealingKey
from crypto.secagg.round import Round
from crypto.secagg.session import SiloSession
from scenarios.world import World, tree
from sparsilo.v1 import round_pb2
from vectors.case import SILOS, Cases, Fields, altered, case, entropy, sealing_key, signing_key
from vectors.messages import plan_message, set_all

Transcript = round_pb2.Transcript


class Draws:
    """Entropy from a label, which remembers what it gave."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.drawn: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        self.drawn.append(entropy(f"{self.label} draw {len(self.drawn)}", size))
        return self.drawn[-1]


class SeededWorld(World):
    """A round in which every silo's keys and randomness come from its name."""

    def __init__(self, plan: Plan, index: int, lost: Mapping[str, Phase]) -> None:
        self.draws: dict[str, Draws] = {}
        self.sealing: dict[str, Fields] = {}
        keys = {silo: signing_key(plan.suite, silo) for silo in plan.silos}
        super().__init__(plan, keys, lost, Round(plan, index))
        self.lanes = {silo: released(plan, index, silo) for silo in plan.silos}
        self.sums = self.run(self.lanes)
        self.transcript = self.aggregator.transcript

    def make_silo(self, silo: str) -> SiloSession:
        key, self.sealing[silo] = sealing_key(self.plan.suite, f"{silo} sealing")
        self.draws[silo] = Draws(silo)
        with mock.patch.object(SealingKey, "generate", return_value=key):
            return DoubleMaskingSilo(self.round, silo, self.keys[silo], self.draws[silo])

    def private(self, silo: str) -> Fields:
        """What a silo keeps to itself: its keys, all it drew up to SHARES, and its lanes."""
        self_seed, bundle_key, coin, *more = self.draws[silo].drawn
        peers = [peer for peer in self.plan.silos if peer != silo]
        return {
            "signing_key": self.keys[silo].to_bytes(),
            "sealing_key": self.sealing[silo],
            "self_seed": self_seed,
            "bundle_key": bundle_key,
            "coin": coin,
            "contributions": dict(zip(peers, more, strict=False)),
            "lanes": {name: values.tolist() for name, values in self.lanes[silo].items()},
        }

    def published(self, transcript: Transcript) -> Fields:
        """What somebody has who checks a round: the pinned roster, the transcript, the uploads, the opened words."""
        return {
            "roster": {silo: key.public_bytes for silo, key in self.keys.items()},
            "transcript": encode(transcript),
            "uploads": {silo: self.wire[silo] for silo in self.aggregator.survivors},
            "sum": self.opened,
        }

    def whole(self, transcript: Transcript) -> Fields:
        sums = {name: values.tolist() for name, values in self.sums.items()}
        return {
            **self.published(transcript),
            "private": {silo: self.private(silo) for silo in self.plan.silos},
            "expected": {"survivors": self.aggregator.survivors, "lanes": sums},
        }


def released(plan: Plan, index: int, silo: str) -> Fields:
    """A random keep mask with its nonzero counts, or an evaluation."""
    found: Fields = {}
    if index == 1:
        random = np.frombuffer(entropy(f"{silo} likelihood", 16), "<u8")
        return {"negative log-likelihood": random >> np.uint64(16), "tokens": np.full(2, 100 + len(silo), np.uint64)}
    for tensor in plan.prunable:
        rows, columns = tensor.shape
        random = np.frombuffer(entropy(f"{silo} {tensor.name}", rows * columns), np.uint8)
        keep = (random % 10 >= 7).astype(np.uint64)
        found[f"votes {tensor.name}"] = keep
        found[f"nonzero counts {tensor.name}"] = keep.reshape(rows, columns).sum(axis=1, dtype=np.uint64)
    return found


def transcript() -> Cases:
    clauses = ("5.10.1", "6.4.1", "6.4.2", "6.7.1", "6.7.2", "6.7.3")
    world = SeededWorld(checked_plan(plan_message()), 0, {"birch-10": Phase.UPLOAD})
    what = "A votes round of four silos; birch-10 is lost in UPLOAD."
    yield case("votes", what, *clauses, **world.whole(world.transcript))
    fips = SeededWorld(checked_plan(plan_message(suite=Suite.FIPS)), 1, {"alder": Phase.UPLOAD})
    what = "An evaluation round of four silos; alder is lost in UPLOAD."
    yield case("evaluation-fips", what, *clauses, **fips.whole(fips.transcript))
    yield from verdicts(clauses)

    for name, (what, clause, error, changed) in changed_transcripts(world).items():
        yield case(name, what, clause, **world.published(changed), error=error)
    base = world.published(world.transcript)
    unknown = {"transcript": base["transcript"] + b"\xa0\x06\x01"}
    yield case("unknown-field", "A field 100.", "1.3", **(base | unknown), error="malformed_message")
    roster = {"roster": base["roster"] | {"cedar": signing_key(Suite.DEFAULT, "another cedar").public_bytes}}
    yield case("other-roster", "Another key is pinned for cedar.", "3.1.2", **(base | roster), error="identity")

    upload = base["uploads"] | {"alder": [altered(base["uploads"]["alder"][0], 8), *base["uploads"]["alder"][1:]]}
    what = "A bit of an uploaded chunk."
    yield case("upload-altered", what, "5.9.2", **(base | {"uploads": upload}), error="bad_audit")
    balanced = base["uploads"] | {
        "alder": plus(base["uploads"]["alder"], 1),
        "cedar": plus(base["uploads"]["cedar"], -1),
    }
    what = "A word of one upload is one more, of another one less: the sum is the same, the roots tell."
    yield case("uploads-balanced", what, "5.9.2", **(base | {"uploads": balanced}), error="bad_audit")
    opened = {"sum": [altered(base["sum"][0], 8), *base["sum"][1:]]}
    yield case("sum-altered", "A bit of an opened chunk.", "5.9.2", **(base | opened), error="bad_audit")
    forged = Transcript.FromString(base["transcript"])
    forged.opening.sum_root = tree(opened["sum"]).root
    sign_opening(forged, world)
    sign_verdicts(forged, world)
    what = "A bit of an opened chunk, and every survivor signed the root of that sum."
    yield case("sum-forged", what, "5.9.2", **(world.published(forged) | opened), error="bad_audit")


def plus(chunks: Sequence[bytes], number: int) -> list[bytes]:
    """The second word of the first chunk is another."""
    word = (int.from_bytes(chunks[0][8:16], "little") + number) % 2**64
    return [chunks[0][:8] + word.to_bytes(8, "little") + chunks[0][16:], *chunks[1:]]


def sign_all(field: Any, context: bytes, message: bytes, world: SeededWorld) -> None:
    digest = participants_digest(world.round.digest, world.transcript.participants)
    for signature in field.signatures:
        signature.signature = world.keys[signature.silo].sign(context + digest, message)


def sign_survivors(changed: Transcript, world: SeededWorld) -> None:
    sign_all(changed.survivors_signatures, b"survivors", encode(changed.survivors), world)


def sign_opening(changed: Transcript, world: SeededWorld) -> None:
    sign_all(changed.opening_signatures, b"opening", encode(changed.opening), world)


def sign_verdicts(changed: Transcript, world: SeededWorld) -> None:
    digest = participants_digest(world.round.digest, world.transcript.participants)
    sign_all(changed.verdicts, b"verdict", encode(changed.opening) + joint_coin(digest, changed.coins), world)


def changed_transcripts(world: SeededWorld) -> dict[str, tuple[str, str, str, Transcript]]:
    """Description, clause, error and transcript, by name. What a change would break besides is signed anew."""

    def but(change: Callable[[Transcript], object], *sign: Callable[[Transcript, SeededWorld], None]) -> Transcript:
        changed = Transcript.FromString(encode(world.transcript))
        change(changed)
        for again in sign:
            again(changed, world)
        return changed

    def swap(signed: Any) -> None:
        signed[0].signature, signed[1].signature = signed[1].signature, signed[0].signature

    def root(t: Transcript) -> None:
        t.survivors.roots[0].root = altered(t.survivors.roots[0].root, 0)

    def acceptance(t: Transcript) -> None:
        t.participants.keys[0].signature = altered(t.participants.keys[0].signature, 0)

    def seed(t: Transcript) -> None:
        t.opening.self_seeds[0].seed = altered(t.opening.self_seeds[0].seed, 0)

    def sum_root(t: Transcript) -> None:
        t.opening.sum_root = altered(t.opening.sum_root, 0)

    def coin(t: Transcript) -> None:
        t.coins.coins[1].coin = altered(t.coins.coins[1].coin, 0)

    def rotate(t: Transcript) -> None:
        t.verdicts.signatures.append(t.verdicts.signatures.pop(0))

    def to(**fields: Any) -> Callable[[Transcript], None]:
        return lambda t: set_all(t, fields)

    other_plan = encode(plan_message(phase_seconds=61))
    return {
        "swapped-roots": (
            "Two silos have each other's signature of the root; what follows is signed anew.",
            "5.4.3",
            "bad_signature",
            but(lambda t: swap(t.survivors.roots), sign_survivors),
        ),
        "swapped-survivors": (
            "Two silos have each other's signature of the survivors.",
            "5.5.3",
            "bad_signature",
            but(lambda t: swap(t.survivors_signatures.signatures)),
        ),
        "swapped-opening": (
            "Two silos have each other's signature of the opening.",
            "5.7.3",
            "bad_signature",
            but(lambda t: swap(t.opening_signatures.signatures)),
        ),
        "swapped-verdicts": (
            "Two silos have each other's verdict.",
            "5.9.4",
            "bad_signature",
            but(lambda t: swap(t.verdicts.signatures)),
        ),
        "acceptance-altered": (
            "A bit of a signature of PLAN; all that follows names another participants digest.",
            "5.1.4",
            "bad_signature",
            but(acceptance),
        ),
        "root-altered": (
            "A survivor's root is another than it signed; what follows is signed anew.",
            "5.4.3",
            "bad_signature",
            but(root, sign_survivors),
        ),
        "seed-altered": ("A bit of a self seed in the opening.", "5.7.3", "bad_signature", but(seed)),
        "seed-altered-and-signed": (
            "A bit of a self seed in the opening, and every survivor signed that: the sum tells.",
            "5.9.2",
            "bad_audit",
            but(seed, sign_opening, sign_verdicts),
        ),
        "sum-root-altered": (
            "The root of the sum is another, and every survivor signed that.",
            "5.9.2",
            "bad_audit",
            but(sum_root, sign_opening, sign_verdicts),
        ),
        "pair-seed-missing": (
            "The opening lacks a pair seed, and every survivor signed that.",
            "5.6.6",
            "bad_audit",
            but(lambda t: t.opening.pair_seeds.pop(), sign_opening, sign_verdicts),
        ),
        "coin-altered": (
            "A coin is not the one committed to; verdicts are signed anew.",
            "5.8.2",
            "bad_audit",
            but(coin, sign_verdicts),
        ),
        "coin-missing": (
            "A silo that signed the opening gave no coin; verdicts are signed anew.",
            "5.8.3",
            "malformed_message",
            but(lambda t: t.coins.coins.pop(), sign_verdicts),
        ),
        "verdict-missing": (
            "Two verdicts where three are needed.",
            "5.9.4",
            "too_few_survivors",
            but(lambda t: t.verdicts.signatures.pop()),
        ),
        "verdict-order": ("The verdicts do not ascend.", "5.9.4", "malformed_message", but(rotate)),
        "plan-altered": ("Another plan than was signed.", "5.1.4", "bad_signature", but(to(plan=other_plan))),
        "index-altered": ("Another round than was signed.", "5.1.4", "bad_signature", but(to(index=1))),
        "index-beyond": ("A round that the plan does not have.", "2.2.2", "unexpected_message", but(to(index=2))),
        "input": ("A round with an input.", "2.2.2", "unexpected_message", but(to(input=bytes(32)))),
    }


def verdicts(clauses: Sequence[str]) -> Cases:
    """All silos sign the opening; with the verdicts that are left there are still t."""
    five = (*SILOS, "elm")
    six = (*five, "fir")
    for silos, colluders, missing, name, what in (
        (
            five,
            0,
            (0,),
            "one-auditor",
            "One verdict of each chunk is enough without colluders: the first of chunk 0 is missing.",
        ),
        (
            five,
            1,
            (0,),
            "one-auditor-colluder",
            "One verdict is not enough with a colluder: the first of chunk 0 is missing.",
        ),
        (five, 0, (0, 1), "no-auditor", "As many verdicts as needed, and neither of chunk 0."),
        (six, 2, (), "three-auditors", "Two colluders, so three auditors a chunk, with all their verdicts."),
        (six, 2, (2,), "two-auditors-of-three", "Of three auditors of chunk 0 the last drawn gave no verdict."),
    ):
        least = 3 + colluders
        plan = checked_plan(plan_message(silos, colluders=colluders, threshold=least, least_survivors=least))
        world = SeededWorld(plan, 0, {})
        changed = Transcript.FromString(encode(world.transcript))
        digest = participants_digest(world.round.digest, changed.participants)
        places = auditors(joint_coin(digest, changed.coins), 1, len(silos), auditors_a_chunk(plan))[0].tolist()
        for at in sorted((places[draw] for draw in missing), reverse=True):
            del changed.verdicts.signatures[at]
        if name in ("one-auditor", "three-auditors"):
            yield case(name, what, *clauses, "5.9.4", **world.whole(changed))
        else:
            yield case(name, what, "5.9.4", **world.published(changed), error="bad_audit")
