"""Mistakes in what a silo checks of a result before it keeps the model, or believes that a round came to DONE."""

from support.mutation import CHECK, Mutation

DELIVERY, RESULTS = "tests/silo_agent/delivery", "tests/silo_agent/results"
FETCH, SETTLED = f"{DELIVERY}/test_fetch.py", f"{DELIVERY}/test_settled_rounds.py"
CHECKPOINT, MANIFEST = f"{RESULTS}/test_sparse_checkpoint.py", f"{RESULTS}/test_manifest.py"
QUANTISED = f"{RESULTS}/test_quantised_checkpoint.py"

MUTATIONS = (
    Mutation(
        CHECK,
        "silo_agent/results/quantised_checkpoint.py",
        "if not torch.equal(as_integers(published(name).weight), as_integers(plain(name))):",
        "if not torch.equal(published(name).weight, plain(name)):",
        f"{QUANTISED}::test_a_published_model_that_was_altered_is_refused",
    ),
    Mutation(
        CHECK,
        "silo_agent/results/quantised_checkpoint.py",
        "    check_files(_files(weights, published, bits, division), len(division), folder, progress)\n",
        "",
        f"{QUANTISED}::test_bits_that_no_weight_has_are_compared_too",
    ),
    Mutation(
        CHECK,
        "silo_agent/results/sparse_checkpoint.py",
        "            if opened.read(1):\n",
        "            if opened.read(0):\n",
        f"{CHECKPOINT}::test_a_folder_that_is_otherwise_is_refused",
    ),
    Mutation(
        CHECK,
        "silo_agent/results/sparse_checkpoint.py",
        "    if left:\n",
        "    if left - left:\n",
        f"{CHECKPOINT}::test_a_folder_that_is_otherwise_is_refused",
    ),
    Mutation(
        CHECK,
        "silo_agent/results/sparse_checkpoint.py",
        " or file.is_symlink()",
        "",
        f"{CHECKPOINT}::test_a_link_to_the_right_content_is_none",
    ),
    Mutation(
        CHECK,
        "silo_agent/results/sparse_checkpoint.py",
        "if opened.read(len(piece)) != piece:",
        "if opened.read(len(piece)) != piece and tensor:",
        f"{CHECKPOINT}::test_a_flipped_byte_of_a_header_is_found",
    ),
    Mutation(
        CHECK,
        "silo_agent/results/sparse_checkpoint.py",
        "if times[name] != (name in tensors)",
        "if not times[name]",
        f"{CHECKPOINT}::test_a_folder_that_is_otherwise_is_refused",
    ),
    Mutation(
        CHECK,
        "silo_agent/delivery/fetch.py",
        'if verified["plan"] != result.plan.hex():',
        'if not verified["plan"]:',
        f"{FETCH}::test_nothing_is_in_its_place_that_does_not_verify",
    ),
    Mutation(
        CHECK,
        "silo_agent/delivery/fetch.py",
        "if manifest.plan != result.plan:",
        "if not manifest.plan:",
        f"{FETCH}::test_the_files_of_another_run_and_what_is_no_manifest",
    ),
    Mutation(
        CHECK,
        "silo_agent/delivery/fetch.py",
        "if file_digest(half) != digest:",
        "if not half.exists():",
        f"{FETCH}::test_what_is_not_what_was_listed_is_deleted",
    ),
    Mutation(
        CHECK,
        "silo_agent/delivery/fetch.py",
        "        self._check_sizes(files)\n",
        "",
        f"{FETCH}::test_more_bytes_than_there_can_be_are_not_asked_for",
    ),
    Mutation(
        CHECK,
        "silo_agent/results/manifest.py",
        ' and not part.startswith(".")',
        "",
        f"{MANIFEST}::test_a_name_that_could_lead_elsewhere_is_refused",
    ),
    Mutation(
        CHECK,
        "silo_agent/results/manifest.py",
        "manifest.encoded == data and ",
        "",
        f"{MANIFEST}::test_another_spelling_is_refused",
    ),
    Mutation(
        CHECK,
        "silo_agent/delivery/kept_results.py",
        "if is_ours and ",
        "if ",
        f"{DELIVERY}/test_kept_results.py::test_only_what_was_approved_and_once",
    ),
    Mutation(
        CHECK,
        "silo_agent/results/verify_model.py",
        "        check_model(plan, weights, weights.digest())\n",
        "        weights.digest()\n",
        "tests/integration/test_verified_model.py::"
        "test_a_model_follows_from_its_sums_and_one_that_was_altered_does_not[weights]",
    ),
    Mutation(
        CHECK,
        "silo_agent/delivery/settled_rounds.py",
        "verified.round.digest in accused and ",
        "",
        f"{SETTLED}::test_another_round_or_roster_settles_nothing",
    ),
    Mutation(
        CHECK,
        "silo_agent/delivery/settled_rounds.py",
        ' and silo in verified.signed["opening"]',
        "",
        f"{SETTLED}::test_who_signed_the_opening_that_came_to_done",
    ),
)
