"""Mistakes in what keeps opened sums from being combined to few silos' answers."""

from support.mutation import BOUND, CHECK, INDEX, ORDER, Mutation

LEDGER, STORE = "silo_agent/consent/ledger.py", "silo_agent/consent/state_store.py"
UNMASKING = "crypto/backends/double_masking/unmasking.py"

RATIOS = "tests/attacks/test_ratio_changed_for_one.py"
RULE = "tests/silo_agent/consent/test_ledger.py::test_ratios_change_for_all_survivors_or_for_none"
EXPLORED = "tests/adversary/test_exploration.py"
TWO_ROUNDS = f"{EXPLORED}::test_every_state_of_two_rounds_about_the_same"
REAL = "tests/adversary/test_real_silos.py::test_real_silos_go_where_explored_ones_go"
SEARCH = "tests/adversary/test_search.py::test_a_block_of_sequences_gives_nothing[0]"
SEARCH_WITH_NOISE = "tests/adversary/test_search.py::test_no_sequence_tells_more_of_a_person_than_the_privacy_budget[0]"

MUTATIONS = (
    Mutation(CHECK, LEDGER, "ratios=plan.pruning.own_targets(round_.silos),", "ratios=(),", RATIOS),
    Mutation(CHECK, LEDGER, "strict=False) if silo in silos}", "strict=False)}", RULE),
    Mutation(
        CHECK,
        LEDGER,
        "if earlier.asked_of(survivors) != wanted.asked_of(survivors):",
        "if wanted.ratios and earlier.asked_of(survivors) != wanted.asked_of(survivors):",
        RULE,
    ),
    Mutation(
        BOUND, "crypto/pruning/work.py", "if len({*targets}) > 1 else ()", "if len({*targets}) > 0 else ()", RATIOS
    ),
    Mutation(
        CHECK,
        STORE,
        '(wanted.least_survivors, wanted.block, ",".join(wanted.ratios), wanted.plan),',
        '(wanted.least_survivors, wanted.block, "", wanted.plan),',
        RATIOS,
    ),
    Mutation(
        CHECK,
        LEDGER,
        "if earlier.survivors != frozenset(survivors):",
        "if not frozenset(survivors) >= (earlier.survivors or frozenset()):",
        TWO_ROUNDS,
    ),
    Mutation(
        BOUND,
        "crypto/plan.py",
        "return max((silos + colluders) // 2 + 1,",
        "return max((silos + colluders) // 2,",
        EXPLORED,
    ),
    Mutation(
        CHECK,
        UNMASKING,
        "if not any(signed.silo == own.silo and signed.root == self.root for signed in message.roots):",
        "if not message.roots:",
        REAL,
    ),
    Mutation(
        BOUND,
        UNMASKING,
        "check_enough(len(message.roots), own.round.least_survivors, Phase.UPLOAD)",
        "check_enough(len(message.roots) + 1, own.round.least_survivors, Phase.UPLOAD)",
        REAL,
    ),
    Mutation(
        ORDER,
        UNMASKING,
        "            if silo in self.survivors:\n                revealed.self_seeds",
        "            if silo not in self.survivors:\n                revealed.self_seeds",
        REAL,
    ),
    Mutation(
        BOUND,
        "crypto/backends/double_masking/participants.py",
        "check_enough(len(names), self.round.threshold, phase)",
        "check_enough(len(names) + 1, self.round.threshold, phase)",
        REAL,
    ),
    Mutation(
        INDEX,
        LEDGER,
        "same_block = None in (self.block, other.block) or self.block == other.block",
        "same_block = self.block == other.block",
        SEARCH,
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/policy.py",
        "total = epsilon_of(of_epoch, policy.shown_delta, wanted)",
        "total = epsilon_of((), policy.shown_delta, wanted)",
        SEARCH_WITH_NOISE,
    ),
)
