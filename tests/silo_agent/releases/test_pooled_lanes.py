"""Statistics as lanes and back: against exact fractions, and what becomes of values that do not fit."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from crypto.encoding.fixed_point import encode_clipped
from crypto.errors import PlanError
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.releases.gram import product_bits
from crypto.releases.planned_rounds import planned_rounds
from crypto.secagg.round import Round
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.releases.dense_target import DenseTargetRelease, pooled_target
from silo_agent.releases.energies import EnergiesRelease, pooled_energies, pooled_energy
from silo_agent.releases.gram import GramRelease, pooled_gram
from silo_agent.releases.shared_inputs import check_shared
from silo_agent.releases.silo_side import next_section
from support.opened import opened, released
from support.plans import plan_message

ENERGIES, GRAM = ReleaseKind.ENERGIES, ReleaseKind.GRAM
SILOS, FEATURES = 5, 7
NOTHING_PUBLIC: Any = None
"""Without noise public text has no part in what was pooled."""


def plan_of(kind: ReleaseKind, exponents: bytes, chunk_words: int = 3) -> Plan:
    """A weight with an input of its own, and one that shares it."""
    message = plan_message(SILOS, tensors=2, shape=(4, FEATURES), group="row", chunk_words=chunk_words)
    del message.rounds[:]
    getattr(message.rounds.add(), kind).SetInParent()
    first, second = message.model
    first.scale_exponents, second.shares_input_of = exponents, first.name
    message.pruning.pruner = "wanda" if kind is ENERGIES else "sparsegpt"
    return checked_plan(message)


def target_plan(exponents: bytes, outputs: bytes, chunk_words: int) -> Plan:
    """One block of two weights, of which the second writes last."""
    message = plan_message(SILOS, tensors=2, shape=(4, FEATURES), group="row", chunk_words=chunk_words)
    del message.rounds[:]
    message.pruning.pruner, message.pruning.schedule = "sparsegpt", "iterative"
    message.rounds.add(block=0).gram.SetInParent()
    message.rounds.add(block=0).dense_target.SetInParent()
    for tensor in message.model:
        tensor.block, tensor.scale_exponents = 0, exponents
    message.model[1].output_exponents = outputs
    return checked_plan(message)


def signed(*exponents: int) -> bytes:
    return np.array(exponents, np.int8).tobytes()


def statistic_of(silo: int) -> Tensor:
    inputs = torch.randn(40, FEATURES, generator=torch.Generator().manual_seed(silo)) * 2.0 ** torch.arange(FEATURES)
    return inputs.T @ inputs


def summed(lanes: Sequence[dict[str, list[int]]]) -> dict[str, list[int]]:
    return {name: [sum(column) for column in zip(*(of[name] for of in lanes), strict=True)] for name in lanes[0]}


@pytest.mark.clause("2.4.11")
@pytest.mark.parametrize("exponent", [-12, -3, 0])
def test_energies_are_multiples_of_the_plans_scale(exponent: int, tmp_path: Path) -> None:
    plan = plan_of(ENERGIES, signed(exponent))
    energies = [statistic_of(silo).diagonal() for silo in range(SILOS)]
    lanes = [released(EnergiesRelease(plan, 0, {"blocks.0.weight": energy}), plan) for energy in energies]
    assert all(list(of) == ["clipped", "energies blocks.0.weight"] for of in lanes)
    for of, energy in zip(lanes, energies, strict=True):
        assert of["clipped"] == [0]
        assert of["energies blocks.0.weight"] == [
            round(Fraction(value) / Fraction(2) ** exponent) for value in energy.tolist()
        ]
    sums = summed(lanes)
    round_ = opened(Start(plan).round, sums, SILOS, tmp_path)
    chunks = round_.chunks()
    next(chunks)
    pooled = pooled_energy(plan, plan.message.model[0], chunks)
    exact = [Fraction(lane) * Fraction(2) ** exponent for lane in sums["energies blocks.0.weight"]]
    assert pooled.tolist() == [float(np.float32(float(value))) for value in exact]
    truth = torch.stack(energies).double().sum(0)
    assert ((pooled - truth).abs() <= SILOS * 2.0 ** (exponent - 1) + truth * 2.0**-22).all()


@pytest.mark.clause("2.4.11")
def test_energies_in_a_plan_with_scales_of_products_are_relative_to_their_squares(tmp_path: Path) -> None:
    """With OWL before the rounds of blocks: an energy as large as its feature's scale squared fills the lane."""
    exponents, most = [-70, -2, 0, 1, 2, 3, 60], 2**61
    message = plan_of(GRAM, signed(*exponents)).message
    message.pruning.schedule, message.pruning.allocation = "iterative", "owl"
    del message.rounds[:]
    for kind, block in planned_rounds(Plan(message, b""), GRAM):
        getattr(message.rounds.add(block=block), kind).SetInParent()
    plan = checked_plan(message)
    assert plan.release_kind(0) is ENERGIES
    energy = torch.tensor([2.0**-141, 2.0**-4, 0.7, 3.99, 16.5, 0.0, 1.0])
    lanes = released(EnergiesRelease(plan, 0, {"blocks.0.weight": energy}), plan)
    expected = [
        min(most, round(Fraction(value) / Fraction(4) ** exponent * most))
        for value, exponent in zip(energy.tolist(), exponents, strict=True)
    ]
    assert lanes == {"clipped": [1], "energies blocks.0.weight": expected}
    assert expected[:2] == [most // 2, most]
    round_ = opened(Start(plan).round, summed([lanes] * SILOS), SILOS, tmp_path)
    exact = [SILOS * Fraction(lane) * Fraction(4) ** e / most for lane, e in zip(expected, exponents, strict=True)]
    assert pooled_energies(round_, NOTHING_PUBLIC)["blocks.0.weight"].tolist() == [
        float(np.float32(float(value))) for value in exact
    ]


def test_energies_that_do_not_fit_are_cut_and_counted() -> None:
    """Infinity, NaN, what is too large: nothing of a text ends in a refusal (14.2.1)."""
    plan = plan_of(ENERGIES, signed(-40))
    energy = torch.tensor([0, 1, 2.0**20, 2.0**21, 2.0**22, math.inf, math.nan])
    lanes = released(EnergiesRelease(plan, 0, {"blocks.0.weight": energy}), plan)
    most = 2**61  # the largest power of two of which five fit into 64 bits
    assert lanes["energies blocks.0.weight"] == [0, 2**40, 2**60, most, most, most, 0]
    assert lanes["clipped"] == [2]


@pytest.mark.parametrize(("values", "clipped"), [([0.5, 1.5, 2.5, -1], 0), ([2.0**62, 2.0**62 * 1.5, math.inf], 2)])
def test_rounding_is_half_to_even_within_the_range(values: list[float], clipped: int) -> None:
    lanes, too_large = encode_clipped(np.array(values), 0, 2**62)
    assert lanes.tolist() == [min(2**62, max(0, round(value))) if value < math.inf else 2**62 for value in values]
    assert too_large == clipped


@pytest.mark.clause("2.4.17")
@pytest.mark.parametrize("chunk_words", [1, 3, 1000])
def test_products_and_energies_side_by_side(chunk_words: int, tmp_path: Path) -> None:
    """Each as in a round that has it alone."""
    message = plan_of(GRAM, signed(*[4] * FEATURES), chunk_words).message
    message.pruning.gram_inputs = "attention"
    attention, other = message.model
    attention.name, other.name, other.shares_input_of, other.scale_exponents = "a.attn", "b.up", "", signed(-9)
    plan = checked_plan(message)
    grams = {"a.attn": statistic_of(1) / 4**6, "b.up": statistic_of(2)}
    release = GramRelease(plan, 0, tmp_path / "lanes")
    release.add(grams)
    lanes = released(release, plan)

    alone = GramRelease(plan_of(GRAM, signed(*[4] * FEATURES)), 0, tmp_path / "alone")
    alone.add({"blocks.0.weight": grams["a.attn"]})
    of_gram = released(alone, plan_of(GRAM, signed(*[4] * FEATURES)))
    of_energies = plan_of(ENERGIES, signed(-9))
    energy = grams["b.up"].diagonal()
    energies = released(EnergiesRelease(of_energies, 0, {"blocks.0.weight": energy}), of_energies)
    assert lanes["gram a.attn"] == of_gram["gram blocks.0.weight"]
    assert lanes["energies b.up"] == energies["energies blocks.0.weight"]
    assert lanes["clipped"] == [*of_gram["clipped"], *energies["clipped"]]


def fitting(grams: Sequence[Tensor]) -> NDArray[np.int64]:
    """The least exponents that suit every silo."""
    largest = torch.stack([gram.diagonal() for gram in grams]).amax(0).double().numpy()
    return np.ceil(np.log2(largest) / 2).astype(np.int64)


@pytest.mark.clause("2.4.12")
@pytest.mark.parametrize("chunk_words", [1, 3, 1000])
def test_gram_matrices_are_upper_triangles_relative_to_the_plans_scales(chunk_words: int, tmp_path: Path) -> None:
    grams = [statistic_of(silo) for silo in range(SILOS)]
    exponents = fitting(grams)
    plan = plan_of(GRAM, signed(*exponents), chunk_words)
    bits, lanes = product_bits(SILOS), []
    for silo, gram in enumerate(grams):
        release = GramRelease(plan, 0, tmp_path / f"{silo}.gram")
        release.add({"blocks.0.weight": gram, "blocks.1.weight": gram})
        lanes.append(released(release, plan))
        expected = [
            round(Fraction(float(gram[i, j])) / Fraction(2) ** int(exponents[i] + exponents[j]) * 2**bits) + 2**bits
            for i in range(FEATURES)
            for j in range(i, FEATURES)
        ]
        assert lanes[-1] == {"clipped": [0], "gram blocks.0.weight": expected}
    round_ = opened(Start(plan).round, summed(lanes), SILOS, tmp_path)
    chunks = round_.chunks()
    next(chunks)
    pooled = pooled_gram(plan.message.model[0], chunks, SILOS, SILOS)
    truth = torch.stack(grams).double().sum(0)
    scale = torch.from_numpy(2.0**exponents)
    bound = SILOS * 2.0 ** (-bits - 1) * scale[:, None] * scale
    assert ((pooled - truth).abs() <= bound + truth.abs() * 2.0**-23).all()
    assert torch.equal(pooled, pooled.T)


def test_products_that_do_not_fit_are_cut_and_counted(tmp_path: Path) -> None:
    plan, bits = plan_of(GRAM, signed(*[0] * FEATURES)), product_bits(SILOS)
    gram = torch.zeros(FEATURES, FEATURES)
    gram[0, 0], gram[0, 1], gram[0, 2], gram[0, 3], gram[1, 1] = 1, -1, 1.5, -math.inf, math.nan
    release = GramRelease(plan, 0, tmp_path / "gram")
    release.add({"blocks.0.weight": gram})
    lanes = released(release, plan)
    assert lanes["clipped"] == [2]
    one, row = 2**bits, lanes["gram blocks.0.weight"]
    assert row[:5] == [2 * one, 0, 2 * one, 0, one]
    assert row[FEATURES] == one, "NaN counts as nothing"


@pytest.mark.clause("2.4.14")
@pytest.mark.parametrize("chunk_words", [1, 3, 1000])
def test_targets_are_relative_to_the_scales_of_outputs_and_inputs(chunk_words: int, tmp_path: Path) -> None:
    grams = [statistic_of(silo) for silo in range(SILOS)]
    outputs = [torch.randn(4, FEATURES, generator=torch.Generator().manual_seed(silo)) for silo in range(SILOS)]
    features, heights = fitting(grams), np.array([-3, 0, 2, 4])
    scale = torch.from_numpy(2.0 ** (features + heights[:, None]))
    targets = [(values / 8 * scale).float() for values in outputs]
    targets[0][1, 2], targets[0][3, 0] = 3 * scale[1, 2], math.nan
    plan = target_plan(signed(*features), signed(*heights), chunk_words)
    tensor, bits, lanes = plan.message.model[1], product_bits(SILOS), []
    for silo, (gram, target) in enumerate(zip(grams, targets, strict=True)):
        release = DenseTargetRelease(plan, 1, tmp_path / f"{silo}.lanes")
        release.add({tensor.name: gram})
        release.add_target(tensor, target)
        lanes.append(released(release, plan, 1))
        relative = [
            [Fraction(float(target[i, j])) / Fraction(2) ** int(heights[i] + features[j]) for j in range(FEATURES)]
            for i in range(4)
            if target.isfinite().all()
        ]
        expected = [round(min(max(value, -1), 1) * 2**bits) + 2**bits for row in relative for value in row]
        assert not relative or lanes[-1][f"target {tensor.name}"] == expected
        assert list(lanes[-1]) == ["clipped", f"gram {tensor.name}", f"target {tensor.name}"]
        assert lanes[-1]["clipped"] == [0, 1 if silo == 0 else 0]
    assert lanes[0][f"target {tensor.name}"][FEATURES + 2] == 2 * 2**bits, "what is too large is cut"
    assert lanes[0][f"target {tensor.name}"][3 * FEATURES] == 2**bits, "NaN counts as nothing"
    round_ = opened(Round(plan, 1, b""), summed(lanes), SILOS, tmp_path)
    chunks = round_.chunks()
    next_section(chunks, "clipped", [2], np.uint64, 9)
    torch.testing.assert_close(
        pooled_gram(tensor, chunks, SILOS, SILOS), torch.stack(grams).sum(0), rtol=1e-5, atol=1e-2
    )
    targets[0][1, 2], targets[0][3, 0] = scale[1, 2], 0
    truth = torch.stack(targets).double().sum(0)
    pooled = pooled_target(tensor, chunks, SILOS, SILOS)
    assert pooled.dtype == torch.float32
    assert ((pooled - truth).abs() <= SILOS * 2.0 ** (-bits - 1) * scale + truth.abs() * 2.0**-23).all()


@pytest.mark.clause("2.4.13")
def test_a_plan_that_says_wrongly_who_shares_an_input() -> None:
    plan = plan_of(ENERGIES, signed(0))
    one, other = torch.ones(FEATURES), torch.ones(FEATURES)
    check_shared(plan, 0, {"blocks.0.weight": one, "blocks.1.weight": other})
    other[-1] += 2.0**-20
    with pytest.raises(PlanError, match=r"blocks\.1\.weight and blocks\.0\.weight have one input, and here they have"):
        check_shared(plan, 0, {"blocks.0.weight": one, "blocks.1.weight": other})
