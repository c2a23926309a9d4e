"""Mistakes in how chunks are given to auditors and in what a verdict needs, each of which must fail a test."""

from typing import Final

from support.mutation import BOUND, CHECK, INDEX, Mutation

TRANSCRIPT: Final = "crypto/backends/double_masking/transcript.py"
REPLAY: Final = "crypto/backends/double_masking/replay.py"
AUDIT: Final = "crypto/backends/double_masking/audit.py"
VERIFICATION: Final = "crypto/backends/double_masking/verification.py"
EVERY: Final = "tests/attacks/test_forged_sum_with_every_declared_colluder.py"
SPEC: Final = "crypto/backends/backend_spec.py"
TOLD: Final = "tests/silo_agent/consent/test_plan_in_words.py"
VECTORS: Final = "tests/crypto/test_vectors.py"
LEFT_OUT: Final = "tests/attacks/test_verdicts_left_out.py"
OFFLINE: Final = "tests/crypto/backends/test_verification.py"

MUTATIONS: Final = (
    Mutation(BOUND, TRANSCRIPT, "max(2, plan.message.colluders + 1)", "max(2, plan.message.colluders)", EVERY),
    Mutation(BOUND, TRANSCRIPT, "max(2, plan.message.colluders + 1)", "max(1, plan.message.colluders + 1)", EVERY),
    Mutation(INDEX, TRANSCRIPT, "range(1, -(-of_a_chunk // 4))", "range(2, 1 - (-of_a_chunk // 4))", VECTORS),
    Mutation(INDEX, TRANSCRIPT, "numbers[8 * draw : 8 * draw + 8]", "numbers[4 * draw : 4 * draw + 8]", VECTORS),
    Mutation(CHECK, TRANSCRIPT, '"little") % len(left)) for draw', '"little") % silos % len(left)) for draw', VECTORS),
    Mutation(CHECK, REPLAY, "verdicts.all(axis=1) if colluders else verdicts.any", "verdicts.any", LEFT_OUT),
    Mutation(CHECK, REPLAY, "    if len(lacking):", "    if len(lacking) > 1:", OFFLINE),
    Mutation(
        CHECK,
        AUDIT,
        "        if silo not in self.signers or index >= len(self.auditors):",
        "        if index >= len(self.auditors):",
        "tests/attacks/test_chunk_asked_for_by_no_auditor.py",
    ),
    Mutation(
        CHECK,
        AUDIT,
        "        if self.own.silo not in signers:",
        "        if not signers:",
        "tests/attacks/test_own_signature_left_out_of_the_opening.py",
    ),
    Mutation(
        CHECK,
        AUDIT,
        "        check_coins(message, own.round.digest, commitments, AGGREGATOR)\n",
        "",
        "tests/attacks/test_coin_changed.py",
    ),
    Mutation(
        CHECK,
        AUDIT,
        "own.plan.message.colluders)\n        return self",
        "0)\n        return self",
        LEFT_OUT,
    ),
    Mutation(BOUND, VERIFICATION, "len(signed_opening), auditors_a_chunk(plan))", "len(signed_opening), 2)", OFFLINE),
    Mutation(BOUND, SPEC, "* (signers + 1) // signers", "* signers // signers", TOLD),
    Mutation(BOUND, SPEC, ".auditors(plan) *", ".auditors(plan) // 3 * 3 *", TOLD),
    Mutation(CHECK, VERIFICATION, "        check_covered(drawn, judged_by, plan.message.colluders)\n", "", OFFLINE),
    Mutation(
        CHECK,
        VERIFICATION,
        "        check_enough(len(signed_opening), round_.threshold, Phase.OPENING)\n",
        "",
        OFFLINE,
    ),
)
