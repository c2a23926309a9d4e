"""From options to plans: silo names, thresholds, ratios, and what a plan says of the model."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from aggregator.runs.planning import Planner, default_threshold, silo_names
from crypto.errors import ConfigError, ModelError, PlanError
from crypto.names import Allocation, Backend, ComparisonGroup, Pruner, ReleaseKind, Schedule, Suite
from crypto.plan_options import PlanOptions
from crypto.plan_rules import checked_plan
from crypto.pruning.sparsity import Sparsity, parse_ratio
from crypto.releases.planned_rounds import pruning_rounds
from silo_agent.checkpoint.dense_weights import DenseWeights
from support.models import VOCABULARY, family, tiny_llama, tiny_model
from support.plans import plan_message, signing_keys


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.txt", "b.jsonl", "c.txt"], ["a", "b", "c"]),
        (["x/notes.txt", "y/notes.txt", "z/notes.txt"], ["notes", "notes-2", "notes-3"]),
        (["a.txt", "a-2.txt", "a.jsonl"], ["a", "a-2", "a-3"]),
        (["a-2.txt", "a.txt", "x/a.txt", "y/a.txt"], ["a-2", "a", "a-3", "a-4"]),
        (["a.txt", "x/a.txt", "a-2.txt"], ["a", "a-2", "a-2-2"]),
        (["Ward 3 (West).txt", "ward_3_west.txt"], ["ward-3-west", "ward-3-west-2"]),
        (["--.txt", "é.txt", "病院.jsonl", "silo.txt"], ["silo", "silo-2", "silo-3", "silo-4"]),
        (["Straße 9.txt", ".txt", "no suffix", "a.b.txt"], ["stra-e-9", "txt", "no-suffix", "a-b"]),
        ([f"{'x' * 47} y.txt", f"{'x' * 60}.txt"], ["x" * 47, "x" * 48]),
    ],
)
def test_silo_names(files: list[str], names: list[str]) -> None:
    assert silo_names([Path(file) for file in files]) == names


STEMS = st.text("ab-2 _.ÄA", max_size=4) | st.sampled_from(["a", "a-2", "a-3", "a-2-2", "x" * 80])


@given(st.lists(STEMS, min_size=3, max_size=12))
def test_silo_names_are_distinct_and_a_plan_takes_them(stems: list[str]) -> None:
    files = [Path("folder") / f"{stem}.txt" for stem in stems]
    names = silo_names(files)
    assert len(set(names)) == len(files)
    assert silo_names(files[:-1]) == names[:-1], "a file more changes no earlier name"
    message = plan_message(len(files))
    for member, name in zip(message.roster, sorted(names), strict=True):
        member.silo = name
    checked_plan(message)


def test_two_hundred_files_of_one_name() -> None:
    names = silo_names([Path(f"{folder}/{'long name ' * 9}.txt") for folder in range(200)])
    message = plan_message(200)
    for member, name in zip(message.roster, sorted(names), strict=True):
        member.silo = name
    assert len(checked_plan(message).silos) == 200


@pytest.mark.parametrize("silos", range(3, 201))
def test_the_default_threshold_is_the_least_majority_of_three_or_more(silos: int) -> None:
    threshold = default_threshold(silos, 0)
    assert threshold >= 3
    assert 2 * threshold > silos
    assert threshold == 3 or 2 * (threshold - 1) <= silos, "no higher than it must be: dropped silos would abort more"


@pytest.mark.parametrize("silos", [3, 4, 5, 6, 7, 199, 200])
def test_a_plan_takes_the_default_threshold(silos: int) -> None:
    checked_plan(plan_message(silos, threshold=default_threshold(silos, 0)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> DenseWeights:
    return DenseWeights.open(tiny_llama(tmp_path_factory.mktemp("model") / "dense"))


def planner(
    weights: DenseWeights,
    *,
    silos: int = 4,
    suite: Suite = Suite.DEFAULT,
    backend: Backend = Backend.DOUBLE_MASKING,
    **options: Any,
) -> Planner:
    roster = {silo: key.public_bytes for silo, key in reversed(signing_keys(silos, suite).items())}
    usual: dict[str, Any] = {
        "release": ReleaseKind.VOTES,
        "samples": 8,
        "sequence_length": 32,
        "phase_seconds": 60,
        "preparation_seconds": 6 * 3600,
    }
    if "pattern" not in options:
        usual["comparison_group"] = ComparisonGroup.ROW
    asked = PlanOptions(**usual | options)
    return Planner(weights, asked, roster, suite, lambda count: bytes(range(count)), backend, watch=lambda *_: None)


def test_a_votes_plan(weights: DenseWeights) -> None:
    plan = planner(weights, silos=9, phase_seconds=45).pruning()
    message = plan.message
    assert plan.release_kind(0) is ReleaseKind.VOTES
    assert len(message.rounds) == 1
    assert message.run == bytes(range(16))
    assert list(plan.silos) == sorted(signing_keys(9))
    assert all(plan.signing_key(silo) == key.public_bytes for silo, key in signing_keys(9).items())
    assert (message.threshold, message.least_survivors, message.colluders) == (5, 5, 0)
    assert (message.phase_seconds, message.preparation_seconds) == (45, 6 * 3600)
    pruning = message.pruning
    assert (pruning.pruner, pruning.comparison_group, pruning.samples, pruning.sequence_length) == (
        "wanda",
        "row",
        8,
        32,
    )
    assert {tensor.name: tensor.digest for tensor in message.model} == weights.digest()
    assert {tensor.name: tuple(tensor.shape) for tensor in message.model} == {
        name: tuple(weights.tensor(name).shape) for name in weights.names
    }
    linear = [name for name in weights.names if "_proj." in name]
    assert [tensor.name for tensor in plan.prunable] == sorted(linear)
    assert len(linear) == 14
    assert [tensor.block for tensor in plan.prunable] == [int(tensor.name.split(".")[2]) for tensor in plan.prunable]
    assert not any(tensor.input_first for tensor in message.model)
    assert all(not (member.sparsity_ratio or member.capacity) for member in message.roster)
    left_out = ("pattern", "allocation", "schedule", "weight_scaling", "force_comparison_group", "cohort_floor")
    assert not any(getattr(pruning, field) for field in left_out)


def test_a_conv1d_is_stored_input_first(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path / "dense", family("gpt2")))
    tensors = {tensor.name: tensor for tensor in planner(weights).pruning().message.model}
    assert {name for name, tensor in tensors.items() if tensor.input_first} == {
        f"transformer.h.{block}.{part}.weight"
        for block in range(2)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert list(tensors["transformer.h.1.attn.c_attn.weight"].shape) == [32, 96]
    assert tensors["transformer.h.1.attn.c_attn.weight"].block == 1


VOTES, WEIGHTS, SCALES = ReleaseKind.VOTES, ReleaseKind.WEIGHTS, ReleaseKind.SCALES
SAMPLED: dict[str, Any] = {"cohort_floor": 3, "capacities": {"silo-001": 1}}
ITERATIVE = {"schedule": Schedule.ITERATIVE}
OWL = {"allocation": Allocation.OWL}
ENERGIES = ReleaseKind.ENERGIES
POOLED: dict[str, Any] = {"release": ENERGIES}
OF_GRAM: dict[str, Any] = {"release": ReleaseKind.GRAM, "pruner": Pruner.ADMM}
OF_WEIGHTS: dict[str, Any] = {"release": WEIGHTS, "pruner": Pruner.SPARSEGPT, "comparison_group": ComparisonGroup.LAYER}


@pytest.mark.clause("2.1.10")
@pytest.mark.parametrize(
    ("asked", "rounds"),
    [
        ({}, [(VOTES, None)]),
        (OWL, [(ReleaseKind.OUTLIERS, None), (VOTES, None)]),
        (ITERATIVE, [(VOTES, 0), (VOTES, 1)]),
        (SAMPLED, [(ReleaseKind.SAMPLING, None), (VOTES, 0), (VOTES, 1)]),
        (OF_WEIGHTS, [(SCALES, None), (WEIGHTS, None)]),
        (OF_WEIGHTS | ITERATIVE, [(SCALES, 0), (WEIGHTS, 0), (SCALES, 1), (WEIGHTS, 1)]),
        (OWL | POOLED, [(ENERGIES, None), (ENERGIES, 0), (ENERGIES, 1)]),
        (OWL | POOLED | {"schedule": Schedule.ONE_SHOT}, [(ENERGIES, None)]),
        (OWL | OF_GRAM, [(ENERGIES, None), (ReleaseKind.GRAM, 0), (ReleaseKind.GRAM, 1)]),
        (SAMPLED | OWL, [(ReleaseKind.SAMPLING, None), (ReleaseKind.OUTLIERS, None), (VOTES, 0), (VOTES, 1)]),
    ],
)
def test_the_rounds_of_what_was_asked_for(asked: Any, rounds: list[object], weights: DenseWeights) -> None:
    plan = planner(weights, **asked).pruning()
    assert [(plan.release_kind(index), plan.block(index)) for index in range(len(plan.message.rounds))] == rounds


def test_exponents_are_the_models(weights: DenseWeights) -> None:
    plan = planner(weights, allocation=Allocation.ALPHA).pruning()
    exponents = [Decimal(exponent) for exponent in plan.message.pruning.block_alphas]
    for exponent, block in zip(exponents, weights.blocks, strict=True):
        estimates = []
        for name in block.prunable:
            spectrum = np.sort(np.linalg.svd(weights.tensor(name).double().numpy(), compute_uv=False) ** 2)
            k = len(spectrum) // 2
            estimates.append(1 + k / np.log(spectrum[-k:] / spectrum[-k - 1]).sum())
        assert float(exponent) == pytest.approx(np.mean(estimates), abs=1e-4)
    assert [plan.release_kind(index) for index in range(len(plan.message.rounds))] == [VOTES]


def test_with_layer_sampling_a_silo_without_a_capacity_prunes_all_blocks(weights: DenseWeights) -> None:
    plan = planner(weights, **SAMPLED).pruning()
    assert plan.pruning.capacities == {"silo-000": 2, "silo-001": 1, "silo-002": 2, "silo-003": 2}
    assert plan.pruning.cohort_floor == 3


@pytest.mark.parametrize("floor", [-1, 5, 2**32 + 3])
def test_a_cohort_floor_out_of_range(floor: int, weights: DenseWeights) -> None:
    with pytest.raises(PlanError, match=f"cohort floor: {floor}"):
        planner(weights, cohort_floor=floor).pruning()


def test_ratios_of_silos_of_their_own(weights: DenseWeights) -> None:
    plan = planner(weights, silo_sparsity_ratios={"silo-002": Decimal("0.30")}).pruning()
    assert [member.sparsity_ratio for member in plan.message.roster] == ["", "", "0.3", ""]
    assert plan.pruning.silo_sparsity("silo-002") == Sparsity(Decimal("0.3"), ComparisonGroup.ROW)
    assert plan.pruning.silo_sparsity("silo-001") == Sparsity(Decimal("0.5"), ComparisonGroup.ROW)


@pytest.mark.parametrize("field", ["silo_sparsity_ratios", "capacities"])
def test_a_silo_that_is_not_there_is_named(field: str, weights: DenseWeights) -> None:
    with pytest.raises(ConfigError, match="silo-007 is no silo of this run"):
        planner(weights, **{field: {"silo-007": 1, "silo-001": 1}})


def test_a_pattern(weights: DenseWeights) -> None:
    pruning = planner(weights, pattern="2:4").pruning().message.pruning
    assert (pruning.pattern, pruning.sparsity_ratio, pruning.comparison_group) == ("2:4", "", "row")


def test_scaling_and_force_are_only_what_was_asked_for(weights: DenseWeights) -> None:
    column = ComparisonGroup.COLUMN
    plan = planner(weights, comparison_group=column, weight_scaling=True, force_comparison_group=True).pruning()
    assert plan.message.pruning.weight_scaling and plan.message.pruning.force_comparison_group
    with pytest.raises(PlanError, match="column does not suit wanda"):
        planner(weights, comparison_group=column).pruning()


def test_preparation_is_never_less_patient_than_a_phase(weights: DenseWeights) -> None:
    assert planner(weights, phase_seconds=6 * 3600 + 1).pruning().message.preparation_seconds == 6 * 3600 + 1


@pytest.mark.parametrize(
    "options", [{"samples": 2**32}, {"colluders": -1}, {"cohort_floor": 3, "capacities": {"silo-001": -1}}]
)
def test_what_a_field_of_the_plan_cannot_hold(options: dict[str, Any], weights: DenseWeights) -> None:
    [*_, name] = options
    with pytest.raises(PlanError, match=f"plan: {name}: .*-?[0-9]+.* is out of range"):
        planner(weights, **options).pruning()


def test_the_backend_that_was_asked_for(weights: DenseWeights) -> None:
    for backend in Backend:
        assert planner(weights, backend=backend).pruning().backend is backend


def test_an_evaluation_plan(weights: DenseWeights) -> None:
    plan = planner(weights).evaluation(7, {"ours": bytes(32), "theirs": bytes([1] * 32)})
    assert plan.release_kind(0) is ReleaseKind.EVALUATION
    spec = plan.message.rounds[0].evaluation
    assert spec.sequences == 7
    assert [(each.name, each.WhichOneof("keep_mask"), each.digest) for each in spec.candidates] == [
        ("ours", "digest", bytes(32)),
        ("theirs", "digest", bytes([1] * 32)),
    ]


LAYER = {"comparison_group": ComparisonGroup.LAYER}


@pytest.mark.parametrize(
    ("options", "candidates"),
    [
        ({}, ["dense", "federated", "self_calibrated", "own"]),
        (
            {"release": ReleaseKind.WEIGHTS, "pruner": Pruner.SPARSEGPT, **LAYER},
            ["dense", "federated", "self_calibrated", "own"],
        ),
        ({"schedule": Schedule.ITERATIVE}, ["dense", "federated", "self_calibrated"]),
        ({"cohort_floor": 3}, ["dense", "federated", "self_calibrated"]),
        ({"pruner": Pruner.MAGNITUDE, **LAYER}, ["dense", "federated", "own"]),
    ],
)
def test_a_plan_that_ends_with_an_evaluation(
    options: dict[str, Any], candidates: list[str], weights: DenseWeights
) -> None:
    asked = planner(weights, **options)
    without, plan = asked.pruning(), asked.pruning(7)
    assert list(plan.message.rounds[:-1]) == list(without.message.rounds)
    assert pruning_rounds(plan) == pruning_rounds(without) == len(without.message.rounds)
    spec = plan.message.rounds[-1].evaluation
    assert spec.sequences == 7
    kinds = {"dense": "dense", "federated": "pruned", "own": "own", "self_calibrated": "self_calibrated"}
    found = {candidate.name: candidate.WhichOneof("keep_mask") for candidate in spec.candidates}
    assert found == {name: kinds[name] for name in candidates}


def test_the_evaluation_of_a_model_that_cannot_write_text_goes_without_that(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Mamba keeps no keys and values to go on from."""
    config = AutoConfig.for_model("mamba", vocab_size=VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=2)
    mute = DenseWeights.open(tiny_model(tmp_path / "mamba", config))
    candidates = planner(mute).pruning(7).message.rounds[-1].evaluation.candidates
    assert [candidate.name for candidate in candidates] == ["dense", "federated", "own"]
    [said] = [record.getMessage() for record in caplog.records if record.name.startswith("aggregator")]
    assert said.startswith("the evaluation goes without self_calibrated: ") and "cannot write text" in said


