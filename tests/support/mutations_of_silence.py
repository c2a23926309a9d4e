"""Mistakes in what keeps a silo's answers from depending on its text, and in what may be run over it."""

from support.mutation import BOUND, CHECK, ORDER, TIE, Mutation

REFUSALS, FAILURES = "tests/attacks/test_text_told_by_refusals.py", "tests/attacks/test_failures_told_apart.py"
OUTSIDE = "tests/attacks/test_keep_masks_beyond_the_policy.py"
FILES, CALIBRATION = "tests/attacks/test_weights_as_a_candidate.py", "tests/silo_agent/model/test_calibration.py"
LANES = "tests/silo_agent/releases/test_weights_lanes.py"

MUTATIONS = (
    Mutation(
        CHECK,
        "crypto/encoding/fixed_point.py",
        "np.nan_to_num(values).clip(-most, most)",
        "np.nan_to_num(values)",
        f"{LANES}::test_a_difference_above_what_was_agreed_on_is_cut_to_that",
    ),
    Mutation(
        CHECK,
        "silo_agent/releases/scales.py",
        "np.fmax.reduce(kept, initial=0)",
        "np.max(kept, initial=0)",
        f"{LANES}::test_a_difference_that_is_no_number_names_no_exponent",
    ),
    Mutation(
        BOUND,
        "silo_agent/releases/scales.py",
        "return min(max(e, EXPONENTS[0]), EXPONENTS[-1])",
        "return max(e, EXPONENTS[0])",
        f"{LANES}::test_a_difference_that_no_exponent_reaches_has_the_greatest",
    ),
    Mutation(
        CHECK,
        "silo_agent/model/perplexity.py",
        "losses.nan_to_num(MOST_NATS).clamp(0, MOST_NATS)",
        "losses.clamp(0, MOST_NATS)",
        "tests/silo_agent/model/test_perplexity.py",
    ),
    Mutation(
        BOUND,
        "silo_agent/model/perplexity.py",
        ".clamp(0, MOST_NATS)",
        ".clamp(0)",
        "tests/silo_agent/model/test_perplexity.py",
    ),
    Mutation(
        BOUND,
        "crypto/releases/evaluation.py",
        "MOST_NATS << NLL_FRACTION_BITS >= 1 << 64",
        "MOST_NATS << NLL_FRACTION_BITS >= 1 << 65",
        "tests/silo_agent/releases/test_evaluation_lanes.py",
    ),
    Mutation(
        CHECK,
        "silo_agent/model/activations.py",
        "return total.nan_to_num_()",
        "return total",
        "tests/silo_agent/model/test_activations.py::test_sums_that_are_not_finite_are_nothing_or_the_largest",
    ),
    Mutation(
        TIE,
        "silo_agent/pruning/keep_mask.py",
        "primary.masked_fill(unranked, -inf)",
        "primary.masked_fill(unranked, inf)",
        "tests/silo_agent/pruning/test_keep_mask.py::test_a_score_that_is_no_number_ranks_lowest",
    ),
    Mutation(
        CHECK,
        "silo_agent/second_order/inverse_factor.py",
        "(lower.isfinite() & inverse.isfinite()).all()",
        "inverse.isfinite().all()",
        "tests/silo_agent/pruning/test_sparsegpt.py::test_a_gram_matrix_that_no_damping_helps_leaves_magnitude",
    ),
    Mutation(
        CHECK,
        "silo_agent/second_order/damped_gram.py",
        "return positive if (positive.isfinite() & lower.isfinite()).all() else None",
        "return positive",
        "tests/silo_agent/pruning/test_gram_solvers.py::test_no_damping_helps_what_is_negative_or_beyond_float32",
    ),
    Mutation(
        CHECK,
        "silo_agent/pruning/prune.py",
        "torch.where(new.isfinite(), new, stored * keep)",
        "new",
        "tests/silo_agent/pruning/test_prune.py::test_a_new_weight_that_does_not_fit_stays_dense",
    ),
    Mutation(
        BOUND,
        "silo_agent/model/calibration.py",
        "-(-needed // max(1, len(tokens)))",
        "(needed // max(1, len(tokens)))",
        f"{CALIBRATION}::test_a_text_that_is_too_short_is_repeated_where_it_must_fill_sequences",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/run_of_plan.py",
        "            fill=True,\n",
        "",
        f"{REFUSALS}::test_a_text",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/round_driver.py",
        "        check_text(config.calibration)",
        "        str(config.calibration)",
        f"{REFUSALS}::test_a_file_that_is_no_text_is_found_before_anybody_is_called",
    ),
    Mutation(
        BOUND,
        "silo_agent/rounds/round_driver.py",
        "sleep(max(0.0, began + run.plan.message.preparation_seconds - monotonic()))",
        "sleep(run.plan.message.preparation_seconds)",
        f"{FAILURES}::test_one_word_at_one_time",
    ),
    Mutation(
        ORDER,
        "silo_agent/rounds/round_driver.py",
        "        except Exception as error:  # from torch",
        "        except SparsiloError as error:  # from torch",
        f"{FAILURES}::test_one_word_at_one_time",
    ),
    Mutation(
        CHECK,
        "silo_agent/checkpoint/pruned_file.py",
        'if stored is None or (stored.dtype, stored.shape) != ("BOOL", shape):',
        "if stored is None or stored.shape != shape:",
        FILES,
    ),
    Mutation(
        CHECK,
        "silo_agent/checkpoint/pruned_file.py",
        "sorted({*shapes, *self._stored})",
        "sorted(shapes)",
        FILES,
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/agreement.py",
        "len(self._store.candidates(self._data) | candidate_files(plan))",
        "len(candidate_files(plan))",
        f"{OUTSIDE}::test_no_more_in_all_than_the_policy_allows",
    ),
    Mutation(
        BOUND,
        "silo_agent/consent/policy.py",
        "if keep_masks > policy.candidates:",
        "if keep_masks > policy.candidates + 1:",
        f"{OUTSIDE}::test_no_more_in_all_than_the_policy_allows",
    ),
    Mutation(
        CHECK,
        "crypto/releases/evaluation.py",
        '"own": candidate.own and has_pruned and is_own_possible,',
        '"own": candidate.own and has_pruned,',
        "tests/crypto/test_plan.py::test_what_was_pruned_is_evaluated_after_it_was",
    ),
    Mutation(
        CHECK,
        "crypto/releases/evaluation.py",
        "candidate.self_calibrated and has_pruned and reads_text",
        "candidate.self_calibrated and has_pruned",
        "tests/crypto/test_plan.py::test_a_pruner_that_reads_no_text_is_not_calibrated",
    ),
    Mutation(
        BOUND,
        "crypto/releases/evaluation.py",
        "sequences * MOST_NATS**2 << NLL_FRACTION_BITS >= 1 << 64",
        "sequences * MOST_NATS << NLL_FRACTION_BITS >= 1 << 64",
        "tests/silo_agent/releases/test_evaluation_lanes.py::test_whatever_text_does_to_a_model_its_squares_fit",
    ),
    Mutation(
        BOUND,
        "silo_agent/releases/evaluation.py",
        "square > sequences * MOST_NATS**2 << NLL_FRACTION_BITS",
        "square > sequences * MOST_NATS**3 << NLL_FRACTION_BITS",
        "tests/silo_agent/releases/test_opened_evaluation.py::test_sums_that_no_sequences_have",
    ),
)
