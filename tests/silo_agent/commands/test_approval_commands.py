"""`silo-agent pending`, `approve`, `reject` and `audit`: what a person reads, and that every decision is on record."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from crypto.plan_rules import checked_plan
from crypto.secagg.round import Round
from silo_agent.cli import cli
from silo_agent.commands import approval as cli_approval
from silo_agent.consent.audit_log import AUDIT_FILE, AuditLog, read_audit_log, verify_audit_log
from silo_agent.consent.ledger import Release
from silo_agent.consent.plan_in_words import plan_in_words, sentences
from silo_agent.consent.state_store import STATE_FILE, Decision, StateStore
from support.commands import Ran, run
from support.plans import plan_message

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
PLANS = [checked_plan(plan_message(4, run=bytes([number] * 16))) for number in range(2)]
FIRST, SECOND = (plan.digest.hex() for plan in PLANS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An agent that was offered two plans."""
    paths = ("model", "calibration", "signing_key", "roster", "certificate", "private_key", "authority", "policy")
    config = {"silo": "silo-001", "aggregator": "host:1", "state": "state", **dict.fromkeys(paths, "none")}
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "none").write_text("A text.")
    for plan in PLANS:
        store(tmp_path).offer(plan.digest, plan.encoded, NOW)
    store(tmp_path).offer(PLANS[0].digest, PLANS[0].encoded, NOW + timedelta(hours=1))
    return tmp_path


def store(folder: Path) -> StateStore:
    return StateStore(folder / "state" / STATE_FILE)


class Commands:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder, self._capsys = folder, capsys

    def __call__(self, *arguments: object, config: bool = True) -> Ran:
        more: Sequence[object] = ("--config", self._folder / "agent.yaml") if config else ()
        return run(cli, [*arguments, *more], self._capsys)

    def data(self, *arguments: object, config: bool = True) -> Any:
        ran = self(*arguments, "--output", "json", config=config)
        assert (ran.code, ran.err) == (0, "")
        return ran.data

    def refused(self, *arguments: object, config: bool = True) -> dict[str, str]:
        ran = self(*arguments, "--output", "json", config=config)
        assert (ran.code, ran.err.count("\n")) == (4, 1)
        document = json.loads(ran.out)
        assert document["status"] == "failed"
        error: dict[str, str] = document["error"]
        return error


