"""A plan in plain words, for whoever has to approve of it: what is computed here, what would leave, how much, who could
see what, and what is not protected. Derived from the plan alone; docs/threat-model.md says the same at length.
"""

from collections.abc import Iterator
from typing import Any

from crypto.names import ReleaseKind, Schedule
from crypto.plan import Plan
from silo_agent.policy import model_digest

_LEAVES = {
    ReleaseKind.VOTES: "for each of {weights:,} weights one bit, whether this silo kept it (its keep mask), and how "
    "many it kept in each comparison group",
    ReleaseKind.WEIGHTS: "for each of {weights:,} weights one bit, whether this silo kept it, and by how much its kept "
    "weight differs from the dense one",
    ReleaseKind.SCALES: "for each of {tensors:,} weight matrices the power of two of its largest difference from the "
    "dense one",
    ReleaseKind.OUTLIERS: "for each of {blocks:,} blocks how many outlying weights this silo's text shows",
    ReleaseKind.SAMPLING: "random numbers that draw which silos prune which blocks; nothing of the text",
    ReleaseKind.EVALUATION: "for each of {candidates:,} models how well it predicts this silo's {sequences:,} held-out "
    "sequences, summed (negative log-likelihood), and their number of tokens",
}
_OPENED = {
    ReleaseKind.VOTES: "how many silos kept each weight",
    ReleaseKind.WEIGHTS: "how many silos kept each weight, and the sum of their differences from the dense weight",
    ReleaseKind.SCALES: "how many silos' largest difference lies in which power of two, by weight matrix",
    ReleaseKind.OUTLIERS: "the silos' summed outliers, by block",
    ReleaseKind.SAMPLING: "a random number that no silo alone chose",
    ReleaseKind.EVALUATION: "the silos' summed negative log-likelihoods and token counts",
}


def release_words(plan: Plan, index: int) -> str:
    """What would leave this silo in one round, hidden in masked words."""
    spec, tensors = plan.message.rounds[index], list(plan.tensors(index))
    return _LEAVES[plan.release_kind(index)].format(
        weights=sum(tensor.shape[0] * tensor.shape[1] for tensor in tensors),
        tensors=len(tensors),
        blocks=len(plan.block_weights),
        candidates=len(spec.evaluation.candidates),
        sequences=spec.evaluation.sequences,
    )


def upload_bytes(plan: Plan, index: int) -> int:
    """Bytes of masked words that a silo sends in one round; of a sampled round at most."""
    return sum(8 * chunk.words for chunk in plan.layout(index).chunks)


def plan_in_words(plan: Plan, silo: str) -> dict[str, Any]:
    """Everything that `silo-agent pending` shows, as a JSON document has it."""
    message, pruning = plan.message, plan.message.pruning
    rounds = range(len(message.rounds))
    kinds = list(dict.fromkeys(plan.release_kind(index) for index in rounds))
    others = [each for each in plan.silos if each != silo]
    target = f"{pruning.pattern} pattern" if pruning.pattern else f"sparsity ratio {pruning.sparsity_ratio}"
    model = model_digest({tensor.name: tensor.digest for tensor in message.model}).hex()
    return {
        "plan": plan.digest.hex(),
        "model": model,
        "computed here": f"{pruning.pruner} at {target}, on {pruning.samples:,} sequences of "
        f"{pruning.sequence_length:,} tokens of this silo's text; the text itself stays",
        "rounds": len(message.rounds),
        "leaves": {
            kind: _distinct(release_words(plan, at) for at in rounds if plan.release_kind(at) is kind) for kind in kinds
        },
        "bytes": sum(upload_bytes(plan, index) for index in rounds),
        "revealed": _revealed(plan, kinds),
        "summed over": f"at least {_least(plan)} of {len(plan.silos)} silos, this one with {', '.join(others)}",
        "withstands": f"the aggregator and {message.colluders} dishonest silos together"
        if message.colluders
        else "a dishonest aggregator, but no silo that works with it",
        "epsilon": "unbounded: this plan adds no noise, so differential privacy promises nothing",
        "not protected": [
            "Where all silos agree on a weight, the sum tells each one's choice.",
            f"All other silos together ({len(others)}) know this one's part, if they share what they sent.",
        ],
        "time to decide": f"until the aggregator has heard nothing for {_span(message.preparation_seconds)}",
    }


def _revealed(plan: Plan, kinds: list[ReleaseKind]) -> dict[str, str]:
    opened = "; ".join(_OPENED[kind] for kind in kinds)
    earlier = plan.schedule is Schedule.ITERATIVE or len(kinds) > 1
    silos = (
        "sums of rounds before the last, since rounds start from them; and as auditors" if earlier else "as auditors"
    )
    return {
        "the aggregator": f"{opened}. Not whose is what, and no single silo's part",
        "the other silos": f"{silos} those pieces of the sum that they are drawn to recompute, the same",
        "the network": "who talks when, and how much",
    }


def _least(plan: Plan) -> int:
    """Fewest silos that any of its sums is over."""
    return plan.cohort_floor or plan.message.least_survivors


def _distinct(texts: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _span(seconds: int) -> str:
    return f"{seconds / 3600:g} hours" if seconds >= 3600 else f"{seconds} seconds"
