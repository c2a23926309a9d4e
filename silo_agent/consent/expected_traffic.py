"""How much a silo would send and receive in a plan, in bytes of words: what everything else weighs, is little."""

from math import ceil

from crypto.backends.backend_spec import audited_bytes, backend_spec
from crypto.plan import Plan
from crypto.releases.release_spec import layout_of, spec_of


def upload_bytes(plan: Plan, index: int, silos: int | None = None) -> int:
    """Return the bytes that a silo uploads in one round, header words and bodies.

    `silos` is how many are in the round's cohort; None: the whole roster.
    """
    return sum(backend_spec(plan.backend).upload_lengths(layout_of(plan, index, silos)))


def bytes_up(plan: Plan, silo: str) -> int:
    """Return the bytes that `silo` uploads in all rounds.

    With layer sampling that is a bound: the blocks are drawn later, so the ones that cost most are counted.
    """
    total, blocks = 0, [0] * len(plan.block_weights)
    for index in range(len(plan.message.rounds)):
        block = plan.block(index)
        if block is not None and plan.is_sampled(index):
            blocks[block] += upload_bytes(plan, index, most_participants(plan))
        else:
            total += upload_bytes(plan, index)
    return total + sum(sorted(blocks, reverse=True)[: plan.pruning.capacities.get(silo, 0)])


def bytes_down(plan: Plan, silo: str) -> int:
    """Estimate the bytes that `silo` receives in all rounds.

    They are the chunks that it audits, with every survivor's words of them; the sums that it fetches; and the keep
    masks from outside.
    """
    signers = most_participants(plan)
    audits = audited_bytes(plan, bytes_up(plan, silo), signers)
    sums = sum(upload_bytes(plan, index, signers if plan.is_sampled(index) else None) for index in fetched_sums(plan))
    return audits + sums + len(candidate_files(plan)) * sum(plan.block_weights)


def most_participants(plan: Plan) -> int:
    """Return how many silos can take part in a round about weights: of a cohort, or the whole roster."""
    if not plan.pruning.cohort_floor:
        return len(plan.silos)
    return ceil(sum(plan.pruning.capacities.values()) / len(plan.block_weights))


def fetched_sums(plan: Plan) -> range:
    """Return the rounds whose sums silos fetch: an agent begins a round with all that were opened before it."""
    return range(len(plan.message.rounds) - 1)


def candidate_files(plan: Plan) -> frozenset[bytes]:
    """Return the SHA-256 of each keep mask from outside that silos fetch."""
    rounds = range(len(plan.message.rounds))
    return frozenset(digest for index in rounds for digest in spec_of(plan, index).files(plan, index))
