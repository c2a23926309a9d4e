"""`silo-agent ledger`: what was released, and taking one release out of the ledger."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from crypto.errors import ReleaseRefused
from crypto.names import Phase
from silo_agent.cli import cli
from silo_agent.consent.accusations import Accusations
from silo_agent.consent.ledger import Release
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
    assert ran.data == {"releases": [first, second], "accusations": []}


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