def test_experts_in_one_tensor_are_not_quantised(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path / "dense", family("granitemoe")))
    pools = {"release": ReleaseKind.GRAM, "pruner": Pruner.SPARSEGPT, "comparison_group": None}
    planner(weights, **pools).pruning()
    with pytest.raises(ModelError, match=r"input_linear\.weight holds all experts' matrices, which the quantised"):
        planner(weights, **pools, quantise=4)


@pytest.mark.parametrize(
    ("asked", "canonical"),
    [
        ("0.5", "0.5"),
        ("0.50", "0.5"),
        (".5", "0.5"),
        ("5e-1", "0.5"),
        ("0", "0"),
        ("0.00", "0"),
        ("1e-3", "0.001"),
        ("+0.7", "0.7"),
    ],
)
def test_a_ratio_has_one_spelling(asked: str, canonical: str, weights: DenseWeights) -> None:
    assert planner(weights, sparsity_ratio=parse_ratio(asked)).pruning().message.pruning.sparsity_ratio == canonical


@given(st.text("0123456789", min_size=1, max_size=12))
def test_every_decimal_stays_what_it_is(weights: DenseWeights, digits: str) -> None:
    plan = planner(weights, sparsity_ratio=parse_ratio(f"0.{digits}")).pruning()
    assert plan.message.pruning.sparsity_ratio == f"0.{digits}".rstrip("0").rstrip(".")


