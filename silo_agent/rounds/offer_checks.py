"""What an offered round must be about for this silo: what it holds, and what the rounds before opened."""

from collections.abc import Mapping
from typing import Final

from crypto.errors import IdentityError, PlanError, UnexpectedMessage
from crypto.names import AGGREGATOR
from crypto.plan import Plan
from crypto.privacy.accountant import epsilon
from crypto.pruning.sparsity import parse_ratio, spell_ratio
from crypto.releases.release_spec import events_of
from crypto.secagg.round import Round
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.config import AgentConfig
from silo_agent.model.calibration import usual_length
from silo_agent.opened_sums.opened_rounds import Start

ROUNDING: Final = 1e-5
"""Relative: two versions of the accountant's library may solve for an epsilon a little differently."""


def check_plan(
    plan: Plan, config: AgentConfig, roster: Mapping[str, bytes], weights: DenseWeights, digests: Mapping[str, bytes]
) -> None:
    """Raise PlanError, ConfigError or IdentityError where the plan is not about what this silo has.

    `digests`: of `weights`.
    """
    if plan.backend is not config.backend:
        raise PlanError(
            f"the plan uses the backend {plan.backend} and this silo accepts {config.backend}",
            hint="a backend is chosen by name in the agent's config",
        )
    if plan.suite is not config.suite:
        raise PlanError(
            f"the plan uses the suite {plan.suite} and this silo accepts {config.suite}",
            hint="a suite is chosen by name in the agent's config",
        )
    plan.check_roster(roster)
    if config.silo not in roster:
        raise IdentityError(f"silo {config.silo} is not in the roster")
    check_model(plan, weights, digests)
    member = plan.message.roster[plan.silos.index(config.silo)]
    ratio = config.sparsity_ratio and spell_ratio(parse_ratio(config.sparsity_ratio))
    for field, planned_here, own in (
        ("capacity", member.capacity, config.capacity),
        ("sparsity_ratio", member.sparsity_ratio, ratio),
    ):
        if own and planned_here and planned_here != own:
            raise PlanError(f"the plan has a {field} of {planned_here} for this silo, whose own is {own}")
    if 0 < config.upload_bytes_per_second < plan.least_bytes_per_second:
        raise PlanError(
            f"the plan's uploads bring {plan.least_bytes_per_second} bytes a second or more, and this silo's at most "
            f"{config.upload_bytes_per_second}",
            hint="upload_bytes_per_second in agent.yaml, or least_bytes_per_second in the plan",
        )
    usual_length(weights.config, plan.message.pruning.sequence_length)  # raises where the model has fewer positions
    check_promise(plan)


def check_promise(plan: Plan) -> None:
    """Raise PlanError where the noise of a plan is not enough for the epsilon that it promises (2.3.10)."""
    promised = plan.message.pruning
    if plan.pruning.has_noise:
        kept = epsilon(events_of(plan), promised.delta)
        if kept > promised.epsilon * (1 + ROUNDING):
            raise PlanError(
                f"the plan promises epsilon {promised.epsilon:g} at delta {promised.delta:g}, and its noise keeps "
                f"{kept:.3g}"
            )


def check_model(plan: Plan, weights: DenseWeights, digests: Mapping[str, bytes]) -> None:
    """Raise PlanError where the plan is not about the model `weights`, whose digests are `digests`."""
    for listed, held in ((plan.message.model, digests), (plan.message.files, weights.file_digests)):
        planned = {entry.name: entry.digest for entry in listed}
        if planned != held:
            differing = sorted(name for name in {*planned, *held} if planned.get(name) != held.get(name))
            raise PlanError(f"the plan's model is not the one in {weights.folder}: {differing[0]} differs")
    blocks = {name: (block.index, weights.input_first(name)) for block in weights.blocks for name in block.prunable}
    if {tensor.name: (tensor.block, tensor.input_first) for tensor in plan.prunable} != blocks:
        raise PlanError(f"the plan prunes other tensors than those of {weights.folder}'s decoder blocks")
    for tensor in plan.message.model:
        if tuple(tensor.shape) != tuple(weights.shape(tensor.name)):
            raise PlanError(f"the plan's shape of {tensor.name} is not the model's")


def check_start(round_: Round, start: Start, silo: str) -> None:
    """Raise UnexpectedMessage unless a round starts from what the rounds before it opened, with the cohort that follows
    from them (2.2.3, 2.6), and this silo is in it.
    """
    honest = start.round
    for field, offered, due in (
        ("input", round_.input_digest, honest.input_digest),
        ("cohort", round_.cohort, honest.cohort),
    ):
        if offered != due:
            raise UnexpectedMessage(f"offers round {round_.index} with another {field}", party=AGGREGATOR)
    if silo not in honest.silos:
        raise UnexpectedMessage(f"offers round {round_.index} to a silo that is not in its cohort", party=AGGREGATOR)
