"""Which further release a ledger refuses, against the sets themselves."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import ReleaseRefused
from crypto.plan_rules import checked_plan
from crypto.secagg.round import Round
from silo_agent.consent.ledger import Release, check_release, check_survivors
from support.plans import plan_message

SILOS = tuple(f"s{index}" for index in range(5))
SETS = [group for size in range(1, 6) for group in combinations(SILOS, size)]
FIRST = Release(b"1" * 32, "votes", b"d" * 32, SILOS[:4], 3, sent=True, confirmed=SILOS[:3])
NEXT = Release(b"2" * 32, "votes", FIRST.data, SILOS, 3)
UNKNOWN = "^this silo's words of round 3131313131313131 left, and nobody told it"


def is_allowed(wanted: Release, *ledger: Release) -> bool:
    try:
        check_release(wanted, ledger)
    except ReleaseRefused:
        return False
    return True


def is_signed(wanted: Release, survivors: Sequence[str], *ledger: Release) -> bool:
    try:
        check_survivors(wanted, survivors, ledger)
    except ReleaseRefused:
        return False
    return True


@pytest.mark.clause("2.5.9")
def test_survivors_are_those_that_a_quorum_signed_or_all_where_all_are_needed() -> None:
    assert FIRST.survivors == {*SILOS[:3]}
    assert replace(FIRST, confirmed=()).survivors is None
    assert replace(FIRST, confirmed=(), least_survivors=4).survivors == {*SILOS[:4]}
    assert replace(FIRST, confirmed=(), least_survivors=0).survivors is None  # of an earlier version's ledger


@pytest.mark.clause("2.5.10")
@given(st.sampled_from(SETS), st.sampled_from(SETS), st.integers(1, 5))
def test_a_round_is_refused_that_cannot_be_over_the_survivors_of_an_earlier_one(
    survivors: tuple[str, ...], silos: tuple[str, ...], least: int
) -> None:
    """It can where one of the sets that it may come to is that one."""
    possible = [group for size in range(least, 6) for group in combinations(silos, size)]
    wanted = replace(NEXT, silos=silos, least_survivors=least)
    assert is_allowed(wanted, replace(FIRST, confirmed=survivors)) is (survivors in possible)


@pytest.mark.clause("2.5.10")
def test_what_is_refused_names_the_round_and_its_survivors() -> None:
    with pytest.raises(ReleaseRefused, match=r"survivors of round 3131313131313131, .*: s0, s1, s2 \(plan it over a"):
        check_release(replace(NEXT, silos=SILOS[1:]), [FIRST])


@pytest.mark.clause("2.5.10")
def test_nothing_overlaps_a_round_whose_survivors_are_not_known() -> None:
    unknown = replace(FIRST, confirmed=())
    with pytest.raises(ReleaseRefused, match=UNKNOWN) as refused:
        check_release(replace(NEXT, silos=FIRST.silos), [unknown])
    assert f"--forget {FIRST.round.hex()}" in (refused.value.hint or "")
    assert not is_signed(NEXT, SILOS[:3], unknown)
    assert is_allowed(NEXT, replace(unknown, sent=False)), "no word of it left"
    assert is_allowed(NEXT, replace(unknown, least_survivors=4)), "its sum can be over one set only"


@pytest.mark.clause("2.5.11")
@given(st.sampled_from(SETS), st.sampled_from(SETS))
def test_only_the_same_survivors_are_signed(before: tuple[str, ...], now: tuple[str, ...]) -> None:
    assert is_signed(NEXT, now, replace(FIRST, confirmed=before)) is (before == now)
    assert is_signed(NEXT, now, replace(FIRST, confirmed=before, sent=False))
    assert is_signed(NEXT, now[::-1], replace(FIRST, confirmed=now))


@pytest.mark.clause("2.5.13")
@given(*[st.tuples(*[st.sampled_from(("0.5", "0.6", "2:4"))] * 4)] * 2)
def test_ratios_change_for_all_survivors_or_for_none(before: tuple[str, ...], now: tuple[str, ...]) -> None:
    """Of four silos, three survived."""
    earlier, wanted = (
        replace(release, silos=SILOS[:4], ratios=ratios if len({*ratios}) > 1 else ())
        for release, ratios in ((FIRST, before), (NEXT, now))
    )
    is_same = before[:3] == now[:3] and (len({*before}) > 1) is (len({*now}) > 1)
    assert is_allowed(wanted, earlier) is (is_same or len({*before}) == len({*now}) == 1)


@pytest.mark.clause("2.5.13")
def test_ratios_are_what_each_silo_is_asked_for_where_that_is_not_the_same() -> None:
    message = plan_message(4)
    assert Release.of(Round(checked_plan(message), 0), b"").ratios == ()
    message.roster[1].sparsity_ratio = "0.5"
    assert Release.of(Round(checked_plan(message), 0), b"").ratios == ()
    message.roster[1].sparsity_ratio = "0.7"
    assert Release.of(Round(checked_plan(message), 0), b"").ratios == ("0.5", "0.7", "0.5", "0.5")
    message.pruning.sparsity_ratio = "0.7"
    assert Release.of(Round(checked_plan(message), 0), b"").ratios == ()


@pytest.mark.clause("2.5.8", "2.5.13")
def test_where_silos_differ_other_exponents_are_other_ratios() -> None:
    """Rounding could else move one silo's ratios and leave the others'."""

    def release(own: str, *exponents: str) -> Release:
        message = plan_message(4)
        message.roster[1].sparsity_ratio = own
        blocks = len(checked_plan(message).block_weights)
        if exponents:
            message.pruning.allocation = "alpha"
            message.pruning.block_alphas.extend((exponents * blocks)[:blocks])
        plan = checked_plan(message)
        return replace(Release.of(Round(plan, 0), b""), sent=True, confirmed=plan.silos)

    assert release("", "2.0000").ratios == ()
    before = release("0.7", "2.0000")
    check_release(release("0.7", "2.0000"), [before])
    for now in (release("0.7", "2.0001"), release("0.7")):
        with pytest.raises(ReleaseRefused, match="some silos' sparsity ratios are not those"):
            check_release(now, [before])


KEEP_MASKS = ["votes", "weights"]
KINDS = [*KEEP_MASKS, "scales", "outliers", "sampling", "evaluation", "a kind of a later version"]


@pytest.mark.clause("2.5.7")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", KINDS)
def test_votes_and_weights_overlap_and_no_other_two_kinds_do(kind: str, before: str) -> None:
    same = kind == before or {kind, before} == {*KEEP_MASKS}
    assert replace(NEXT, kind=kind).overlaps(replace(FIRST, kind=before)) is same


@pytest.mark.clause("2.5.7")
@pytest.mark.parametrize("block", [None, 0, 1, 7])
@pytest.mark.parametrize("before", [None, 0, 1, 7])
def test_rounds_about_different_blocks_do_not_overlap(block: int | None, before: int | None) -> None:
    """A round about all blocks is about each of them."""
    blocks = [{*range(8)} if about is None else {about} for about in (before, block)]
    assert replace(NEXT, block=block).overlaps(replace(FIRST, block=before)) is bool(blocks[0] & blocks[1])


@pytest.mark.clause("2.5.7", "2.5.10", "2.5.11")
@pytest.mark.parametrize("other", [{"data": b"e" * 32}, {"round": FIRST.round}, {"kind": "evaluation"}])
def test_another_text_and_the_round_itself_are_not_held_against_it(other: dict[str, object]) -> None:
    wanted = replace(NEXT, silos=SILOS[1:], **other)  # type: ignore[arg-type]
    assert not is_allowed(replace(NEXT, silos=SILOS[1:]), FIRST)
    assert is_allowed(wanted, FIRST)
    assert is_signed(wanted, SILOS[1:], FIRST)


@pytest.mark.parametrize("at", range(3))
def test_every_earlier_release_counts(at: int) -> None:
    others = [replace(FIRST, round=bytes([n] * 32), data=b"e" * 32) for n in range(2)]
    ledger = [*others[:at], FIRST, *others[at:]]
    assert not is_allowed(replace(NEXT, least_survivors=4), *ledger)
    assert not is_signed(NEXT, SILOS, *ledger)


def test_what_is_refused_shows_no_digest_of_the_text() -> None:
    with pytest.raises(ReleaseRefused) as refused:
        check_release(replace(NEXT, least_survivors=4), [FIRST])
    assert FIRST.data.hex() not in str(refused.value)
    assert (refused.value.code, refused.value.exit_code) == ("release_refused", 4)
