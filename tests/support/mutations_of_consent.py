"""Mistakes in what a policy bounds, and in what whoever approves of a plan is told."""

from support.mutation import BOUND, CHECK, INDEX, ORDER, SIGN, Mutation

BOUNDS, POLICY = "silo_agent/consent/bounds.py", "silo_agent/consent/policy.py"
TESTS = "tests/silo_agent/consent/test_bounds.py"
POLICY_TESTS = "tests/silo_agent/consent/test_policy.py"
HIDDEN, HIDDEN_TESTS = "silo_agent/consent/hidden_among.py", "tests/silo_agent/consent/test_hidden_among.py"
APPROVAL, APPROVAL_TESTS = "silo_agent/commands/approval.py", "tests/silo_agent/commands/test_approval_commands.py"
ATTACK = "tests/attacks/test_other_silos_told_what_to_contribute.py"

MUTATIONS = (
    Mutation(SIGN, POLICY, "asked > limit if is_most(name) else asked < limit", "asked > limit", TESTS),
    Mutation(BOUND, POLICY, "else asked < limit:", "else asked <= limit:", TESTS),
    Mutation(BOUND, POLICY, "if asked > limit if", "if asked >= limit if", TESTS),
    Mutation(CHECK, BOUNDS, "for other in plan.silos if other != silo", "for other in plan.silos[:0]", ATTACK),
    Mutation(INDEX, BOUNDS, "for other in plan.silos if other != silo", "for other in plan.silos[:1]", ATTACK),
    Mutation(CHECK, BOUNDS, "for other in plan.silos if other != silo", "for other in plan.silos", TESTS),
    Mutation(CHECK, BOUNDS, "if least == most:", "if least <= most:", ATTACK),
    Mutation(SIGN, "crypto/pruning/work.py", "min(ratio + 2 * SPREAD, MOST)", "min(ratio - 2 * SPREAD, MOST)", TESTS),
    Mutation(BOUND, "crypto/pruning/work.py", "max(ratio - 2 * SPREAD,", "max(ratio - SPREAD,", TESTS),
    Mutation(
        ORDER,
        "crypto/pruning/sparsity.py",
        "1 - Decimal(self.target.kept) / self.target.of",
        "Decimal(self.target.kept) / self.target.of",
        TESTS,
    ),
    Mutation(
        BOUND,
        POLICY,
        "_require(least <= most, ",
        "_require(least <= most + 1, ",
        POLICY_TESTS,
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/agreement.py",
        "            check_policy(",
        "            _ = lambda: check_policy(",
        ATTACK,
    ),
    Mutation(BOUND, APPROVAL, "if len(digits) < FEWEST_DIGITS:", "if len(digits) <= FEWEST_DIGITS:", APPROVAL_TESTS),
    Mutation(BOUND, APPROVAL, "FEWEST_DIGITS: Final = 16", "FEWEST_DIGITS: Final = 15", APPROVAL_TESTS),
    Mutation(
        SIGN,
        HIDDEN,
        "threshold(plan, plan.pruning.cohort_floor) - plan.message.colluders",
        "threshold(plan, plan.pruning.cohort_floor) + plan.message.colluders",
        POLICY_TESTS,
    ),
    Mutation(BOUND, HIDDEN, "if honest < FEW_HONEST:", "if honest <= FEW_HONEST:", HIDDEN_TESTS),
    Mutation(BOUND, HIDDEN, "1 - ratio) > GUESSED:", "1 - ratio) >= GUESSED:", HIDDEN_TESTS),
    Mutation(CHECK, HIDDEN, "if other != silo and max(", "if max(", HIDDEN_TESTS),
    Mutation(BOUND, HIDDEN, "if sequences < FEW_SEQUENCES:", "if sequences <= FEW_SEQUENCES:", HIDDEN_TESTS),
    Mutation(SIGN, HIDDEN, "if not message.colluders:", "if message.colluders:", HIDDEN_TESTS),
    Mutation(ORDER, HIDDEN, "{1 - end for silo in plan.silos", "{end for silo in plan.silos", HIDDEN_TESTS),
    Mutation(INDEX, HIDDEN, "capacities.get(silo, blocks)", "capacities.get(silo, blocks - 1)", HIDDEN_TESTS),
    Mutation(
        CHECK,
        "silo_agent/consent/plan_in_words.py",
        '    yield from _under("WEAK", words.weak)',
        "    pass",
        HIDDEN_TESTS,
    ),
)
