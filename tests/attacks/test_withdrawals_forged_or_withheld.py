"""A dishonest aggregator has rounds repeated that were opened: it forges, replays and withholds withdrawals, and
colluders sign what is not so. A round that nobody can open any more is repeated without a person.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aggregator.rounds.withdrawals import Withdrawals as Kept
from attacks.stage import FOUR, ONE, SILOS, THREE, TWO, ZERO, Agent, Stage, agents
from attacks.surrounded import VICTIM, Surrounded, driven
from attacks.test_abort_after_the_opening import end_one
from crypto.backends.double_masking.transcript import SURVIVORS
from crypto.backends.withdrawal import WITHDRAWAL, enough, withdraw
from crypto.errors import PlanError, ProtocolError, ReleaseRefused, UnexpectedMessage
from crypto.names import Backend, Phase
from crypto.plan_rules import checked_plan
from crypto.primitives.signing import SigningKey
from silo_agent.consent.state_store import STATE_FILE, StateStore
from silo_agent.consent.withdrawn import Withdrawn
from silo_agent.rounds.withdrawals import Withdrawals
from support.plans import plan_message, signing_keys

Signed = Sequence[tuple[str, bytes]]


def uploaded(folder: Path, **fields: Any) -> Stage:
    """Five silos whose words left, and who heard nothing after that."""
    stage = agents(Stage(**fields), folder, *SILOS)
    stage.go_on(Phase.UPLOAD)
    stage.answers()
    for silo in SILOS:
        store = StateStore(folder / silo / STATE_FILE)
        store.offer(stage.plan.digest, stage.plan.encoded, datetime.now(UTC))
    return stage


def settles(stage: Stage, silo: str, folder: Path, told: Callable[[bytes, bytes], Signed] = lambda *_: ()) -> bool:
    """Whether a silo, which withdraws where it can, is sure that the round never opens. `told`: who else withdrew."""
    transport: Any = SimpleNamespace(withdraw=told)
    config: Any = SimpleNamespace(silo=silo, state=folder / silo)
    Withdrawals(config, transport).settle(stage.keys[silo])
    [release] = StateStore(folder / silo / STATE_FILE).releases()
    return release.withdrawn


def may_repeat(silo: str, folder: Path, **fields: Any) -> bool:
    """Whether the silo takes part in another round about the same."""
    try:
        Agent(Stage(run=b"another run     ", **fields), silo, folder)
    except ReleaseRefused:
        return False
    return True


@pytest.mark.clause("2.5.15", "2.5.16")
def test_a_round_that_nobody_can_open_is_repeated_over_other_survivors(tmp_path: Path) -> None:
    stage = uploaded(tmp_path)
    kept = Kept(tmp_path)
    kept.begin(stage.round)
    silos = (ZERO, ONE, TWO)  # 5 - 3 + 0 + 1
    for number, silo in enumerate(silos):
        assert not may_repeat(silo, tmp_path)
        assert settles(stage, silo, tmp_path, lambda *said, silo=silo: kept.take(silo, *said)) == (number == 2)
        [left] = kept.unfinished(stage.plan.digest.hex())
        assert (left.withdrawn, left.needed, left.may_be_open) == ([*silos[: number + 1]], 3, number < 2)
    for silo in (ZERO, ONE):
        assert settles(stage, silo, tmp_path, lambda *said, silo=silo: kept.take(silo, *said))
    again = agents(Stage(run=b"another run     ", lost={TWO: Phase.KEYS}), tmp_path, ZERO, ONE, TWO)
    again.finish()
    assert TWO not in again.aggregator.survivors
    kept.done(stage.round)
    assert kept.unfinished(stage.plan.digest.hex()) == []


@pytest.mark.clause("2.5.14")
def test_who_revealed_shares_cannot_withdraw(tmp_path: Path) -> None:
    stage = agents(Stage(), tmp_path, *SILOS)
    stage.go_on(Phase.UNMASK)
    stage.answers()  # everybody's shares are with the aggregator
    for silo in SILOS:
        withdrawn = Withdrawn(tmp_path / silo)
        with pytest.raises(ReleaseRefused, match="said something else in phase unmask"):
            withdrawn.withdraw(stage.round.digest)
        assert withdrawn.unsettled() == []
        assert not settles(stage, silo, tmp_path)


@pytest.mark.clause("2.5.14")
@pytest.mark.parametrize("until", [Phase.KEYS, Phase.UPLOAD, Phase.CONSISTENCY])
def test_who_withdrew_reveals_nothing_also_where_it_goes_on(until: Phase, tmp_path: Path) -> None:
    """The aggregator makes the silo believe that the round is over, and then goes on with it."""
    stage = agents(Stage(), tmp_path, *SILOS)
    stage.go_on(until)
    Withdrawn(tmp_path / ZERO).withdraw(stage.round.digest)
    Withdrawn(tmp_path / ZERO).withdraw(stage.round.digest)  # and says it again
    with pytest.raises(ReleaseRefused, match="said something else in phase unmask"):
        stage.go_on(Phase.UNMASK)
    assert stage.aggregator.phase is Phase.UNMASK
    assert (ZERO, Phase.UNMASK) not in stage.said
    with pytest.raises(ReleaseRefused, match="already took part"):
        Agent(Stage(), ZERO, tmp_path)


@pytest.mark.clause("2.5.15")
def test_what_is_no_withdrawal_of_a_silo_of_that_round_does_not_count(tmp_path: Path) -> None:
    stage = uploaded(tmp_path)
    digest, keys = stage.round.digest, stage.keys
    stranger = SigningKey.generate(stage.plan.suite)
    other = signing_keys(6)["silo-005"]
    lies: list[Signed] = [
        [],
        [(ONE, withdraw(keys[ONE], digest))] * 9,
        [(silo, withdraw(stranger, digest)) for silo in SILOS],
        [(silo, withdraw(keys[ONE], digest)) for silo in SILOS],
        [(silo, withdraw(keys[silo], Stage(run=b"another run     ").round.digest)) for silo in SILOS],
        [(silo, keys[silo].sign(SURVIVORS + digest, b"")) for silo in SILOS],
        [(silo, keys[silo].sign(WITHDRAWAL + digest, b"\0")) for silo in SILOS],
        [(silo, b"") for silo in SILOS],
        [("silo-005", withdraw(other, digest)), ("", b""), (ONE, withdraw(keys[ONE], digest))],
    ]
    for lie in lies:
        assert not settles(stage, ZERO, tmp_path, lambda *_, lie=lie: lie)
        assert not may_repeat(ZERO, tmp_path)
    true = [(silo, withdraw(keys[silo], digest)) for silo in (ONE, TWO)]
    assert settles(stage, ZERO, tmp_path, lambda *_: [*lies[2], *true, *lies[4]]), "whoever lies beside them"


@pytest.mark.clause("2.5.15")
def test_colluders_who_withdraw_and_reveal_all_the_same_are_counted_on(tmp_path: Path) -> None:
    stage = uploaded(tmp_path, threshold=4, colluders=1)  # 5 - 4 + 1 + 1 withdraw
    digest, keys = stage.round.digest, stage.keys
    liar = (FOUR, withdraw(keys[FOUR], digest))
    assert not settles(stage, ZERO, tmp_path, lambda *_: [liar])  # ONE, TWO, THREE and FOUR may have opened it
    assert settles(stage, ZERO, tmp_path, lambda *_: [liar, (ONE, withdraw(keys[ONE], digest))])


@pytest.mark.clause("2.5.15")
@pytest.mark.parametrize("silos", range(3, 12))
def test_as_many_withdrawals_as_leave_fewer_than_the_threshold_and_no_more(silos: int) -> None:
    found = 0
    for threshold, colluders in product(range(2, silos + 1), range(silos - 1)):
        try:
            plan = checked_plan(plan_message(silos, threshold=threshold, colluders=colluders))
        except PlanError:
            continue
        found += 1
        needed = enough(plan, silos)
        assert needed is not None
        able = silos - needed + colluders  # who did not withdraw, and who lied
        assert able == threshold - 1
        assert needed <= threshold, "a round that may go on can also be withdrawn from"
    assert found


def test_where_a_sum_needs_no_shares_nobody_withdraws(tmp_path: Path) -> None:
    plan = checked_plan(plan_message(5, backend=Backend.INSECURE_PLAINTEXT))
    assert enough(plan, 5) is None


@pytest.mark.clause("2.5.15")
def test_who_is_not_shown_the_withdrawals_holds_on_to_the_round(tmp_path: Path) -> None:
    stage = uploaded(tmp_path)
    shown = [(silo, withdraw(stage.keys[silo], stage.round.digest)) for silo in (ONE, TWO)]
    assert settles(stage, ZERO, tmp_path, lambda *_: shown)
    assert not settles(stage, THREE, tmp_path)
    assert (may_repeat(ZERO, tmp_path), may_repeat(THREE, tmp_path)) == (True, False)


@pytest.mark.parametrize("others", [(), (ONE,), (ZERO, ONE, FOUR)])
def test_an_agent_takes_part_again_where_enough_others_withdrew(
    others: Sequence[str], approach: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first round ended once its words had left; it says itself, and not twice the same, that it is over."""
    silo = approach()
    ended = end_one(silo, 1, Phase.UPLOAD).world.round.digest
    keys, said = signing_keys(5), []

    def told(around: Any, digest: bytes, signature: bytes) -> Signed:
        said.append((digest, signature))
        return [(other, withdraw(keys[other], digest)) for other in others]

    monkeypatch.setattr(Surrounded, "withdraw", told)
    silo.agreed.run = b"once more please"
    again = Surrounded(silo.agreed, silo.config.state.parent)
    if len(others) == 3:
        driven(silo.config, again)
        assert again.world.aggregator.phase is Phase.DONE
    else:
        with pytest.raises(ReleaseRefused, match="nobody told it which silos that sum is over"):
            driven(silo.config, again)
    assert set(said) == {(ended, withdraw(keys[VICTIM], ended))}


