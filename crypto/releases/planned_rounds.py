"""The rounds that a pruning has: which kinds, in which order, over which blocks."""

from collections.abc import Iterable

from crypto.names import Allocation, ReleaseKind, Schedule
from crypto.plan import Plan
from crypto.releases.release_spec import release_spec, spec_of


def pruning_rounds(plan: Plan) -> int:
    """Return how many rounds a plan's pruning has; the rounds that stand alone come after them."""
    rounds = len(plan.message.rounds)
    while rounds and release_spec(plan.release_kind(rounds - 1)).stands_alone and plan.block(rounds - 1) is None:
        rounds -= 1
    return rounds


def release_of(plan: Plan) -> ReleaseKind:
    """Return what a plan's pruning releases: the kind of its last round."""
    return plan.release_kind(pruning_rounds(plan) - 1)


def only_allocates(plan: Plan, index: int) -> bool:
    """Tell whether a round pools statistics of the dense model only to say how much each block loses (2.8.1)."""
    by_block = plan.pruning.schedule is Schedule.ITERATIVE
    return by_block and plan.block(index) is None and spec_of(plan, index).pools


def planned_rounds(plan: Plan, release: ReleaseKind) -> list[tuple[ReleaseKind, int | None]]:
    """Return the kinds of the rounds in which the planned pruning releases `release`, a kind that prunes.

    Each comes with the block that it is about; None: all of them.
    """
    work, spec = plan.pruning, release_spec(release)
    rounds: list[tuple[ReleaseKind, int | None]] = []
    if work.cohort_floor:
        rounds.append((ReleaseKind.SAMPLING, None))
    by_block = work.cohort_floor or work.schedule is Schedule.ITERATIVE
    if work.allocation is Allocation.OWL and not spec.pools:
        rounds.append((ReleaseKind.OUTLIERS, None))
    elif work.allocation is Allocation.OWL and by_block:
        rounds.append((ReleaseKind.ENERGIES, None))  # else the one round says it too
    scopes: Iterable[int | None] = range(len(plan.block_weights)) if by_block else (None,)
    for block in scopes:
        rounds += [(kind, block) for kind in (*spec.preceded_by, release)]
    return rounds
