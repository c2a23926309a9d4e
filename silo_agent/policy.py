"""What this silo agrees to. Every plan is held against the silo's own config before anything is computed or sent."""

from crypto.errors import IdentityError, PlanError
from crypto.plan import Plan
from silo_agent.config import AgentConfig
from silo_agent.dense_weights import DenseWeights


def check_plan(
    plan: Plan, config: AgentConfig, roster: dict[str, bytes], weights: DenseWeights, digests: dict[str, bytes]
) -> None:
    """Raises PlanError or IdentityError saying what this silo does not accept. `digests` are those of `weights`."""
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
    cohort = plan.message
    if cohort.colluders < config.colluders:
        raise PlanError(
            f"the plan withstands {cohort.colluders} colluders and this silo asks for {config.colluders}",
            hint="colluders in the agent's config",
        )
    if cohort.least_survivors - cohort.colluders < config.least_honest_survivors:
        raise PlanError(
            f"the plan opens sums over {cohort.least_survivors - cohort.colluders} honest survivors and this silo asks "
            f"for {config.least_honest_survivors}",
            hint="least_honest_survivors in the agent's config",
        )
    plan.check_roster(roster)
    if config.silo not in roster:
        raise IdentityError(f"silo {config.silo} is not in the roster")
    planned = {tensor.name: tensor.digest for tensor in plan.message.model}
    if planned != digests:
        differing = sorted(name for name in {*planned, *digests} if planned.get(name) != digests.get(name))
        raise PlanError(f"the plan's model is not the one in {weights.folder}: {differing[0]} differs")
    prunable = {tensor.name for tensor in plan.prunable}
    if prunable != set(weights.prunable):
        raise PlanError(f"the plan prunes other tensors than those of {weights.folder}'s decoder blocks")
    for tensor in plan.message.model:
        if tuple(tensor.shape) != tuple(weights.shape(tensor.name)):
            raise PlanError(f"the plan's shape of {tensor.name} is not the model's")
