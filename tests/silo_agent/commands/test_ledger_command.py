"""`silo-agent ledger`: what was released and what that spent, and taking one release out of the ledger."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from crypto.errors import ReleaseRefused
from crypto.names import Phase
from crypto.privacy.accountant import epsilon
from crypto.privacy.events import ExactEvent, GaussianEvent
from silo_agent.cli import cli
from silo_agent.consent.accusations import Accusations
from silo_agent.consent.ledger import Release
from silo_agent.consent.privacy_ledger import PRIVACY_FILE, PrivacyLedger, Spent
from silo_agent.consent.state_store import STATE_FILE, StateStore
from support.commands import Ran, run

COHORT = ("ward-1", "ward-2", "ward-3", "ward-4")
FIRST = Release(b"\x01" * 32, "votes", b"\x03" * 32, COHORT, 3, sent=True, confirmed=COHORT[:3])
SECOND = replace(FIRST, round=b"\x04" * 32, kind="evaluation", block=7, sent=False, confirmed=())


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    """FIRST was released over three survivors; of SECOND nothing left."""
    store = StateStore(tmp_path / "state" / STATE_FILE)
    for release in (FIRST, SECOND):
        store.begin(release)
        store.say(release.round, Phase.PLAN, b"acceptance")
    store.send(FIRST)
    store.confirm(FIRST, FIRST.confirmed)
    return store


def ledger(folder: Path, capsys: pytest.CaptureFixture[str], *more: object) -> Ran:
    paths = ("model", "calibration", "signing_key", "roster", "certificate", "private_key", "authority", "policy")
    config = {"silo": "ward-1", "aggregator": "host:1", "state": "state", **dict.fromkeys(paths, "none")}
    (folder / "agent.yaml").write_text(yaml.safe_dump(config))
    return run(cli, ["ledger", "--config", folder / "agent.yaml", *more], capsys)


def test_releases_are_listed(store: StateStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = ledger(tmp_path, capsys, "--output", "json")
    assert (ran.code, ran.err) == (0, "")
    first = {
        "round": "01" * 32,
        "kind": "votes",
        "data": "03" * 32,
        "block": None,
        "silos": list(COHORT),
        "sent": True,
        "withdrawn": False,
        "survivors": list(COHORT[:3]),
    }
    second = {**first, "round": "04" * 32, "kind": "evaluation", "block": 7, "sent": False, "survivors": None}
    assert ran.data == {"releases": [first, second], "privacy": [], "accusations": []}


def test_releases_are_listed_for_a_person(
    store: StateStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = ledger(tmp_path, capsys)
    assert ran.code == 0
    first, second, counts = (block.split("\n") for block in ran.out.split("\n\n"))
    fields = [dict(line.split(maxsplit=1) for line in block) for block in (first, second)]
    assert [field["round"] for field in fields] == ["01" * 32, "04" * 32]
    assert [field["block"] for field in fields] == ["all", "7"]
    assert [field["silos"] for field in fields] == ["4 silos", "4 silos"]
    assert [field["sent"] for field in fields] == ["yes", "no"]
    assert [field["survivors"] for field in fields] == ["ward-1, ward-2, ward-3", "unknown to this silo"]
    assert counts == ["releases: 2", "accusations: 0", ""]


def test_a_forgotten_release_is_said_to_be_a_risk_and_no_longer_refuses(
    store: StateStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = replace(FIRST, round=b"\x06" * 32, silos=COHORT[1:], sent=False, confirmed=())
    with pytest.raises(ReleaseRefused):
        store.begin(again)
    ran = ledger(tmp_path, capsys, "--forget", "01" * 32)
    assert (ran.code, ran.err) == (0, "")
    assert "until one silo's part is left" in ran.out
    assert store.releases() == [SECOND]
    store.begin(again)
    with pytest.raises(ReleaseRefused):
        store.begin(FIRST)  # the round itself is one in which this silo has spoken


def test_forgetting_in_json(store: StateStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ledger(tmp_path, capsys, "--forget", "04" * 32, "--output", "json").data
    assert data["forgotten"] == "04" * 32
    assert "until one silo's part is left" in data["risk"]
    assert [release["round"] for release in data["releases"]] == ["01" * 32]


@pytest.mark.parametrize(
    ("given", "problem"),
    [("07" * 32, f"has no release in round {'07' * 32}"), ("0", "not a round"), ("", "no release")],
)
def test_what_is_not_in_the_ledger_cannot_be_forgotten(
    given: str, problem: str, store: StateStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = ledger(tmp_path, capsys, "--forget", given, "--output", "json")
    assert (ran.code, ran.err.count("\n")) == (4, 1)
    assert problem in ran.err
    assert '"status": "failed"' in ran.out
    assert store.releases() == [FIRST, SECOND]


def test_an_agent_that_released_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ledger(tmp_path, capsys).out == "releases: 0\naccusations: 0\n"


@pytest.fixture
def accused(store: StateStore, tmp_path: Path) -> Accusations:
    """The aggregator is accused of FIRST, of which there is evidence, and of SECOND, of which there is none."""
    for release in (FIRST, SECOND):
        store.say(release.round, Phase.OPENING, b"signature")
    accusations = Accusations(tmp_path / "state")
    accusations.evidence(FIRST.round).write_bytes(b"transcript")
    return accusations


@pytest.mark.clause("14.6.2")
def test_accusations_are_listed(accused: Accusations, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "state" / f"{'01' * 32}.accusation"
    assert ledger(tmp_path, capsys, "--output", "json").data["accusations"] == [
        {"round": "01" * 32, "evidence": str(file)},
        {"round": "04" * 32, "evidence": None},
    ]
    lines = ledger(tmp_path, capsys).out.splitlines()
    assert f"evidence  {file}" in lines
    assert "evidence  none: the agent was ended" in lines
    assert lines[-1] == "accusations: 2"


@pytest.mark.clause("14.6.2")
def test_an_accusation_is_taken_back_by_hand(
    accused: Accusations, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ledger(tmp_path, capsys, "--dismiss", "01" * 32).out == f"{'01' * 32}: dismissed\n"
    assert accused.standing() == [SECOND.round]
    [line] = (tmp_path / "state" / "audit.jsonl").read_text().splitlines()
    assert '"event":"accusation_dismissed"' in line
    again = ledger(tmp_path, capsys, "--dismiss", "01" * 32)
    assert (again.code, f"accuses nobody of round {'01' * 32}" in again.err) == (4, True)
    assert "--dismiss: 'x' is not a round digest" in ledger(tmp_path, capsys, "--dismiss", "x").err


# What was spent.

NOISY = (GaussianEvent(4.0, 2),)
SPENT = (
    Spent(b"\x01" * 32, b"\x03" * 32, "2026", "energies", NOISY),
    Spent(b"\x02" * 32, b"\x04" * 32, "2026", "energies", NOISY),
    Spent(b"\x03" * 32, b"\x03" * 32, "", "votes", (ExactEvent(),)),
    Spent(b"\x04" * 32, b"\x03" * 32, "", "sampling", ()),
)


@pytest.fixture
def privacy(tmp_path: Path) -> PrivacyLedger:
    """Two texts of one epoch, with noise; and before there were epochs one without."""
    privacy = PrivacyLedger(tmp_path / "state")
    for spent in SPENT:
        privacy.charge(spent, lambda earlier: None, datetime(2026, 11, 28, tzinfo=UTC))
    return privacy


def policy(folder: Path, budget: str) -> None:
    (folder / "none").write_text(f"models: any\napproval: auto\nbudget: {budget}\n")


@pytest.mark.clause("14.7.6")
def test_what_was_spent_is_listed(privacy: PrivacyLedger, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy(tmp_path, "{epsilon: 3, delta: 0.001, epoch: '2026'}")
    one, both = epsilon(NOISY, 0.001), epsilon(NOISY * 2, 0.001)
    of_text = {"epoch": "2026", "rounds": 1, "without_noise": 0, "epsilon": one, "delta": 0.001, "left": None}
    exact = {"epoch": "", "rounds": 2, "without_noise": 1, "epsilon": None, "delta": 0.001, "left": None}
    assert ledger(tmp_path, capsys, "--output", "json").data["privacy"] == [
        {**of_text, "data": "03" * 32},
        {**of_text, "data": "04" * 32},
        {**of_text, "data": None, "rounds": 2, "epsilon": both, "left": 3 - both},
        {**exact, "data": "03" * 32},
        {**exact, "data": None},
    ]


@pytest.mark.clause("14.7.6")
def test_what_was_spent_is_listed_for_a_person(
    privacy: PrivacyLedger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy(tmp_path, "{epsilon: 3, delta: 0.001, epoch: '2026'}")
    head, *blocks = ledger(tmp_path, capsys).out.split("\n\n")
    assert head == "releases: 0"
    fields = [dict(line.split(maxsplit=1) for line in block.splitlines()) for block in blocks]
    both = epsilon(NOISY * 2, 0.001)
    assert fields[2] == {
        "epoch": "2026",
        "data": "all of the epoch",
        "rounds": "2",
        "epsilon": f"{both:.6g}",
        "delta": "0.001",
        "left": f"{3 - both:.6g}",
    }
    assert fields[3]["epoch"] == "without a name"
    assert fields[3]["epsilon"] == fields[4]["epsilon"] == "unlimited: 1 rounds without noise"


def test_without_a_cap_or_a_policy_the_usual_delta_is_taken(
    privacy: PrivacyLedger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for budget in ("", "{epoch: '2026'}"):
        if budget:
            policy(tmp_path, budget)
        listed = ledger(tmp_path, capsys, "--output", "json").data["privacy"]
        assert [spend["delta"] for spend in listed] == [1e-6] * 5
        assert [spend["left"] for spend in listed] == [None] * 5
        assert listed[2]["epsilon"] == epsilon(NOISY * 2, 1e-6)


@pytest.mark.clause("14.7.6")
def test_nothing_left_is_nothing_and_a_forgotten_release_gives_nothing_back(
    store: StateStore, privacy: PrivacyLedger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy(tmp_path, "{epsilon: 3, delta: 0.001}")
    before = ledger(tmp_path, capsys, "--output", "json").data["privacy"]
    assert before[-1]["left"] == 0
    assert ledger(tmp_path, capsys, "--forget", "01" * 32, "--output", "json").data["privacy"] == before


def test_a_privacy_ledger_that_was_altered_is_said(
    privacy: PrivacyLedger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "state" / PRIVACY_FILE
    file.write_text(file.read_text().replace("2026", "2025", 1))
    ran = ledger(tmp_path, capsys)
    assert (ran.code, f"{file}: line 1: " in ran.err) == (4, True)