@pytest.mark.parametrize("ratio", ["1", "-0.1", "nan", "inf", "half", "0.5.5", ""])
def test_a_ratio_that_is_none(ratio: str, weights: DenseWeights) -> None:
    with pytest.raises(PlanError, match="sparsity ratio"):
        planner(weights, sparsity_ratio=parse_ratio(ratio)).pruning()


@pytest.mark.parametrize("threshold", [-1, 0, 1, 2, 5, 2**32, 2**32 + 3])
def test_a_threshold_out_of_range(threshold: int, weights: DenseWeights) -> None:
    with pytest.raises(PlanError, match=f"threshold: {threshold}"):
        planner(weights, threshold=threshold).pruning()


def test_a_threshold_that_was_asked_for(weights: DenseWeights) -> None:
    message = planner(weights, threshold=4).pruning().message
    assert (message.threshold, message.least_survivors) == (4, 4)


def test_two_honest_survivors_are_enough_only_where_somebody_asked_for_a_threshold_of_two(
    weights: DenseWeights,
) -> None:
    for threshold, silos, said in ((2, 3, True), (3, 3, False), (None, 3, False), (3, 4, False)):
        message = planner(weights, threshold=threshold, silos=silos).pruning().message
        assert message.two_honest_survivors is said
        assert message.least_survivors == (threshold or 3)


@pytest.mark.parametrize("suite", list(Suite))
def test_the_suite_that_was_asked_for(suite: Suite, weights: DenseWeights) -> None:
    plan = planner(weights, suite=suite).pruning()
    assert plan.suite is suite
    assert plan.signing_key("silo-003") == signing_keys(4, suite)["silo-003"].public_bytes
