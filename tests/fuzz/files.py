"""What lies in files: settings, rosters, invitations, tensors, calibration text, and what both programs keep."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save

from aggregator.config import AggregatorConfig
from aggregator.rounds.spool import Spool
from aggregator.runs.plan_file import PlanFile
from aggregator.runs.submitted import Runs
from aggregator.silos.enrolments import Enrolled, Enrolments
from crypto.encoding.wire import encode
from crypto.identity import Authority
from crypto.names import Phase, Suite
from crypto.primitives.signing import SigningKey
from crypto.privacy.events import ExactEvent, GaussianEvent
from crypto.pruning.sparsity import Pattern, parse_ratio
from crypto.roster import roster_file
from fuzz.target import Target, canonical, folder, written
from silo_agent.checkpoint.bitmask_container import BitmaskContainer
from silo_agent.checkpoint.pruned_file import PrunedFile
from silo_agent.config import AgentConfig
from silo_agent.consent.audit_log import AuditLog, read_audit_log, verify_audit_log
from silo_agent.consent.policy import Policy
from silo_agent.consent.privacy_ledger import PRIVACY_FILE, PrivacyLedger, Spent
from silo_agent.consent.state_store import StateStore
from silo_agent.host.credential_files import read_signing_key
from silo_agent.identity.enrolment import policy_file
from silo_agent.identity.own_files import read_roster
from silo_agent.model.calibration import records
from silo_agent.network.address import split_address
from silo_agent.network.fingerprint import plain_fingerprint
from silo_agent.network.invitation import Invitation
from silo_agent.network.proxy import chosen_proxy
from silo_agent.settings.layered_config import config_file
from sparsilo.v1 import words_pb2
from support.plans import plan, signing_keys

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    return lambda data: _ignored(read(written(name, data)))


def _ignored(_: object) -> None:
    """What was read need only be whole."""


def invitation(data: bytes) -> None:
    file = written("invitation.yaml", data)
    Invitation.read(file, sha256(data).hexdigest(), NOW)


def invited() -> bytes:
    authority = Authority("fuzzing", NOW, timedelta(days=1))
    own = authority.issue("silo-000", invitation=True)
    pem = own.certificate.decode(), own.private_key.decode(), authority.certificate.decode()
    return Invitation("silo-000", "host:8443", "default", "tomorrow", *pem).to_bytes()


def keep_masks(file: Path) -> None:
    masks = PrunedFile(file)
    masks.check_keep_masks({"a.weight": (3, 8)})
    for name in masks:
        masks[name]


def container(data: bytes) -> None:
    file = written("model.bitmask.safetensors", data)
    opened = BitmaskContainer(file.parent)
    for name in opened:
        opened[name]


def containers() -> Iterator[bytes]:
    own = {"format": "sparsilo-bitmask/1", "sparsilo.bitmask.part": "1/1", "sparsilo.bitmask.shapes": '{"a": [2, 4]}'}
    tensors = {
        "a.keep_bits": torch.tensor([0b10010110], dtype=torch.uint8),
        "a.values": torch.ones(4),
        "b": torch.ones(3),
    }
    yield save(tensors, own)


def sqlite(name: str, open_and_read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """In a folder of its own, without what an earlier input left there."""

    def read(data: bytes) -> None:
        for other in ("-wal", "-shm", "-journal"):
            (folder() / f"{name}{other}").unlink(missing_ok=True)
        open_and_read(written(name, data))

    return read


def agent_state(file: Path) -> None:
    store = StateStore(file)
    store.offers(), store.releases(), store.audit_head(), store.candidates(bytes(32)), store.decision(bytes(32))


def enrolments(file: Path) -> None:
    kept = Enrolments(file.parent)
    kept.silos(), kept.roster(), kept.signatures(bytes(32))


def runs(file: Path) -> None:
    kept = Runs(file.parent)
    [run.as_dict() for run in kept.all()]
    kept.next()


def made(name: str, make: Callable[[], None]) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        (folder() / name).unlink(missing_ok=True)
        make()
        return [(folder() / name).read_bytes()]

    return seeds


def make_agent_state() -> None:
    store = StateStore(folder() / "agent.sqlite")
    store.offer(bytes(32), plan().encoded, NOW)
    store.say(bytes(32), Phase.PLAN, b"message")
    store.note_audit_head(1, "0" * 64)


def make_enrolments() -> None:
    kept = Enrolments(folder())
    kept.invite("a", 7)
    kept.enroll(Enrolled("a", b"key", b"other", NOW, None), 7, b"request", b"certificate")


def make_runs() -> None:
    with suppress(FileExistsError):
        Runs(folder()).submit(plan(), b"samples: 1", NOW)


def make_audit_log() -> None:
    (folder() / "agent.sqlite").unlink(missing_ok=True)
    AuditLog(folder()).append("release", "agent", NOW, number=1)


def audit_log(file: Path) -> None:
    read_audit_log(file)
    verify_audit_log(file)


def make_privacy_ledger() -> None:
    (folder() / "agent.sqlite").unlink(missing_ok=True)
    spent = Spent(bytes(32), bytes(32), "2026", "energies", (GaussianEvent(4.0), ExactEvent()))
    PrivacyLedger(folder()).charge(spent, lambda earlier: None, NOW)


def privacy_ledger(file: Path) -> None:
    (folder() / "agent.sqlite").unlink(missing_ok=True)
    PrivacyLedger(file.parent).spent()


def spool(data: bytes) -> None:
    """The first 80 bytes lie on disk, the rest is a message that arrives."""
    lengths = (40, 40, 16)
    kept = Spool(written("silo.words", data[:80]), lengths, bytes(32), "silo-000")
    kept.take(kept.start(), canonical(words_pb2.WordChunk, data[80:]))


def numbers(data: bytes) -> None:
    """What people type; the first byte chooses who reads it."""
    readers = (parse_ratio, Pattern.parse, split_address, plain_fingerprint, lambda url: chosen_proxy(url, "a:1", {}))
    readers[data[0] % len(readers) if data else 0](data[1:].decode(errors="replace"))


ROSTER = {silo: key.public_bytes for silo, key in signing_keys(3).items()}
AGENT = config_file(AgentConfig.beside("a", "host:1", Path("m"), Path("t.txt")))

TARGETS = {
    "roster": Target(
        in_file("roster.yaml", lambda file: read_roster(file, Suite.DEFAULT)), lambda: [roster_file(ROSTER)]
    ),
    "policy": Target(in_file("policy.yaml", Policy.read), lambda: [policy_file(bytes(32)).encode(), POLICY]),
    "agent_config": Target(in_file("agent.yaml", AgentConfig.read), lambda: [AGENT.encode(), AGENT_MORE]),
    "aggregator_config": Target(
        in_file("aggregator.yaml", AggregatorConfig.read), lambda: [b"public_address: host:1\nmodel: m\nstate: s\n"]
    ),
    "plan_file": Target(in_file("plan.yaml", PlanFile.read), lambda: [PLAN]),
    "invitation": Target(invitation, lambda: [invited()]),
    "signing_key_file": Target(
        in_file("signing_key", lambda file: read_signing_key(file, Suite.DEFAULT)),
        lambda: [SigningKey.generate(Suite.DEFAULT).to_bytes().hex().encode()],
    ),
    "keep_masks": Target(
        in_file("masks.safetensors", keep_masks), lambda: [save({"a.weight": torch.ones(3, 8, dtype=torch.bool)})]
    ),
    "bitmask_container": Target(container, containers),
    "calibration_jsonl": Target(
        in_file("text.jsonl", lambda file: list(records(file))),
        lambda: [json.dumps({"text": "café", "unit": "a"}).encode() + b"\n\n" + b'{"text": "\\u00e9"}'],
    ),
    "calibration_txt": Target(in_file("text.txt", lambda file: list(records(file))), lambda: ["café\n".encode()]),
    "audit_log": Target(in_file("audit.jsonl", audit_log), made("audit.jsonl", make_audit_log)),
    "privacy_ledger": Target(
        in_file(PRIVACY_FILE, privacy_ledger), made(PRIVACY_FILE, make_privacy_ledger), mutants=100
    ),
    "agent_state": Target(sqlite("agent.sqlite", agent_state), made("agent.sqlite", make_agent_state), mutants=100),
    "enrolments": Target(
        sqlite("enrolments.sqlite", enrolments), made("enrolments.sqlite", make_enrolments), mutants=100
    ),
    "runs": Target(sqlite("runs.sqlite", runs), made("runs.sqlite", make_runs), mutants=100),
    "spool": Target(
        spool,
        lambda: [bytes(80) + encode(words_pb2.WordChunk(round=bytes(32), index=2, words=bytes(16)))],
    ),
    "typed_numbers": Target(
        numbers, lambda: [b"\x000.5", b"\x012:4", b"\x02host:8443", b"\x03" + b"00" * 32, b"\x04http://a:b@proxy:3128"]
    ),
}

POLICY = b"""models: any
approval: auto
release_kinds: [votes, weights]
most_samples: 128
least_sparsity_ratio_of_others: 0.1
hours: {days: [mon, fri], from: '08:00', to: '18:00', timezone: Europe/Berlin}
budget: {releases: 3, epsilon: 1.5, delta: 0.000001}
"""
AGENT_MORE = AGENT.encode() + b"suite: fips\nbackend: double_masking\nmetrics_port: 9\nstay: true\nproxy: http://p:1\n"
PLAN = b"""sparsity_ratio: 0.5
pruner: wanda
samples: 16
sequence_length: 64
threshold: 2
silo_sparsity_ratios: {a: "0.5"}
prompts: [one, two]
evaluate: 16
"""
