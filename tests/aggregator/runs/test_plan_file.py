"""plan.yaml means what the options of `aggregator local` mean, and every mistake in it is named."""

from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from aggregator.commands.local import local
from aggregator.runs.plan_file import PlanFile
from aggregator.runs.planning import Planner
from aggregator.runs.run import Wanted
from crypto.errors import ConfigError, PlanError
from crypto.names import Backend, Suite
from crypto.plan import Plan
from crypto.plan_options import PLAN_OPTIONS, PlanOption
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.consent.policy import Policy, check_policy
from silo_agent.identity.enrolment import policy_file
from sparsilo.v1 import plan_pb2
from support.models import tiny_llama
from support.plans import signing_keys

ROOT = Path(__file__).parents[3]


def read(folder: Path, **fields: object) -> PlanFile:
    file = folder / "plan.yaml"
    file.write_text(yaml.safe_dump(fields))
    return PlanFile.read(file)


def test_fields_are_locals_options_with_their_defaults(tmp_path: Path) -> None:
    given = local.make_context("local", ["--model", "m", "--calibration", "c", "--out", "o"]).params
    plan = read(tmp_path)
    # A rehearsal asks nobody, and trusts itself.
    of_deployments = ("colluders", "phase_seconds", "preparation_seconds", "least_bytes_per_second")
    for name in (field.name for field in fields(PlanFile)):
        if name not in (*of_deployments, "save_transcript", "prompts"):
            value = getattr(plan, name)
            assert given[name] == (() if value == {} else value), name
    assert not {*of_deployments} & {*given}
    assert (plan.phase_seconds, plan.preparation_seconds, given["phase_timeout"]) == (600, 86_400, 60)
    assert plan.save_transcript and not given["save_transcript"]
    assert (plan.prompts, given["prompts"]) == ((), None)  # the command line names a file of them


@pytest.mark.parametrize("ratio", [0.7, "0.7", "0.70"])
def test_a_ratio_is_an_exact_decimal_however_yaml_reads_it(ratio: object, tmp_path: Path) -> None:
    assert read(tmp_path, sparsity_ratio=ratio).sparsity_ratio == Decimal("0.7")


def test_what_a_planner_gets(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path / "dense"))
    roster = {silo: key.public_bytes for silo, key in signing_keys(4, Suite.FIPS).items()}
    plan = read(
        tmp_path,
        release="weights",
        pruner="sparsegpt",
        sparsity_ratio=0,
        comparison_group="layer",
        silo_sparsity_ratios={"silo-000": 0.3},
        cohort_floor=4,
        capacities={"silo-001": 2},
        sequence_length=16,
        threshold=4,
        colluders=1,
        phase_seconds=5,
        preparation_seconds=50,
        evaluate=2,
        save_counts=True,
        save_transcript=False,
    )
    assert plan.wanted() == Wanted(True, False)
    message = Planner(weights, plan, roster, Suite.FIPS, bytes, watch=lambda *_: None).pruning().message
    assert [spec.WhichOneof("release") for spec in message.rounds[-2:]] == ["scales", "weights"]
    assert (message.threshold, message.colluders) == (4, 1)
    assert (message.phase_seconds, message.preparation_seconds) == (5, 50)
    assert message.suite == Suite.FIPS and message.backend == Backend.DOUBLE_MASKING
    pruning = message.pruning
    assert (pruning.pruner, pruning.sparsity_ratio, pruning.comparison_group) == ("sparsegpt", "0", "layer")
    assert (pruning.samples, pruning.sequence_length, pruning.cohort_floor) == (128, 16, 4)
    assert [member.sparsity_ratio for member in message.roster] == ["0.3", "", "", ""]
    assert [member.capacity for member in message.roster] == [2, 2, 2, 2]


def planned(folder: Path, **fields: object) -> Plan:
    """The plan of a plan.yaml with these fields, over four silos."""
    if not (folder / "dense").exists():
        tiny_llama(folder / "dense")
    weights, asked = DenseWeights.open(folder / "dense"), read(folder, **fields)
    roster = {silo: key.public_bytes for silo, key in signing_keys(4).items()}
    planner = Planner(weights, asked, roster, Suite.DEFAULT, bytes, watch=lambda *_: None)
    return planner.pruning(asked.evaluate)


