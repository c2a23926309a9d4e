"""Mistakes in what a unit contributes, in noise, and in what a plan promises."""

from support.mutation import BOUND, CHECK, Mutation

GAUSSIAN = "crypto/privacy/mechanisms/discrete_gaussian.py"
CLIPPING = "tests/crypto/privacy/test_clipping.py"
SAMPLER = "tests/crypto/privacy/test_discrete_gaussian.py"
ATTACKS = "tests/crypto/privacy/test_empirical_epsilon.py"
UNITS, CONTRIBUTED = "tests/silo_agent/model/test_units.py", "tests/silo_agent/releases/test_contributed_energies.py"
PROMISES = "tests/silo_agent/rounds/test_promises.py"
NOISY_VOTES, NOISY_PLANS = "tests/silo_agent/releases/test_noisy_votes.py", "tests/crypto/test_plans_with_noise.py"

MUTATIONS = (
    Mutation(BOUND, "crypto/releases/votes.py", "units * sqrt(votes)", "units", NOISY_PLANS),
    Mutation(BOUND, "crypto/releases/votes.py", "units + 2 * reach(plan)", "units + reach(plan)", NOISY_VOTES),
    Mutation(CHECK, "silo_agent/releases/noise.py", ".clip(-self._reach, self._reach)", "", NOISY_VOTES),
    Mutation(BOUND, "crypto/privacy/clipping.py", "> clip * clip:", "> 2 * clip * clip:", CLIPPING),
    Mutation(CHECK, "crypto/privacy/clipping.py", ", clip / length)", ", np.inf)", ATTACKS),
    Mutation(BOUND, GAUSSIAN, "(np.abs(proposed) - (1 << bits)) ** 2", "np.abs(proposed) ** 2", SAMPLER),
    Mutation(BOUND, GAUSSIAN, "np.where(negative, -magnitude, magnitude)", "magnitude", SAMPLER),
    Mutation(
        BOUND,
        "crypto/privacy/noise_shares.py",
        "max(1, plan.message.colluders)",
        "plan.message.colluders",
        f"{CONTRIBUTED}::test_shares_are_of_those_who_are_surely_left_and_do_not_look_on",
    ),
    Mutation(BOUND, "crypto/privacy/noise_shares.py", "sqrt(shares * 4**bits", "sqrt(shares**2 * 4**bits", ATTACKS),
    Mutation(CHECK, "silo_agent/model/units.py", " if record else ():", ":", UNITS),
    Mutation(
        CHECK,
        "silo_agent/model/units.py",
        "number if named is None else named",
        "number",
        f"{CONTRIBUTED}::test_a_unit_of_two_records_counts_once",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/state_store.py",
        "INSERT OR IGNORE INTO noise_seeds",
        "INSERT OR REPLACE INTO noise_seeds",
        f"{PROMISES}::test_an_agent_that_dies_before_anything_left_draws_the_same_noise",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/offer_checks.py",
        "        if kept > promised.epsilon * (1 + ROUNDING):",
        "        if False:",
        PROMISES,
    ),
    Mutation(
        BOUND,
        "silo_agent/releases/contributed_energies.py",
        "opened.survivors**0.5",
        "opened.survivors**0.4",
        f"{CONTRIBUTED}::test_as_many_shares_of_noise_are_expected_in_a_sum_as_there_are_survivors",
    ),
    Mutation(
        CHECK,
        "silo_agent/releases/contributed_energies.py",
        "    if (length := float(np.linalg.norm(lanes))) > most:",
        "    if (length := float(np.linalg.norm(lanes))) > 2 * most:",
        f"{CONTRIBUTED}::test_a_block_longer_than_units_and_noise_make_it_is_corrupt",
    ),
)
