"""What a silo releases of its units' text in a plan with noise, and what is made of the sums."""

import json
import secrets
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from aggregator.runs.planning import Planner
from crypto.errors import CorruptSum
from crypto.names import Allocation, Pruner, ReleaseKind, Schedule, Suite
from crypto.plan import Plan
from crypto.plan_options import PlanOptions
from crypto.privacy.noise_shares import SHARE_BITS, noise_shares
from crypto.releases.energies import own_inputs
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.activations import BlockWalk
from silo_agent.model.units import read_units
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.opened_sums.together import Together
from silo_agent.pruning.shrinkage import towards_public
from silo_agent.releases.contributed_energies import contributed, estimated
from silo_agent.releases.noise import Noise, NoisyRelease
from silo_agent.releases.silo_side import SiloWork
from silo_agent.rounds.run_pruning import RunPruning
from support.models import tiny_llama, words
from support.opened import opened, released
from support.plans import signing_keys

CPU, ME, LENGTH, UNITS = torch.device("cpu"), "silo-000", 24, 6
TEXTS = [words(150 + 40 * at, seed=at) for at in range(UNITS)]
Record = Mapping[str, str]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> DenseWeights:
    return DenseWeights.open(tiny_llama(tmp_path_factory.mktemp("model") / "dense", blocks=2, seed=3))


@pytest.fixture(scope="module")
def plan(weights: DenseWeights) -> Plan:
    return planned(weights)


def planned(weights: DenseWeights, epsilon: float = 4.0, samples: int = 50, **options: Any) -> Plan:
    release, pruner = ReleaseKind.ENERGIES, Pruner.WANDA
    asked = PlanOptions(release, pruner, epsilon=epsilon, samples=samples, sequence_length=LENGTH, **options)
    roster = {silo: key.public_bytes for silo, key in signing_keys(4).items()}
    return Planner(weights, asked, roster, Suite.DEFAULT, secrets.token_bytes, watch=lambda *_: None).pruning()


def released_of(plan: Plan, weights: DenseWeights, records: Sequence[Record], folder: Path) -> list[NDArray[np.int64]]:
    """The lanes of the first round without noise, by input."""
    file = folder / "text.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    units = read_units(file, weights.tokenizer, units=50, sequence_length=LENGTH, sequences=8)
    start = Start(plan)
    run = RunPruning(plan, ME, weights, lambda: torch.empty(0), lambda: units, folder, CPU, lambda *_: None)
    lent: dict[str, Any] = dict.fromkeys(SiloWork.__dataclass_fields__)
    lent |= {"plan": plan, "index": 0, "energies_of_units": lambda: run.energies_of_units(start)}
    lanes = released(contributed(SiloWork(**lent)), plan)
    return [np.array(of, np.uint64).view(np.int64) for of in lanes.values()]


def each_a_record(texts: Sequence[str]) -> list[Record]:
    return [{"text": text} for text in texts]


def length(lanes: Sequence[NDArray[np.int64]]) -> float:
    return float(sum(int(lane) ** 2 for of in lanes for lane in of.tolist()) ** 0.5)


@pytest.mark.clause("2.9.1", "2.9.2")
@pytest.mark.parametrize("emptied", range(UNITS))
@pytest.mark.parametrize("schedule", Schedule)
def test_emptying_a_unit_changes_a_block_by_the_clip_at_most(
    emptied: int, schedule: Schedule, weights: DenseWeights, tmp_path: Path
) -> None:
    """And by no less than what it contributes: the others' contributions are what they were, to the last unit."""
    plan = planned(weights, schedule=schedule)
    whole = released_of(plan, weights, each_a_record(TEXTS), tmp_path)
    without = released_of(plan, weights, each_a_record([t * (at != emptied) for at, t in enumerate(TEXTS)]), tmp_path)
    alone = released_of(plan, weights, each_a_record([TEXTS[emptied]]), tmp_path)
    assert all((every - others == own).all() for every, others, own in zip(whole, without, alone, strict=True))
    blocks = [tensor.block for tensor in own_inputs(plan, 0)]
    for block in set(blocks):
        of_block = [lanes for lanes, at in zip(alone, blocks, strict=True) if at == block]
        assert 0 < length(of_block) <= plan.pruning.clip


