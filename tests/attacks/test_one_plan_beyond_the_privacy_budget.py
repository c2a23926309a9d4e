"""An aggregator asks a silo one plan more than its privacy budget has room for, or makes it lose count of what it
released.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from attacks.conftest import Approached
from attacks.surrounded import Surrounded, watched
from crypto.errors import PlanError, ReleaseRefused, SparsiloError
from crypto.privacy.accountant import epsilon
from crypto.privacy.events import GaussianEvent
from crypto.releases.votes import VotesSpec
from silo_agent.consent.ledger import Release
from silo_agent.consent.privacy_ledger import PRIVACY_FILE, PrivacyLedger, Spent, TamperedPrivacyLedger
from silo_agent.rounds.agreement import Agreement
from silo_agent.rounds.run_of_plan import RunOfPlan

TWO_PLANS = epsilon([GaussianEvent(4.0, 2)], 0.001)
CAP = {"epsilon": TWO_PLANS, "delta": 0.001}


@pytest.fixture(autouse=True)
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of votes count as if they had some."""
    monkeypatch.setattr(VotesSpec, "events", lambda *_: (GaussianEvent(4.0),))


def another_run(silo: Approached) -> None:
    silo.agreed.run = bytes([silo.agreed.run[0] + 1] * 16)
    silo.said.clear()


def nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunOfPlan, "prepare", lambda *_: pytest.fail("the silo computes"))


def refused(silo: Approached, error: type[SparsiloError], words: str) -> None:
    with pytest.raises(error, match=words):
        silo.offer(silo.agreed)
    assert silo.said == []
    assert silo.declined[-1] == error.code


@pytest.mark.clause("14.7.4")
@pytest.mark.parametrize("text", ["the same", "another one"])
def test_one_plan_more(text: str, approach: Callable[..., Approached], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any text: an epoch is of people, and so is the budget."""
    silo = approach(budget=CAP)
    for _ in range(2):
        silo.accepts(silo.agreed)
        another_run(silo)
    if text == "another one":
        silo.config.calibration.write_text("Another patient went home. " * 200)
    nothing_is_computed(monkeypatch)
    refused(silo, ReleaseRefused, r"epsilon [0-9.]+ is spent; with the rounds to come it would be")
    assert len(PrivacyLedger(silo.config.state).spent()) == 2


@pytest.mark.clause("14.7.4")
def test_one_plan_more_in_another_epoch(approach: Callable[..., Approached]) -> None:
    """What the institution says of its text: it is of other people."""
    silo = approach(budget=CAP)
    for number in range(4):
        silo = approach(budget={**CAP, "epoch": "" if number < 2 else "2027"})
        silo.agreed.run = bytes([number] * 16)
        silo.accepts(silo.agreed)
    assert [spent.epoch for spent in PrivacyLedger(silo.config.state).spent()] == ["", "", "2027", "2027"]


@pytest.mark.clause("14.7.3")
def test_a_plan_that_is_too_much_by_itself(
    approach: Callable[..., Approached], monkeypatch: pytest.MonkeyPatch
) -> None:
    silo = approach(budget={**CAP, "epsilon": 0.1})
    nothing_is_computed(monkeypatch)
    silo.refuses(silo.agreed, PlanError, "the plan spends epsilon")
    assert PrivacyLedger(silo.config.state).spent() == []


@pytest.mark.clause("14.7.2", "14.7.4")
def test_a_round_offered_again_is_charged_once(
    approach: Callable[..., Approached], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever became of it: nothing is given back. There is room for one plan more."""
    silo = approach(budget=CAP)
    with monkeypatch.context() as killed:
        killed.setattr(RunOfPlan, "prepare", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            silo.offer(silo.agreed)
    assert len(PrivacyLedger(silo.config.state).spent()) == 1
    with pytest.raises(ReleaseRefused, match="already took part"):  # it withdrew when it was started again
        silo.offer(silo.agreed)
    assert len(PrivacyLedger(silo.config.state).spent()) == 1
    another_run(silo)
    silo.accepts(silo.agreed)
    assert len(PrivacyLedger(silo.config.state).spent()) == 2


@pytest.mark.clause("14.7.2", "14.7.4")
def test_the_last_of_the_budget_is_spent_by_another_agent_in_between(
    approach: Callable[..., Approached], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After this one agreed, and before it computes."""
    silo, agreed = approach(budget=CAP), Agreement.release
    other = Spent(b"o" * 32, b"d" * 32, "", "votes", (GaussianEvent(4.0, 2),))

    def and_then_the_other(agreement: Agreement, *arguments: Any) -> Release | None:
        release = agreed(agreement, *arguments)
        PrivacyLedger(silo.config.state).charge(other, lambda earlier: None, datetime.now(UTC))
        return release

    monkeypatch.setattr(Agreement, "release", and_then_the_other)
    nothing_is_computed(monkeypatch)
    refused(silo, ReleaseRefused, r"epsilon [0-9.]+ is spent; with the rounds to come it would be")
    assert PrivacyLedger(silo.config.state).spent() == [other]


@pytest.mark.clause("14.7.5")
@pytest.mark.parametrize("budget", [CAP, {"epsilon": "unlimited"}])
@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_ledger_that_was_made_to_forget(
    is_deleted: bool, budget: dict[str, object], approach: Callable[..., Approached], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the policy says then, another epoch too."""
    silo = approach(budget=budget)
    silo.accepts(silo.agreed)
    another_run(silo)
    file = silo.config.state / PRIVACY_FILE
    if is_deleted:
        file.unlink()
    else:
        file.write_bytes(b"")
    nothing_is_computed(monkeypatch)
    for epoch in ("", "2027"):
        silo = approach(budget={**budget, "epoch": epoch})
        refused(silo, TamperedPrivacyLedger, rf"{PRIVACY_FILE}: line 1: is missing")


@pytest.mark.clause("14.7.2")
def test_without_a_cap_it_is_counted_all_the_same(
    approach: Callable[..., Approached], monkeypatch: pytest.MonkeyPatch
) -> None:
    silo = approach()
    around: Surrounded = watched(silo, silo.agreed, monkeypatch)
    [spent] = PrivacyLedger(silo.config.state).spent()
    assert (spent.round, spent.kind) == (around.world.round.digest, "votes")
