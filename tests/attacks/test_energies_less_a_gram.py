"""A dishonest aggregator opens the energies of five silos and the Gram matrix of four of them: its diagonal is the four
silos' energies, and what is missing is the fifth's.
"""

from dataclasses import replace

import numpy as np
import pytest

from crypto.errors import ReleaseRefused
from crypto.names import ReleaseKind
from silo_agent.consent.ledger import Release, check_release, check_survivors
from support.plans import silo_names

pytestmark = pytest.mark.clause("2.5.7", "2.5.10")

SILOS = tuple(silo_names(5))
ENERGIES = Release(b"e" * 32, ReleaseKind.ENERGIES, b"text", SILOS, 3, block=2, sent=True, confirmed=SILOS)
GRAM = Release(b"g" * 32, ReleaseKind.GRAM, b"text", SILOS[:4], 3, block=2)


TARGET = replace(GRAM, round=b"t" * 32, kind=ReleaseKind.DENSE_TARGET)


@pytest.mark.parametrize(
    ("first", "second"), [(ENERGIES, GRAM), (GRAM, ENERGIES), (ENERGIES, TARGET), (TARGET, replace(GRAM, silos=SILOS))]
)
def test_both_say_the_same_of_a_text(first: Release, second: Release) -> None:
    """Whichever came first, the other is over the same silos or not at all."""
    opened = replace(first, sent=True, confirmed=first.silos)
    with pytest.raises(ReleaseRefused):
        check_release(second, [opened])
        check_survivors(second, second.silos, [opened])
    again = replace(second, silos=first.silos)
    check_release(again, [opened])
    check_survivors(again, first.silos, [opened])
    with pytest.raises(ReleaseRefused):
        check_survivors(again, first.silos[:3], [opened])


def test_statistics_of_all_blocks_overlap_those_of_each() -> None:
    """One-shot after iterative, or the other way around."""
    everything = replace(ENERGIES, block=None)
    with pytest.raises(ReleaseRefused):
        check_release(GRAM, [everything])
    check_release(replace(GRAM, block=1), [ENERGIES])


@pytest.mark.clause("2.4.14")
def test_the_two_rounds_of_a_block_in_one_plan_are_about_different_weights() -> None:
    """A silo that is lost between them stops nothing. Those of another plan may be about the same."""
    target = replace(TARGET, plan=b"p" * 32)
    gram = replace(GRAM, silos=SILOS, sent=True, confirmed=SILOS)
    check_release(target, [replace(gram, plan=target.plan)])
    check_survivors(target, SILOS[:4], [replace(gram, plan=target.plan)])
    for other in (b"q" * 32, b""):
        with pytest.raises(ReleaseRefused):
            check_release(target, [replace(gram, plan=other)])
    with pytest.raises(ReleaseRefused):
        check_release(replace(TARGET, plan=b""), [replace(gram, plan=b"")])
    with pytest.raises(ReleaseRefused):
        check_release(target, [replace(gram, kind=ReleaseKind.DENSE_TARGET, plan=target.plan)])


def test_keep_masks_say_something_else() -> None:
    check_release(replace(GRAM, kind=ReleaseKind.VOTES), [ENERGIES])


def test_without_a_ledger_it_is_one_silos_energies() -> None:
    inputs = [np.random.default_rng(silo).normal(size=(20, 6)) for silo in range(5)]
    energies = sum((rows**2).sum(0) for rows in inputs)
    gram = sum(rows.T @ rows for rows in inputs[:4])
    assert np.allclose(energies - np.diagonal(gram), (inputs[4] ** 2).sum(0))


def test_the_energies_that_blocks_ratios_follow_from_overlap_the_rounds_of_one_plan() -> None:
    """The first block's inputs are the same in both, so a silo that only one of them is over would show."""
    ratios = replace(ENERGIES, block=None, plan=b"p" * 32)
    for release in (GRAM, TARGET):
        later = replace(release, silos=SILOS, plan=b"p" * 32, block=0)
        check_release(later, [ratios])
        with pytest.raises(ReleaseRefused):
            check_survivors(later, SILOS[:4], [ratios])