def test_a_unit_of_two_records_counts_once(plan: Plan, weights: DenseWeights, tmp_path: Path) -> None:
    """Of several sequences, between whose records another unit's lie: as much as of one record with both texts."""
    one = TEXTS[5] + TEXTS[4]
    apart = [{"text": TEXTS[5], "unit": "a"}, {"text": TEXTS[0]}, {"text": TEXTS[4], "unit": "a"}]
    lanes = released_of(plan, weights, apart, tmp_path)
    together = released_of(plan, weights, each_a_record([one, TEXTS[0]]), tmp_path)
    assert all((left == right).all() for left, right in zip(lanes, together, strict=True))
    as_two = released_of(plan, weights, each_a_record([TEXTS[5], TEXTS[0], TEXTS[4]]), tmp_path)
    assert length(as_two) > 1.2 * length(lanes)


def test_a_text_of_empty_units_contributes_nothing(plan: Plan, weights: DenseWeights, tmp_path: Path) -> None:
    assert length(released_of(plan, weights, each_a_record(["", ""]), tmp_path)) == 0


@pytest.mark.clause("2.9.3")
def test_noise_is_added_to_the_contributions_and_the_sum_is_signed(
    plan: Plan, weights: DenseWeights, tmp_path: Path
) -> None:
    contributions = released_of(plan, weights, each_a_record(TEXTS), tmp_path)

    class Given:
        def lanes(self, chunk: Any) -> NDArray[np.uint64]:
            values = dict(zip(sections, contributions, strict=True))[chunk.section.name]
            return values[chunk.start : chunk.start + chunk.lanes].astype(np.uint64)

    sections = [section.name for section in Start(plan).round.layout.sections]
    assert "clipped" not in sections
    noisy = [
        np.array([*chain(*released(NoisyRelease(Given(), Noise(seed, bytes(32), 1)), plan).values())], np.uint64)
        for seed in (bytes(32), bytes(32), b"\x01" * 32)
    ]
    assert (noisy[0] == noisy[1]).all()
    noise = [(of - np.concatenate(contributions).astype(np.uint64)).view(np.int64) / 2.0**SHARE_BITS for of in noisy]
    assert (noise[0] != noise[2]).all()
    assert 0.8 < float((noise[0] ** 2).mean()) < 1.25
    assert noise[0].min() < -2


class PublicText:
    """Public energies that are random numbers."""

    def __init__(self, plan: Plan) -> None:
        self.energies = {
            tensor.name: torch.rand(tensor.shape[1], generator=torch.Generator().manual_seed(at)) + 0.5
            for at, tensor in enumerate(own_inputs(plan, 0))
        }

    def public_energies(self, block: int, *, dense: bool) -> Mapping[str, Tensor]:
        return self.energies


def test_estimates_lie_between_the_sums_and_public_text(weights: DenseWeights, tmp_path: Path) -> None:
    """With as many units that noise is nothing they are the sums, up to a factor; with one they are public text."""
    plan = planned(weights, samples=1 << 25)
    lanes = released_of(plan, weights, each_a_record(TEXTS), tmp_path)
    sections = [section.name for section in Start(plan).round.layout.sections]
    public: Any = PublicText(plan)
    for repeated in (0, 1 << 24):
        sums = {name: [int(lane) * repeated % 2**64 for lane in of] for name, of in zip(sections, lanes, strict=True)}
        estimates = estimated(opened(Start(plan).round, sums, 4, tmp_path), public)
        for tensor, of in zip(own_inputs(plan, 0), lanes, strict=True):
            exponents = np.frombuffer(tensor.scale_exponents, np.int8).astype(float)
            to_public = estimates[tensor.name] / public.energies[tensor.name]
            if not repeated:
                assert torch.allclose(to_public, to_public.mean())
                continue
            ratio = estimates[tensor.name].double() / torch.from_numpy(of * 2.0**exponents)
            usual = to_public > 1.01 * to_public.min()  # those that the least ratio does not hold up
            assert (ratio[usual] / ratio[usual].median() - 1).abs().max() < 1e-3


@pytest.mark.clause("2.9.6")
@pytest.mark.parametrize(("colluders", "threshold", "shares"), [(0, 3, 2), (0, 4, 3), (1, 4, 3)])
def test_shares_are_of_those_who_are_surely_left_and_do_not_look_on(
    colluders: int, threshold: int, shares: int, weights: DenseWeights
) -> None:
    assert noise_shares(planned(weights, colluders=colluders, threshold=threshold)) == shares


