"""Mistakes in what a plan may say of inputs, in statistics as lanes, and in how a published solution is judged."""

from support.mutation import CHECK, INDEX, ORDER, SIGN, Mutation

RULES = "tests/crypto/releases/test_pooled_statistics.py"
LANES = "tests/silo_agent/releases/test_pooled_lanes.py"
TARGET = "tests/silo_agent/model/test_dense_target.py"
FAMILIES = "tests/scenarios/test_model_families.py"

MUTATIONS = (
    Mutation(
        CHECK,
        "crypto/releases/energies.py",
        "if other is None or (other.block, oriented(other)[1]) != (tensor.block, features):",
        "if other is None:",
        f"{RULES}::test_a_plan_that_contradicts_itself",
    ),
    Mutation(
        CHECK,
        "crypto/releases/energies.py",
        "len(tensor.scale_exponents) != (due := features if work.clip or tensor.name in of_products else 1)",
        "not tensor.scale_exponents",
        f"{RULES}::test_a_plan_that_contradicts_itself",
    ),
    Mutation(
        CHECK,
        "crypto/releases/energies.py",
        "any(member.sparsity_ratio for member in members)",
        "all(member.sparsity_ratio for member in members)",
        f"{RULES}::test_a_plan_that_contradicts_itself",
    ),
    Mutation(
        CHECK,
        "crypto/releases/energies.py",
        "return 1 << width - silos.bit_length()",
        "return 1 << width - silos.bit_length() + 1",
        f"{RULES}::test_the_largest_values_of_all_silos_fit_a_lane",
    ),
    Mutation(
        CHECK,
        "crypto/releases/gram.py",
        "return GRAM_WIDTH - 1 - silos.bit_length()",
        "return GRAM_WIDTH - silos.bit_length()",
        f"{RULES}::test_the_largest_values_of_all_silos_fit_a_lane",
    ),
    Mutation(
        CHECK,
        "crypto/plan_rules.py",
        '        _require(pools or not described, f"model {tensor.name}", "has an input that no round is about")\n',
        "",
        f"{RULES}::test_votes_say_nothing_of_inputs",
    ),
    Mutation(
        CHECK,
        "crypto/encoding/fixed_point.py",
        "int((values > limit).sum())",
        "int((values > limit).any())",
        f"{LANES}::test_energies_that_do_not_fit_are_cut_and_counted",
    ),
    Mutation(
        CHECK,
        "silo_agent/releases/shared_inputs.py",
        "and not torch.equal(statistics[tensor.name], statistics[shared]):",
        "and statistics[tensor.name].shape != statistics[shared].shape:",
        f"{LANES}::test_a_plan_that_says_wrongly_who_shares_an_input",
    ),
    Mutation(
        CHECK,
        "silo_agent/releases/gram.py",
        "(row[at:], exponents[at:] + exponents[at])",
        "(row[at:], 2 * exponents[at:])",
        f"{LANES}::test_gram_matrices_are_upper_triangles_relative_to_the_plans_scales",
    ),
    Mutation(
        CHECK,
        "silo_agent/releases/gram.py",
        "        gram[at:, at] = gram[at, at:]\n",
        "",
        f"{LANES}::test_gram_matrices_are_upper_triangles_relative_to_the_plans_scales",
    ),
    Mutation(
        INDEX,
        "silo_agent/releases/dense_target.py",
        "scales = exponents_of(tensor) + output_exponents(tensor)[:, None]",
        "scales = exponents_of(tensor) + output_exponents(tensor)[::-1, None]",
        f"{LANES}::test_targets_are_relative_to_the_scales_of_outputs_and_inputs",
    ),
    Mutation(
        SIGN,
        "silo_agent/model/activations.py",
        "missing = dense.flatten(0, -2).to(states) - states",
        "missing = states - dense.flatten(0, -2).to(states)",
        f"{TARGET}::test_a_target_is_what_is_missing_to_dense_hidden_states",
    ),
    Mutation(
        ORDER,
        "silo_agent/model/activations.py",
        "            self._go_on(self._dense)\n            yield block\n",
        "            yield block\n            self._go_on(self._dense)\n",
        f"{TARGET}::test_a_target_is_what_is_missing_to_dense_hidden_states",
    ),
    Mutation(
        CHECK,
        "silo_agent/model/activations.py",
        "            self._weights.loaded(module, self._block.prefix, name).zero_()\n        d_in",
        "            pass\n        d_in",
        f"{TARGET}::test_a_target_is_what_is_missing_to_dense_hidden_states",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/run_pruning.py",
        "        if not walk.writes_last(name):\n",
        "        if False:\n",
        "tests/silo_agent/rounds/test_run_pruning.py::test_a_plan_that_names_another_tensor_is_refused",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/ledger.py",
        "apart = one_plan and {self.kind, other.kind} == APART_IN_A_PLAN",
        "apart = one_plan and self.kind != other.kind",
        "tests/attacks/test_energies_less_a_gram.py"
        "::test_the_energies_that_blocks_ratios_follow_from_overlap_the_rounds_of_one_plan",
    ),
    Mutation(
        CHECK,
        "silo_agent/consent/ledger.py",
        "apart = one_plan and {self.kind, other.kind} == APART_IN_A_PLAN",
        "apart = {self.kind, other.kind} == APART_IN_A_PLAN",
        "tests/attacks/test_energies_less_a_gram.py::test_both_say_the_same_of_a_text",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/run_pruning.py",
        "            yield _summed(self._reach(start, block), statistic)\n",
        "            yield _summed(self._walk.at(block, lambda _: {}), statistic)\n",
        f"{FAMILIES}::test_wanda_and_pooled_energies[llama]",
    ),
    Mutation(
        CHECK,
        "silo_agent/results/solved_tensors.py",
        "if not theirs <= most * own:",
        "if theirs > 1e9 * own:",
        "tests/silo_agent/results/test_solved_tensors.py::test_a_solution_is_judged_by_the_error_that_it_leaves",
    ),
    Mutation(
        CHECK,
        "silo_agent/results/solved_tensors.py",
        "if int(zeros.min()) < least:",
        "if int(zeros.max()) < least:",
        "tests/silo_agent/results/test_solved_tensors.py::test_every_group_has_its_zeros",
    ),
    Mutation(
        CHECK,
        "silo_agent/opened_sums/opened_rounds.py",
        "return self.solving.outliers(self.opened[0])",
        "return self.solving.outliers(self.opened[-1])",
        f"{FAMILIES}::test_owl_by_pooled_statistics",
    ),
    Mutation(
        CHECK,
        "silo_agent/releases/silo_side.py",
        "if spec_of(plan, index).prunes and not only_allocates(plan, index):",
        "if spec_of(plan, index).prunes:",
        f"{FAMILIES}::test_owl_by_pooled_statistics",
    ),
    Mutation(
        CHECK,
        "silo_agent/pruning/allocation.py",
        "exponents.long() - EXPONENTS.start",
        "exponents.long() - EXPONENTS.start - 1",
        "tests/silo_agent/pruning/test_allocation.py",
    ),
    Mutation(
        CHECK,
        "crypto/releases/energies.py",
        "        tensor.shares_input_of or tensor.name for tensor in",
        "        tensor.name for tensor in",
        "tests/crypto/releases/test_gram.py::test_products_of_attentions_inputs_beside_energies_of_all_others",
    ),
    Mutation(
        CHECK,
        "silo_agent/releases/energies.py",
        "kind = ReleaseKind.GRAM if has_products(earlier.plan, owner) else ReleaseKind.ENERGIES",
        "kind = ReleaseKind.GRAM",
        f"{FAMILIES}::test_products_of_attentions_inputs_alone",
    ),
)
