"""Tests of the tests: each mutation is one small mistake in a file, and the tests named with it must notice.

Run as `make mutations`. For each one the source and the tests are copied to a temporary folder, changed there, and only
the named tests run. Exits with 1 when a mutation survives, when a text to replace is not found exactly once, or when
the named tests do not pass without any mutation.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import (
    mutations_of_combinations,
    mutations_of_consent,
    mutations_of_identity,
    mutations_of_pooling,
    mutations_of_privacy,
    mutations_of_results,
    mutations_of_silence,
    mutations_of_the_audit,
    mutations_of_the_ledger,
)
from support.mutation import BOUND, CHECK, INDEX, ORDER, SIGN, TIE, Mutation

ROOT = Path(__file__).parents[2]
COPIED = ("crypto", "silo_agent", "aggregator", "proto", "tests", "docs", "pyproject.toml")
SECONDS = 3600
TESTS_FAILED = 1  # pytest's exit status; 2 and above mean that the tests did not run, which kills nothing


LANES, LAYOUT = "tests/crypto/encoding/test_lanes.py", "tests/crypto/encoding/test_layout.py"
SHAMIR, STREAM = "tests/crypto/primitives/test_shamir.py", "tests/crypto/primitives/test_mask_stream.py"
HONEST, REFUSALS = "tests/scenarios/test_double_masking.py", "tests/scenarios/test_refusals.py"
ATTACKS = "tests/attacks"
OPENED, POLICY = "tests/silo_agent/opened_sums/test_opened_rounds.py", "tests/silo_agent/consent/test_policy.py"
WEIGHTS = "tests/silo_agent/releases/test_weights_lanes.py"
KEEP_MASK, EXPANSION = "tests/silo_agent/pruning/test_keep_mask.py", "tests/silo_agent/pruning/test_mask_expansion.py"
IMPORTANCE = "tests/silo_agent/pruning/test_relative_importance.py"

MUTATIONS = (
    Mutation(
        BOUND,
        "crypto/encoding/lanes.py",
        "int(values.max()) >> width:",
        "int(values.max()) >> width + 1:",
        f"{LANES}::test_a_value_must_fit_its_lane",
    ),
    Mutation(
        INDEX,
        "crypto/encoding/lanes.py",
        "np.uint64(position * width)",
        "np.uint64((position + 1) * width)",
        f"{LANES}::test_every_input_type_packs_alike",
    ),
    Mutation(
        INDEX,
        "crypto/encoding/layout.py",
        "enumerate(pieces))",
        "enumerate(pieces, 1))",
        f"{LAYOUT}::test_chunks_are_those_of_a_walk_over_lanes",
    ),
    Mutation(
        BOUND,
        "crypto/primitives/shamir.py",
        "if value >= PRIME:",
        "if value > PRIME:",
        f"{SHAMIR}::test_shares_outside_the_rules_are_refused",
    ),
    Mutation(
        ORDER,
        "crypto/primitives/shamir.py",
        '[*coefficients, int.from_bytes(secret, "big")]',
        '[int.from_bytes(secret, "big"), *coefficients]',
        f"{SHAMIR}::test_the_largest_cohort",
    ),
    Mutation(
        SIGN,
        "crypto/primitives/shamir.py",
        "total * (at - x) + weight * product",
        "total * (at - x) - weight * product",
        f"{SHAMIR}::test_a_secret_has_256_bits",
    ),
    Mutation(
        SIGN,
        "crypto/primitives/mask_stream.py",
        "{1: np.add, -1: np.subtract}",
        "{1: np.subtract, -1: np.add}",
        f"{STREAM}::test_slices_continue_one_keystream",
    ),
    Mutation(
        ORDER,
        "crypto/primitives/keystream.py",
        'context + chunk.to_bytes(8, "little")',
        'context + chunk.to_bytes(8, "big")',
        f"{STREAM}::test_slices_continue_one_keystream",
    ),
    Mutation(
        ORDER,
        "crypto/primitives/merkle.py",
        "left + right",
        "right + left",
        "tests/crypto/primitives/test_merkle.py",
    ),
    Mutation(
        SIGN,
        "crypto/backends/double_masking/transcript.py",
        "return 1 if plan.point(silo) < plan.point(peer) else -1",
        "return 1 if plan.point(silo) < plan.point(peer) else 1",
        f"{HONEST}::test_the_opened_sum_is_exact",
    ),
    Mutation(
        ORDER,
        "crypto/backends/double_masking/transcript.py",
        "contributions[low] + contributions[high]",
        "contributions[one] + contributions[other]",
        f"{HONEST}::test_the_opened_sum_is_exact",
    ),
    Mutation(
        INDEX,
        "crypto/backends/double_masking/transcript.py",
        "plaintext[SEED_BYTES * at : SEED_BYTES * (at + 1)]",
        "plaintext[SEED_BYTES * (at - 1) : SEED_BYTES * at]",
        f"{HONEST}::test_a_silo_lost_in_any_phase_leaves_an_exact_sum_over_the_survivors",
    ),
    Mutation(
        BOUND,
        "crypto/backends/double_masking/transcript.py",
        "any(a >= b for a, b in pairwise(names))",
        "any(a > b for a, b in pairwise(names))",
        f"{REFUSALS}::test_a_silo_refuses",
    ),
    Mutation(
        SIGN,
        "crypto/backends/double_masking/transcript.py",
        "[(seed.seed, -1) for seed in opening.self_seeds]",
        "[(seed.seed, 1) for seed in opening.self_seeds]",
        f"{HONEST}::test_the_opened_sum_is_exact",
    ),
    Mutation(
        ORDER,
        "crypto/backends/double_masking/unmasking.py",
        "of_seed, of_key = shares[silo]",
        "of_key, of_seed = shares[silo]",
        f"{HONEST}::test_the_opened_sum_is_exact",
    ),
    Mutation(
        BOUND,
        "crypto/backends/double_masking/transcript.py",
        "if silos < fewest:",
        "if silos < fewest - 1:",
        f"{REFUSALS}::test_a_silo_refuses",
    ),
    Mutation(
        BOUND,
        "crypto/secagg/session.py",
        "if len(spoke) < fewest:",
        "if len(spoke) <= fewest:",
        "tests/crypto/secagg/test_session.py::test_least_survivors_count_until_they_are_fixed_and_the_threshold_after",
    ),
    Mutation(
        BOUND,
        "crypto/encoding/wire.py",
        "if len(data) > limit:",
        "if len(data) > limit + 1:",
        "tests/crypto/encoding/test_wire.py::test_more_bytes_than_allowed_are_refused",
    ),
    Mutation(
        BOUND,
        "crypto/plan.py",
        "(silos + colluders) // 2 + 1",
        "(silos + colluders + 1) // 2",
        "tests/crypto/test_plan.py::test_the_least_threshold_is_the_first_of_a_majority_with_honest_silos_enough",
    ),
    Mutation(
        INDEX,
        "crypto/plan.py",
        "return self.silos.index(silo) + 1",
        "return self.silos.index(silo)",
        "tests/crypto/test_plan.py::test_members_by_name",
    ),
    Mutation(
        BOUND,
        "silo_agent/pruning/keep_mask.py",
        "- first[row] < spared[row]",
        "- first[row] <= spared[row]",
        f"{KEEP_MASK}::test_keep_top_of_a_large_row_with_ties",
    ),
    Mutation(
        TIE,
        "silo_agent/pruning/keep_mask.py",
        "ranked = torch.where(tied, magnitude.float(),",
        "ranked = torch.where(tied, 0 * magnitude.float(),",
        f"{KEEP_MASK}::test_keep_top_of_a_large_row_with_ties",
    ),
    Mutation(
        TIE,
        "silo_agent/pruning/mask_expansion.py",
        "keep_by_score(keep_counts.to(signed), importance,",
        "keep_by_score(keep_counts.to(signed), importance * 0,",
        f"{EXPANSION}::test_equals_sorting_each_group_by_hand",
    ),
    Mutation(
        BOUND,
        "silo_agent/pruning/relative_importance.py",
        "(keep_counts < survivors)",
        "(keep_counts <= survivors)",
        f"{IMPORTANCE}::test_equals_plain_numpy",
    ),
    Mutation(
        SIGN,
        "silo_agent/pruning/relative_importance.py",
        "strength = (number + 1) / (near + usual)",
        "strength = (near + usual) / (number + 1)",
        f"{IMPORTANCE}::test_keep_counts_tell_how_strong_an_input_is",
    ),
    Mutation(
        ORDER,
        "silo_agent/pruning/relative_importance.py",
        "(part * of_part).int().sum(dim, keepdim=True)",
        "(part * of_part).sum(dim, keepdim=True)",
        f"{IMPORTANCE}::test_bit_for_bit_the_same_in_any_order",
    ),
    Mutation(
        ORDER,
        "silo_agent/pruning/expansion.py",
        "relative_importance(turned_counts, sums.survivors, turned_kept)",
        "relative_importance(turned_counts, sums.survivors, dense.T if sums.input_first else dense)",
        f"{OPENED}::test_weights_of_one_keep_count_are_kept_by_the_importance_of_their_average",
    ),
    Mutation(
        SIGN,
        "silo_agent/pruning/mask_expansion.py",
        "keep_by_score(keep_counts.to(signed),",
        "keep_by_score(-keep_counts.to(signed),",
        f"{EXPANSION}::test_counts_come_first_then_magnitude_then_the_lower_index",
    ),
    Mutation(
        CHECK,
        "crypto/secagg/session.py",
        "if self._leaves.setdefault(index, leaf) != leaf:",
        "if self._leaves.setdefault(index, leaf) == b'':",
        f"{ATTACKS}/test_retry_with_changed_plaintext.py",
    ),
    Mutation(
        CHECK,
        "crypto/backends/double_masking/replay.py",
        "if committed_to != root:",
        "if committed_to == b'':",
        f"{ATTACKS}/test_other_words_served_to_an_auditor.py",
    ),
    Mutation(
        ORDER,
        "crypto/backends/double_masking/replay.py",
        "verdicts.all(axis=1) if colluders else verdicts.any(axis=1)",
        "verdicts.any(axis=1) if colluders else verdicts.all(axis=1)",
        f"{ATTACKS}/test_forged_sum_with_a_colluding_auditor.py",
    ),
    Mutation(
        CHECK,
        "crypto/backends/double_masking/unmasking.py",
        "if not all(own):",
        "if not any(own):",
        f"{ATTACKS}/test_false_seeds_in_the_opening.py",
    ),
    Mutation(
        CHECK,
        "crypto/backends/double_masking/aggregator.py",
        "return len(self.expected) if self.phase is Phase.COIN else super().fewest",
        "return super().fewest",
        f"{ATTACKS}/test_coin_withheld.py",
    ),
    Mutation(
        BOUND,
        "crypto/primitives/signing.py",
        "0 < s <= cls._order // 2",
        "0 < s < cls._order",
        f"{ATTACKS}/test_high_s_twin.py",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/state_store.py",
        "INSERT OR IGNORE INTO said",
        "INSERT OR REPLACE INTO said",
        "tests/silo_agent/consent/test_state_store.py",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/one_round.py",
        "        store.say(round_.digest, session.phase, message)\n",
        "",
        "tests/silo_agent/rounds/test_one_round.py",
    ),
    Mutation(
        ORDER,
        "aggregator/rounds/sqlite_journal.py",
        "FROM events ORDER BY rowid",
        "FROM events ORDER BY kind",
        "tests/aggregator/rounds/test_journal.py",
    ),
    Mutation(
        CHECK,
        "aggregator/rounds/round_driver.py",
        "            if running.disk_failure:\n                raise RoundAborted(DISK_FAILED)\n",
        "",
        "tests/aggregator/rounds/test_round_driver.py",
    ),
    Mutation(
        CHECK,
        "aggregator/rounds/round_driver.py",
        "await self._changed.wait_for(lambda: self._round or self._over)",
        "pass",
        "tests/aggregator/rounds/test_resumed_round.py",
    ),
    Mutation(
        BOUND,
        "crypto/encoding/lanes.py",
        "np.uint16(256 + (1 << width))",
        "np.uint16(256 + (2 << width))",
        LANES,
    ),
    Mutation(
        ORDER,
        "silo_agent/opened_sums/opened_rounds.py",
        "last.round.digest + last.sum_root",
        "last.sum_root + last.round.digest",
        f"{OPENED}::test_each_round_starts_from_the_one_before_by_hand",
    ),
    Mutation(
        INDEX,
        "silo_agent/opened_sums/opened_rounds.py",
        "last = self.opened[-1]",
        "last = self.opened[0]",
        f"{OPENED}::test_each_round_starts_from_the_one_before_by_hand",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/offer_checks.py",
        '("input", round_.input_digest, honest.input_digest),',
        '("input", round_.input_digest, round_.input_digest),',
        f"{ATTACKS}/test_another_input_offered.py",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/offer_checks.py",
        '("cohort", round_.cohort, honest.cohort),',
        '("cohort", round_.cohort, round_.cohort),',
        f"{ATTACKS}/test_cohort_drawn_by_the_aggregator.py",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/offer_checks.py",
        "if silo not in honest.silos:",
        "if silo not in start.plan.silos:",
        OPENED,
    ),
    Mutation(
        CHECK,
        "silo_agent/opened_sums/verify.py",
        'if verified is not None and root != verified.roots[""]:',
        'if verified is not None and root == b"":',
        f"{ATTACKS}/test_another_coin_served.py",
    ),
    Mutation(
        CHECK,
        "silo_agent/opened_sums/verify.py",
        "if verified.round != round_:",
        "if verified.round.plan != round_.plan:",
        f"{ATTACKS}/test_transcript_of_another_round_served.py",
    ),
    Mutation(
        ORDER,
        "silo_agent/releases/scales.py",
        "np.flatnonzero(named)[-1]",
        "np.flatnonzero(named)[0]",
        f"{OPENED}::test_the_exponent_is_the_largest_that_anybody_named",
    ),
    Mutation(
        BOUND,
        "silo_agent/releases/scales.py",
        "    e -= fraction == 0.5\n",
        "",
        f"{WEIGHTS}::test_exponents_at_their_edges",
    ),
    Mutation(
        CHECK,
        "silo_agent/releases/weights.py",
        "        encoded[~keep] = 0\n",
        "",
        f"{WEIGHTS}::test_nothing_of_a_weight_that_is_not_kept_leaves",
    ),
    Mutation(
        BOUND,
        "crypto/encoding/fixed_point.py",
        "math.ldexp(1, exponent + bits)",
        "math.ldexp(1, exponent + bits + 1)",
        f"{WEIGHTS}::test_a_difference_above_what_was_agreed_on_is_cut_to_that",
    ),
    Mutation(
        BOUND,
        "crypto/encoding/fixed_point.py",
        "counts.astype(np.int64) << bits)",
        "counts.astype(np.int64) << bits - 1)",
        f"{OPENED}::test_the_new_weight_is_the_exact_l0_average",
    ),
    Mutation(
        INDEX,
        "silo_agent/pruning/expansion.py",
        "keep_counts.double() / sums.survivors",
        "keep_counts.double() / (sums.survivors + 1)",
        f"{OPENED}::test_scaled_votes",
    ),
    Mutation(
        CHECK,
        "silo_agent/opened_sums/walk_together.py",
        "self._walk.advance(changed(block.index))",
        "self._walk.advance({})",
        "tests/silo_agent/rounds/test_run_pruning.py::test_iterative_goes_on_from_the_globally_pruned_blocks",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/ledger.py",
        "None in (self.block, other.block) or self.block == other.block",
        "self.block == other.block",
        "tests/silo_agent/consent/test_ledger.py",
    ),
    Mutation(
        CHECK,
        "aggregator/silos/admission.py",
        "    if peer.invitation is not invitation:",
        "    if invitation and not peer.invitation:",
        "tests/aggregator/silos/test_admission.py::test_an_invitation_is_for_enrolling_and_nothing_else",
    ),
    Mutation(
        CHECK,
        "aggregator/silos/admission.py",
        "    if silo.revoked is not None:",
        "    if silo.revoked is not None and silo.revoked > now:",
        "tests/aggregator/silos/test_admission.py::test_a_revoked_silo_is_not_heard_though_its_certificate_holds",
    ),
    Mutation(
        CHECK,
        "aggregator/silos/enrolments.py",
        "                if used_for != request:",
        "                if used_for == request:",
        "tests/aggregator/silos/test_enrolments.py::test_a_lost_answer_is_given_again_and_no_other",
    ),
    Mutation(
        CHECK,
        "aggregator/silos/enrolments.py",
        'database.execute("DELETE FROM invitations WHERE silo = ? AND request IS NULL", (silo,))',
        "pass",
        "tests/aggregator/silos/test_enrolments.py::test_a_second_invitation_voids_the_first_and_neither_replaces_a_key",
    ),
    Mutation(
        CHECK,
        "aggregator/edge/callers.py",
        "            await self.name(context)  # its certificate may have ended since\n",
        "",
        "tests/integration/test_identity_service.py::test_an_upload_under_way_ends_with_the_certificate",
    ),
    Mutation(
        CHECK,
        "aggregator/rounds/phase_clock.py",
        "min(self._moved.get(silo, self._began), allowed)",
        "self._moved.get(silo, self._began)",
        "tests/aggregator/rounds/test_phase_clock.py",
    ),
    Mutation(
        CHECK,
        "aggregator/rounds/phase_clock.py",
        "        if (chunk, piece) > self._served.get(silo, (-1, -1)):\n",
        "        if True:\n",
        "tests/aggregator/rounds/test_phase_clock.py::test_what_an_auditor_fetches_again_prolongs_nothing",
    ),
    Mutation(
        CHECK,
        "crypto/secagg/session.py",
        "if not all(index in self._leaves for index in range(chunks)):",
        "if chunks > len(self.round.layout.chunks):",
        "tests/attacks/test_held_more_than_was_sent.py",
    ),
    Mutation(
        CHECK,
        "aggregator/rounds/present_silos.py",
        "and silo not in session.arrived and not declined",
        "and silo not in session.arrived",
        "tests/aggregator/rounds/test_round_driver.py::test_a_silo_that_declines_is_not_waited_for_and_not_asked_again",
    ),
    Mutation(
        CHECK,
        "silo_agent/network/invitation.py",
        "        if fingerprint != plain_fingerprint(expected):",
        "        if not plain_fingerprint(expected):",
        "tests/silo_agent/network/test_invitation.py::test_an_altered_file_has_another_fingerprint",
    ),
    Mutation(
        CHECK,
        "silo_agent/identity/pinned_roster.py",
        "    unpinned = sorted({*shown} - {*pinned})",
        "    unpinned = sorted({*pinned} - {*pinned})",
        "tests/silo_agent/identity/test_enrolment.py::test_a_pinned_roster_is_verified_against_what_all_signed",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/hash_chained_log.py",
        '            if event["previous"] != previous:',
        '            if not event["previous"]:',
        "tests/silo_agent/consent/test_audit_log.py",
    ),
    Mutation(
        ORDER,
        "silo_agent/identity/own_certificate.py",
        """        _next(self._config.private_key).replace(self._config.private_key)
        _next(self._config.certificate).replace(self._config.certificate)
