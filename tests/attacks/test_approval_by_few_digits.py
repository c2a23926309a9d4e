"""A dishonest aggregator tells people of one plan, and offers another one whose digest begins like it."""

from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest
import yaml

from crypto.plan import Plan
from crypto.plan_rules import decode_plan
from silo_agent.cli import cli
from silo_agent.commands import approval
from silo_agent.consent.state_store import STATE_FILE, Decision, StateStore
from support.commands import run
from support.plans import plan

pytestmark = pytest.mark.clause("14.1.5")

DIGITS = 4
"""As many as a test has time for; twice as many take minutes."""


def alike(told: Plan, other: Plan) -> Plan:
    """The other plan as of a run with which its digest begins like the one that people were told."""
    before, run_, after = other.encoded.partition(other.message.run)
    for number in count():
        encoded = before + number.to_bytes(len(run_), "big") + after
        digest = sha256(b"sparsilo/1 plan" + encoded).hexdigest()
        if digest[:DIGITS] == told.digest.hex()[:DIGITS]:
            return decode_plan(encoded)
    raise AssertionError


def test_a_plan_that_nobody_was_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be approved where so few digits were enough."""
    paths = ("model", "calibration", "signing_key", "roster", "certificate", "private_key", "authority", "policy")
    config = {"silo": "silo-001", "aggregator": "host:1", "state": "state", **dict.fromkeys(paths, "none")}
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(config))
    told, store = plan(5), StateStore(tmp_path / "state" / STATE_FILE)
    offered = alike(told, plan(4))
    assert offered.digest != told.digest
    store.offer(offered.digest, offered.encoded, datetime(2026, 1, 1, tzinfo=UTC))
    for digits in (DIGITS, 15, 16, 64):
        approved = run(cli, ["approve", told.digest.hex()[:digits], "--config", tmp_path / "agent.yaml"], capsys)
        assert approved.code == 4
        assert ("is too short" if digits < 16 else "no such plan was offered") in approved.err
        assert store.decision(offered.digest) is None
    monkeypatch.setattr(approval, "FEWEST_DIGITS", DIGITS)
    approved = run(cli, ["approve", told.digest.hex()[:DIGITS], "--config", tmp_path / "agent.yaml"], capsys)
    assert store.decision(offered.digest) is Decision.APPROVED
