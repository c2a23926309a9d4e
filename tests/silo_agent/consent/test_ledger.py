"""Which further release a ledger refuses, against the sets themselves."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import ReleaseRefused
from silo_agent.consent.ledger import Release, are_close, check_release, check_survivors

SILOS = [f"s{index}" for index in range(6)]
COHORTS = [group for size in range(1, 6) for group in combinations(SILOS[:5], size)]
FIRST = Release(b"1" * 32, b"q" * 32, "votes", b"d" * 32, tuple(SILOS[:4]), tuple(SILOS[:4]))
NEXT = replace(FIRST, round=b"2" * 32, question=b"r" * 32, survivors=())


def one_step(group: frozenset[str]) -> set[frozenset[str]]:
    """Every cohort that one silo's coming, going or replacement by another makes of `group`."""
    fewer = [group - {gone} for gone in group]
    more = [group | {new} for new in SILOS if new not in group]
    return {*fewer, *more, *(less | {new} for less in fewer for new in SILOS if new not in group)}


def near(group: Iterable[str], colluders: int) -> set[frozenset[str]]:
    """Every other cohort that one such step, and one more a colluder, can make of `group`."""
    found = {frozenset(group)}
    for _ in range(1 + colluders):
        found |= {after for before in found for after in one_step(before)}
    return found - {frozenset(group)}


@pytest.mark.clause("2.5.4")
@given(st.sampled_from(COHORTS), st.sampled_from(COHORTS), st.integers(0, 2))
def test_close_is_one_added_removed_or_exchanged_and_one_more_a_colluder(
    one: tuple[str, ...], other: tuple[str, ...], colluders: int
) -> None:
    close = frozenset(other) in near(one, colluders)
    assert are_close(one, other, colluders) is are_close(other[::-1], one, colluders) is close


@pytest.mark.clause("2.5.3")
@pytest.mark.parametrize("roster", [FIRST.roster, (*FIRST.roster, "s4"), ("s0", "s4", "s5")])
def test_the_same_question_of_the_same_text_is_answered_once(roster: tuple[str, ...]) -> None:
    again = replace(NEXT, question=FIRST.question, roster=roster)
    with pytest.raises(ReleaseRefused, match=r"^the same was asked of the same text in round 3131313131313131 "):
        check_release(again, [FIRST])
    check_release(replace(again, data=b"e" * 32), [FIRST])
    check_release(replace(again, round=FIRST.round), [FIRST])  # a retry within its own round


@pytest.mark.clause("2.5.4")
@given(st.sampled_from(COHORTS), st.sampled_from(["votes", "evaluation"]), st.integers(0, 2), st.integers(0, 2))
def test_another_question_over_a_close_roster_is_refused(
    roster: tuple[str, ...], kind: str, before: int, now: int
) -> None:
    """With as many colluders as either plan had."""
    earlier = replace(FIRST, colluders=before)
    wanted = replace(NEXT, roster=roster, kind=kind, colluders=now)
    if frozenset(roster) in near(FIRST.roster, max(before, now)):
        by = f"up to {1 + max(before, now)} silos" if before or now else "one silo"
        with pytest.raises(ReleaseRefused, match=f"^the roster differs by {by} from that of round 3131313131313131 "):
            check_release(wanted, [earlier])
    else:
        check_release(wanted, [earlier])
    check_release(replace(wanted, data=b"e" * 32), [earlier])


@pytest.mark.clause("2.5.5")
@given(st.sampled_from(COHORTS), st.integers(0, 2), st.integers(0, 2))
def test_close_survivors_are_not_signed(survivors: tuple[str, ...], before: int, now: int) -> None:
    earlier, wanted = replace(FIRST, colluders=before), replace(NEXT, colluders=now)
    if frozenset(survivors) in near(FIRST.survivors, max(before, now)):
        with pytest.raises(ReleaseRefused, match=r"^the survivors differ by .* from those of round 3131313131313131 "):
            check_survivors(wanted, survivors, [earlier])
    else:
        check_survivors(wanted, survivors, [earlier])
    check_survivors(replace(wanted, kind="evaluation"), survivors, [earlier])
    check_survivors(replace(wanted, data=b"e" * 32), survivors, [earlier])
    check_survivors(replace(wanted, round=FIRST.round), survivors, [earlier])
    check_survivors(wanted, survivors, [replace(earlier, survivors=())])


KEEP_MASKS = ["votes", "weights"]
KINDS = [*KEEP_MASKS, "scales", "outliers", "sampling", "evaluation"]


@pytest.mark.clause("2.5.5")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", KINDS)
def test_votes_and_weights_are_one_kind_and_no_others_are(kind: str, before: str) -> None:
    earlier, wanted = replace(FIRST, kind=before), replace(NEXT, kind=kind)
    if kind == before or {kind, before} == {*KEEP_MASKS}:
        with pytest.raises(ReleaseRefused, match=r"^the survivors differ by one silo"):
            check_survivors(wanted, FIRST.survivors[:3], [earlier])
    else:
        check_survivors(wanted, FIRST.survivors[:3], [earlier])


@pytest.mark.clause("2.5.5")
@pytest.mark.parametrize("block", [None, 0, 1, 7])
@pytest.mark.parametrize("before", [None, 0, 1, 7])
def test_rounds_about_different_blocks_are_not_held_against_each_other(block: int | None, before: int | None) -> None:
    """A round about all blocks is about each of them."""
    earlier, wanted = replace(FIRST, block=before), replace(NEXT, block=block, kind="weights")
    blocks = [{*range(8)} if about is None else {about} for about in (before, block)]
    if blocks[0] & blocks[1]:
        with pytest.raises(ReleaseRefused, match=r"^the survivors differ by one silo"):
            check_survivors(wanted, FIRST.survivors[:3], [earlier])
    else:
        check_survivors(wanted, FIRST.survivors[:3], [earlier])


@pytest.mark.clause("2.5.3", "2.5.4")
def test_questions_and_rosters_are_held_against_every_earlier_round_whatever_its_block() -> None:
    earlier = replace(FIRST, block=0)
    with pytest.raises(ReleaseRefused, match=r"^the same was asked"):
        check_release(replace(NEXT, block=1, question=FIRST.question), [earlier])
    with pytest.raises(ReleaseRefused, match=r"^the roster differs"):
        check_release(replace(NEXT, block=1, kind="scales", roster=FIRST.roster[:3]), [earlier])


@pytest.mark.parametrize("at", range(3))
def test_every_earlier_release_counts(at: int) -> None:
    others = [replace(FIRST, round=bytes([n] * 32), data=b"e" * 32) for n in range(2)]
    ledger = [*others[:at], FIRST, *others[at:]]
    with pytest.raises(ReleaseRefused):
        check_release(replace(NEXT, question=FIRST.question), ledger)
    with pytest.raises(ReleaseRefused):
        check_survivors(NEXT, tuple(SILOS[:5]), ledger)


def test_what_is_refused_shows_no_digest_of_the_text() -> None:
    with pytest.raises(ReleaseRefused) as refused:
        check_release(replace(NEXT, question=FIRST.question), [FIRST])
    assert FIRST.data.hex() not in str(refused.value)
    assert (refused.value.code, refused.value.exit_code) == ("release_refused", 4)
