"""Keep masks that a silo computed for a run that did not come to its end serve the next run that asks for the same.

A run that is submitted again is another plan. To prune a large model takes hours, and the same text has the same masks.
"""

from collections.abc import Iterable
from typing import Any

from crypto.errors import MalformedMessage, PlanError
from crypto.names import Schedule
from crypto.plan import Plan
from crypto.plan_rules import decode_plan
from silo_agent.consent.state_store import OfferedPlan
from silo_agent.pruning.pruned_files import pruned_files
from silo_agent.rounds.run_files import RunFiles


def adopt_masks(files: RunFiles, plan: Plan, silo: str, offers: Iterable[OfferedPlan]) -> None:
    """Move what `silo` made of the model for another of the plans `offers`, where `plan` asks for the same of the text.

    Raises OSError.
    """
    wanted, own = _what_masks_follow_from(plan, silo), pruned_files(files.work, None)
    for offer in offers if wanted and not own.keep_masks.exists() else ():
        other = pruned_files(files.of_other(offer.digest).work, None)
        if other.keep_masks.exists() and _follow_from(offer.encoded, silo) == wanted:
            if other.weights.exists():
                other.weights.replace(own.weights)
            other.keep_masks.replace(own.keep_masks)  # last: where it is, all is there
            return


def _follow_from(encoded: bytes, silo: str) -> tuple[Any, ...] | None:
    try:
        return _what_masks_follow_from(decode_plan(encoded), silo)
    except (MalformedMessage, PlanError):  # an earlier release had other rules
        return None


def _what_masks_follow_from(plan: Plan, silo: str) -> tuple[Any, ...] | None:
    """Return all that keep masks follow from but the text; None where what earlier rounds opened is among it."""
    message, pruning = plan.message, plan.message.pruning
    is_from_sums = plan.pruning.schedule is Schedule.ITERATIVE or pruning.allocation or pruning.cohort_floor
    if is_from_sums or silo not in plan.silos:
        return None
    ratio = message.roster[plan.silos.index(silo)].sparsity_ratio
    return [*message.model], [*message.files], pruning, ratio