@pytest.fixture
def silo_agent(folder: Path, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(folder, capsys)


def events(folder: Path) -> list[dict[str, Any]]:
    return read_audit_log(folder / "state" / AUDIT_FILE)


def test_pending_plans_in_json(silo_agent: Commands) -> None:
    undecided = dict.fromkeys(("decision", "by", "reason", "decided"))
    first = {"first_offered": "2026-11-28T12:00:00+00:00", "last_offered": "2026-11-28T13:00:00+00:00", **undecided}
    second = {**first, "last_offered": "2026-11-28T12:00:00+00:00"}
    assert silo_agent.data("pending") == {
        "pending": [
            {**plan_in_words(plan, "silo-001").as_dict(), "in_the_way": None, **state}
            for plan, state in zip(PLANS, (first, second), strict=True)
        ]
    }


def test_pending_plans_for_a_person(silo_agent: Commands) -> None:
    ran = silo_agent("pending")
    assert (ran.code, ran.err) == (0, "")
    assert all(len(line) <= 120 for line in ran.out.splitlines())
    shown = " ".join(ran.out.split())
    for plan in PLANS:
        for heading, sentence in sentences(plan_in_words(plan, "silo-001")):
            assert f"{heading} {sentence}".strip() in shown
    assert "offered first 2026-11-28T12:00:00+00:00, last 2026-11-28T13:00:00+00:00 decision none yet" in shown
    assert ran.out.splitlines()[-1].startswith("plans: 2; silo-agent approve PLAN")


def test_an_earlier_release_of_the_same_text_is_named_first(silo_agent: Commands, folder: Path) -> None:
    """Whoever approves hears before that the round would be refused, and what can be done."""
    data, round_ = sha256(b"A text.").digest(), b"\x07" * 32
    earlier = replace(Release.of(Round(PLANS[0], 0), data), round=round_)
    store(folder).begin(earlier)
    store(folder).send(earlier)
    assert silo_agent("pending").out.startswith(
        f"IN THE WAY              this silo's words of round {round_.hex()[:16]}"
    )
    assert "--forget" in silo_agent.data("pending")["pending"][0]["in_the_way"]
    (folder / "none").unlink()
    assert "none: No such file or directory" in silo_agent.data("pending")["pending"][0]["in_the_way"]
    (folder / "none").write_text("Another text.")
    assert [plan["in_the_way"] for plan in silo_agent.data("pending")["pending"]] == [None, None]


def test_a_decided_plan_is_no_longer_pending(silo_agent: Commands) -> None:
    silo_agent("approve", FIRST, "--by", "doe")
    assert [each["plan"] for each in silo_agent.data("pending")["pending"]] == [SECOND]
    both = silo_agent.data("pending", "--all")["pending"]
    assert [(each["plan"], each["decision"], each["by"]) for each in both] == [
        (FIRST, "approved", "doe"),
        (SECOND, None, None),
    ]
    assert "approved by doe" in silo_agent("pending", "--all").out
    silo_agent("reject", SECOND, "--reason", "no")
    assert silo_agent("pending").out == "plans: 0\n"


@pytest.mark.parametrize("digits", [16, 17, 64])
@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_a_decision_counts_and_is_in_the_audit_log(
    verb: str, digits: int, silo_agent: Commands, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_approval, "user", lambda: "roe")
    reason = {"reason": "no agreement"} if verb == "reject" else {}
    options = ("--reason", "no agreement") if verb == "reject" else ()
    decision = Decision.REJECTED if verb == "reject" else Decision.APPROVED
    before = datetime.now(UTC)
    given = FIRST[:digits].upper()
    assert silo_agent.data(verb, given, *options) == {"plan": FIRST, "decision": decision, "by": "roe"}
    assert store(folder).decision(PLANS[0].digest) is decision
    assert store(folder).decision(PLANS[1].digest) is None
    [event] = events(folder)
    assert {name: event[name] for name in event if name not in ("time", "previous")} == {
        "sequence": 1,
        "event": decision,
        "by": "roe",
        "plan": FIRST,
        **reason,
    }
    assert before - timedelta(seconds=1) < datetime.fromisoformat(event["time"]) <= datetime.now(UTC)
    again = silo_agent(verb, given, *options)  # changes nothing
    assert (again.code, again.out) == (0, f"{FIRST}: {decision} by roe\n")
    assert events(folder) == [event]


def test_a_contrary_decision_comes_too_late(silo_agent: Commands, folder: Path) -> None:
    silo_agent("reject", FIRST, "--reason", "no", "--by", "doe")
    error = silo_agent.refused("approve", FIRST, "--by", "roe")
    assert error["message"] == f"plan {FIRST[:16]}: was rejected by doe before"
    assert store(folder).decision(PLANS[0].digest) is Decision.REJECTED
    assert [event["event"] for event in events(folder)] == ["rejected"]


def test_the_line_comes_first(silo_agent: Commands, folder: Path) -> None:
    """A decision that cannot be logged does not count."""
    silo_agent("approve", FIRST)
    (folder / "state" / AUDIT_FILE).write_bytes(b"{}\n")
    assert silo_agent.refused("approve", SECOND)["code"] == "audit_log"
    assert store(folder).decision(PLANS[1].digest) is None


@pytest.mark.clause("14.1.5")
@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (FIRST[:15], "is too short, 16 digits or more"),
        (FIRST[:8], "is too short, 16 digits or more"),
        ("", "is too short"),
        ("0" * 16, "no such plan was offered"),
        (FIRST + "0", "no such plan was offered"),
        ("a plan%", "is too short"),
    ],
)
def test_a_plan_that_is_not_there(given: str, problem: str, silo_agent: Commands, folder: Path) -> None:
    for verb in (("approve",), ("reject", "--reason", "no")):
        assert problem in silo_agent.refused(*verb, given)["message"]
    assert store(folder).undecided(datetime.min.replace(tzinfo=UTC)) == 2
    assert events(folder) == []