""",
        """        _next(self._config.certificate).replace(self._config.certificate)
        _next(self._config.private_key).replace(self._config.private_key)
""",
        "tests/silo_agent/identity/test_own_certificate.py::test_a_renewal_that_was_cut_off_is_finished_or_forgotten",
    ),
    Mutation(
        ORDER,
        "silo_agent/settings/layered_config.py",
        """    for name, value in read_mapping(file).items():
        take(name, value, file.parent, str(file), f"{file}: {name}")
    for name in known:
        if text := environment.get(PREFIX + name.upper()):
            take(name, _parsed(hints[name], text), Path(), *2 * (PREFIX + name.upper(),))
""",
        """    for name in known:
        if text := environment.get(PREFIX + name.upper()):
            take(name, _parsed(hints[name], text), Path(), *2 * (PREFIX + name.upper(),))
    for name, value in read_mapping(file).items():
        take(name, value, file.parent, str(file), f"{file}: {name}")
""",
        "tests/silo_agent/settings/test_layered_config.py::test_the_strongest_layer_that_has_a_field_wins",
    ),
    *mutations_of_combinations.MUTATIONS,
    *mutations_of_identity.MUTATIONS,
    *mutations_of_pooling.MUTATIONS,
    *mutations_of_results.MUTATIONS,
    *mutations_of_the_audit.MUTATIONS,
    *mutations_of_consent.MUTATIONS,
    *mutations_of_the_ledger.MUTATIONS,
    *mutations_of_privacy.MUTATIONS,
    *mutations_of_silence.MUTATIONS,
)


def run(tests: list[str], mutation: Mutation | None = None) -> int:
    """Exit status of pytest over a changed copy; raises SystemExit where the mutation does not fit the file."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source, ignore = ROOT / name, shutil.ignore_patterns("__pycache__")
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=ignore)
            else:
                shutil.copy(source, copy / name)
        if mutation:
            file = copy / mutation.file
            text = file.read_text()
            if text.count(mutation.old) != 1:
                raise SystemExit(
                    f"{mutation.file}: {mutation.old!r} is there {text.count(mutation.old)} times, not once"
                )
            file.write_text(text.replace(mutation.old, mutation.new))
        arguments = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *tests]
        environment = os.environ | {"PYTHONPATH": f"{copy}{os.pathsep}{copy / 'proto'}"}
        finished = subprocess.run(
            [sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, timeout=SECONDS, check=False
        )
        if finished.returncode not in (0, TESTS_FAILED):
            raise SystemExit(f"{' '.join(tests)} did not run:\n{finished.stdout.decode()}{finished.stderr.decode()}")
        return finished.returncode


def main() -> int:
    """Print a table of what became of each mutation."""
    tests = sorted({mutation.tests for mutation in MUTATIONS})
    if run(tests) != 0:
        sys.stdout.write("the tests fail without any mutation\n")
        return 1
    survived = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutation, status in zip(MUTATIONS, pool.map(lambda m: run([m.tests], m), MUTATIONS), strict=True):
            survived += status == 0
            verdict = "killed" if status == TESTS_FAILED else "SURVIVED"
            sys.stdout.write(f"{verdict:9} {mutation.kind:18} {mutation.file:46} {mutation.new}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(MUTATIONS) - survived} of {len(MUTATIONS)} killed\n")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