def test_what_a_planner_gets_by_default(tmp_path: Path) -> None:
    def message(**fields: object) -> plan_pb2.Plan:
        return planned(tmp_path, **fields).message

    by_default = message()
    pruning = by_default.pruning
    assert (pruning.pruner, pruning.sparsity_ratio, pruning.comparison_group) == ("admm", "0.5", "layer")
    assert (by_default.threshold, pruning.sequence_length) == (3, 256), "the model has 256 positions"
    assert message(threshold=0, sequence_length=0, cohort_floor=0) == by_default, "0 asks for nothing"
    assert message(pattern="2:4").pruning.pattern == "2:4"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"sparsity_ration": 0.5}, "sparsity_ration: unknown field"),
        ({"sparsity_ratio": 1}, "sparsity_ratio: sparsity ratio: '1' is outside"),
        ({"sparsity_ratio": True}, "sparsity_ratio: "),
        ({"sparsity_ratio": [0.5]}, "sparsity_ratio: "),
        ({"release": "votess"}, "release: 'votess' is unknown"),
        ({"release": "evaluation"}, "release: evaluation is not asked for by itself"),
        ({"samples": "many"}, "samples: must be a whole number"),
        ({"samples": True}, "samples: must be a whole number"),
        ({"threshold": -1}, "threshold: must not be negative"),
        ({"phase_seconds": 1.5}, "phase_seconds: must be a whole number"),
        ({"save_counts": 1}, "save_counts: must be true or false"),
        ({"save_counts": True}, "save_counts: nobody votes in gram rounds"),
        ({"pattern": "2:4", "sparsity_ratio": 0.5}, "pattern: says it all"),
        ({"pattern": "2:4", "comparison_group": "row"}, "pattern: says it all"),
        ({"evaluate": -1}, "evaluate: must not be negative"),
        ({"samples": -1}, "samples: must not be negative"),
        ({"capacities": 3}, "capacities: must hold `silo: number` lines"),
        ({"capacities": {"a": "b"}}, "capacities: a: must be a whole number"),
        ({"silo_sparsity_ratios": {"a": 2}}, "silo_sparsity_ratios: a: sparsity ratio: '2' is outside"),
    ],
)
def test_a_wrong_field(fields: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, **fields)
    assert refused.value.message.startswith(f"{tmp_path / 'plan.yaml'}: {problem}"), refused.value.message


@pytest.mark.parametrize(
    ("release", "pruner"),
    [("votes", "wanda"), ("weights", "sparsegpt"), ("energies", "admm"), ("gram", "admm"), ("dense_target", "admm")],
)
def test_a_run_that_names_no_pruner_has_the_usual_one_of_what_is_summed(
    release: str, pruner: str, tmp_path: Path
) -> None:
    assert planned(tmp_path, release=release).pruning.pruner == pruner


def test_an_enrolled_silo_takes_a_plan_that_says_nothing_only_once_somebody_has_decided_on_gram(tmp_path: Path) -> None:
    plan = planned(tmp_path, evaluate=16)
    file, silo = tmp_path / "policy.yaml", plan.silos[0]
    file.write_text(policy_file(plan.model_digest))
    with pytest.raises(PlanError, match="a round of gram, which this silo does not release") as refused:
        check_policy(plan, Policy.read(file), silo)
    assert refused.value.hint == "release_kinds in the policy"
    file.write_text(file.read_text().replace("release_kinds: [", "release_kinds: [gram, "))
    check_policy(plan, Policy.read(file), silo)


def row(option: PlanOption) -> str:
    """An option's line in docs/formats.md."""
    kinds: dict[type, str] = {
        bool: "`true` or `false`",
        int: "whole number",
        float: "number",
        str: "text",
        Decimal: "decimal in [0, 1)",
    }
    value = kinds.get(option.kind) or ", ".join(f"`{member}`" for member in option.choices or option.kind)
    default = option.unset or ("none" if option.default in (None, {}) else str(option.default).lower())
    return f"| `{option.name}` | {'silo: ' * option.by_silo}{value} | {default} | {option.help} |"


def test_formats_md_has_every_option() -> None:
    text = (ROOT / "docs/formats.md").read_text()
    assert "\n".join(row(option) for option in PLAN_OPTIONS) in text
    for field in fields(PlanFile):
        assert f"| `{field.name}` |" in text