@pytest.mark.clause("2.5.16")
def test_withdrawals_travel(network: Any, tmp_path: Path) -> None:
    stage = Stage()
    network.driver.withdrawals = Kept(tmp_path)
    network.driver.withdrawals.begin(stage.round)
    for number, silo in enumerate((ONE, ZERO)):
        caller = network.caller(network.authority.issue(silo))
        told = caller.withdraw(stage.round.digest, withdraw(stage.keys[silo], stage.round.digest))
        assert [name for name, _ in told] == [ZERO, ONE][1 - number :]
    with pytest.raises(ProtocolError, match="a round that is not its own"):
        caller.withdraw(bytes(32), bytes(64))
    network.driver.withdrawals = None
    with pytest.raises(ProtocolError, match="withdraws where nothing is kept"):
        caller.withdraw(stage.round.digest, bytes(64))


@pytest.mark.clause("2.5.16")
def test_a_silo_keeps_withdrawals_in_its_own_name_and_rounds_only(tmp_path: Path) -> None:
    stage = Stage()
    kept = Kept(tmp_path)
    kept.begin(stage.round)
    for silo, digest, signature in (
        ("silo-009", stage.round.digest, bytes(64)),
        (ZERO, bytes(32), bytes(64)),
        (ZERO, stage.round.digest, bytes(65)),
        ("", stage.round.digest, bytes(64)),
    ):
        with pytest.raises(UnexpectedMessage, match="a round that is not its own"):
            kept.take(silo, digest, signature)
    assert kept.take(ZERO, stage.round.digest, bytes(64)) == [(ZERO, bytes(64))]
    assert Kept(tmp_path).take(ONE, stage.round.digest, bytes(64)) == [(ZERO, bytes(64)), (ONE, bytes(64))]
