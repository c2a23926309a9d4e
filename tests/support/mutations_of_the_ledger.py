"""Mistakes in what a silo remembers of its releases, which further one it refuses, and whom it accuses."""

from support.mutation import BOUND, CHECK, ORDER, Mutation

LEDGER, STORE = "tests/silo_agent/consent/test_ledger.py", "tests/silo_agent/consent/test_state_store.py"
ONE_ROUND, ABORT = "tests/silo_agent/rounds/test_one_round.py", "tests/attacks/test_abort_after_the_opening.py"

WITHDRAWALS = "tests/attacks/test_withdrawals_forged_or_withheld.py"
REPLACED = "tests/attacks/test_text_replaced_while_the_agent_runs.py"

PRIVACY, PRIVACY_TESTS = "silo_agent/consent/privacy_ledger.py", "tests/silo_agent/consent/test_privacy_ledger.py"
BEYOND = "tests/attacks/test_one_plan_beyond_the_privacy_budget.py"

MUTATIONS = (
    Mutation(CHECK, PRIVACY, "                check(earlier)\n", "", PRIVACY_TESTS),
    Mutation(CHECK, PRIVACY, "        self._log.verified(lines, head)\n", "", PRIVACY_TESTS),
    Mutation(CHECK, PRIVACY, "verified(lines, self._store.privacy_head())", "verified(lines, None)", PRIVACY_TESTS),
    Mutation(CHECK, PRIVACY, "            if spent not in earlier:", "            if True:", PRIVACY_TESTS),
    Mutation(
        CHECK,
        "silo_agent/consent/policy.py",
        "[release for release in spent if release.epoch == policy.epoch]",
        "[*spent]",
        "tests/silo_agent/consent/test_policy.py",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/round_driver.py",
        "        self._agreement.charge(start.round, data)\n",
        "",
        BEYOND,
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/agreement.py",
        "lambda earlier: check_epsilon(policy, earlier, wanted)",
        "lambda earlier: None",
        f"{BEYOND}::test_the_last_of_the_budget_is_spent_by_another_agent_in_between",
    ),
    Mutation(
        BOUND,
        "crypto/backends/withdrawal.py",
        " + plan.message.colluders + 1",
        " + plan.message.colluders",
        f"{WITHDRAWALS}::test_as_many_withdrawals_as_leave_fewer_than_the_threshold_and_no_more",
    ),
    Mutation(
        BOUND,
        "crypto/backends/withdrawal.py",
        " + plan.message.colluders + 1",
        " + 1",
        f"{WITHDRAWALS}::test_colluders_who_withdraw_and_reveal_all_the_same_are_counted_on",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/withdrawn.py",
        "        self._store.say(round_digest, Phase.UNMASK, NOTHING_REVEALED)\n",
        "",
        f"{WITHDRAWALS}::test_who_withdrew_reveals_nothing_also_where_it_goes_on",
    ),
    Mutation(
        CHECK,
        "crypto/backends/withdrawal.py",
        'verify(plan.suite, keys[silo], signature, WITHDRAWAL + round_digest, b"", party=silo)',
        'verify(plan.suite, keys[silo], signature, WITHDRAWAL + signature[:0], b"", party=silo)',
        f"{WITHDRAWALS}::test_a_round_that_nobody_can_open_is_repeated_over_other_survivors",
    ),
    Mutation(
        CHECK,
        "aggregator/rounds/withdrawals.py",
        'if silo not in silos.split(",") or len(signature) != size:',
        "if len(signature) != size:",
        f"{WITHDRAWALS}::test_a_silo_keeps_withdrawals_in_its_own_name_and_rounds_only",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/ledger.py",
        "if not survivors <= {*wanted.silos} or len(survivors) < wanted.least_survivors:",
        "if not survivors <= {*wanted.silos}:",
        f"{LEDGER}::test_a_round_is_refused_that_cannot_be_over_the_survivors_of_an_earlier_one",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/ledger.py",
        "if not survivors <= {*wanted.silos} or len(survivors) < wanted.least_survivors:",
        "if len(survivors) < wanted.least_survivors:",
        "tests/attacks/test_rosters_that_differ.py",
    ),
    Mutation(
        BOUND,
        "silo_agent/consent/ledger.py",
        "or len(survivors) < wanted.least_survivors:",
        "or len(survivors) <= wanted.least_survivors:",
        f"{LEDGER}::test_a_round_is_refused_that_cannot_be_over_the_survivors_of_an_earlier_one",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/ledger.py",
        "        if survivors is None:\n",
        "        if survivors is None:\n            continue\n        if survivors is None:\n",
        "tests/attacks/test_survivors_confirmed_to_some.py",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/ledger.py",
        "if earlier.survivors != frozenset(survivors):",
        "if not frozenset(survivors) <= (earlier.survivors or frozenset()):",
        "tests/attacks/test_survivors_that_differ.py",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/ledger.py",
        "return frozenset(self.silos) if self.least_survivors == len(self.silos) else None",
        "return frozenset(self.silos)",
        f"{LEDGER}::test_survivors_are_those_that_a_quorum_signed_or_all_where_all_are_needed",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/ledger.py",
        "if earlier.sent and not earlier.withdrawn and earlier.overlaps(wanted)",
        "if earlier.overlaps(wanted)",
        f"{LEDGER}::test_nothing_overlaps_a_round_whose_survivors_are_not_known",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/state_store.py",
        "            check_release(begun, _releases(database))\n",
        "",
        f"{STORE}::test_the_ledger_is_asked_again_when_words_leave",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/state_store.py",
        "INSERT OR REPLACE INTO releases",
        "INSERT OR IGNORE INTO releases",
        f"{STORE}::test_a_round_begun_again_on_another_text_is_a_release_of_that_text",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/state_store.py",
        "INSERT INTO settled SELECT DISTINCT round FROM said",
        "DELETE FROM settled",
        f"{STORE}::test_no_round_of_version_1_accuses_anybody",
    ),
    Mutation(
        ORDER,
        "silo_agent/rounds/one_round.py",
        "    store.begin(release)\n    values = prepare()\n",
        "    values = prepare()\n    store.begin(release)\n",
        f"{ONE_ROUND}::test_a_release_is_in_the_ledger_when_it_is_computed",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/one_round.py",
        "            case Phase.UNMASK:\n",
        "            case Phase.OPENING:\n",
        f"{ONE_ROUND}::test_what_must_be_on_disk_is_there_before_the_call_is_named",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/one_round.py",
        "                check_survivors(release, session.survivors, store.releases())\n",
        "                pass\n",
        "tests/attacks/test_three_sums_combined.py",
    ),
    Mutation(
        BOUND,
        "crypto/plan.py",
        "honest + colluders)",
        "honest)",
        "tests/crypto/test_plan.py::test_exactly_the_thresholds_that_are_safe_and_can_be_met_are_accepted",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/accusations.py",
        "AND round NOT IN (SELECT round FROM settled)",
        "",
        f"{ABORT}::test_a_round_that_is_done_accuses_nobody",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/round_driver.py",
        "            self._accuse(session, error)\n",
        "",
        ABORT,
    ),
    Mutation(
        BOUND,
        "silo_agent/consent/policy.py",
        "if standing >= policy.accusations:",
        "if standing > policy.accusations:",
        "tests/silo_agent/consent/test_policy.py::test_so_many_accusations_refuse_every_plan",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/agreement.py",
        "            check_accusations(policy, len(self._accusations.standing()))\n",
        "",
        f"{ABORT}::test_after_three_tries_the_silo_takes_part_in_nothing_until_a_person_says_so",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/run_of_plan.py",
        "if data_digest(self._config.calibration) != self.data:",
        "if False:",
        f"{REPLACED}::test_nothing_is_said_of_a_text_that_was_replaced_after_the_release_was_recorded",
    ),
    Mutation(
        CHECK,
        "silo_agent/model/calibration.py",
        "if (seen := (status.st_mtime_ns, status.st_ino, status.st_size)) != self._seen:",
        "if (seen := (status.st_mtime_ns, status.st_ino, status.st_size)) and not self._seen:",
        f"{REPLACED}::test_a_release_is_of_the_text_that_is_there_now",
    ),
    Mutation(
        CHECK,
        "aggregator/rounds/awaited_journal.py",
        "        if self._failure:\n            raise self._failure\n",
        "",
        "tests/aggregator/rounds/test_awaited_journal.py::test_behind_an_event_that_cannot_be_noted_there_is_none",
    ),
)
