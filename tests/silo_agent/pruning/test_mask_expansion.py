"""Mask expansion against Python's own sorted() and fractions, one weight at a time."""

from decimal import Decimal
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from crypto.names import ComparisonGroup
from crypto.pruning.sparsity import Pattern, Sparsity
from silo_agent.pruning.mask_expansion import expand

GROUPS = list(ComparisonGroup)
HALF_OF_ROWS = Sparsity(Decimal("0.5"), ComparisonGroup.ROW)
RATIOS = st.one_of(
    st.sampled_from([Decimal(ratio) for ratio in ("0", "0.5", "0.7", "0.29", "0.999")]),
    st.decimals(0, Decimal("0.9999"), places=4),
)


def positions(rows: int, columns: int, group: ComparisonGroup) -> list[list[tuple[int, int]]]:
    """The (row, column) pairs of every comparison group, in the order in which their index counts."""
    if group is ComparisonGroup.ROW:
        return [[(i, j) for j in range(columns)] for i in range(rows)]
    if group is ComparisonGroup.COLUMN:
        return [[(i, j) for i in range(rows)] for j in range(columns)]
    return [[(i, j) for i in range(rows) for j in range(columns)]]


def reference(counts: Tensor, weight: Tensor, ratio: Decimal, group: ComparisonGroup) -> list[list[bool]]:
    rows, columns = weight.shape
    kept = [[True] * columns for _ in range(rows)]
    for members in positions(rows, columns, group):
        worst_first = sorted(
            enumerate(members),
            key=lambda item: (int(counts[item[1]]), abs(float(weight[item[1]])), -item[0]),
        )
        for _, (i, j) in worst_first[: int(Fraction(ratio) * len(members))]:
            kept[i][j] = False
    return kept


