"""Pruned weights as lanes, against Python's fractions: votes, differences in fixed point, and scales."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crypto.encoding.layout import pack_chunk
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.releases.release_spec import layout_of
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.pruning.prune import write_keep_masks
from silo_agent.releases import scales as scales_release
from silo_agent.releases.scales import ScalesRelease, exponent
from silo_agent.releases.silo_side import expanded_tensors
from silo_agent.releases.weights import WeightsRelease
from support.opened import Tensors, opened, planned, released

TENSORS: Tensors = {"a": (0, (5, 21), False), "b": (0, (1, 1), False), "c": (1, (12, 7), True)}


def weights_plan(chunk_words: int = 5, **pruning: Any) -> Plan:
    return planned(TENSORS, ReleaseKind.WEIGHTS, chunk_words=chunk_words, pruner="sparsegpt", **pruning)


def lookup(tensors: Mapping[str, Tensor]) -> Any:
    return SimpleNamespace(tensor=tensors.__getitem__)


class Silo:
    """Dense weights, what this silo made of them, and its keep masks as a file."""

    def __init__(self, seed: int, folder: Path, dtype: torch.dtype = torch.float32, most: float = 0.3) -> None:
        generator = torch.Generator().manual_seed(99)
        shapes = {name: shape for name, (_, shape, _) in TENSORS.items()}
        self.dense = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
        generator.manual_seed(seed)
        self.keep = {name: torch.rand(shape, generator=generator) < 0.6 for name, shape in shapes.items()}
        self.keep["a"][0, :2] = torch.tensor([True, False])
        self.pruned: dict[str, Tensor] = {}
        for name, old in self.dense.items():
            change = (torch.rand(old.shape, generator=generator) * 2 - 1) * most
            self.pruned[name] = torch.where(self.keep[name], old + change.to(dtype), 0)
        self.file = folder / f"{seed}.safetensors"
        write_keep_masks(self.file, self.keep.items())

    def differences(self, name: str) -> list[Fraction | None]:
        cells = zip(*(each[name].flatten().tolist() for each in (self.pruned, self.dense, self.keep)), strict=True)
        return [Fraction(new) - Fraction(old) if kept else None for new, old, kept in cells]

    def largest(self, name: str) -> Fraction:
        return max((abs(value) for value in self.differences(name) if value is not None), default=Fraction(0))

    def weights(self, plan: Plan, exponents: Mapping[str, int], index: int = 1) -> WeightsRelease:
        return WeightsRelease(plan, index, self.file, self.pruned, lookup(self.dense), exponents)

    def scales(self, plan: Plan, index: int = 0) -> ScalesRelease:
        return ScalesRelease(plan, index, self.file, self.pruned, lookup(self.dense))


def least_exponent(most: Fraction) -> int:
    return next(e for e in range(-96, 32) if Fraction(2) ** e >= most)


@pytest.mark.clause("2.4.7")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk_words", [1, 4, 1000])
def test_lanes_are_votes_counts_and_differences(chunk_words: int, dtype: torch.dtype, tmp_path: Path) -> None:
    plan, silo = weights_plan(chunk_words), Silo(1, tmp_path, dtype)
    exponents = {"a": 0, "b": 3, "c": -1}
    expected: dict[str, list[int]] = {}
    for name, e in exponents.items():
        unit = Fraction(2) ** (e - 16)
        votes = [int(kept) for kept in silo.keep[name].flatten().tolist()]
        expected |= {f"votes {name}": votes, f"nonzero counts {name}": [sum(votes)]}
        expected[f"deltas {name}"] = [
            0 if value is None else round(value / unit) + 2**16 for value in silo.differences(name)
        ]
    found = released(silo.weights(plan, exponents), plan, 1)
    assert found == expected
    assert list(found) == list(expected)


def test_a_blocks_round_has_that_blocks_tensors(tmp_path: Path) -> None:
    plan, silo = weights_plan(schedule="iterative"), Silo(1, tmp_path)
    for index, names in ((1, ["a", "b"]), (3, ["c"])):
        lanes = released(silo.weights(plan, dict.fromkeys(TENSORS, 1), index), plan, index)
        assert list(lanes) == [f"{kind} {name}" for name in names for kind in ("votes", "nonzero counts", "deltas")]
        assert list(released(silo.scales(plan, index - 1), plan, index - 1)) == [f"scale {name}" for name in names]


def test_nothing_of_a_weight_that_is_not_kept_leaves(tmp_path: Path) -> None:
    plan, silo = weights_plan(), Silo(2, tmp_path)
    exponents = dict.fromkeys(TENSORS, -1)
    honest, scale = released(silo.weights(plan, exponents), plan, 1), released(silo.scales(plan), plan, 0)
    for name, keep in silo.keep.items():
        zeros = [lane for lane, kept in zip(honest[f"deltas {name}"], keep.flatten().tolist(), strict=True) if not kept]
        assert not any(zeros)
    silo.pruned = {
        name: torch.where(keep, silo.pruned[name], torch.rand(keep.shape) * 1e30 - torch.inf)
        for name, keep in silo.keep.items()
    }
    assert released(silo.weights(plan, exponents), plan, 1) == honest
    assert released(silo.scales(plan), plan, 0) == scale


@pytest.mark.clause("2.4.7", "14.2.1")
@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_above_what_was_agreed_on_is_cut_to_that(sign: int, tmp_path: Path) -> None:
    plan, silo = weights_plan(1000), Silo(3, tmp_path, torch.float64, most=0.2)
    exponents = dict.fromkeys(TENSORS, -2)
    silo.dense["a"][0, 0] = 0.0
    silo.pruned["a"][0, 0] = sign * 0.25
    deltas = layout_of(plan, 1).chunks[2]
    assert deltas.section.name == "deltas a"
    lanes = silo.weights(plan, exponents).lanes(deltas)
    assert int(lanes[0]) == (2**17 if sign == 1 else 0)
    pack_chunk(deltas, lanes)
    for more in (0.25 + 2**-50, 0.2500001, 0.3, 1e9, float("inf")):
        silo.pruned["a"][0, 0] = sign * more
        assert silo.weights(plan, exponents).lanes(deltas).tolist() == lanes.tolist()
    silo.pruned["a"][0, 0] = float("nan")
    assert silo.weights(plan, exponents).lanes(deltas).tolist() == [2**16, *lanes[1:].tolist()], "as if it were dense"


@pytest.mark.clause("2.4.8")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [1e-35, 0.003, 1.0, 7e8])
def test_a_scale_is_one_lane_at_the_least_exponent(
    most: float, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scales_release, "SLICE", 10)
    plan, silo = weights_plan(1), Silo(seed, tmp_path, torch.float64, most)
    expected = {f"scale {name}": least_exponent(silo.largest(name)) for name in TENSORS}
    lanes = released(silo.scales(plan), plan, 0)
    assert {name: [e for e, lane in enumerate(of, -96) if lane] for name, of in lanes.items()} == {
        name: [e] for name, e in expected.items()
    }
    assert all(set(of) == {0, 1} for of in lanes.values())


@given(st.floats(0, 2.0**31))
def test_an_exponent_is_the_least_power_of_two_that_is_no_less(largest: float) -> None:
    assert exponent(largest) == least_exponent(Fraction(largest))


@pytest.mark.parametrize(
    ("largest", "e"),
    [(0.0, -96), (5e-324, -96), (2.0**-96, -96), (2.0**-96 * 1.001, -95), (0.5, -1), (1.0, 0), (1.0000001, 1)],
)
def test_exponents_at_their_edges(largest: float, e: int) -> None:
    assert exponent(largest) == e


@pytest.mark.clause("2.4.8", "14.2.1")
@pytest.mark.parametrize("largest", [2.0**31, 2.0**31 + 1, 1e300, float("inf")])
def test_a_difference_that_no_exponent_reaches_has_the_greatest(largest: float) -> None:
    assert exponent(largest) == 31


@pytest.mark.clause("14.2.1")
@pytest.mark.parametrize("others", [{"a": 0.25}, {"a": 0.0}])
def test_a_difference_that_is_no_number_names_no_exponent(others: dict[str, float], tmp_path: Path) -> None:
    plan, silo = weights_plan(), Silo(3, tmp_path, torch.float64)
    for name, keep in silo.keep.items():
        silo.pruned[name] = torch.where(keep, silo.dense[name] + others.get(name, 0.0), 0)
    honest = released(silo.scales(plan), plan, 0)
    silo.pruned["a"][0, 0] = float("nan")
    assert released(silo.scales(plan), plan, 0) == honest


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(3, 5), st.floats(1e-6, 100))
def test_from_silos_to_the_average_the_error_is_within_its_bound(seed: int, silos: int, most: float) -> None:
    """Of what the silos' own weights average to in exact arithmetic: 2^-16 of the tensor's largest difference."""
    plan = weights_plan(sparsity_ratio="0")
    with TemporaryDirectory() as name:
        folder = Path(name)
        taking_part = [Silo(seed + at, folder, torch.float64, most / (1 + at)) for at in range(silos)]
        dense = lookup(taking_part[0].dense)

        def summed(lanes: list[dict[str, list[int]]]) -> dict[str, list[int]]:
            return {
                section: [sum(each) for each in zip(*(of[section] for of in lanes), strict=True)]
                for section in lanes[0]
            }

        first = opened(
            Start(plan).round, summed([released(s.scales(plan), plan, 0) for s in taking_part]), silos, folder
        )
        start = Start(plan, [first])
        exponents = start.exponents(None)
        sums = summed([released(silo.weights(plan, exponents), plan, 1) for silo in taking_part])
        second = opened(start.round, sums, silos, folder)
        for found in expanded_tensors(Start(plan, [first, second]), second, dense):
            assert found.weight is not None
            largest = max(silo.largest(found.name) for silo in taking_part)
            assert exponents[found.name] == least_exponent(largest)
            columns = zip(*(silo.differences(found.name) for silo in taking_part), strict=True)
            old = dense.tensor(found.name).flatten().tolist()
            for new, before, column in zip(found.weight.flatten().tolist(), old, columns, strict=True):
                kept = [value for value in column if value is not None]
                average = sum(kept, Fraction(0)) / len(kept) if kept else Fraction(0)
                rounding = abs(Fraction(new)) / 2**52  # of the sum of dense weight and average
                assert abs(Fraction(new) - Fraction(before) - average) <= largest / 2**16 + rounding
