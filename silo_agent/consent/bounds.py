"""What a plan may ask for at least and at most. Each bound is a field of policy.yaml, and a line of the table here.

Why each field of a plan needs a bound or needs none is in docs/protocol.md, section 14.1.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from crypto.names import ReleaseKind
from crypto.plan import MOST_SILOS, Plan
from crypto.pruning.sparsity import spell_ratio
from crypto.secagg.round import least_survivors
from silo_agent.consent.hidden_among import honest_silos
from sparsilo.v1 import plan_pb2

Number = int | Decimal

_SILOS: Final = range(2, MOST_SILOS + 1)
_COUNTS: Final = range(1 << 31)


@dataclass(frozen=True)
class Bound:
    """The fewest of something that a policy asks for, or the most that it allows."""

    values: range | None
    """What the policy may say: whole numbers, so that one that no plan could meet is a mistake; None: 0 to 1."""
    asked: Callable[[Plan, str], Mapping[str, Number]]
    """What a plan asks of a silo, and how much of it."""

    @property
    def says(self) -> str:
        """What the policy's number has to be."""
        if self.values is None:
            return "a number from 0 to 1, such as 0.5"
        return f"a whole number, from {self.values.start} to {self.values.stop - 1}"

    def read(self, value: object) -> Number | None:
        """Return the number that a policy says; None where it is none."""
        if self.values is None:  # a truth value is an int to Python
            return Decimal(str(value)) if type(value) in (int, float) and 0 <= float(str(value)) <= 1 else None
        return value if type(value) is int and value in self.values else None


def _survivors(plan: Plan, _: str) -> Mapping[str, Number]:
    return {"survivors of a sum": least_survivors(plan, plan.pruning.cohort_floor)}


def _honest(plan: Plan, _: str) -> Mapping[str, Number]:
    return {"honest silos of a threshold": honest_silos(plan)}


def _cohort(plan: Plan, _: str) -> Mapping[str, Number]:
    return {"silos of a sum": plan.pruning.cohort_floor or len(plan.silos)}


def _own_ratio(plan: Plan, silo: str) -> Mapping[str, Number]:
    return _ratios(plan, silo) if silo in plan.silos else {}


def _ratios_of_others(plan: Plan, silo: str) -> Mapping[str, Number]:
    return {what: ratio for other in plan.silos if other != silo for what, ratio in _ratios(plan, other).items()}


def _ratios(plan: Plan, silo: str) -> Mapping[str, Number]:
    least, most = plan.pruning.ratio_range(silo)
    if least == most:
        return {f"sparsity ratio of {silo}": least}
    return {f"least sparsity ratio of {silo}": least, f"largest sparsity ratio of {silo}": most}


def _held_out(plan: Plan, _: str) -> Mapping[str, Number]:
    return {f"rounds[{index}].sequences": evaluation.sequences for index, evaluation in _evaluations(plan)}


def _evaluations(plan: Plan) -> Iterator[tuple[int, plan_pb2.Evaluation]]:
    for index, spec in enumerate(plan.message.rounds):
        if plan.release_kind(index) is ReleaseKind.EVALUATION:
            yield index, spec.evaluation


def _both(name: str, bound: Bound) -> dict[str, Bound]:
    return {f"least_{name}": bound, f"most_{name}": bound}


BOUNDS: Final[Mapping[str, Bound]] = {
    "colluders": Bound(range(MOST_SILOS - 2), lambda plan, _: {"colluders": plan.message.colluders}),
    "least_honest_survivors": Bound(_SILOS, _honest),
    "least_survivors": Bound(_SILOS, _survivors),
    "least_cohort": Bound(_SILOS, _cohort),
    **_both("sparsity_ratio", Bound(None, _own_ratio)),
    **_both("sparsity_ratio_of_others", Bound(None, _ratios_of_others)),
    **_both("samples", Bound(_COUNTS[1:], lambda plan, _: {"samples": plan.message.pruning.samples})),
    **_both(
        "sequence_length",
        Bound(_COUNTS[2:], lambda plan, _: {"sequence_length": plan.message.pruning.sequence_length}),
    ),
    **_both("held_out_sequences", Bound(_COUNTS[1:], _held_out)),
    "most_evaluations": Bound(_COUNTS, lambda plan, _: {"evaluation rounds": len([*_evaluations(plan)])}),
    "most_rounds": Bound(_COUNTS[1:], lambda plan, _: {"rounds": len(plan.message.rounds)}),
}
"""By field of policy.yaml. One that begins with `most_` is the most that is allowed, each other the least."""


def is_most(name: str) -> bool:
    """Tell whether a bound of this name is one from above."""
    return name.startswith("most_")


def spelled(number: Number) -> str:
    """Return a number as plan and policy spell it."""
    return spell_ratio(number) if isinstance(number, Decimal) else str(number)
