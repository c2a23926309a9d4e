"""plan.yaml means what the options of `aggregator local` mean, and every mistake in it is named."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from aggregator.cli import local
from aggregator.runs.plan_file import PlanFile
from aggregator.runs.run import Wanted
from crypto.errors import ConfigError
from crypto.names import Backend, ComparisonGroup, Pruner, ReleaseKind, Suite
from crypto.pruning.sparsity import Pattern
from silo_agent.model.dense_weights import DenseWeights
from support.models import tiny_llama


def read(folder: Path, **fields: object) -> PlanFile:
    file = folder / "plan.yaml"
    file.write_text(yaml.safe_dump(fields))
    return PlanFile.read(file)


def test_fields_are_locals_options_with_their_defaults(tmp_path: Path) -> None:
    options = {param.name: param for param in local.params if isinstance(param, click.Option)}
    plan = read(tmp_path)
    renamed = {"phase_seconds": "phase_timeout", "capacities": "capacities", "silo_sparsity_ratios": "own_ratios"}
    for name in PlanFile.__dataclass_fields__:
        if name not in ("preparation_seconds", "colluders"):  # a rehearsal asks nobody, and trusts itself
            assert renamed.get(name, name) in options, name
    for name in (
        "release",
        "pruner",
        "schedule",
        "allocation",
        "samples",
        "cohort_floor",
        "evaluate",
    ):
        assert getattr(plan, name) == options[name].default, name


@pytest.mark.parametrize("ratio", [0.7, "0.7", "0.70"])
def test_a_ratio_is_an_exact_decimal_however_yaml_reads_it(ratio: object, tmp_path: Path) -> None:
    assert read(tmp_path, sparsity_ratio=ratio).sparsity_ratio == Decimal("0.7")


def test_what_a_planner_gets(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path / "dense"))
    plan = read(
        tmp_path,
        release="weights",
        pruner="sparsegpt",
        sparsity_ratio=0,
        comparison_group="row",
        silo_sparsity_ratios={"a": 0.3},
        cohort_floor=3,
        capacities={"a": 1},
        sequence_length=16,
        threshold=4,
        colluders=1,
        phase_seconds=5,
        preparation_seconds=50,
        evaluate=2,
        save_counts=True,
        save_transcript=False,
    )
    pruning, cohort = plan.pruning(weights), plan.cohort({"a": b"k"}, Suite.FIPS)
    assert (pruning.release, pruning.pruner) == (ReleaseKind.WEIGHTS, Pruner.SPARSEGPT)
    assert (pruning.sparsity.target, pruning.sparsity.group) == (Decimal(0), ComparisonGroup.ROW)
    assert (pruning.own_ratios, pruning.cohort_floor, pruning.capacities) == ({"a": Decimal("0.3")}, 3, {"a": 1})
    assert (pruning.samples, pruning.sequence_length) == (128, 16)
    assert (cohort.threshold, cohort.colluders, cohort.suite) == (4, 1, Suite.FIPS)
    assert (cohort.phase_seconds, cohort.preparation_seconds) == (5, 50)
    assert cohort.backend is Backend.DOUBLE_MASKING
    assert plan.wanted() == Wanted(2, True, False)
    by_default = read(tmp_path)
    assert by_default.pruning(weights).sparsity.target == Decimal("0.5")
    assert by_default.cohort({}, Suite.DEFAULT).threshold is None
    assert read(tmp_path, pattern="2:4").pruning(weights).sparsity.target == Pattern(2, 4)


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
        ({"pattern": "2:4", "sparsity_ratio": 0.5}, "pattern: says it all"),
        ({"pattern": "2:4", "comparison_group": "row"}, "pattern: says it all"),
        ({"capacities": 3}, "capacities: must hold `silo: number` lines"),
        ({"capacities": {"a": "b"}}, "capacities: a: must be a whole number"),
        ({"silo_sparsity_ratios": {"a": 2}}, "silo_sparsity_ratios: a: sparsity ratio: '2' is outside"),
    ],
)
def test_a_wrong_field(fields: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, **fields)
    assert refused.value.message.startswith(f"{tmp_path / 'plan.yaml'}: {problem}"), refused.value.message