@st.composite
def matrices(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Keep counts of few silos and weights of few magnitudes, so that most comparisons are ties."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    size = rows * columns
    silos = draw(st.sampled_from([1, 2, 3, 200]))
    counts = draw(st.lists(st.sampled_from([0, silos // 2, silos]), min_size=size, max_size=size))
    weight = draw(st.lists(st.sampled_from([-1.0, -0.5, -0.0, 0.0, 0.5, 1.0]), min_size=size, max_size=size))
    dtype = draw(st.sampled_from([torch.uint8, torch.uint16, torch.uint32]))
    weight_dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    return (
        torch.tensor(counts, dtype=dtype).reshape(rows, columns),
        torch.tensor(weight, dtype=weight_dtype).reshape(rows, columns),
    )


@settings(max_examples=200, deadline=None)
@given(matrices(), RATIOS, st.sampled_from(GROUPS))
# 0.29 * 100 and 0.57 * 100 are below 29 and 57 in binary floats
@example((torch.ones(4, 25, dtype=torch.uint8), torch.ones(4, 25)), Decimal("0.29"), ComparisonGroup.LAYER)
@example((torch.ones(2, 100, dtype=torch.uint8), torch.ones(2, 100)), Decimal("0.29"), ComparisonGroup.ROW)
@example((torch.ones(100, 2, dtype=torch.uint8), torch.ones(100, 2)), Decimal("0.57"), ComparisonGroup.COLUMN)
@example((torch.ones(3, 10, dtype=torch.uint8), torch.ones(3, 10)), Decimal("0.7"), ComparisonGroup.ROW)
def test_equals_sorting_each_group_by_hand(
    matrix: tuple[Tensor, Tensor], ratio: Decimal, group: ComparisonGroup
) -> None:
    counts, weight = matrix
    kept = expand(counts, weight, Sparsity(ratio, group))
    assert kept.dtype == torch.bool
    assert kept.tolist() == reference(counts, weight, ratio, group)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(
    ("ratio", "size", "zeros"), [("0.7", 10, 7), ("0.29", 100, 29), ("0.57", 100, 57), ("0.999", 9, 8), ("0", 5, 0)]
)
def test_exactly_k_zeros_in_every_group(group: ComparisonGroup, ratio: str, size: int, zeros: int) -> None:
    shape = {ComparisonGroup.LAYER: (1, size), ComparisonGroup.ROW: (4, size), ComparisonGroup.COLUMN: (size, 4)}[group]
    generator = torch.Generator().manual_seed(7)
    counts = torch.randint(0, 4, shape, generator=generator).to(torch.uint8)
    kept = expand(counts, torch.randn(shape, generator=generator), Sparsity(Decimal(ratio), group))
    per_group = (~kept).sum(0 if group is ComparisonGroup.COLUMN else 1)
    assert per_group.tolist() == [zeros] * len(per_group)


def test_counts_come_first_then_magnitude_then_the_lower_index() -> None:
    counts = torch.tensor([[2, 1, 1, 1, 3, 1]], dtype=torch.uint8)
    weight = torch.tensor([[0.1, 5.0, -5.0, -9.0, 0.0, 5.0]])
    for ratio, zeroed in [("0.17", {5}), ("0.34", {5, 2}), ("0.5", {5, 2, 1}), ("0.67", {5, 2, 1, 3})]:
        kept = expand(counts, weight, Sparsity(Decimal(ratio), ComparisonGroup.ROW))[0]
        assert {i for i in range(6) if not kept[i]} == zeroed


@pytest.mark.parametrize(("dtype", "high"), [(torch.uint8, 200), (torch.uint16, 40_000), (torch.uint32, 3_000_000_000)])
def test_counts_that_a_signed_type_of_the_same_width_would_turn_negative(dtype: torch.dtype, high: int) -> None:
    counts = torch.tensor([[high, 1]], dtype=torch.int64).to(dtype)
    assert expand(counts, torch.ones(1, 2), HALF_OF_ROWS).tolist() == [[True, False]]


def silos_keep_masks(group: ComparisonGroup, ratio: Decimal, silos: int) -> tuple[list[Tensor], Tensor]:
    """Keep masks with exactly k zeros per group, as silos send them, from correlated scores; and the dense weight."""
    generator = torch.Generator().manual_seed(11)
    weight = torch.randn(12, 20, generator=generator)
    one_silo = torch.ones(12, 20, dtype=torch.uint8)
    scores = [weight.abs() + torch.rand(12, 20, generator=generator) for _ in range(silos)]
    return [torch.tensor(reference(one_silo, score, ratio, group)) for score in scores], weight


@pytest.mark.parametrize("group", GROUPS)
@given(order=st.permutations(range(5)))
@settings(max_examples=5, deadline=None)
def test_the_order_of_silos_is_irrelevant(group: ComparisonGroup, order: list[int]) -> None:
    masks, weight = silos_keep_masks(group, Decimal("0.6"), 5)
    expanded = []
    for sequence in (range(5), order):
        counts = torch.zeros(12, 20, dtype=torch.uint8)
        for silo in sequence:
            counts += masks[silo]
        expanded.append(expand(counts, weight, Sparsity(Decimal("0.6"), group)))
    assert torch.equal(*expanded)


@pytest.mark.parametrize("group", GROUPS)
def test_unanimous_silos_get_their_own_keep_mask_back(group: ComparisonGroup) -> None:
    [mask], weight = silos_keep_masks(group, Decimal("0.37"), 1)
    assert torch.equal(expand(mask.to(torch.uint8) * 9, weight, Sparsity(Decimal("0.37"), group)), mask)


@pytest.mark.parametrize("group", GROUPS)
def test_a_weight_that_some_silo_zeroed_goes_before_one_that_all_kept(group: ComparisonGroup) -> None:
    """With k zeros per group at each silo, the union of zeros covers k, and unanimous zeros never exceed it."""
    masks, weight = silos_keep_masks(group, Decimal("0.6"), 3)
    counts = torch.stack(masks).sum(0).to(torch.uint8)
    kept = expand(counts, weight, Sparsity(Decimal("0.6"), group))
    assert bool(kept[counts == 3].all())
    assert not bool(kept[counts == 0].any())


def test_more_unanimous_zeros_than_k_keep_the_largest_of_them() -> None:
    """FedSpaLLM would leave three zeros of four here; the sparsity ratio is exact instead."""
    counts = torch.tensor([[0, 0, 0, 3]], dtype=torch.uint8)
    kept = expand(counts, torch.tensor([[-7.0, 2.0, 1.0, 0.5]]), HALF_OF_ROWS)
    assert kept.tolist() == [[True, False, False, True]]


@given(st.integers(1, 6), st.integers(1, 5), st.sampled_from([(2, 4), (4, 8), (1, 2), (3, 7)]), st.integers(1, 9))
@settings(deadline=None)
def test_a_pattern_stays_one_by_each_groups_top_counts(
    rows: int, runs: int, kept_of: tuple[int, int], silos: int
) -> None:
    kept, of = kept_of
    generator = torch.Generator().manual_seed(rows * runs)
    shape = (rows, runs * of)
    counts = torch.randint(0, silos + 1, shape, generator=generator).to(torch.uint8)
    weight = torch.randn(shape, generator=generator)
    expanded = expand(counts, weight, Sparsity(Pattern(kept, of), ComparisonGroup.ROW))
    for i in range(rows):
        for j in range(0, runs * of, of):
            best = sorted(range(j, j + of), key=lambda c: (-int(counts[i, c]), -abs(float(weight[i, c])), c))[:kept]
            assert {c for c in range(j, j + of) if expanded[i, c]} == set(best)
