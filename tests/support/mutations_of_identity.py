"""Mistakes in who is heard, and in what is taken for the trusted model."""

from support.mutation import CHECK, Mutation

STOLEN = "tests/attacks/test_stolen_certificate_of_a_revoked_silo.py"
ENROLMENTS, ADMISSION = "tests/aggregator/silos/test_enrolments.py", "tests/aggregator/silos/test_admission.py"
OTHER_FILES = "tests/attacks/test_config_or_tokenizer_changed.py"
SERVICE = "tests/integration/test_identity_service.py"

KEY_FILES = "tests/silo_agent/host/test_credential_files.py"

MUTATIONS = (
    Mutation(CHECK, "silo_agent/host/credential_files.py", "status.st_mode & stat.S_IRWXO or", "", KEY_FILES),
    Mutation(
        CHECK, "silo_agent/host/credential_files.py", "and status.st_gid not in own_groups", "and False", KEY_FILES
    ),
    Mutation(
        CHECK,
        "aggregator/silos/admission.py",
        "if member(last.silos(), peer.name, now).certificate_key != peer.key:",
        "if member(last.silos(), peer.name, now).certificate_key is None:",
        STOLEN,
    ),
    Mutation(
        CHECK,
        "aggregator/silos/enrolments.py",
        "WHERE signing_key = ? AND revoked IS NULL",
        "WHERE signing_key = ?",
        f"{ENROLMENTS}::test_an_announced_key_is_that_enrolments_and_no_later_ones",
    ),
    Mutation(
        CHECK,
        "aggregator/silos/enrolments.py",
        "WHERE signing_key = ? OR (silo = ? AND certificate_key = ?)",
        "WHERE signing_key = ? AND (silo != ? OR certificate_key = ?)",
        f"{ENROLMENTS}::test_a_revoked_silo_does_not_come_back_with_a_key_that_it_had",
    ),
    Mutation(
        CHECK,
        "aggregator/silos/identity_service.py",
        "        rosters.check_certificate_key(",
        "        _ = lambda: rosters.check_certificate_key(",
        STOLEN,
    ),
    Mutation(
        CHECK,
        "aggregator/silos/identity_service.py",
        "if len(key) != (0 if asked else sha256().digest_size):",
        "if not asked and not key:",
        f"{SERVICE}::test_a_silo_with_a_certificate_of_its_own",
    ),
    Mutation(
        CHECK,
        "crypto/roster.py",
        "for field in (silo.encode(), *claimed))",
        "for field in (silo.encode(), *claimed[:1]))",
        "tests/crypto/test_roster.py::test_an_enrolment_is_signed_with_the_key_that_it_names",
    ),
    Mutation(
        "dropped call",
        "silo_agent/identity/own_certificate.py",
        """        self.announce(transport)
        return True
""",
        """        return True
""",
        "tests/silo_agent/identity/test_own_certificate.py",
    ),
    Mutation(
        "dropped call",
        "silo_agent/rounds/round_driver.py",
        """                self._announce()
            return""",
        """                pass
            return""",
        "tests/integration/test_agent_identity.py::test_a_certificate_that_was_replaced_while_no_agent_ran",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/offer_checks.py",
        "(plan.message.files, weights.file_digests)):",
        "):",
        OTHER_FILES,
    ),
    Mutation(
        CHECK,
        "crypto/plan.py",
        "for digests in (tensors, files)",
        "for digests in (tensors, {})",
        OTHER_FILES,
    ),
    Mutation(
        CHECK,
        "silo_agent/checkpoint/model_folder.py",
        "    if sha256(content).digest() != digest:",
        "    if not digest:",
        "tests/silo_agent/checkpoint/test_model_folder.py::test_a_file_that_changed_since_or_is_gone",
    ),
    Mutation(
        "dropped restriction",
        "silo_agent/checkpoint/dense_weights.py",
        "AutoTokenizer.from_pretrained(files,",
        "AutoTokenizer.from_pretrained(self.folder,",
        OTHER_FILES,
    ),
    Mutation(
        CHECK,
        "silo_agent/checkpoint/model_folder.py",
        '    if not _COMMIT.fullmatch(hub_id[2] or ""):',
        "    if not hub_id[2]:",
        "tests/silo_agent/checkpoint/test_model_folder.py::test_what_a_branch_or_a_tag_means_can_change",
    ),
    Mutation(
        CHECK,
        "crypto/plan_rules.py",
        "    for file in plan.message.files:",
        "    for file in plan.message.files[:1]:",
        "tests/crypto/test_plan.py",
    ),
    Mutation(
        CHECK,
        "aggregator/rounds/offered_files.py",
        "if path is None or silo not in silos:",
        "if path is None:",
        "tests/attacks/test_files_of_another_run.py",
    ),
    Mutation(
        CHECK,
        "aggregator/edge/callers.py",
        "if self._under_way[caller] >= limits.MOST_CALLS:",
        "if self._under_way[caller] > limits.MOST_CALLS:",
        "tests/aggregator/edge/test_callers.py::test_a_silo_has_only_so_many_calls_under_way",
    ),
    Mutation(
        CHECK,
        "silo_agent/network/transport.py",
        "if out.tell() + len(data) > most:",
        "if out.tell() > most:",
        "tests/attacks/test_endless_download.py",
    ),
    Mutation(
        "dropped call",
        "silo_agent/host/terminal.py",
        "    os.umask(0o077)\n",
        "",
        "tests/integration/test_serve.py::test_two_runs_one_after_another_and_an_orderly_stop",
    ),
    Mutation(
        CHECK,
        "silo_agent/settings/config_command.py",
        "        if url is None:",
        '        if url is None and "@" in value:',
        "tests/silo_agent/commands/test_config_commands.py",
    ),
    Mutation(
        CHECK,
        "silo_agent/network/proxy.py",
        'raise ConfigError("proxy_file: cannot be read")',
        'raise ConfigError(f"{file}: cannot be read")',
        "tests/silo_agent/commands/test_config_commands.py",
    ),
    Mutation(
        CHECK,
        "silo_agent/model/calibration.py",
        "    except BaseException as error:",
        "    except Exception as error:",
        "tests/silo_agent/model/test_calibration.py::test_a_rule_that_panics_on_a_record_is_no_other_failure",
    ),
    Mutation(
        CHECK,
        "silo_agent/rounds/run_of_plan.py",
        "words, sum(round_.layout.lengths))",
        "words, MAX_TRANSCRIPT_BYTES)",
        "tests/attacks/test_transcript_of_another_round_served.py",
    ),
)