@pytest.mark.slow
def test_with_owl_the_first_round_is_paid_for_too(weights: DenseWeights) -> None:
    """Six releases in place of two, so a unit may contribute less by the root of their quotient."""
    uniform, owl = (planned(weights, allocation=how).pruning.clip for how in (Allocation.UNIFORM, Allocation.OWL))
    assert owl == pytest.approx(uniform / 2**0.5, rel=1e-5)


def test_each_sequence_is_run_by_itself(weights: DenseWeights) -> None:
    sequences = [torch.arange(1, 9), torch.arange(2, 5), torch.arange(3, 11)]
    walk = BlockWalk(weights, sequences, device=CPU, apart=True)
    next(iter(walk))
    for energies, sequence in zip(walk.energies_of_each(), sequences, strict=True):
        own = BlockWalk(weights, sequence[None], device=CPU)
        next(iter(own))
        assert all(torch.equal(energies[name], energy) for name, energy in own.energies().items())


@pytest.mark.parametrize("survivors", [3, 4])
def test_as_many_shares_of_noise_are_expected_in_a_sum_as_there_are_survivors(
    survivors: int, plan: Plan, tmp_path: Path
) -> None:
    """More than the promise counts on, as silos that look on have added theirs too."""
    public: Any = PublicText(plan)
    sections = Start(plan).round.layout.sections
    sums = {section.name: [(3 + at % 5) << SHARE_BITS for at in range(section.lanes)] for section in sections}
    estimates = estimated(opened(Start(plan).round, sums, survivors, tmp_path), public)
    for tensor in own_inputs(plan, 0):
        unit = 2.0 ** torch.from_numpy(np.frombuffer(tensor.scale_exponents, np.int8).astype(np.float64))
        noisy = torch.tensor([(3 + at % 5) * 2.0**SHARE_BITS for at in range(len(unit))], dtype=torch.float64) * unit
        due = towards_public(noisy, survivors**0.5 * 2.0**SHARE_BITS * unit, public.energies[tensor.name].double())
        assert torch.equal(estimates[tensor.name], due.float())


@pytest.mark.clause("2.9.11")
def test_a_block_longer_than_units_and_noise_make_it_is_corrupt(plan: Plan, tmp_path: Path) -> None:
    """All of its length may lie on one lane, of either sign; one silo's claim of as much again is refused."""
    public: Any = PublicText(plan)
    sections = Start(plan).round.layout.sections
    claimed = 4 * 50 * plan.pruning.clip
    inputs = own_inputs(plan, 0)
    lanes = sum(tensor.shape[1] for tensor in inputs if tensor.block == inputs[0].block)
    noise = 2**SHARE_BITS * (4 * noise_shares(plan) * (lanes + 16 * lanes**0.5 + 128)) ** 0.5
    for sign in (1, -1):
        for length, possible in ((int(claimed + noise) - 1, True), (int(claimed + noise) + 2, False)):
            sums = {section.name: [0] * section.lanes for section in sections}
            sums[sections[0].name][0] = sign * length % 2**64
            opened_sum = opened(Start(plan).round, sums, 4, tmp_path)
            if possible:
                assert estimated(opened_sum, public)
                continue
            with pytest.raises(CorruptSum, match=r"^energies of block \d: their length"):
                estimated(opened_sum, public)


@pytest.mark.slow
def test_ten_blocks_and_more_are_not_in_the_order_of_their_names(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path / "dense", blocks=12, seed=3))
    plan = planned(weights, schedule=Schedule.ONE_SHOT)
    blocks = [tensor.block for tensor in own_inputs(plan, 0)]
    assert blocks != sorted(blocks)
    lanes = released_of(plan, weights, each_a_record(TEXTS[:1]), tmp_path)
    for block in range(12):
        of_block = [of for of, at in zip(lanes, blocks, strict=True) if at == block]
        assert 0.9 * plan.pruning.clip < length(of_block) <= plan.pruning.clip
    together = Together(plan, weights, tmp_path / "together", CPU, lambda *_: None)
    sections = [section.name for section in Start(plan).round.layout.sections]
    sums = {name: [int(lane) for lane in of] for name, of in zip(sections, lanes, strict=True)}
    assert set(estimated(opened(Start(plan).round, sums, 4, tmp_path), together)) == {
        tensor.name for tensor in own_inputs(plan, 0)
    }