def test_why_few_digits_are_not_enough(silo_agent: Commands) -> None:
    assert "make one whose digest begins like another's" in silo_agent.refused("approve", FIRST[:15])["hint"]


def test_digits_that_two_plans_begin_with(silo_agent: Commands, folder: Path) -> None:
    twin = PLANS[0].digest[:31] + bytes([PLANS[0].digest[31] ^ 1])
    store(folder).offer(twin, PLANS[0].encoded, NOW)
    assert "several plans begin so" in silo_agent.refused("approve", FIRST[:62])["message"]
    assert silo_agent.data("approve", FIRST)["plan"] == FIRST


def test_a_rejection_has_a_reason(silo_agent: Commands) -> None:
    ran = silo_agent("reject", FIRST)
    assert ran.code == 4 and "--reason" in ran.err


def test_the_audit_log_is_shown(silo_agent: Commands, folder: Path) -> None:
    assert silo_agent.data("audit", "show") == {"events": []}
    silo_agent("approve", FIRST, "--by", "J. Doe\nroot")
    AuditLog(folder / "state").append("release", "agent", NOW, plan=FIRST, kind="votes", bytes=96)
    shown = silo_agent("audit", "show").out.splitlines()
    assert len(shown) == 3
    assert re.fullmatch(rf" +1  \S+Z?  approved +J\. Doe root  plan={FIRST}", shown[0].rstrip())
    assert "release" in shown[1] and f"bytes=96 kind=votes plan={FIRST}" in shown[1]
    assert shown[2] == "events: 2"
    assert silo_agent.data("audit", "show") == {"events": events(folder)}


def test_the_audit_log_is_verified(silo_agent: Commands, folder: Path, tmp_path: Path) -> None:
    file = folder / "state" / AUDIT_FILE
    for plan in (FIRST, SECOND):
        silo_agent("approve", plan)
    count, last = verify_audit_log(file)
    head = f"{count}:{last}"
    assert count == 2
    assert silo_agent.data("audit", "verify") == {"file": str(file), "events": 2, "head": head}
    assert head in silo_agent("audit", "verify").out
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(file.read_bytes())
    assert silo_agent.data("audit", "verify", copy, "--head", head, config=False)["events"] == 2
    copy.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    assert silo_agent.data("audit", "verify", copy, config=False)["events"] == 1  # nothing says that there was more
    error = silo_agent.refused("audit", "verify", copy, "--head", head, config=False)
    assert (error["code"], "line 2: is missing" in error["message"]) == ("audit_log", True)


def test_the_agents_own_log_is_held_against_its_state_store(silo_agent: Commands, folder: Path) -> None:
    file = folder / "state" / AUDIT_FILE
    for plan in (FIRST, SECOND):
        silo_agent("approve", plan)
    noted = silo_agent.data("audit", "verify")["head"]
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    assert "line 2: is missing" in silo_agent.refused("audit", "verify")["message"]
    ran = silo_agent("audit", "verify")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.startswith(f"error: {file}: line 2: ")
    assert "line 2" in silo_agent.refused("audit", "verify", file, "--head", noted, config=False)["message"]


@pytest.mark.parametrize("head", ["2", "x:" + "0" * 64, "2:abc", ":" + "0" * 64, "-1:" + "0" * 64])
def test_a_head_is_a_number_and_a_hash(head: str, silo_agent: Commands) -> None:
    assert "is not NUMBER:HASH" in silo_agent.refused("audit", "verify", f"--head={head}")["message"]


def test_verify_needs_something_to_verify(silo_agent: Commands) -> None:
    assert "neither FILE nor --config" in silo_agent.refused("audit", "verify", config=False)["message"]
